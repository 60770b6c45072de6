"""The numbers of an audit against what can be computed by hand."""

from __future__ import annotations

from itertools import combinations

import pytest

from efficient_reasoning.audit.measures import measure, shortest_of
from efficient_reasoning.audit.responses import IDS, Response
from efficient_reasoning.errors import BadInput


def response(question: str, correct: bool, total: int, **known) -> Response:
    problem = {"id": question, "question": question, "task": "numeric", "difficulty": known.pop("difficulty", None)}
    return Response(problem, "", total, IDS, correct=correct, **known)


def read(question: str, correct: bool, total: int, first: int | None, settled: int | None = None, loops=False):
    return response(
        question,
        correct,
        total,
        read_tokens=total,
        first_correct_tokens=first,
        settled_tokens=settled,
        loops=loops,
    )


@pytest.mark.parametrize(
    ("correct", "wrong"), [([10, 20, 20, 50], []), ([30, 10], [5, 100, 40]), ([], [8, 4, 3]), ([7], [1])]
)
def test_the_shortest_of_m_is_the_mean_over_all_draws(correct, wrong):
    responses = [(length, True) for length in correct] + [(length, False) for length in wrong]
    for m in range(1, len(responses) + 1):
        draws = []
        for draw in combinations(responses, m):
            right = [length for length, is_correct in draw if is_correct]
            draws.append(min(right) if right else sum(length for length, _ in draw) / m)
        assert shortest_of(correct, wrong, m) == pytest.approx(sum(draws) / len(draws))


def test_lengths_by_correctness():
    numbers = measure([response("a", True, 10), response("b", True, 30), response("c", False, 80)])
    assert numbers["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert numbers["total_tokens"]["mean"] == 40 and numbers["total_tokens"]["p50"] == 30
    assert (numbers["correct_tokens"]["mean"], numbers["correct_tokens"]["n"]) == (20, 2)
    assert (numbers["wrong_tokens"]["mean"], numbers["wrong_tokens"]["n"]) == (80, 1)
    assert numbers["correct_tokens"]["low"] < 20 < numbers["correct_tokens"]["high"]


def test_what_nobody_knows_is_none():
    numbers = measure([response("a", True, 10)])
    names = ("wrong_tokens", "thinking_tokens", "truncated_share", "loop_share", "outcome_efficiency", "underthinking")
    assert all(numbers[name] is None for name in names)
    assert numbers["shortest_of_n"] is None and set(numbers["could_save"].values()) == {None}
    assert numbers["by_difficulty"] == numbers["by_solve_rate"] == []
    assert "cost" not in numbers


def test_what_the_readings_say():
    numbers = measure(
        [
            read("a", True, 100, first=25, settled=25),
            read("b", True, 50, first=50, settled=40, loops=True),
            read("c", False, 100, first=60, settled=80),
            read("d", False, 10, first=None, settled=None),
        ]
    )
    assert numbers["outcome_efficiency"]["mean"] == pytest.approx((0.25 + 1) / 2)
    assert numbers["underthinking"]["mean"] == pytest.approx((0.4 + 0) / 2)
    assert numbers["after_settled"]["mean"] == pytest.approx((0.75 + 0.2 + 0.2) / 3)
    assert numbers["loop_share"]["mean"] == 0.25
    # Only the first response is right and goes on; the wrong ones cannot do with less.
    assert numbers["could_save"]["after_first_correct"]["mean"] == pytest.approx(75 / 260)
    assert numbers["n_read"] == 4


def test_a_reading_of_text_is_a_share_of_the_servers_count():
    one = read("a", True, 50, first=25, settled=20)
    one.total_tokens = 80
    numbers = measure([one, read("b", True, 20, first=20)])
    assert numbers["could_save"]["after_first_correct"]["mean"] == pytest.approx(40 / 100)
    assert numbers["after_settled"]["mean"] == pytest.approx(0.6)


def test_what_could_be_saved_and_what_it_costs():
    responses = [
        response("a", True, 100, floor_tokens=30),
        response("a", True, 60, floor_tokens=30),
        response("b", False, 40, floor_tokens=50),  # shorter than any solution: nothing to save
        response("b", False, 80, floor_tokens=50),
        response("c", True, 20),
    ]
    numbers = measure(responses, price_per_million_tokens=5)
    saved = numbers["could_save"]
    assert saved["longer_than_shortest"]["mean"] == pytest.approx(1 - (60 + 60) / (80 + 60))
    assert saved["above_floor"]["mean"] == pytest.approx(1 - (30 + 30 + 40 + 50) / 280)
    assert saved["after_first_correct"] is None
    for share in filter(None, saved.values()):
        assert 0 <= share["low"] <= share["mean"] <= share["high"] <= 1
    assert numbers["cost"]["per_1000_requests"]["mean"] == pytest.approx(60 * 1000 * 5 / 1e6)
    assert numbers["cost"]["could_save_per_1000_requests"]["longer_than_shortest"] == pytest.approx(0.3 * 2 / 14)
    assert numbers["samples_per_question"] == {"min": 1, "max": 2}
    assert numbers["shortest_of_n"]["n_questions"] == 2
    first, second = numbers["shortest_of_n"]["of"]
    assert (first["m"], first["tokens"]["mean"], first["solved"]["mean"]) == (1, 70, 0.5)
    assert (second["m"], second["tokens"]["mean"], second["solved"]["mean"]) == (2, 60, 0.5)


def test_groups_by_difficulty_and_by_how_often_solved():
    responses = [response(f"q{i}", i < 3, 10 * i + 10, difficulty=1 + i // 2) for i in range(4) for _ in range(2)]
    numbers = measure(responses)
    assert [
        (group["group"], group["n_questions"], group["total_tokens"]["mean"]) for group in numbers["by_difficulty"]
    ] == [
        ("1", 2, 15),
        ("2", 2, 35),
    ]
    assert [(group["group"], group["n"]) for group in numbers["by_solve_rate"]] == [("never", 2), ("always", 6)]
    assert numbers["by_difficulty"][0]["wrong_tokens"] is None


def test_half_is_not_more_than_half():
    numbers = measure([response("q", i < 2, 10) for i in range(4)] + [response("r", i < 3, 10) for i in range(4)])
    assert [group["group"] for group in numbers["by_solve_rate"]] == ["up to half", "more than half"]


def test_many_difficulties_make_four_groups():
    numbers = measure([response(f"q{i}", True, i + 1, difficulty=i / 7) for i in range(100)])
    assert [group["n"] for group in numbers["by_difficulty"]] == [25, 25, 25, 25]


def test_nothing_to_measure():
    with pytest.raises(BadInput, match="no token in any response"):
        measure([response("a", False, 0)])
