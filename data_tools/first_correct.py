"""Cut a trace behind its first correct solution: what came after it changed nothing.

1. Do NOT Think That Much for 2+3=? (arXiv 2412.21187): a chain that has solved its problem mostly goes on to solve it
   again. `keep: fcs` ends it with the first correct solution (FCS), `keep: fcs_reflection` with the next one, so that
   it still looks back once (FCS+Reflection); where there is no other, both are the same.
2. The paper lets a model mark the solutions; here a sentence with the right answer ends one, as the verifier finds it.
   A hit by accident is none: the chain must be complete there (`efficient_reasoning/compression/solutions.py`). That
   is too careful for models that solve a problem again in other ways; `complete: false` takes their first hit.
3. Of each problem's correct traces, that which is shortest then. It is cut between ids; the answer stays as it was.
4. `pairs: true` sets it against the longest trace of the problem, for SimPO or DPO: the paper's best.

    efficient-reasoning data first_correct --config configs/data/first_correct_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, refusal, training_row
from efficient_reasoning.compression.pairs import pair_row
from efficient_reasoning.compression.solutions import solution_stops
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import run
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.thinking import ThinkingFormat

_METHODS = {"fcs": "first_correct", "fcs_reflection": "first_correct_reflection"}


@dataclass(kw_only=True)
class FirstCorrectArguments(CompressionArguments):
    """Where to cut, and what to write."""

    model: str = field(metadata={"help": "Folder or Hub id that wrote the traces; only its tokenizer is read."})
    keep: Literal["fcs", "fcs_reflection"] = field(
        default="fcs", metadata={"help": "First correct solution, or also the next one."}
    )
    complete: bool = field(default=True, metadata={"help": "Pass over hits behind which anything new follows."})
    pairs: bool = field(default=False, metadata={"help": "Rows of chosen and rejected, for SimPO or DPO."})
    max_tokens: int | None = field(default=None, metadata={"help": "Longer traces are not cut."})


def first_correct(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    keep: Literal["fcs", "fcs_reflection"] = "fcs",
    complete: bool = True,
    pairs: bool = False,
    max_tokens: int | None = None,
) -> Iterator[dict]:
    """One training row a problem.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        thinking: the delimiters of the traces' tokenizer.
        rejected: counts problems that give no row, by what is wrong with most of their traces.
        keep: "fcs" or "fcs_reflection".
        complete: pass over hits behind which anything new follows (`solution_stops`).
        pairs: write `chosen` and `rejected`, which is the longest trace of the problem that ended.
        max_tokens: of traces that are cut, in total.

    Yields:
        the columns of `training_row`, the source being the trace that was cut, and `solutions` (how many were kept, 1
        or 2). With `pairs` those of `pair_row`.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    rejected = Counter() if rejected is None else rejected
    reader = Reader(thinking)
    for traces in by_problem(same_tokenizer(rows, thinking)):
        reasons: Counter[str] = Counter()
        cut: list[dict] = []
        traces = sorted(traces, key=lambda trace: (trace["total_tokens"], trace["seed"]))  # not as the file has them
        for trace in traces:
            stops = [] if (reason := refusal(trace, thinking, max_tokens)) else solution_stops(trace, reader, complete)
            if not stops:
                reasons[reason or "no solution in the thinking"] += 1
                continue
            kept = stops[:1] if keep == "fcs" else stops
            ids = thinking.split(trace["completion_ids"][: kept[-1]], trace["prompt_ids"]).thinking_ids
            chain = thinking.tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip()
            cut.append(training_row(trace, thinking, chain, method=_METHODS[keep], solutions=len(kept)))
        if not cut:
            [(reason, _)] = reasons.most_common(1)
            rejected[reason] += 1
            continue
        row = min(cut, key=lambda row: row["total_tokens"])
        if pairs:
            longest = [trace for trace in traces if not trace["truncated"]][-1]
            if longest["total_tokens"] <= row["total_tokens"]:
                rejected["no longer trace"] += 1
                continue
            row = pair_row(row, longest)
        yield row


def main(argv: list[str] | None = None) -> None:
    arguments = parse(FirstCorrectArguments, argv=argv, doc=__doc__)

    compress(arguments, first_correct, thinking=load_thinking(arguments.model))


if __name__ == "__main__":
    run(main)
