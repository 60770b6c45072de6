"""Turn traces into rows for RL: each problem with the length and the accuracy that its model has now.

1. Rewards such as O1-Pruner's (arXiv 2501.12570) measure a response against what the reference model needs for the
   same problem: `reference_tokens` and `reference_accuracy` are the means over its sampled traces. A trace that was
   cut off counts with the length that it reached, and is wrong.
2. A problem that is never solved teaches nothing about length; `min_accuracy` and `max_accuracy` choose.

    efficient-reasoning data reference_lengths --config configs/data/reference_lengths_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from efficient_reasoning.answers import ANSWER_ALONE
from efficient_reasoning.compression import CompressionArguments, compress
from efficient_reasoning.config import parse
from efficient_reasoning.errors import run


@dataclass(kw_only=True)
class ReferenceLengthsArguments(CompressionArguments):
    """Which problems to keep."""

    min_accuracy: float = field(default=0.0, metadata={"help": "Least share of correct traces of a problem."})
    max_accuracy: float = field(default=1.0, metadata={"help": "Greatest share of correct traces of a problem."})


def reference_lengths(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    min_accuracy: float = 0.0,
    max_accuracy: float = 1.0,
) -> Iterator[dict]:
    """One row a problem, in the order in which problems first appear.

    Args:
        rows: traces in any order, streamed: only sums stay in memory.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no row.
        min_accuracy, max_accuracy: share of correct traces that a problem must have, bounds included.

    Yields:
        `prompt`, `answer`, `task`, `metadata` (None where the verifier needs none), `reference_tokens` (mean total
        tokens), `reference_accuracy`, `method`, `source_id`.
    """
    rejected = Counter() if rejected is None else rejected
    problems: dict[str, dict] = {}
    sums: dict[str, tuple[int, int, int]] = {}  # traces, tokens, correct traces
    for row in rows:
        problems.setdefault(
            row["id"],
            {
                "prompt": row["prompt"],
                "question": row.get("question"),
                "answer": row.get("answer"),
                "task": row["task"],
                "metadata": None if row["task"] in ANSWER_ALONE else row.get("metadata"),
            },
        )
        count, tokens, correct = sums.get(row["id"], (0, 0, 0))
        sums[row["id"]] = count + 1, tokens + row["total_tokens"], correct + (row["correct"] and not row["truncated"])
    for problem, columns in problems.items():
        count, tokens, correct = sums[problem]
        if not min_accuracy <= correct / count <= max_accuracy:
            rejected["too easy or too hard"] += 1
            continue
        yield {
            **columns,
            "reference_tokens": tokens / count,
            "reference_accuracy": correct / count,
            "method": "reference_lengths",
            "source_id": problem,
        }


def main(argv: list[str] | None = None) -> None:
    arguments = parse(ReferenceLengthsArguments, argv=argv, doc=__doc__)

    compress(arguments, reference_lengths)


if __name__ == "__main__":
    run(main)
