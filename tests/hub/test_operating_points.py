"""Which points a card recommends: nothing that another one beats, and "without loss" only where it is proven."""

from __future__ import annotations

import shlex

import pytest

from efficient_reasoning.cards import OperatingPoint, _commands, operating_points, plain_control
from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.files import read_jsonl, write_jsonl

NUM_PROBLEMS = 2000


@pytest.fixture
def points_of(tmp_path):
    """What is recommended; a point is (correct of 2,000, tokens spent[, the first correct one])."""

    def measure(**points: tuple[float, ...]) -> dict[str, str]:
        samples, summary = [], []
        for strategy, (correct, tokens, *offset) in points.items():
            samples += [
                {"id": i, "strategy": strategy, "budget_tokens": None, "correct": 0 <= i - sum(offset) < correct}
                for i in range(NUM_PROBLEMS)
            ]
            means = {"accuracy": correct / NUM_PROBLEMS, "total_tokens": 10.0, "spent_tokens": tokens}
            means = {name: {"mean": mean} for name, mean in means.items()}
            summary.append({"strategy": strategy, "budget_tokens": None, **means})
        write_jsonl(tmp_path / "samples.jsonl", samples)
        chosen = operating_points(tmp_path, {"points": summary})
        return {point.strategy: point.purpose for point in chosen}

    return measure


def test_the_front_without_what_another_point_beats(points_of):
    chosen = points_of(best=(1900, 200.0), beaten=(1700, 150.0), cheap=(1800, 100.0), cheaper=(1500, 50.0))
    assert list(chosen.items()) == [("best", "best accuracy"), ("cheap", "on the front"), ("cheaper", "on the front")]


def test_the_cheapest_point_that_provably_loses_nothing(points_of):
    """Ten problems lost and five won are within a point, and not proven to be worse; twenty lost are."""
    chosen = points_of(best=(1900, 200.0), close=(1895, 100.0, 10), less=(1880, 50.0))
    assert chosen == {"best": "best accuracy", "close": "fewest tokens without loss", "less": "on the front"}


def test_of_equals_the_cheaper_one(points_of):
    assert points_of(long=(1900, 200.0), short=(1900, 100.0)) == {"short": "best accuracy"}


def test_a_point_that_was_cut_off_does_not_matter(tmp_path, points_of):
    """Of an extension that a kill ended: some samples, and no place in the summary."""
    points = {"best": (1900, 200.0), "close": (1890, 100.0)}
    points_of(**points)
    torn = {"id": 0, "strategy": "torn", "budget_tokens": None, "correct": True}
    rows = [*read_jsonl(tmp_path / "samples.jsonl"), torn]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    summary = [
        {"strategy": name, "budget_tokens": None, "accuracy": {"mean": correct / NUM_PROBLEMS}}
        | {key: {"mean": tokens} for key in ("total_tokens", "spent_tokens")}
        for name, (correct, tokens) in points.items()
    ]
    assert [point.strategy for point in operating_points(tmp_path, {"points": summary})] == list(points)


def test_equal_points_are_recommended_once(points_of):
    chosen = points_of(best=(1900, 200.0), same=(1900, 200.0), cheap=(1500, 50.0), cheap_too=(1500, 50.0))
    assert chosen == {"best": "best accuracy", "cheap": "on the front"}


def test_a_control_survives_the_shell_and_the_table(tmp_path):
    control = "control?text=<|short|>"
    point = OperatingPoint("best accuracy", control, None, accuracy=0.9, total_tokens=9.0, spent_tokens=9.0)
    config = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512}
    section = _commands(tmp_path, "o/n", ReasoningMetadata("m", "sft", latent_steps=1), config, "1+1?", [point])
    [(_, command)] = section["solve_commands"]
    assert shlex.split(command)[-2:] == [control, "1+1?"]
    assert section["points"][0][1] == r"control?text=<\|short\|>"


@pytest.mark.parametrize(
    ("strategies", "control"),
    [
        ({"best accuracy": "budget-forcing", "fewest tokens without loss": "control?text=<|short|>"}, "<|short|>"),
        ({"best accuracy": "control?text=<|long|>", "on the front": "control?text=<|short|>"}, "<|long|>"),
        ({"best accuracy": "budget-forcing", "on the front": "control?text=<|short|>"}, ""),
        ({"best accuracy": "control?text=<|long|>", "fewest tokens without loss": "deer"}, "<|long|>"),
        ({"best accuracy": "deer"}, ""),
    ],
)
def test_plain_programs_ask_with_the_best_control_in_their_reach(strategies, control):
    points = [OperatingPoint(purpose, strategy, None, 0.9, 9.0, 9.0) for purpose, strategy in strategies.items()]
    assert plain_control(points) == control


def test_a_budget_is_out_of_a_plain_programs_reach():
    lossless = OperatingPoint("fewest tokens without loss", "control?text=<|short|>", 64, 0.9, 9.0, 9.0)
    best = OperatingPoint("best accuracy", "control?text=<|long|>", None, 0.9, 9.0, 9.0)
    assert plain_control([best, lossless]) == "<|long|>"
    assert plain_control([lossless]) == "<|short|>"  # nothing better is known
