"""The report of an audit: what a person reads first, made of the numbers of `measure` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from efficient_reasoning.evaluation.statistics import NO_LOSS
from efficient_reasoning.files import atomic_file
from efficient_reasoning.traces import budget_label

_SAVINGS = {
    "after_first_correct": "what follows the first correct answer",
    "longer_than_shortest": "what is longer than the shortest correct of n",
    "above_floor": "what lies above the shortest known solution",
}
_UNLIMITED = ("budget-forcing", None)


def write_report(numbers: Mapping, path: str | Path) -> None:
    """Write report.md, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(report(numbers))


def report(numbers: Mapping) -> str:
    """The text of report.md."""
    parts = [
        f"# Audit of {numbers['source']}",
        _headline(numbers),
        "![Length by correctness](lengths.png)",
        "## Length",
        _lengths(numbers),
        "## Where the tokens go",
        _where(numbers),
        "## Shortest of n",
        _shortest(numbers["shortest_of_n"]),
        "## What a training run could save",
        _savings(numbers),
    ]
    if "hull" in numbers:
        parts += ["## The training-free hull", _hull(numbers)]
    if "cost" in numbers:
        parts += ["## Cost", _cost(numbers["cost"])]
    if numbers["notes"]:
        parts += ["## About these numbers", "\n".join(f"* {note}" for note in numbers["notes"])]
    return "\n\n".join(parts) + "\n"


def _headline(numbers: Mapping) -> str:
    per_question = " to ".join(dict.fromkeys(f"{count:,}" for count in numbers["samples_per_question"].values()))
    sentences = [
        f"{numbers['n']:,} responses to {numbers['n_questions']:,} questions ({per_question} each): "
        f"{_percent(numbers['accuracy'])} correct, {_tokens(numbers['total_tokens'])} tokens each.",
    ]
    known = {name: share for name, share in numbers["could_save"].items() if share is not None}
    for name, share in known.items():
        sentences.append(f"{_capital(_SAVINGS[name])}: {_percent(share)} of all tokens.")
    return " ".join(sentences) + " Intervals are 95 %, clustered by question."


def _lengths(numbers: Mapping) -> str:
    rows = []
    for label, name in (("all", "total_tokens"), ("correct", "correct_tokens"), ("wrong", "wrong_tokens")):
        if (length := numbers[name]) is not None:
            rows.append((label, f"{length['n']:,}", _tokens(length), f"{length['p50']:,.0f}", f"{length['p95']:,.0f}"))
    parts = [_table(("responses", "number", "mean tokens", "median", "95th percentile"), rows)]
    if numbers["thinking_tokens"] is not None and numbers["n_with_thinking"]:
        parts.append(f"Thinking takes {_tokens(numbers['thinking_tokens'])} of the tokens of a response.")
    elif not numbers["n_with_thinking"]:
        parts.append("No response shows any thinking, so that all of each counts as its answer.")
    for title, name in (("difficulty", "by_difficulty"), ("how often it is solved", "by_solve_rate")):
        if numbers[name]:
            rows = [
                (
                    group["group"],
                    f"{group['n_questions']:,}",
                    _percent(group["accuracy"]),
                    *(_tokens(group[length]) for length in ("total_tokens", "correct_tokens", "wrong_tokens")),
                )
                for group in numbers[name]
            ]
            parts.append(_table((title, "questions", "correct", "tokens", "of correct", "of wrong"), rows))
    return "\n\n".join(parts)


def _where(numbers: Mapping) -> str:
    rows = [
        ("outcome efficiency: share up to the first correct answer, of correct responses", "outcome_efficiency"),
        ("underthinking: share after a correct thought, of wrong responses", "underthinking"),
        ("share after a response first said its final answer", "after_settled"),
        ("responses that loop", "loop_share"),
        ("responses that were cut off", "truncated_share"),
    ]
    return _table(
        ("", "mean"), [(label, _percent(numbers[name])) for label, name in rows if numbers[name] is not None]
    )


def _shortest(shortest: Mapping | None) -> str:
    if shortest is None:
        return "Needs several samples of a question; there is one of each."
    rows = [(f"{row['m']}", _tokens(row["tokens"]), _percent(row["solved"])) for row in shortest["of"]]
    table = _table(("of m responses", "tokens of the shortest correct", "one is correct"), rows)
    return f"Over the {shortest['n_questions']:,} questions with several samples.\n\n{table}"


def _savings(numbers: Mapping) -> str:
    rows = [
        (_SAVINGS[name], _percent(share) if share is not None else _why_unknown(name), _left(share, numbers))
        for name, share in numbers["could_save"].items()
    ]
    return (
        _table(("bound", "share of all tokens", "tokens left a response"), rows)
        + "\n\nThese are bounds on what can go without loss, not promises; a run of `train` measures what does go."
    )


def _why_unknown(name: str) -> str:
    return {
        "after_first_correct": "needs ids or a tokenizer",
        "longer_than_shortest": "needs several samples of a question",
        "above_floor": "not known",
    }[name]


def _left(share: Mapping | None, numbers: Mapping) -> str:
    return "" if share is None else f"{numbers['total_tokens']['mean'] * (1 - share['mean']):,.1f}"


def _hull(numbers: Mapping) -> str:
    priced = "cost" in numbers
    rows = [
        (
            "*" if point["on_front"] else "",
            f"`{point['strategy']}`",
            budget_label(point["budget_tokens"]),
            _percent(point["accuracy"]),
            _tokens(point["generated_tokens"]),
            *((f"{point['cost_per_1000_requests']:,.4g}",) if priced else ()),
        )
        for point in numbers["hull"]
    ]
    header = ("front", "strategy", "budget", "correct", "tokens generated", *(("cost of 1,000",) if priced else ()))
    meaning = "What shortens the model without training. `*`: no other point is as good in both tokens and accuracy."
    return f"{meaning}\n\n{_table(header, rows, words=3)}\n\n{_to_beat(numbers['hull'])}"


def _to_beat(hull: Sequence[Mapping]) -> str:
    """The cheapest point that is no worse than the model as it is; the points stand by rising tokens."""
    unlimited = next(one for one in hull if (one["strategy"], one["budget_tokens"]) == _UNLIMITED)
    best = next(one for one in hull if one["accuracy"]["mean"] >= unlimited["accuracy"]["mean"] - NO_LOSS)
    if best is unlimited:
        return "With fewer tokens, none of it comes within a point of the accuracy without limits."
    saved = 1 - best["generated_tokens"]["mean"] / unlimited["generated_tokens"]["mean"]
    point = f"`{best['strategy']}`, {budget_label(best['budget_tokens'])}"
    return f"To be beaten by training: {point}, within a point of the accuracy, with {100 * saved:.1f} % fewer tokens."


def _cost(cost: Mapping) -> str:
    now = cost["per_1000_requests"]
    rows = [("now", f"{now['mean']:,.4g} [{now['low']:,.4g}, {now['high']:,.4g}]")]
    for name, saved in cost["could_save_per_1000_requests"].items():
        if saved is not None:
            rows.append((f"less {_SAVINGS[name]}", f"{now['mean'] - saved:,.4g}"))
    price = f"{cost['price_per_million_tokens']:g} a million generated tokens; prompts are not in it"
    return f"Of 1,000 requests at {price}.\n\n{_table(('', 'cost'), rows)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Markdown; the first columns are words, the others numbers."""
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(interval: Mapping | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{100 * interval[name]:.1f}" for name in ("mean", "low", "high"))
    return f"{mean} % [{low}, {high}]"


def _tokens(interval: Mapping | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{interval[name]:,.1f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
