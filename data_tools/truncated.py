"""Cut chains off after a share of their tokens: the control that every compression has to beat.

Training on it makes a model as brief as training on compressed chains does, and says what brevity alone is worth: the
end of each chain is gone, whatever it was, and the answer stands behind what is left.

    efficient-reasoning data truncated --config configs/data/truncated_overthinker.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, training_row
from efficient_reasoning.compression.chains import usable_traces
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from efficient_reasoning.thinking import ThinkingFormat


@dataclass(kw_only=True)
class TruncatedArguments(CompressionArguments):
    """How much is left."""

    model: str = field(metadata={"help": "Whose traces these are: its tokenizer counts, its delimiters are written."})
    keep_ratio: float = field(default=0.5, metadata={"help": "Share of a trace's tokens that is kept."})
    max_tokens: int | None = field(default=None, metadata={"help": "Most total tokens of a trace; null for all."})
    seed: int = field(default=0, metadata={"help": "Of the lot that takes one correct trace of each problem."})

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise BadInput(f"keep_ratio is {self.keep_ratio}; give a share above 0, at most 1.")


def truncated(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    keep_ratio: float = 0.5,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row a problem, of a correct trace by lot.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        thinking: the delimiters of their tokenizer.
        rejected: counts problems that give no row.
        keep_ratio: total tokens of the row / total tokens of the trace; what is not thinking stays whole.
        max_tokens: longer traces are no candidates.
        seed: of the lot.

    Yields:
        rows as `training_row` makes them.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    rejected = Counter() if rejected is None else rejected
    for traces in by_problem(same_tokenizer(rows, thinking)):
        usable = usable_traces(traces, thinking, rejected, max_tokens)
        if not usable:
            continue
        trace = random.Random(f"{seed}/{usable[0]['id']}").choice(usable)
        ids = thinking.split(trace["completion_ids"], trace["prompt_ids"]).thinking_ids
        dropped = round((1 - keep_ratio) * trace["total_tokens"])
        if dropped >= len(ids):
            rejected["no thinking left"] += 1
            continue
        kept = thinking.tokenizer.decode(ids[: len(ids) - dropped], clean_up_tokenization_spaces=False)
        yield training_row(trace, thinking, kept, method="truncated")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(TruncatedArguments, argv=argv, doc=__doc__)

    compress(arguments, truncated, thinking=load_thinking(arguments.model))


if __name__ == "__main__":
    run(main)
