"""Pair each problem's shortest correct trace with its longer ones: preferences that teach to be brief.

1. Kimi k1.5 (arXiv 2501.12599) calls it long2short DPO: the shortest correct trace is chosen. Rejected are longer
   wrong ones, and correct ones at least 1.5 times as long.
2. Brevity and correctness pull in one direction: no pair prefers what is wrong, or what is longer.
3. A trace that was cut off is never part of a pair: it has no end to learn.

    efficient-reasoning data long2short_pairs --config configs/data/long2short_pairs_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import is_solved, whole_row
from efficient_reasoning.compression.pairs import pair_row
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run


@dataclass(kw_only=True)
class Long2ShortPairsArguments(CompressionArguments):
    """What makes a pair."""

    min_correct_ratio: float = field(
        default=1.5, metadata={"help": "Least length of a rejected correct trace, as a multiple of the chosen one."}
    )
    min_wrong_ratio: float = field(
        default=1.0, metadata={"help": "The same of a rejected wrong trace, which is always longer."}
    )
    max_pairs: int = field(default=4, metadata={"help": "Most pairs of a problem, longest rejected ones first."})
    min_thinking_tokens: int = field(default=1, metadata={"help": "Shorter thinking is a guess, and never chosen."})

    def __post_init__(self) -> None:
        if self.min_correct_ratio < 1 or self.min_wrong_ratio < 1:
            raise BadInput("min_correct_ratio and min_wrong_ratio must be at least 1: rejected traces are longer.")
        if self.max_pairs < 1:
            raise BadInput(f"max_pairs is {self.max_pairs}; give at least 1.")


def long2short_pairs(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    min_correct_ratio: float = 1.5,
    min_wrong_ratio: float = 1.0,
    max_pairs: int = 4,
    min_thinking_tokens: int = 1,
) -> Iterator[dict]:
    """Up to `max_pairs` rows a problem.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no pair.
        min_correct_ratio: least length of a rejected correct trace / length of the chosen one, both total tokens.
        min_wrong_ratio: the same of a wrong one.
        max_pairs: of a problem; those with the longest rejected traces.
        min_thinking_tokens: a chosen trace has that much thinking.

    Yields:
        `prompt`, `chosen`, `rejected`, `method`, `keep_ratio` (chosen / `source_tokens`), `source_id`, `source_tokens`
        (mean of the problem's candidates for the chosen trace), `total_tokens` (of the chosen one), `chosen_tokens`,
        `rejected_tokens`.
    """
    rejected = Counter() if rejected is None else rejected
    for group in by_problem(rows):
        traces = [trace for trace in group if not trace["truncated"]]
        candidates = [
            trace for trace in traces if is_solved(trace) and trace["thinking_tokens"] >= min_thinking_tokens
        ]
        if not candidates:
            rejected["without a correct trace"] += 1
            continue
        # A tie does not depend on the order of the file.
        chosen = min(candidates, key=lambda trace: (trace["total_tokens"], trace["seed"]))
        tokens = chosen["total_tokens"]
        longer = [
            trace
            for trace in traces
            if trace["total_tokens"] > tokens
            and trace["total_tokens"] >= tokens * (min_correct_ratio if trace["correct"] else min_wrong_ratio)
        ]
        if not longer:
            rejected["without a longer trace"] += 1
            continue
        source_tokens = sum(trace["total_tokens"] for trace in candidates) / len(candidates)
        row = whole_row(chosen, source_tokens, method="long2short_pairs")
        longer.sort(key=lambda trace: (-trace["total_tokens"], trace["seed"]))
        yield from (pair_row(row, trace) for trace in longer[:max_pairs])


def main(argv: list[str] | None = None) -> None:
    arguments = parse(Long2ShortPairsArguments, argv=argv, doc=__doc__)

    compress(arguments, long2short_pairs)


if __name__ == "__main__":
    run(main)
