"""Put chains of every length beside each other, from a problem's longest to its shortest: CoT-Valve's MixChain.

1. CoT-Valve (arXiv 2502.09601) trains a LoRA adapter towards short chains and takes it for a direction: scaled at
   inference, it gives chains between those of the base and the short ones, and beyond. Chains sampled at several
   scales are the MixChain, which makes the direction precise.
2. Of a problem's correct chains, the longest is level 0, the shortest level `levels` - 1, and those between stand
   evenly in the order of length. Problems with fewer different lengths are left out. A right answer without thinking
   is a guess, and no chain.
3. CoT-Valve++ trains each row at an `adapter_scale` of its own, which says where its length lies among the problem's
   chains: 0 for the longest, 1 for the shortest, (longest - length) / (longest - shortest) between them.
4. CoT-Valve+P goes from level to level. `level` writes the rows of one; the files of all levels behind each other, and
   a training that keeps their order, are the curriculum.

    efficient-reasoning data cot_valve --config configs/data/cot_valve_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import is_solved, whole_row
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run


@dataclass(kw_only=True)
class CotValveArguments(CompressionArguments):
    """Which chains of a problem to keep."""

    levels: int = field(default=4, metadata={"help": "Chains of a problem, from its longest to its shortest."})
    level: int | None = field(default=None, metadata={"help": "Only this level, 0 the longest; null for all."})
    scaled: bool = field(default=True, metadata={"help": "Whether rows say their adapter_scale (CoT-Valve++)."})

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise BadInput(f"levels is {self.levels}; give at least 2, the longest and the shortest.")
        if self.level is not None and not 0 <= self.level < self.levels:
            raise BadInput(f"level is {self.level}; with {self.levels} levels it is one of 0 to {self.levels - 1}.")


def cot_valve(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    levels: int = 4,
    level: int | None = None,
    scaled: bool = True,
) -> Iterator[dict]:
    """One training row for each level of each problem.

    Args:
        rows: traces, those of a problem together, of as many models or adapter scales as there are.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no rows.
        levels: chains of a problem; at least 2.
        level: the only one that is wanted, 0 for the longest chains; None for all of them.
        scaled: whether the rows say their `adapter_scale`.

    Yields:
        the columns of `training_row`, the longest chain of a problem first; `source_tokens` is its length. Further
        `level`, and if `scaled` also `adapter_scale`, in [0, 1].
    """
    rejected = Counter() if rejected is None else rejected
    for traces in by_problem(rows):
        usable = [trace for trace in traces if is_solved(trace) and trace["thinking_tokens"]]
        # One for each length, the same whatever the order of the files.
        usable.sort(key=lambda trace: (-trace["total_tokens"], -trace["seed"], trace["thinking"]))
        chains = list({trace["total_tokens"]: trace for trace in usable}.values())
        if len(chains) < levels:
            rejected["without enough lengths" if chains else "without a correct chain"] += 1
            continue
        longest, shortest = chains[0]["total_tokens"], chains[-1]["total_tokens"]
        for place in range(levels) if level is None else [level]:
            chain = chains[round(place * (len(chains) - 1) / (levels - 1))]
            scale = (longest - chain["total_tokens"]) / (longest - shortest)
            columns = {"level": place, **({"adapter_scale": scale} if scaled else {})}
            yield whole_row(chain, longest, method="cot_valve", **columns)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(CotValveArguments, argv=argv, doc=__doc__)

    compress(arguments, cot_valve)


if __name__ == "__main__":
    run(main)
