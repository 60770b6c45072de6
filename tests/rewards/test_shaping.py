"""Shaping: when the length counts, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import Rollouts
from efficient_reasoning.rewards.shaping import Shaping

PLAIN, SHAPED = [1, 0], [1.5, -0.5]


def rewards_of(shaping: Shaping, correct: list[list[int]], paid: list[float] | None = None) -> list[float]:
    """What becomes of 1.5 for every correct response and -0.5 for every wrong one; a list a group."""
    right = np.concatenate([np.array(group, float) for group in correct])
    groups = np.repeat(np.arange(len(correct)), [len(group) for group in correct])
    rollouts = Rollouts(right, np.ones(len(right)), groups)
    rewards = np.where(right > 0, 1.5, -0.5) if paid is None else np.array(paid)
    return shaping(rewards, rollouts, rollouts).tolist()


def test_by_default_nothing_changes():
    shaping = Shaping()
    assert shaping.is_plain
    assert rewards_of(shaping, [[1, 0]]) == SHAPED


def test_the_first_batches_pay_accuracy_alone():
    shaping = Shaping(warmup_batches=2)
    assert [rewards_of(shaping, [[1, 0]]) for _ in range(3)] == [PLAIN, PLAIN, SHAPED]


def test_a_batch_that_is_less_accurate_than_the_best_pays_accuracy_alone():
    shaping = Shaping(gate="batch", gate_tolerance=0.3)
    good, fair, bad = [[1, 1, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]
    assert rewards_of(shaping, fair) == [1.5, 1.5, -0.5, -0.5]
    assert rewards_of(shaping, good) == [1.5, 1.5, 1.5, -0.5]
    assert rewards_of(shaping, fair) == [1.5, 1.5, -0.5, -0.5]  # within the tolerance
    assert rewards_of(shaping, bad) == [1, 0, 0, 0]


def test_only_the_most_accurate_groups_pay_for_length():
    groups = [[1, 0], [1, 1], [0, 0], [1, 1], [1, 0]]
    shaped = rewards_of(Shaping(gate="groups", gate_share=0.4), groups)
    assert shaped == [*PLAIN, 1.5, 1.5, 0, 0, 1.5, 1.5, *PLAIN]
    assert rewards_of(Shaping(gate="groups", gate_share=0.01), [[1, 0], [1, 1]]) == [*PLAIN, 1.5, 1.5]
    nobody = Shaping(gate="groups", gate_share=1.0)
    assert rewards_of(nobody, [[0, 0], [0, 0]]) == [0, 0, 0, 0]
    assert not nobody.pays_length


def test_of_equally_accurate_groups_the_shorter_ones_come_first():
    rollouts = Rollouts(np.array([1.0, 0] * 3), np.array([9, 9, 5, 6, 9, 8]), np.repeat([0, 1, 2], 2))
    shaping = Shaping(gate="groups", gate_share=0.34)
    assert shaping(np.array(SHAPED * 3), rollouts, rollouts).tolist() == [*PLAIN, *SHAPED, *PLAIN]


def test_no_length_outweighs_the_accuracy():
    correct = np.array([1.0] * 8 + [0.0] + [1.0] * 7)
    rollouts = Rollouts(correct, np.repeat([200_000, 100], 8), np.repeat([0, 1], 8))
    shaping = Shaping(gate="groups", gate_share=0.5)
    shaped = shaping(np.where(correct > 0, 1.5, -0.5), rollouts, rollouts)
    assert shaped.tolist() == [1.5] * 8 + [0] + [1] * 7


def test_the_groups_of_all_processes_compete():
    own = Rollouts(np.array([1.0, 0.0]), np.ones(2), np.zeros(2, int))
    everyone = Rollouts(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4), np.array([0, 0, 1, 1]))
    shaping = Shaping(gate="groups", gate_share=0.5)
    assert shaping(np.array(SHAPED), own, everyone).tolist() == PLAIN


def test_below_the_floor_the_weight_falls_and_above_it_it_rises():
    shaping = Shaping(accuracy_floor=0.75, floor_rate=1.0)
    paid = [rewards_of(shaping, [batch])[0] for batch in ([1, 0], [1, 0], [1, 1], [1, 1], [1, 1], [1, 1])]
    assert paid == [1.5, 1.375, 1.25, 1.375, 1.5, 1.5]
    for _ in range(9):
        rewards_of(shaping, [[0, 0]])
    assert rewards_of(shaping, [[1, 0]]) == PLAIN


def test_below_a_floor_the_length_may_stop_counting_at_once():
    shaping = Shaping(gate="floor", accuracy_floor=0.75)
    paid = [rewards_of(shaping, [batch]) for batch in ([1, 1], [1, 0], [1, 1])]
    assert paid == [[1.5, 1.5], PLAIN, [1.5, 1.5]]
    assert shaping.pays_length
    rewards_of(shaping, [[0, 1]])
    assert not shaping.pays_length


def test_no_wrong_response_earns_more_than_a_right_one_of_its_group():
    shaped = rewards_of(Shaping(ordered=True), [[1, 1, 0], [0, 0]], [2, 0.5, 1.7, 1.7, 0.1])
    assert shaped == [2, 0.5, 0.5, 1.7, 0.1]


def test_another_object_goes_on_where_this_one_was():
    settings = {"warmup_batches": 2, "gate": "batch", "accuracy_floor": 0.9, "floor_rate": 0.5}
    one, other = Shaping(**settings), Shaping(**settings)
    for _ in range(3):
        rewards_of(one, [[1, 0]])
    other.memory = json.loads(json.dumps(one.memory))
    assert rewards_of(other, [[1, 0]]) == rewards_of(one, [[1, 0]]) not in (PLAIN, SHAPED)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"warmup": 3}, "reward_shaping has no 'warmup', did you mean warmup_batches"),
        ({"memory": {}}, "reward_shaping has no 'memory'"),
        ({"warmup_batches": -1}, "warmup_batches is -1"),
        ({"warmup_batches": 1.5}, "warmup_batches is 1.5"),
        ({"gate": "group"}, "gate is 'group'; choose none, batch, groups, floor"),
        ({"gate": "floor"}, "gate is floor, and there is none; give accuracy_floor"),
        ({"gate_share": 20}, "gate_share is 20; give a number between 0 and 1"),
        ({"accuracy_floor": "high"}, "accuracy_floor is 'high'"),
        ({"gate": "groups", "gate_share": None}, "gate_share is None"),
        ({"accuracy_floor": 0.9, "floor_rate": None}, "floor_rate is None"),
        ({1: 2}, "reward_shaping has no 1"),
        ({"pays_length": False}, "reward_shaping has no 'pays_length'"),
        ({"ordered": "yes"}, "ordered is 'yes'; give true or false"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        Shaping.of(settings)
