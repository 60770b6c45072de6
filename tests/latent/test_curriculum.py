from __future__ import annotations

import random
from collections import Counter

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.passes import Row

OPEN, CLOSE, BOT, EOT, PAUSE, END = 90, 91, 92, 93, 94, 99
MARKERS = Markers([OPEN], [CLOSE], BOT, EOT, PAUSE)
EXAMPLE = Example([1, 2], [[10, 11], [20], [30, 31, 32]], [50, END])


def row(stage: int, method: str = "coconut", seed: int = 0, **settings) -> Row:
    return Curriculum(method, 5, **{"max_stage": 4} | settings).row(EXAMPLE, stage, MARKERS, random.Random(seed))


def test_coconut_replaces_step_by_step():
    prompt = [1, 2, BOT]
    assert row(0) == Row(prompt, 0, [EOT, OPEN, 10, 11, 20, 30, 31, 32, CLOSE, 50, END], 1)
    assert row(1) == Row(prompt, 1, [EOT, OPEN, 20, 30, 31, 32, CLOSE, 50, END], 1)
    assert row(2, latents_per_step=3) == Row(prompt, 6, [EOT, OPEN, 30, 31, 32, CLOSE, 50, END], 1)
    assert row(3) == Row(prompt, 3, [EOT, OPEN, CLOSE, 50, END], 1)
    # A chain with fewer steps than the stage.
    assert row(4) == Row(prompt, 4, [EOT, OPEN, CLOSE, 50, END], 1)


def test_behind_the_last_stage_no_step_is_left_and_the_latents_stay():
    assert row(2, max_stage=1) == Row([1, 2, BOT], 1, [EOT, OPEN, CLOSE, 50, END], 1)
    assert row(2, max_stage=1, latents_per_step=2).latents == 2 == Curriculum("coconut", 5, 1, 2).most_latents


def test_codi_replaces_all_steps_at_once_and_has_a_teacher():
    codi = Curriculum("codi", 5, max_stage=3, latents_per_step=2)
    for stage in (0, 7):
        shown = codi.row(EXAMPLE, stage, MARKERS, random.Random(0))
        assert shown == Row([1, 2, BOT], 6, [EOT, OPEN, CLOSE, 50, END], 1, step_ids=[[10, 11], [20], [30, 31, 32]])
    assert codi.teacher_row(EXAMPLE, MARKERS) == Row([1, 2], 0, [OPEN, 10, 11, 20, 30, 31, 32, CLOSE, 50, END])
    assert (codi.last_stage, codi.most_latents, codi.begins_stage(5)) == (0, 6, False)
    assert Curriculum("sim_cot", 5).teacher_row(EXAMPLE, MARKERS) is None
    # Long chains: the last latents stand for all that is left. Short ones: some stand for nothing.
    assert Curriculum("codi", 5, max_stage=2).row(EXAMPLE, 0, MARKERS, random.Random(0)).step_ids == [
        [10, 11], [20, 30, 31, 32]
    ]  # fmt: skip
    assert len(Curriculum("codi", 5, max_stage=5).row(EXAMPLE, 0, MARKERS, random.Random(0)).step_ids) == 3


def test_sim_cot_is_coconut_that_knows_what_latents_stand_for():
    first, second, third = [10, 11], [20], [30, 31, 32]
    told = {0: [], 1: [first], 2: [first, second], 3: [first, second, third], 4: [first, second, third]}
    for c in (1, 2):
        for stage, steps in told.items():
            coconut, sim_cot = (row(stage, method, latents_per_step=c) for method in ("coconut", "sim_cot"))
            assert (list(coconut.step_ids), sim_cot.step_ids) == ([], steps)
            assert (coconut.prompt_ids, coconut.latents, coconut.completion_ids) == (
                sim_cot.prompt_ids, sim_cot.latents, sim_cot.completion_ids
            )  # fmt: skip
    # Steps that stay in words are decoded from no latents, those that stay in none are.
    assert row(2, "sim_cot", max_stage=2).step_ids == [first, second]
    assert row(3, "sim_cot", max_stage=2).step_ids == [first, second + third]


def test_pauses_stand_where_latents_would():
    for stage in range(6):
        latent, pause = row(stage), row(stage, "pause")
        assert pause.prompt_ids == [*latent.prompt_ids, *[PAUSE] * latent.latents]
        assert (pause.latents, pause.completion_ids, pause.given) == (0, latent.completion_ids, 1)


def test_controls_have_no_stages():
    for stage in (0, 3):
        assert row(stage, "cot") == Row([1, 2], 0, [OPEN, 10, 11, 20, 30, 31, 32, CLOSE, 50, END])
        assert row(stage, "no_cot") == Row([1, 2], 0, [OPEN, CLOSE, 50, END])
    assert Curriculum("cot", 5).last_stage == Curriculum("no_cot", 5).last_stage == 0


def test_icot_removes_tokens_and_now_and_then_a_few_more():
    left = Counter(len(row(2, "icot", seed, removed_tokens=1).completion_ids) - 4 for seed in range(4000))
    assert left[4] / 4000 == pytest.approx(1 - 2.718281828**-4, abs=0.01)
    assert 0 < left[3] / 4000 < 0.04
    assert row(2, "icot", removed_tokens=1).completion_ids[:2] == [OPEN, 20]
    assert row(0, "icot", 1).completion_ids == [OPEN, 10, 11, 20, 30, 31, 32, CLOSE, 50, END]
    assert row(1, "icot", removed_tokens=8).completion_ids == [OPEN, CLOSE, 50, END]


def test_stages_follow_the_steps_of_the_optimizer():
    curriculum = Curriculum("coconut", steps_per_stage=3, max_stage=2)
    assert [curriculum.stage(step) for step in range(12)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert curriculum.stage(100) == 3
    assert [step for step in range(14) if curriculum.begins_stage(step)] == [3, 6, 9]
    assert [step for step in range(14) if Curriculum("icot", 3, max_stage=2).begins_stage(step)] == [3, 6]


def test_earlier_stages_may_be_mixed_in():
    drawn = Counter(row(2, seed=seed, mixed_stages=True).latents for seed in range(6000))
    for stage, weight in enumerate((1, 2, 3)):
        assert drawn[stage] / 6000 == pytest.approx(weight / 6, abs=0.03)
    uniform = Counter(row(1, seed=seed, uniform_prob=0.5).latents for seed in range(6000))
    for stage in (0, 2, 3):
        assert uniform[stage] / 6000 == pytest.approx(0.5 / 4, abs=0.03)
    assert row(3, seed=5, uniform_prob=1.0, max_stage=1).latents <= 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"latents_per_step": 0}, "latents_per_step is 0; give at least 1"),
        ({"steps_per_stage": 0}, "steps_per_stage is 0; give at least 1"),
        ({"uniform_prob": 1.5}, "uniform_prob is 1.5; give a number between 0 and 1"),
    ],
)
def test_bad_settings_are_named(settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        Curriculum(**{"method": "coconut", "steps_per_stage": 5} | settings)
