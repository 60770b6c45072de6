"""Pre-train a small reasoning model from scratch on built-in problem families.

1. Draw problems, write a worked chain for each (mostly verbose, some plain, some equations only, a tenth with an empty
   thinking block, else "no thinking" would mean nothing to the model). Many rows are shared out among processes.
2. Train a tokenizer on those texts: a byte-level BPE with single digits, or one of whole words. The think delimiters
   are added tokens.
3. Initialise the architecture that the config names and train it on the completions.

    efficient-reasoning train pretrain --config configs/pretrain/overthinker.yaml
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, near, run
from efficient_reasoning.problems import FAMILIES, MIXED, draw_problems
from efficient_reasoning.scratch import (
    CLOSE,
    END,
    OPEN,
    build_config,
    collate,
    completion_loss,
    encode,
    train_tokenizer,
)
from efficient_reasoning.training import RecipeArguments

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

STYLES = ("verbose", "plain", "equations", "empty")


@dataclass(kw_only=True)
class PretrainArguments(RecipeArguments):
    """What to train on, and what to train."""

    task: str = field(default=MIXED, metadata={"help": "Built-in problem family, or mixed for two of them in turn."})
    num_rows: int = field(default=400_000, metadata={"help": "Training rows to write."})
    num_shards: int = field(
        default=1, metadata={"help": "Parts of the rows, each with a draw of problems and a process of its own."}
    )
    chain_shares: dict[str, float] = field(
        default_factory=lambda: dict(zip(STYLES, (0.79, 0.09, 0.02, 0.10), strict=True)),
        metadata={"help": "Share of the rows by the style of their chain; empty is an empty thinking block."},
    )
    tokenizer: Literal["bpe", "words"] = field(default="bpe", metadata={"help": "Of bytes, or a token for each word."})
    vocab_size: int = field(default=384, metadata={"help": "Tokens at most; of a BPE, at least 260."})
    empty_weight: float = field(
        default=20.0, metadata={"help": "Weight in the loss of the answer to an empty block, a token; others weigh 1."}
    )
    max_row_tokens: int = field(default=256, metadata={"help": "Longer rows are left out: they slow whole batches."})
    architecture: dict = field(metadata={"help": "model_type and its config fields, as in a config.json."})

    def __post_init__(self) -> None:
        if self.task not in (MIXED, *FAMILIES):
            raise BadInput(f"task is {self.task!r}, no built-in family{near(self.task, (MIXED, *FAMILIES))}")
        for style in self.chain_shares:
            if style not in STYLES:
                raise BadInput(f"chain_shares has no style {style!r}{near(style, STYLES)}")
        if min(self.chain_shares.values(), default=0) < 0 or not sum(self.chain_shares.values()):
            raise BadInput("chain_shares must be 0 or more each, and not all 0.")
        if not 1 <= self.num_shards <= self.num_rows or self.vocab_size < 260:
            raise BadInput("num_shards must be at least 1, num_rows as many, and vocab_size 260; correct them.")
        if self.empty_weight < 0:
            raise BadInput(f"empty_weight is {self.empty_weight}; it must be 0 or more.")


def write_rows(task: str, num_rows: int, chain_shares: dict[str, float], seed: int) -> list[dict]:
    """Training rows with the chain styles in the given shares. Problems repeat beyond the first 100,000 new ones."""
    rng = random.Random(seed)
    problems = list(islice(draw_problems(task, "train", seed), min(num_rows, 100_000)))
    rows, styles = [], rng.choices(list(chain_shares), weights=list(chain_shares.values()), k=num_rows)
    drawn = problems if len(problems) == num_rows else (rng.choice(problems) for _ in range(num_rows))
    for style, problem in zip(styles, drawn, strict=True):
        chain = "" if style == "empty" else FAMILIES[problem["metadata"]["family"]].chain(problem, style, rng)
        completion = f"{OPEN}{chain.rstrip()}{CLOSE}{problem['answer']}{END}"
        rows.append({"prompt": f"{problem['question']}\n", "completion": completion})  # as `make_prompt` renders it
    return rows


def prepare(
    arguments: PretrainArguments, num_rows: int, seed: int
) -> tuple[list[dict], PreTrainedTokenizerFast, Dataset]:
    """Rows, the tokenizer trained on the first of them, and their ids: the same on any number of processors."""
    from datasets import concatenate_datasets

    shards = range(arguments.num_shards)
    sizes = [len(range(shard, num_rows, len(shards))) for shard in shards]
    seeds = [seed * len(shards) + shard for shard in shards]
    with ProcessPoolExecutor(min(len(shards), os.cpu_count())) as pool:
        spread = pool.map if len(shards) > 1 else map
        written = [*spread(write_rows, repeat(arguments.task), sizes, repeat(arguments.chain_shares), seeds)]
        rows = [row for shard in written for row in shard]
        sample = [row["prompt"] + row["completion"] for row in rows[:5_000]]
        tokenizer = train_tokenizer(sample, arguments.vocab_size, arguments.tokenizer)
        encoded = [*spread(encode, written, repeat(tokenizer), repeat(arguments.max_row_tokens))]
    return rows, tokenizer, concatenate_datasets(encoded)


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(PretrainArguments, trainer="transformers:TrainingArguments", argv=argv, doc=__doc__)
    from transformers import AutoModelForCausalLM, Trainer

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.contamination import training_problems

    training.start(arguments, config)
    num_rows = min(arguments.num_rows, 2_000) if arguments.dry_run else arguments.num_rows
    rows, tokenizer, dataset = prepare(arguments, num_rows, config.seed)
    model_config = build_config(arguments.architecture, tokenizer)
    if arguments.dry_run:
        kept = len(dataset) / num_rows
        tokens_per_row = sum(len(row["input_ids"]) for row in dataset) / len(dataset)
        clipped = f"{1 - kept:.1%} of the rows, longer than {arguments.max_row_tokens} tokens, are left out"
        training.print_costs(model_config, config, round(kept * arguments.num_rows), tokens_per_row, clipped)
        return
    empty_block = tuple(tokenizer.convert_tokens_to_ids([OPEN, CLOSE]))
    trainer = Trainer(
        model=AutoModelForCausalLM.from_config(model_config),
        args=config,
        train_dataset=dataset,
        data_collator=collate,
        # num_items_in_batch counts the completion tokens of the whole step, over accumulated batches and devices.
        compute_loss_func=lambda outputs, labels, num_items_in_batch: (
            completion_loss(outputs.logits, labels, empty_block, arguments.empty_weight) / num_items_in_batch
        ),
        processing_class=tokenizer,
    )
    metadata = ReasoningMetadata(method="pretrain", stage="pretrain", open_text=OPEN, close_text=CLOSE)
    metadata.data_fingerprint = training.fingerprint(rows)
    training.finish(trainer, metadata, training_problems(rows))


if __name__ == "__main__":
    run(main)
