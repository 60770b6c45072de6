"""The tail of every recipe: seed, resume, train, save, card.

A run is resumed by the command that started it. Its `output_dir` remembers the configuration (`run.json`); another
configuration in the same folder is refused instead of silently continuing from weights that it did not train. A run
that left no weights, because its input was bad, holds nothing back.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput, is_full_disk, is_out_of_memory
from efficient_reasoning.files import digest, hold, read_json, write_json
from efficient_reasoning.training.finite import stop_where_not_finite
from efficient_reasoning.training.published import INCIDENTAL, keep_push, push, write_recipe

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.contamination import TrainingProblems

# What trainers take without a word, to fail or to train on nothing later.
_MINIMA = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_generations": 2,
    "max_completion_length": 1,
    "max_length": 2,
    "learning_rate": 0,
    "logging_steps": 0,
}
# What the terminal shows of what a trainer logs.
_SHOWN = (
    "loss", "mean_token_accuracy", "rewards/accuracies", "reward", "accuracy", "completions/mean_length",
    "budget_error", "stage", "teacher_loss", "distillation_loss", "step_loss", "train_runtime",
)  # fmt: skip


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


def start(
    arguments: RecipeArguments, config: TrainingArguments, inputs: Mapping[str, str | None] | None = None
) -> None:
    """Seed everything and claim `output_dir` for this configuration.

    Args:
        arguments, config: which decide what is learnt.
        inputs: fingerprints of what the recipe reads, beside those of a fine-tuning run; each under words for it.

    Raises:
        BadInput: a setting that trains nothing, or a folder that holds weights that another configuration trained.
    """
    import torch
    from transformers import set_seed

    from efficient_reasoning.training.checkpoints import differing_keys

    # Its backward pass, where torch 2.11 to 2.13 prefer it, makes gradients that are no numbers out of masked batches
    # whose length is 64 more than a multiple of 128 (https://github.com/pytorch/pytorch/issues/196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    if config.use_cpu and config.world_size > 1:  # ddp_timeout, of which transformers tells GPUs only
        torch.distributed.distributed_c10d._set_pg_timeout(config.ddp_timeout_delta)
    for name, minimum in _MINIMA.items():
        value = getattr(config, name, minimum)
        if value is not None and value < minimum:
            raise BadInput(f"{name} is {value}; give at least {minimum}.")
    steps = "max_steps" if config.max_steps >= 0 else "num_train_epochs"
    if getattr(config, steps) <= 0:
        raise BadInput(f"{steps} is {getattr(config, steps):g}, which trains nothing; give more than 0.")
    if str(config.resume_from_checkpoint).lower() not in ("none", "true"):
        raise BadInput(
            f"resume_from_checkpoint is {config.resume_from_checkpoint}, and a run goes on from the last checkpoint "
            "in its output_dir; leave it out, and name another output_dir to begin anew."
        )
    if config.eval_on_start or config.eval_strategy != "no":
        raise BadInput(
            "eval_strategy and eval_on_start need an evaluation set, which no recipe has; leave them out, and run "
            "`efficient-reasoning evaluate` on what was trained."
        )
    if config.save_only_model:
        raise BadInput("save_only_model is true, and a run that is cut could not go on as it began; leave it out.")
    set_seed(config.seed)
    if arguments.dry_run:
        return
    if config.deepspeed and config.world_size > 1:
        from deepspeed import comm

        # On CPUs nobody else does, and ZeRO-3 takes each process for the only one when weights are loaded.
        if not comm.is_initialized():
            comm.init_distributed(config.distributed_state.backend)
    output = Path(config.output_dir)
    keep_push(config, output)
    path = output / "run.json"
    if is_main_process():
        output.mkdir(parents=True, exist_ok=True)
        if not hold(output / ".lock"):
            raise BadInput(f"{output}: another run is writing it; wait for that one, or choose another output_dir.")
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith(INCIDENTAL)}
    own = {
        each.name: getattr(arguments, each.name)
        for each in dataclasses.fields(arguments)
        if not each.metadata.get("incidental")  # to what is learnt
    }
    own["number of processes"] = config.world_size
    identity = json.loads(json.dumps(settings | own | _inputs(arguments) | (inputs or {}), default=str))
    if path.is_file() and (any(output.glob("checkpoint-*")) or (output / "config.json").is_file()):
        earlier = read_json(path)
        if differing := differing_keys(earlier, identity):
            raise BadInput(
                f"{config.output_dir}: holds a run that differs in {', '.join(differing)}; "
                "choose another output_dir, or delete that folder."
            )
    elif is_main_process():
        write_json(path, identity)
        write_recipe(output / "recipe.yaml", arguments, config)


def _inputs(arguments: RecipeArguments) -> dict[str, str | None]:
    """Fingerprints of what a fine-tuning run reads; the files may change under their names."""
    if not isinstance(arguments, FinetuningArguments):
        return {}
    from efficient_reasoning.checkpoint import resolve_model, weights_fingerprint

    files = {name: getattr(arguments, name, None) for name in ("data", "general_data")}
    return {"model weights": weights_fingerprint(resolve_model(arguments.model))} | {
        f"contents of {name}": digest([path]) if path and Path(path).is_file() else None
        for name, path in files.items()
    }


def finish(trainer: Trainer, metadata: ReasoningMetadata, problems: TrainingProblems | None = None) -> None:
    """Train (resuming where a run was cut), then save the checkpoint, whole or not at all, with card and metadata.

    Args:
        trainer: ready to train.
        metadata: the checkpoint's reasoning.json, but for the seed.
        problems: what evaluation must not test it on; None where nobody knows.

    Raises:
        BadInput: the disk does not take the checkpoint.
    """
    from efficient_reasoning.cards import write_training_card
    from efficient_reasoning.recurrent.depth import recurrent_models

    output = Path(trainer.args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    unfinished = output / ".unfinished"
    if (output / "reasoning.json").is_file() and not unfinished.exists():
        print(f"{output} is finished; delete it to train again.")
    else:
        metrics = _train(trainer, _go_on_from(output, trainer.is_world_process_zero()))
        metadata.seed = trainer.args.seed
        metadata.trained_tokens = trained_tokens(trainer)
        metadata.depth = next((model.config.depth for model in recurrent_models(trainer.model)), None)
        # Every rank takes part in gathering the weights (ZeRO-3); one renames the finished files into place.
        if trainer.is_world_process_zero():
            shutil.rmtree(unfinished, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        try:
            _save(trainer, unfinished, metadata)
        except Exception as error:  # safetensors and tokenizers raise what they like
            shutil.rmtree(unfinished, ignore_errors=True)
            if not is_full_disk(error):
                raise
            raise BadInput(
                f"{output}: the disk does not take the checkpoint ({error}); make room and run the same command again."
            ) from error
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            (unfinished / "training_args.bin").unlink(missing_ok=True)
            metadata.save(unfinished)
            if problems is not None:
                problems.save(unfinished)
            write_training_card(unfinished, metadata=metadata, metrics=metrics)
            for path in sorted(unfinished.iterdir()):
                if path.is_dir():  # a folder is not replaced by renaming
                    shutil.rmtree(output / path.name, ignore_errors=True)
                os.replace(path, output / path.name)
            unfinished.rmdir()
            print(f"Saved {output}")
    push(trainer)


def _save(trainer: Trainer, folder: Path, metadata: ReasoningMetadata) -> None:
    """Write weights, configs and tokenizer; adapters are merged, and stay beside the model where metadata says so."""
    from accelerate.utils import is_peft_model

    if is_peft_model(trainer.accelerator.unwrap_model(trainer.model)):
        from efficient_reasoning.training.adapters import save_merged

        save_merged(trainer, folder, metadata)
    else:
        trainer.save_model(str(folder))


def trained_tokens(trainer: Trainer) -> float | None:
    """Mean tokens of the responses that a trainer trains on, without their end tokens; None where it has none.

    Of rows, the first ten thousand, as far as they are not cut off; of pairs, the chosen responses. Of responses that
    training samples, those of the last quarter of the logged steps, end tokens included.
    """
    sampled = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    if sampled:
        return mean(sampled[-max(1, len(sampled) // 4) :])
    columns = getattr(trainer.train_dataset, "column_names", None) or ()
    name = next((name for name in ("labels", "chosen_labels", "chosen_ids") if name in columns), None)
    if name is None:
        return None
    rows = trainer.train_dataset.select(range(min(len(trainer.train_dataset), 10_000)))
    tokens = sum(sum(label != -100 for label in labels) for labels in rows[name])
    # Several responses stand in one packed row.
    responses = sum(map(len, rows["seq_lengths"])) if "seq_lengths" in columns else len(rows)
    return tokens / responses - 1


def _train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """Train from the checkpoint, if any, to the last step; the trainer's metrics, none where no step was left."""
    from transformers import TrainerCallback

    from efficient_reasoning.recurrent.depth import DepthSampling
    from efficient_reasoning.training.checkpoints import WholeCheckpoints
    from efficient_reasoning.training.memory import advice
    from efficient_reasoning.training.speed import SpeedMeter

    class Complete(Exception):
        """The checkpoint was the last one: its weights are loaded, and no step is left to take."""

    class StopWhenComplete(TrainerCallback):
        # Left to itself, the trainer takes one step more before it looks at the count, or none with a loss of 0.
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.global_step >= state.max_steps:
                raise Complete

    _show_progress(trainer)
    stop_where_not_finite(trainer)
    # A copy that blocks waits for the step before it.
    trainer.accelerator.dataloader_config.non_blocking = trainer.args.dataloader_pin_memory
    trainer.add_callback(WholeCheckpoints(trainer.args.save_total_limit))
    trainer.args.save_total_limit = None
    trainer.add_callback(StopWhenComplete)
    trainer.add_callback(DepthSampling(trainer.model))
    meter = SpeedMeter(trainer)
    trainer.add_callback(meter)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except Complete:
        return {}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise BadInput(advice(trainer, error)) from error
    if is_main_process():
        print(meter.speed)
    return metrics


def _show_progress(trainer: Trainer) -> None:
    """A bar with the numbers that matter; trainers log up to thirty, which trainer_state.json keeps."""
    from transformers import PrinterCallback, ProgressCallback

    for kind in (ProgressCallback, PrinterCallback):  # the second where `disable_tqdm` is set

        class Brief(kind):
            def on_log(self, args, state, control, logs=None, **kwargs):
                shown = {name: logs[name] for name in _SHOWN if name in logs}
                if shown:
                    super().on_log(args, state, control, logs=shown, **kwargs)

        if trainer.pop_callback(kind):
            trainer.add_callback(Brief)


def _go_on_from(output: Path, speaks: bool) -> str | None:
    """The newest checkpoint that is whole; what is newer, and is not, is named by the process that speaks."""
    from efficient_reasoning.training.checkpoints import check_readable, last_whole

    checkpoint, passed_over = last_whole(output)
    if speaks and (checkpoint or passed_over):
        goes_on = f"going on from {checkpoint.name}" if checkpoint else "beginning anew"
        print(f"{output}: {'; '.join([*passed_over, goes_on])}.")
    if checkpoint:
        check_readable(checkpoint)
    return str(checkpoint) if checkpoint else None
