"""Turn problems into rows for RL under budgets: each asks for a number of tokens, as L1 does (LCPO, arXiv 2503.04697).

The sentence behind the question is the one that inference puts there (strategies `l1-exact` and `l1-max`), and
`budget_tokens` is the number in it, which the rewards `lcpo_exact` and `lcpo_max` hold the response against. Numbers
are drawn evenly, one for each row, so that no problem gives a length away.

    efficient-reasoning data length_budgets --config configs/data/length_budgets_overthinker.yaml
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression.budgets import BudgetArguments, sentence_of
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class LengthBudgetsArguments(BudgetArguments):
    """Which problems, and how many tokens to ask for."""

    task: str = field(
        metadata={
            "help": "sums, heads_and_legs, mixed, gsm_symbolic, graph_paths, multiplication_N, gym:NAME, file:PATH or "
            "hub:NAME."
        }
    )
    model: str = field(metadata={"help": "Folder or Hub id of the model to be trained; its tokenizer is needed."})
    out: str = field(metadata={"help": "JSONL file of the rows; replaced if it is there."})
    num_problems: int = field(default=1000, metadata={"help": "How many problems at most."})
    rows_per_problem: int = field(default=1, metadata={"help": "Rows of each problem, each with a number of its own."})
    seed: int = field(default=0, metadata={"help": "Of the problems drawn, and of the numbers."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_per_problem < 1:
            raise BadInput(f"rows_per_problem is {self.rows_per_problem}; give at least 1.")


def length_budgets(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    form: Literal["exact", "max"] = "exact",
    min_budget_tokens: int = 100,
    max_budget_tokens: int = 4000,
    rows_per_problem: int = 1,
    seed: int = 0,
) -> Iterator[dict]:
    """Rows for RL: problems with a budget in the prompt.

    Args:
        rows: problems.
        engine: not needed; every data tool has it.
        tokenizer: of the model to be trained, which says what a prompt looks like.
        form: "exact" or "max".
        min_budget_tokens, max_budget_tokens: of the even draw, bounds included.
        rows_per_problem: each with a draw of its own.
        seed: of the draws, which depend on nothing else but the problem's id.

    Yields:
        `prompt`, `question` (without the budget), `answer`, `task`, `metadata`, `budget_tokens`, `method`,
        `source_id`.
    """
    from efficient_reasoning.answers import ANSWER_ALONE
    from efficient_reasoning.prompts import add_control, conversation, make_prompt

    for problem in rows:
        draw = random.Random(f"{seed}/{problem['id']}")
        prompt = make_prompt(tokenizer, conversation(problem))
        for _ in range(rows_per_problem):
            tokens = draw.randint(min_budget_tokens, max_budget_tokens)
            yield {
                "prompt": add_control(prompt, f" {sentence_of(form, tokens)}"),
                **{name: problem.get(name) for name in ("question", "answer", "task")},
                "metadata": None if problem["task"] in ANSWER_ALONE else problem.get("metadata"),
                "budget_tokens": tokens,
                "method": f"length_budgets {form}",
                "source_id": problem["id"],
            }


def main(argv: list[str] | None = None) -> None:
    arguments = parse(LengthBudgetsArguments, argv=argv, doc=__doc__)

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
    from efficient_reasoning.files import write_jsonl
    from efficient_reasoning.problems import load_problems

    problems = load_problems(arguments.task, "train", arguments.num_problems, arguments.seed)
    names = ("form", "min_budget_tokens", "max_budget_tokens", "rows_per_problem", "seed")
    rows = length_budgets(
        problems,
        tokenizer=load_tokenizer(resolve_model(arguments.model)),
        **{name: getattr(arguments, name) for name in names},
    )
    write_jsonl(Path(arguments.out), rows)
    count = arguments.rows_per_problem * len(problems)
    print(
        f"{arguments.out}: {count:,} rows from {len(problems):,} problems, "
        f"{arguments.min_budget_tokens:,} to {arguments.max_budget_tokens:,} tokens."
    )


if __name__ == "__main__":
    run(main)
