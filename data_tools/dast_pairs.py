"""Pair each problem's traces by DAST's reward: brief where they are right, longer where they are wrong.

1. DAST (arXiv 2503.04472) gives a problem a budget of tokens, from the share of its traces that are right and from
   their lengths, and each trace a reward for its length (`efficient_reasoning/rewards/dast.py`). A hard problem has a
   large budget: its right traces lose less by being long, and its wrong ones are to think more.
2. At most two pairs a problem: of its right traces the one with the highest reward over the one with the lowest
   (dual-correct), and the same of its wrong ones (dual-incorrect). Right over wrong brought the paper nothing, and is
   left out.
3. The pairs with the smallest margins of reward are dropped, a share of all of them: near ties, and wrong traces that
   only differ in length. Without that, the paper's models became longer. The paper's share is 0.15 for one model and
   0.18 for the other.
4. A trace that was cut off counts in the budget, as a wrong one, but is never part of a pair: it has no end to learn.

    efficient-reasoning data dast_pairs --config configs/data/dast_pairs_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import is_solved, whole_row
from efficient_reasoning.compression.pairs import pair_row
from efficient_reasoning.compression.tool import TraceFiles
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

Kinds = Literal["both", "correct", "incorrect"]


@dataclass(kw_only=True)
class DastPairsArguments(CompressionArguments):
    """What makes a pair."""

    max_tokens: int = field(
        default=4096, metadata={"help": "Most tokens of a trace: the max_new_tokens with which they were sampled."}
    )
    drop_share: float = field(
        default=0.15, metadata={"help": "Share of all pairs, those with the smallest margins, that is dropped."}
    )
    pairs: Kinds = field(default="both", metadata={"help": "Dual-correct pairs, dual-incorrect ones, or both."})
    min_thinking_tokens: int = field(default=1, metadata={"help": "Shorter thinking is a guess, and never chosen."})

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise BadInput(f"max_tokens is {self.max_tokens}; give at least 1.")
        if not 0 <= self.drop_share < 1:
            raise BadInput(f"drop_share is {self.drop_share}; give at least 0 and less than 1.")


def dast_pairs(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    noted: Counter[str] | None = None,
    max_tokens: int = 4096,
    min_margin: float = 0.0,
    pairs: Kinds = "both",
    min_thinking_tokens: int = 1,
) -> Iterator[dict]:
    """Up to two rows a problem, that of its correct traces first.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no pair.
        noted: counts the pairs of each kind.
        max_tokens: that a trace may have, in total tokens; the budget of a problem that is never solved.
        min_margin: least reward of the chosen trace less that of the rejected one; `least_margin` finds that of a
            share of all pairs.
        pairs: which kinds of them.
        min_thinking_tokens: a chosen trace has that much thinking.

    Yields:
        `prompt`, `chosen`, `rejected`, `method`, `keep_ratio` (chosen / `source_tokens`, above 1 for wrong traces),
        `source_id`, `source_tokens` (mean of the problem's traces of that kind), `total_tokens` (of the chosen one),
        `kind` ("correct" or "incorrect"), `margin`, `chosen_tokens`, `rejected_tokens`.

    Raises:
        BadInput: a trace that is longer than `max_tokens`.
    """
    rejected = Counter() if rejected is None else rejected
    noted = Counter() if noted is None else noted
    for group in by_problem(rows):
        found = list(_pairs_of(group, max_tokens, pairs, min_thinking_tokens))
        kept = [row for row in found if row["margin"] >= min_margin]
        if not kept:
            rejected["with too small a margin" if found else "without two traces to compare"] += 1
        noted.update(f"dual-{row['kind']}" for row in kept)
        yield from kept


def least_margin(rows: Iterable[Mapping], drop_share: float, **parameters) -> float:
    """The `min_margin` that drops this share of all pairs, rounded down, those with the smallest margins.

    Args:
        rows: traces, those of a problem together; streamed, a number a pair stays in memory.
        drop_share: at least 0, less than 1. Of equal margins at the border all are kept.
        parameters: of `dast_pairs`.
    """
    margins = sorted(row["margin"] for row in dast_pairs(rows, **parameters))
    return margins[int(drop_share * len(margins))] if margins else 0.0


def _pairs_of(group: list[Mapping], max_tokens: int, pairs: Kinds, min_thinking_tokens: int) -> Iterator[dict]:
    """The pair of a problem's correct traces and that of its wrong ones, where the two rewards differ."""
    scored = list(zip(group, _rewards(group, max_tokens), strict=True))
    for kind in ("correct", "incorrect"):
        traces = [
            (trace, reward)
            for trace, reward in scored
            if is_solved(trace) == (kind == "correct") and not trace["truncated"]
        ]
        candidates = [item for item in traces if item[0]["thinking_tokens"] >= min_thinking_tokens]
        if pairs not in ("both", kind) or not candidates:
            continue
        # Of equal rewards the shorter is chosen, and the longer rejected; a tie does not depend on the file's order.
        chosen, high = min(candidates, key=lambda item: (-item[1], item[0]["total_tokens"], item[0]["seed"]))
        loser, low = min(traces, key=lambda item: (item[1], -item[0]["total_tokens"], item[0]["seed"]))
        if high > low:
            source_tokens = sum(trace["total_tokens"] for trace, _ in traces) / len(traces)
            row = whole_row(chosen, source_tokens, method="dast_pairs", kind=kind, margin=high - low)
            yield pair_row(row, loser)


def _rewards(group: list[Mapping], max_tokens: int) -> list[float]:
    """Of every trace of a problem, cut off ones included."""
    import numpy as np

    from efficient_reasoning.rewards import Rollouts
    from efficient_reasoning.rewards.dast import dast

    longest = max(group, key=lambda trace: trace["total_tokens"])
    if longest["total_tokens"] > max_tokens:
        raise BadInput(
            f"Problem {longest['id']!r} has a trace of {longest['total_tokens']} tokens, and max_tokens is "
            f"{max_tokens}; give the max_new_tokens with which the traces were sampled."
        )
    correct = np.array([is_solved(trace) for trace in group], np.float64)
    lengths = np.array([trace["total_tokens"] for trace in group], np.float64)
    return dast(Rollouts(correct, lengths, np.zeros(len(group), int)), max_tokens).tolist()


def main(argv: list[str] | None = None) -> None:
    arguments = parse(DastPairsArguments, argv=argv, doc=__doc__)

    source = TraceFiles([arguments.traces] if isinstance(arguments.traces, str) else arguments.traces)
    choice = {name: getattr(arguments, name) for name in ("max_tokens", "pairs", "min_thinking_tokens")}
    least = least_margin(source.read(0, len(source)), arguments.drop_share, **choice)
    compress(arguments, dast_pairs, source=source, min_margin=least)


if __name__ == "__main__":
    run(main)
