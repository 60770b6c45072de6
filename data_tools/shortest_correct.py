"""Keep each problem's shortest correct trace: training rows from the model's own best moments.

1. Of n traces of a problem, the shortest correct one shows the model that it could have been brief, in its own words:
   Self-Training Elicits Concise Reasoning (arXiv 2502.20122); Kimi k1.5 calls it shortest rejection sampling
   (arXiv 2501.12599).
2. A trace that was cut off never counts: it has no end to learn. One without thinking that happened to be right is a
   guess; `min_thinking_tokens` leaves it out.
3. `keep: random` is the control: one trace of each problem by lot, right or wrong, as the model wrote it. It says what
   so much more training does by itself.

    efficient-reasoning data shortest_correct --config configs/data/shortest_correct_overthinker.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from efficient_reasoning.compression import CompressionArguments, compress
from efficient_reasoning.compression.chains import is_solved, whole_row
from efficient_reasoning.config import parse
from efficient_reasoning.errors import run


@dataclass(kw_only=True)
class ShortestCorrectArguments(CompressionArguments):
    """What to keep of the traces."""

    keep: Literal["shortest", "random"] = field(
        default="shortest", metadata={"help": "Shortest correct trace, or any trace by lot (the control)."}
    )
    min_correct: int = field(default=1, metadata={"help": "Fewest correct traces of a problem; not for random."})
    min_thinking_tokens: int = field(default=1, metadata={"help": "Shorter thinking is a guess; not for random."})
    seed: int = field(default=0, metadata={"help": "Of the lot."})


def shortest_correct(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    keep: Literal["shortest", "random"] = "shortest",
    min_correct: int = 1,
    min_thinking_tokens: int = 1,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row a problem, in the order in which problems first appear.

    Args:
        rows: traces in any order, streamed: one of each problem stays in memory.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no row.
        keep: "shortest" or "random".
        min_correct: problems with fewer candidates are left out ("shortest" only).
        min_thinking_tokens: correct traces with less thinking are no candidates ("shortest" only).
        seed: of the lot; which trace it picks does not depend on the order of the rows.

    Yields:
        `prompt`, `completion`, `method`, `keep_ratio` (its tokens / `source_tokens`), `source_id`, `source_tokens`
        (mean of the problem's candidates, which are its correct traces, or for "random" all that ended),
        `total_tokens`.
    """
    rejected = Counter() if rejected is None else rejected
    shortest = keep == "shortest"
    best: dict[str, tuple[tuple, Mapping]] = {}
    lengths: dict[str, tuple[int, int]] = {}  # number of candidates, their tokens
    problems: set[str] = set()
    for row in rows:
        problems.add(row["id"])
        if row["truncated"] or (shortest and not (is_solved(row) and row["thinking_tokens"] >= min_thinking_tokens)):
            continue
        problem = row["id"]
        lot = random.Random(f"{seed}/{problem}/{row['seed']}").random()
        rank = (row["total_tokens"], lot) if shortest else (lot,)
        if problem not in best or rank < best[problem][0]:
            best[problem] = rank, {key: row[key] for key in ("id", "prompt", "completion", "total_tokens")}
        count, tokens = lengths.get(problem, (0, 0))
        lengths[problem] = count + 1, tokens + row["total_tokens"]
    rejected["without a trace to keep"] += len(problems) - len(best)
    for problem, (_, row) in best.items():
        count, tokens = lengths[problem]
        if shortest and count < min_correct:
            rejected["with too few correct traces"] += 1
            continue
        yield whole_row(row, tokens / count, method="shortest_correct" if shortest else "unfiltered")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(ShortestCorrectArguments, argv=argv, doc=__doc__)

    compress(arguments, shortest_correct)


if __name__ == "__main__":
    run(main)
