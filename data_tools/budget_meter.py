"""Turn traces into SFT rows that keep count of a budget: lines begin with the tokens that are left, `[57]`.

A small model that has never met a budget makes nothing of its number, and RL finds nothing to reinforce. Trained on
these rows it knows where it stands. What it does about it is left to RL: budgets are drawn by lot, whatever the length
of the trace, and where one is spent the trace goes on at `[0]`. BudgetThinker (arXiv 2508.17196) has such marks put in
from outside; here the model writes them.

    efficient-reasoning data budget_meter --config configs/data/budget_meter_overthinker.yaml
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, training_row
from efficient_reasoning.compression.budgets import BudgetArguments, sentence_of
from efficient_reasoning.compression.chains import usable_traces
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from efficient_reasoning.thinking import ThinkingFormat


@dataclass(kw_only=True)
class BudgetMeterArguments(BudgetArguments, CompressionArguments):
    """What is told, and whose traces these are."""

    model: str = field(metadata={"help": "Whose traces these are: its tokenizer counts, its delimiters are written."})
    every_tokens: int = field(default=0, metadata={"help": "Least number of tokens from mark to mark; 0: every line."})
    seed: int = field(default=0, metadata={"help": "Of the budgets."})


def budget_meter(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    form: Literal["exact", "max"] = "exact",
    min_budget_tokens: int = 100,
    max_budget_tokens: int = 4000,
    every_tokens: int = 0,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row of every correct trace.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        thinking: the delimiters of their tokenizer.
        rejected: counts problems that give no row.
        form: "exact" or "max": which sentence tells the budget.
        min_budget_tokens, max_budget_tokens: of the even draw, bounds included.
        every_tokens: least number of tokens from mark to mark, and to the first one; 0 marks every line.
        seed: of the draws.

    Yields:
        rows as `training_row` makes them, with the budget in the prompt.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    from efficient_reasoning.prompts import add_control

    rejected = Counter() if rejected is None else rejected
    for traces in by_problem(same_tokenizer(rows, thinking)):
        for number, trace in enumerate(usable_traces(traces, thinking, rejected)):
            budget = random.Random(f"{seed}/{trace['id']}/{number}").randint(min_budget_tokens, max_budget_tokens)
            left = budget - len(thinking.open(trace["prompt_ids"]))
            chain = metered(trace["thinking"], left, thinking.tokenizer, every_tokens)
            row = training_row(trace, thinking, chain, method=f"budget_meter {form}")
            yield row | {"prompt": add_control(row["prompt"], f" {sentence_of(form, budget)}")}


def metered(chain: str, left_tokens: int, tokenizer: PreTrainedTokenizerBase, every_tokens: int = 0) -> str:
    """A chain whose lines begin with the tokens that are left, marks counted as well; 0 when none is.

    Empty lines have no mark, nor have those with fewer than `every_tokens` since the last one: marks spend the budget
    too. Tokens are counted line by line, with the breaks behind them.
    """
    written, since_tokens = "", 0
    for line in re.findall(r"[^\n]+\n*|\n+", chain):
        is_marked = bool(line.strip()) and since_tokens >= every_tokens
        piece = f"[{max(0, left_tokens)}]{line}" if is_marked else line
        tokens = len(tokenizer(piece, add_special_tokens=False)["input_ids"])
        written += piece
        left_tokens -= tokens
        since_tokens = tokens if is_marked else since_tokens + tokens
    return written


def main(argv: list[str] | None = None) -> None:
    arguments = parse(BudgetMeterArguments, argv=argv, doc=__doc__)

    compress(arguments, budget_meter, thinking=load_thinking(arguments.model))


if __name__ == "__main__":
    run(main)
