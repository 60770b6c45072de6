"""The tail that all recipes share: seed, resume, train, save, card, push, dry run.

    training.start(arguments, config)          # before the first random number
    if arguments.dry_run: training.dry_run(...)
    training.finish(trainer, metadata)         # resume, train, save whole or not at all, card, push

A run is resumed by the command that started it. Its `output_dir` remembers the configuration (`run.json`); another
configuration in the same folder is refused instead of silently continuing from weights that it did not train.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.thinking import ThinkingFormat

# What decides the weights that come out; the rest (logging, saving, workers) may differ when a run is resumed.
_IDENTITY = (
    "seed",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass(kw_only=True)
class RecipeArguments:
    """Fields that every recipe has."""

    dry_run: bool = field(
        default=False, metadata={"help": "Parse, build the model without memory, tokenise one batch, print, stop."}
    )


@dataclass(kw_only=True)
class FinetuningArguments(RecipeArguments):
    """Fields of the recipes that start from a checkpoint and a file of training rows."""

    model: str = field(metadata={"help": "Folder or Hub id to start from; overthinker is the embedded model."})
    data: str = field(metadata={"help": "Training rows: a .jsonl or .parquet file."})


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def start(arguments: RecipeArguments, config: TrainingArguments) -> None:
    """Seed everything and claim `output_dir` for this configuration.

    Raises:
        BadInput: the folder holds checkpoints of another configuration.
    """
    from transformers import set_seed

    set_seed(config.seed)
    if arguments.dry_run:
        return
    path = Path(config.output_dir) / "run.json"
    identity = dataclasses.asdict(arguments) | {name: getattr(config, name) for name in _IDENTITY}
    identity = json.loads(json.dumps(identity, default=str))
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in earlier.keys() | identity.keys() if earlier.get(key) != identity.get(key))
        if differing:
            raise BadInput(
                f"{config.output_dir}: holds a run that differs in {', '.join(differing)}; "
                "choose another output_dir, or delete that folder."
            )
    elif is_main_process():
        write_json(path, identity)


def load_rows(path: str, required: tuple[str, ...]) -> Dataset:
    """Training rows from JSONL or Parquet.

    Raises:
        BadInput: missing file, malformed line, no rows, or a missing column.
    """
    from datasets import Dataset

    from efficient_reasoning.files import read_jsonl

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file of training rows; `efficient-reasoning data` writes them.")
    rows = Dataset.from_parquet(path) if path.endswith(".parquet") else Dataset.from_list(list(read_jsonl(path)))
    if len(rows) == 0:
        raise BadInput(f"{path}: no training rows in it; look at what the data tool kept.")
    missing = [name for name in required if name not in rows.column_names]
    if missing:
        raise BadInput(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(rows.column_names)}.")
    return rows


@dataclass(frozen=True)
class Base:
    """The checkpoint that a recipe starts from: its tokenizer and delimiters, and where its weights lie."""

    name: str
    path: str
    tokenizer: PreTrainedTokenizerBase
    thinking: ThinkingFormat

    def metadata_of(self, rows: Dataset, *, stage: str, method: str) -> ReasoningMetadata:
        """The reasoning.json of what these rows make of it."""
        from efficient_reasoning.checkpoint import ReasoningMetadata

        return ReasoningMetadata(
            method=method,
            stage=stage,
            base_model=self.name,
            open_text=self.thinking.open_text,
            close_text=self.thinking.close_text,
            data_fingerprint=fingerprint(rows),
        )


def load_base(model: str) -> Base:
    """Load tokenizer and delimiters of a checkpoint (the trainer loads the weights, sharded where need be).

    Raises:
        BadInput: broken checkpoint, or no known think delimiters.
    """
    from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer, resolve_model, thinking_format

    path = resolve_model(model)
    tokenizer = load_tokenizer(path)
    thinking = thinking_format(tokenizer, ReasoningMetadata.load(path))
    name = Path(model).name if Path(model).is_dir() else model
    return Base(name, path, tokenizer, thinking)


def fingerprint(rows: Dataset) -> str:
    """Hash of the rows themselves: the same for the same rows, wherever they were built."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def finish(trainer: Trainer, metadata: ReasoningMetadata) -> None:
    """Train (resuming where a run was cut), then save the checkpoint, whole or not at all, with card and metadata."""
    from transformers.trainer_utils import get_last_checkpoint

    from efficient_reasoning.hub import upload_folder, write_training_card

    output = Path(trainer.args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)))
    metadata.seed = trainer.args.seed

    # Every rank takes part in gathering the weights (ZeRO-3); one renames the finished files into place.
    unfinished = output / ".unfinished"
    if trainer.is_world_process_zero():
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(unfinished))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    (unfinished / "training_args.bin").unlink(missing_ok=True)
    metadata.save(unfinished)
    write_training_card(unfinished, metadata=metadata, metrics=result.metrics)
    for path in sorted(unfinished.iterdir()):
        os.replace(path, output / path.name)
    unfinished.rmdir()
    if trainer.args.push_to_hub:
        upload_folder(output, trainer.args.hub_model_id or output.name, public=trainer.args.hub_private_repo is False)
    print(f"Saved {output}")


def dry_run(base: Base, rows: Dataset, config: TrainingArguments, limit_tokens: int | None) -> None:
    """Print what a fine-tuning run would cost, from the model on the meta device and one tokenised batch.

    Args:
        base: where the run starts.
        rows: training rows; their `total_tokens` or `reference_tokens` are the known lengths of completions.
        config: the trainer's arguments.
        limit_tokens: length at which training cuts a row or a completion; None for no limit.
    """
    from transformers import AutoConfig

    from efficient_reasoning.prompts import encode_prompt

    rows_per_step = _rows_per_step(config)
    batch = rows.select(range(min(rows_per_step, len(rows))))
    lengths = [len(encode_prompt(base.tokenizer, prompt)) for prompt in batch["prompt"]]
    column = next((name for name in ("total_tokens", "reference_tokens") if name in rows.column_names), None)
    clipped = "unknown (the rows have no length column)"
    if column is not None:
        lengths = [prompt + completion for prompt, completion in zip(lengths, batch[column], strict=True)]
        share = sum(length > (limit_tokens or length) for length in rows[column]) / len(rows)
        clipped = f"{share:.1%} of the rows, longer than {limit_tokens} tokens"
    print_costs(AutoConfig.from_pretrained(base.path), config, len(rows), sum(lengths) / len(lengths), clipped)


def print_costs(
    model_config: PretrainedConfig, config: TrainingArguments, num_rows: int, tokens_per_row: float, clipped: str
) -> None:
    """The table of a dry run; the model is built on the meta device, which takes no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows_per_step = _rows_per_step(config)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * num_rows / rows_per_step)
    # Weights, gradients and Adam's two moments in fp32; under bf16 one more copy of the weights in two bytes.
    state_bytes = parameters * (16 + (2 if config.bf16 else 0))
    table = {
        "model": f"{model_config.model_type}, {parameters:,} parameters",
        "rows": f"{num_rows:,}",
        "steps": f"{steps:,} of {rows_per_step:,} rows, about {tokens_per_row * rows_per_step:,.0f} tokens each",
        "memory": f"{state_bytes / 2**20:,.0f} MiB of model states a process without ZeRO; activations come on top",
        "clipped": clipped,
    }
    print("\n".join(f"{name:<8} {value}" for name, value in table.items()))


def _rows_per_step(config: TrainingArguments) -> int:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
