"""Problems with their chains, a step a string: rows for latent SFT.

1. A built-in family writes its own chain (`style`: `equations` is the floor, `plain` says a little more, of graphs the
   search); rows of files and of the Hub bring theirs as `steps`, as those of ProsQA do.
2. Steps stay apart, since a curriculum takes them away one by one: joined, with a line break behind each, they are
   the thinking of an ordinary row.

    efficient-reasoning data chain_steps --config configs/data/chain_steps_overthinker.yaml
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class ChainStepsArguments:
    """Which problems, and how their chains are told."""

    task: str = field(metadata={"help": "A built-in family, such as graph_paths; file:PATH or hub:NAME with steps."})
    model: str = field(metadata={"help": "Folder or Hub id of the model to be trained; its tokenizer is needed."})
    out: str = field(metadata={"help": "JSONL file of the rows; replaced if it is there."})
    style: Literal["equations", "plain"] = field(default="equations", metadata={"help": "Of a family's chain."})
    num_problems: int = field(default=1000, metadata={"help": "How many problems at most."})
    seed: int = field(default=0, metadata={"help": "Of the problems drawn, and of their chains."})


def chain_steps(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    style: Literal["equations", "plain"] = "equations",
    seed: int = 0,
) -> Iterator[dict]:
    """Rows for latent SFT.

    Args:
        rows: problems.
        engine: not needed; every data tool has it.
        tokenizer: of the model to be trained, which says what a prompt looks like.
        style: of a built-in family's chain.
        seed: of the chains, which depend on nothing else but the problem's id.

    Yields:
        `prompt`, `steps` (texts without line breaks), `question`, `answer`, `task`, `metadata`, `method`, `source_id`.

    Raises:
        BadInput: a problem without a chain.
    """
    from efficient_reasoning.problems import FAMILIES, family_of
    from efficient_reasoning.prompts import conversation, make_prompt

    for problem in rows:
        family, metadata = family_of(problem), problem.get("metadata") or {}
        steps = metadata.get("steps")
        if family is not None and (style != "equations" or not _are_texts(steps)):
            rng = random.Random(f"{seed}/{problem['id']}")
            steps = FAMILIES[family].chain(problem, style, rng).splitlines()
        if not _are_texts(steps):
            raise BadInput(
                f"Problem {problem['id']} has no steps; give rows with a list of texts under steps, or a built-in "
                "family."
            )
        yield {
            "prompt": make_prompt(tokenizer, conversation(problem)),
            "steps": steps,
            **{name: problem.get(name) for name in ("question", "answer", "task")},
            "metadata": None if family is not None else metadata,
            "method": "chain_steps",
            "source_id": problem["id"],
        }


def _are_texts(steps: object) -> bool:
    return isinstance(steps, list) and bool(steps) and all(isinstance(step, str) and step.strip() for step in steps)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(ChainStepsArguments, argv=argv, doc=__doc__)

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
    from efficient_reasoning.files import write_jsonl
    from efficient_reasoning.problems import load_problems

    problems = load_problems(arguments.task, "train", arguments.num_problems, arguments.seed)
    tokenizer = load_tokenizer(resolve_model(arguments.model))
    write_jsonl(
        Path(arguments.out), chain_steps(problems, tokenizer=tokenizer, style=arguments.style, seed=arguments.seed)
    )
    print(f"{arguments.out}: {len(problems):,} rows.")


if __name__ == "__main__":
    run(main)
