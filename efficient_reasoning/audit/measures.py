"""From responses to the numbers of an audit. Shares are in [0, 1], intervals {"mean", "low", "high"}, by question.

1. *Outcome efficiency* and *underthinking* are those of `overthinking`; *after settled* is the mean share of a
   response that follows the first sentence with its own final answer, right or wrong.
2. The *shortest of n* is what best-of-n by length would give if one knew which responses are correct: of m responses
   drawn from a question's n, the shortest correct one, or any of them where none is. Its expected length has a closed
   form: with the correct lengths l_1 <= ... <= l_c and the mean length W of the wrong ones,

       E_m = sum_i l_i C(n - i, m - 1) / C(n, m)  +  W C(n - c, m) / C(n, m)

   E_1 is the mean length. Training on the shortest correct response of n (which is what `data shortest_correct` does)
   aims at E_n.
3. What a training run could save, as shares of all tokens (`could_save`): what follows the first correct answer of
   correct responses; 1 - E_n / E_1; and what lies above the floor, the shortest solution, where one is known. Bounds,
   not promises: the first is too high where an intermediate result hits the answer by accident.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from efficient_reasoning.audit.responses import Response
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.metrics import pass_at_k
from efficient_reasoning.evaluation.statistics import Interval, bootstrap_columns, paired_ratio
from efficient_reasoning.overthinking import kept_share

REQUESTS = 1000
_MOST_GROUPS = 12
_OF_GROUPS = ("n", "n_questions", "accuracy", "total_tokens", "correct_tokens", "wrong_tokens")


def measure(responses: Sequence[Response], price_per_million_tokens: float | None = None) -> dict:
    """All numbers that follow from the responses.

    Args:
        responses: with verdicts, at least one of them not empty.
        price_per_million_tokens: of generated tokens, in any currency.

    Raises:
        BadInput: no response, or none with a token in it.
    """
    if not sum(response.total_tokens for response in responses):
        raise BadInput("There is no token in any response, so nothing to audit; check the log.")
    questions = Counter(response.problem["id"] for response in responses)
    numbers = {
        "n": len(responses),
        "n_questions": len(questions),
        "samples_per_question": {"min": min(questions.values()), "max": max(questions.values())},
        "counted_by": dict(Counter(response.counted_by for response in responses)),
        "n_read": sum(response.is_read for response in responses),
        "n_with_thinking": sum(bool(response.thinking_tokens) for response in responses),
        **_lengths(responses),
        "by_difficulty": _by_difficulty(responses),
        "by_solve_rate": _by_solve_rate(responses),
        "shortest_of_n": _shortest(responses),
        "could_save": _could_save(responses),
    }
    if price_per_million_tokens is not None:
        numbers["cost"] = _cost(numbers, price_per_million_tokens)
    return numbers


def shortest_of(correct_lengths: Sequence[float], wrong_lengths: Sequence[float], m: int) -> float:
    """E_m of one question: the expected length of the shortest correct of m responses (see above).

    Args:
        correct_lengths, wrong_lengths: of the question's n responses, in tokens.
        m: from 1 to n.
    """
    lengths, n = sorted(correct_lengths), len(correct_lengths) + len(wrong_lengths)
    expected = sum(length * math.comb(n - i, m - 1) for i, length in enumerate(lengths, start=1))
    if wrong_lengths:
        expected += sum(wrong_lengths) / len(wrong_lengths) * math.comb(len(wrong_lengths), m)
    return expected / math.comb(n, m)


def _lengths(responses: Sequence[Response]) -> dict:
    """Accuracy, lengths by correctness, and what the readings say."""
    nan = math.nan
    total = np.array([response.total_tokens for response in responses], dtype=float)
    correct = np.array([response.correct for response in responses])
    kept = np.array([_kept(response) for response in responses])
    after = np.array([_after_settled(response) for response in responses])
    columns = {
        "accuracy": correct,
        "total_tokens": total,
        "correct_tokens": np.where(correct, total, nan),
        "wrong_tokens": np.where(correct, nan, total),
        "thinking_tokens": [_or_nan(response.thinking_tokens) for response in responses],
        "truncated_share": [_or_nan(response.truncated) for response in responses],
        "loop_share": [_or_nan(response.loops) for response in responses],
        "outcome_efficiency": np.where(correct, kept, nan),
        "underthinking": np.where(correct, nan, 1 - kept),
        "after_settled": after,
    }
    intervals = bootstrap_columns(columns, _clusters(responses), shares=("accuracy", "truncated_share", "loop_share"))
    numbers = {name: _as_dict(interval) for name, interval in intervals.items()}
    for name in ("total_tokens", "correct_tokens", "wrong_tokens"):
        if numbers[name] is not None:
            values = np.asarray(columns[name], dtype=float)
            p50, p95 = np.nanquantile(values, [0.5, 0.95]).tolist()
            numbers[name] |= {"p50": p50, "p95": p95, "n": int((~np.isnan(values)).sum())}
    return numbers


def _by_difficulty(responses: Sequence[Response]) -> list[dict]:
    """Lengths by the difficulty that the problems bring; many different ones in four groups of equal size."""
    pairs = [(response.problem.get("difficulty"), response) for response in responses]
    pairs = [(value, response) for value, response in pairs if type(value) in (int, float) and math.isfinite(value)]
    values = [value for value, _ in pairs]
    if len(set(values)) <= _MOST_GROUPS:
        return _groups({f"{value:g}": [one for own, one in pairs if own == value] for value in sorted(set(values))})
    edges = [*dict.fromkeys(np.quantile(values, [0.25, 0.5, 0.75, 1]).tolist())]
    groups: dict[str, list[Response]] = {f"up to {edge:g}": [] for edge in edges}
    for value, response in pairs:
        groups[f"up to {next(edge for edge in edges if value <= edge):g}"].append(response)
    return _groups(groups)


def _by_solve_rate(responses: Sequence[Response]) -> list[dict]:
    """Lengths by how often a question is answered correctly: difficulty as the model has it."""
    groups: dict[str, list[Response]] = {"never": [], "up to half": [], "more than half": [], "always": []}
    for own in _by_question(responses).values():
        if len(own) > 1:
            rate = sum(response.correct for response in own) / len(own)
            label = (
                "never" if rate == 0 else "always" if rate == 1 else "up to half" if rate <= 0.5 else "more than half"
            )
            groups[label] += own
    return _groups(groups)


def _groups(groups: Mapping[str, Sequence[Response]]) -> list[dict]:
    rows = []
    for label, group in groups.items():
        if group:
            numbers = {"n": len(group), "n_questions": len(set(_clusters(group)))} | _lengths(group)
            rows.append({"group": label} | {name: numbers[name] for name in _OF_GROUPS})
    return rows


def _shortest(responses: Sequence[Response]) -> dict | None:
    """E_m, and the share of questions with a correct response among m, for m = 1, 2, 4, ... n.

    Of the questions with several responses, n being the least of their numbers; None where there are none.
    """
    by_question = {name: own for name, own in _by_question(responses).items() if len(own) > 1}
    if not by_question:
        return None
    most = min(map(len, by_question.values()))
    rows = []
    for m in sorted({*(2**power for power in range(most.bit_length())), most}):
        columns = {
            "tokens": [shortest_of(*_by_verdict(own), m) for own in by_question.values()],
            "solved": [pass_at_k(len(own), len(_by_verdict(own)[0]), m) for own in by_question.values()],
        }
        intervals = bootstrap_columns(columns, list(by_question), shares=("solved",))
        rows.append({"m": m} | {name: _as_dict(interval) for name, interval in intervals.items()})
    return {"n_questions": len(by_question), "of": rows}


def _by_verdict(responses: Sequence[Response]) -> tuple[list[int], list[int]]:
    """Lengths of the correct and of the wrong ones."""
    return tuple([one.total_tokens for one in responses if one.correct == verdict] for verdict in (True, False))


def _could_save(responses: Sequence[Response]) -> dict:
    """Shares of all tokens; None where they cannot be known."""
    read = [response for response in responses if response.is_read]
    floored = [response for response in responses if response.floor_tokens is not None]
    several = {name: own for name, own in _by_question(responses).items() if len(own) > 1}
    return {
        "after_first_correct": _saved(
            [response.total_tokens for response in read],
            [response.total_tokens * (_kept(response) if response.correct else 1) for response in read],
            _clusters(read),
        ),
        "longer_than_shortest": _saved(
            [shortest_of(*_by_verdict(own), 1) for own in several.values()],
            [shortest_of(*_by_verdict(own), len(own)) for own in several.values()],
            list(several),
        ),
        "above_floor": _saved(
            [response.total_tokens for response in floored],
            [min(response.floor_tokens, response.total_tokens) for response in floored],
            _clusters(floored),
        ),
    }


def _saved(tokens: Sequence[float], kept: Sequence[float], questions: Sequence[str]) -> dict | None:
    """1 - sum(kept) / sum(tokens)."""
    if not sum(tokens):
        return None
    ratio = paired_ratio(tokens, kept, questions)
    # -0.0 where nothing is saved
    return _as_dict(Interval(*(abs(value) if value == 0 else -value for value in (ratio.mean, ratio.high, ratio.low))))


def _cost(numbers: dict, price_per_million_tokens: float) -> dict:
    """Of generated tokens alone, for 1,000 requests."""
    factor = REQUESTS * price_per_million_tokens / 1e6
    now = {name: numbers["total_tokens"][name] * factor for name in ("mean", "low", "high")}
    return {
        "price_per_million_tokens": price_per_million_tokens,
        "per_1000_requests": now,
        "could_save_per_1000_requests": {
            name: None if share is None else share["mean"] * now["mean"]
            for name, share in numbers["could_save"].items()
        },
    }


def _kept(response: Response) -> float:
    if not response.is_read:
        return math.nan
    sample = {"first_correct_tokens": response.first_correct_tokens, "total_tokens": response.read_tokens}
    return kept_share(sample)


def _after_settled(response: Response) -> float:
    if response.settled_tokens is None or not response.read_tokens:
        return math.nan
    return 1 - response.settled_tokens / response.read_tokens


def _by_question(responses: Sequence[Response]) -> dict[str, list[Response]]:
    by_question: dict[str, list[Response]] = {}
    for response in responses:
        by_question.setdefault(response.problem["id"], []).append(response)
    return by_question


def _clusters(responses: Sequence[Response]) -> list[str]:
    return [response.problem["id"] for response in responses]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _as_dict(interval: Interval) -> dict | None:
    """None of a mean over nothing."""
    return None if math.isnan(interval.mean) else dataclasses.asdict(interval)
