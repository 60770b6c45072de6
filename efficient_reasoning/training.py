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
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, Trainer, TrainingArguments

    from efficient_reasoning.checkpoint import ReasoningMetadata

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


def fingerprint(dataset: Dataset) -> str:
    """Hash of the rows themselves: the same for the same rows, wherever they were built."""
    digest = hashlib.blake2b(digest_size=8)
    for row in dataset:
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


def dry_run(model_config: PretrainedConfig, dataset: Dataset, config: TrainingArguments, limit_tokens: int | None) -> None:
    """Print what a run would cost, from the model on the meta device and one tokenised batch.

    Args:
        model_config: the architecture.
        dataset: rows with `input_ids`, and `total_tokens` or `reference_tokens` when lengths are known.
        config: the trainer's arguments.
        limit_tokens: length at which training cuts a row or a completion; None for no limit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rows_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
    steps = config.max_steps if config.max_steps > 0 else int(config.num_train_epochs * len(dataset) / rows_per_step)
    batch = dataset.select(range(min(rows_per_step, len(dataset))))
    mean_tokens = sum(len(ids) for ids in batch["input_ids"]) / len(batch)
    # Weights, gradients and Adam's two moments in fp32; under bf16 one more copy of the weights in two bytes.
    state_bytes = parameters * (16 + (2 if config.bf16 else 0))
    print(f"model                {model_config.model_type}, {parameters:,} parameters")
    print(f"rows                 {len(dataset):,}")
    print(f"steps                {steps:,} of {rows_per_step:,} rows, about {mean_tokens * rows_per_step:,.0f} tokens each")
    print(f"model states         {state_bytes / 2**20:,.0f} MiB a process without ZeRO (activations come on top)")
    print(f"clipped share        {_clipped_share(dataset, limit_tokens)}")


def _clipped_share(dataset: Dataset, limit_tokens: int | None) -> str:
    column = next((name for name in ("total_tokens", "reference_tokens") if name in dataset.column_names), None)
    if column is None or limit_tokens is None:
        return "unknown"
    return f"{sum(length > limit_tokens for length in dataset[column]) / len(dataset):.1%} of the rows, longer than {limit_tokens}"
