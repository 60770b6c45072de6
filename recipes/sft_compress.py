"""Fine-tune on compressed chains of thought (or on any rows with `prompt` and `completion`).

The rows come from a data tool, such as `efficient-reasoning data shortest_correct`; TRL's SFTTrainer trains on them
unchanged, on the completions only. Conversations under `messages` become one row a turn, each with its own thinking.

    efficient-reasoning train sft_compress --config configs/sft_compress/shortest_correct_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import FinetuningArguments

if TYPE_CHECKING:
    from efficient_reasoning.training import Base


@dataclass(kw_only=True)
class CompressArguments(FinetuningArguments):
    """Where to start and what to train on."""


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(CompressArguments, trainer="trl:SFTConfig", argv=argv, doc=__doc__)
    from trl import SFTTrainer

    from efficient_reasoning import training
    from efficient_reasoning.prompts import keeps_thinking, template_kwargs

    training.start(arguments, config)
    base = training.load_base(arguments.model)
    rows = training.load_turns(arguments.data, base.tokenizer)
    metadata = base.metadata_of(rows, stage="sft", method=rows[0].get("method", "sft"))
    problems = base.problems_with(rows)
    # Some templates strip the thinking of finished turns; those train with TRL's version and keep their own.
    own_template = base.tokenizer.chat_template
    if not keeps_thinking(base.tokenizer, base.thinking):
        base.tokenizer.chat_template = training_template(base)
    if arguments.dry_run:
        training.dry_run(base, rows, config, limit_tokens=config.max_length, limit_has_prompt=True)
        return
    rows = rows.select_columns(["prompt", "completion"])
    switch = template_kwargs(base.tokenizer)
    if switch:  # it has to say in training what it says in inference
        rows = rows.add_column("chat_template_kwargs", [switch] * len(rows))
    trainer = SFTTrainer(
        model=base.path,
        args=config,
        train_dataset=rows,
        processing_class=base.tokenizer,
    )
    base.tokenizer.chat_template = own_template
    training.finish(trainer, metadata, problems)


def training_template(base: Base) -> str:
    """The base's chat template as TRL writes it for training.

    Raises:
        BadInput: TRL does not know the template.
    """
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(base.tokenizer)
    except ValueError:
        raise BadInput(
            f"{base.name}: its chat template strips the thinking of finished turns, and TRL has no version of it that "
            "does not; save the tokenizer with a chat_template that keeps it."
        ) from None


if __name__ == "__main__":
    run(main)
