"""The tail that all recipes share: seed, resume, train, save, card, push, dry run.

    training.start(arguments, config)          # before the first random number
    if arguments.dry_run: training.dry_run(...)
    training.finish(trainer, metadata)         # resume, train, save whole or not at all, card, push

A run is resumed by the command that started it. Its `output_dir` remembers the configuration (`run.json`); another
configuration in the same folder is refused instead of silently continuing from weights that it did not train. A run
that left no weights, because its input was bad, holds nothing back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput, is_full_disk
from efficient_reasoning.files import atomic_file, digest, read_numbered_jsonl, write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.contamination import TrainingProblems
    from efficient_reasoning.thinking import ThinkingFormat

# Fields of the trainer's arguments that begin so do not decide the weights that come out, and may differ when a run is
# resumed: they say where the run stands, what it tells, and where it computes.
_INCIDENTAL = (
    "output_dir", "run_name", "logging", "log_", "report_to", "project", "trackio", "disable_tqdm", "save_", "eval_",
    "push_to_hub", "hub_", "resume_from", "do_", "dataloader_", "local_rank", "ddp_", "deepspeed", "fsdp", "use_cpu",
)  # fmt: skip
_DERIVED = ("generation_batch_size", "debug")  # from other settings, and refused beside them; or from nothing
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
_SHOWN = ("loss", "mean_token_accuracy", "reward", "accuracy", "completions/mean_length", "train_runtime")


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
        BadInput: a setting that trains nothing, or a folder that holds weights that another configuration trained.
    """
    from transformers import set_seed

    for name, minimum in _MINIMA.items():
        value = getattr(config, name, minimum)
        if value is not None and value < minimum:
            raise BadInput(f"{name} is {value}; give at least {minimum}.")
    set_seed(config.seed)
    if arguments.dry_run:
        return
    output = Path(config.output_dir)
    _keep_push(config, output)
    path = output / "run.json"
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith(_INCIDENTAL)}
    identity = json.loads(json.dumps(settings | dataclasses.asdict(arguments) | _inputs(arguments), default=str))
    if path.is_file() and (any(output.glob("checkpoint-*")) or (output / "config.json").is_file()):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in earlier.keys() | identity.keys() if earlier.get(key) != identity.get(key))
        if differing:
            raise BadInput(
                f"{config.output_dir}: holds a run that differs in {', '.join(differing)}; "
                "choose another output_dir, or delete that folder."
            )
    elif is_main_process():
        write_json(path, identity)
        _write_recipe(output / "recipe.yaml", arguments, config)


def _keep_push(config: TrainingArguments, output: Path) -> None:
    """Leave the pushing to `finish`: the trainer would make the repository at once, public where nothing else is said.

    Raises:
        BadInput: a name that the Hub does not take, no access token, or one on the command line; said before the
            training, not behind it.
    """
    from efficient_reasoning.hub.upload import check_repo, require_token

    if config.hub_token is not None:
        raise BadInput("hub_token would lie in the run's files; leave it out, and use `hf auth login` or HF_TOKEN.")
    config.push_when_finished, config.push_to_hub = config.push_to_hub, False
    if config.push_when_finished:
        check_repo(config.hub_model_id or output.name, "--hub_model_id")
        require_token()


def _write_recipe(path: Path, arguments: RecipeArguments, config: TrainingArguments) -> None:
    """Write a config that trains the same again, and may be published: what is no default, and no folder of ours."""
    import yaml

    settings = {}
    for part in (arguments, config):
        for entry in dataclasses.fields(part):
            value = getattr(part, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            plain = isinstance(value, (bool, int, float, str, list, dict))
            plain |= value is None and entry.name != "pad_to_multiple_of"  # of which the device decides
            if plain and value != default and not entry.name.startswith((*_INCIDENTAL, *_DERIVED)):
                is_path = isinstance(value, str) and Path(value).is_absolute()
                settings[entry.name] = Path(value).name if is_path else json.loads(json.dumps(value, default=str))
    recipe = Path(sys.modules[type(arguments).__module__].__file__).stem
    with atomic_file(path) as stream:
        stream.write(f"# efficient-reasoning train {recipe} --config {path.name} --output_dir FOLDER\n")
        yaml.safe_dump(settings, stream, sort_keys=False)


def _inputs(arguments: RecipeArguments) -> dict[str, str | None]:
    """Fingerprints of what a fine-tuning run reads; the files may change under their names."""
    if not isinstance(arguments, FinetuningArguments):
        return {}
    from efficient_reasoning.checkpoint import resolve_model, weights_fingerprint

    return {
        "model weights": weights_fingerprint(resolve_model(arguments.model)),
        "contents of data": digest([arguments.data]) if Path(arguments.data).is_file() else None,
    }


def load_rows(path: str, required: tuple[str, ...]) -> Dataset:
    """Training rows from JSONL or Parquet.

    Raises:
        BadInput: missing file, malformed line, no rows, a missing column, or one that mixes text and numbers.
    """
    from datasets import Dataset

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file of training rows; `efficient-reasoning data` writes them.")
    if path.endswith(".parquet"):
        rows = Dataset.from_parquet(path)
    else:
        # Objects with different keys (metadata) stay as they are, instead of being filled up with each other's keys.
        rows = Dataset.from_list(_read_rows(path, required), on_mixed_types="use_json")
    if len(rows) == 0:
        raise BadInput(f"{path}: no training rows in it; look at what the data tool kept.")
    missing = [name for name in required if name not in rows.column_names]
    if missing:
        raise BadInput(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(rows.column_names)}.")
    return rows


def load_turns(path: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows with `prompt` and `completion`; conversations under `messages` become one row a turn (`split_turns`).

    Raises:
        BadInput: as `load_rows`, or a conversation that cannot be split.
    """
    from datasets import Dataset

    from efficient_reasoning.prompts import split_turns

    rows = load_rows(path, ())
    if "messages" not in rows.column_names:
        return load_rows(path, ("prompt", "completion"))
    return Dataset.from_list([turn for row in rows for turn in split_turns(tokenizer, row["messages"])])


def _read_rows(path: str, required: tuple[str, ...]) -> list[dict]:
    rows, kinds = [], {}
    for number, row in read_numbered_jsonl(path):
        for name in required:
            value = row.get(name)
            if value is None or value == [] or (isinstance(value, str) and not value.strip()):
                raise BadInput(f"{path}, line {number}: no {name!r}; every row needs {', '.join(required)}.")
        for name, value in row.items():
            kind = "number" if isinstance(value, (int, float)) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise BadInput(f"{path}, line {number}: {name} is {kind}, but {kinds[name]} before; write one kind.")
        rows.append(row)
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
        from efficient_reasoning.cards import licence_of
        from efficient_reasoning.checkpoint import ReasoningMetadata

        before = ReasoningMetadata.load(self.path)
        base_model, earlier_methods = self.name, []
        if before is not None and before.base_model is not None:
            base_model, earlier_methods = before.base_model, [*before.earlier_methods, before.method]
        return ReasoningMetadata(
            method=method,
            stage=stage,
            base_model=base_model,
            earlier_methods=earlier_methods,
            licence=licence_of(self.path),
            open_text=self.thinking.open_text,
            close_text=self.thinking.close_text,
            data_fingerprint=fingerprint(rows),
        )

    def problems_with(self, rows: Dataset) -> TrainingProblems:
        """The record of all problems that it was trained on, these rows' included."""
        from efficient_reasoning.contamination import training_problems

        return training_problems(rows, self.path, self.name)


def load_base(model: str) -> Base:
    """Load tokenizer and delimiters of a checkpoint (the trainer loads the weights, sharded where need be).

    Raises:
        BadInput: broken checkpoint, or no known think delimiters.
    """
    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format

    path = resolve_model(model)
    tokenizer = load_tokenizer(path)
    thinking = thinking_format(path, tokenizer)
    name = Path(model).name if Path(model).is_dir() else model
    return Base(name, path, tokenizer, thinking)


def fingerprint(rows: Iterable[Mapping]) -> str:
    """Hash of the rows themselves: the same for the same rows, wherever they were built."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def finish(trainer: Trainer, metadata: ReasoningMetadata, problems: TrainingProblems | None = None) -> None:
    """Train (resuming where a run was cut), then save the checkpoint, whole or not at all, with card and metadata.

    Args:
        trainer: ready to train.
        metadata: the checkpoint's reasoning.json, but for the seed.
        problems: what evaluation must not test it on; None where nobody knows.

    Raises:
        BadInput: the disk does not take the checkpoint.
    """
    from efficient_reasoning.hub import upload_folder, write_training_card

    output = Path(trainer.args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    unfinished = output / ".unfinished"
    if (output / "reasoning.json").is_file() and not unfinished.exists():
        print(f"{output} is finished; delete it to train again.")
    else:
        metrics = _train(trainer, _last_checkpoint(output))
        metadata.seed = trainer.args.seed
        metadata.trained_tokens = trained_tokens(trainer)
        # Every rank takes part in gathering the weights (ZeRO-3); one renames the finished files into place.
        if trainer.is_world_process_zero():
            shutil.rmtree(unfinished, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        try:
            trainer.save_model(str(unfinished))
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
                os.replace(path, output / path.name)
            unfinished.rmdir()
            print(f"Saved {output}")
    if getattr(trainer.args, "push_when_finished", False) and trainer.is_world_process_zero():
        repo, public = trainer.args.hub_model_id or output.name, trainer.args.hub_private_repo is False
        print(f"Uploaded {output} to {upload_folder(output, repo, public=public)}")


def trained_tokens(trainer: Trainer) -> float | None:
    """Mean tokens of the responses that a trainer trains on, without their end tokens; None where it has none.

    Of rows, the first ten thousand, as far as they are not cut off. Of responses that training samples, those of
    the last quarter of the logged steps, end tokens included.
    """
    sampled = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    if sampled:
        return mean(sampled[-max(1, len(sampled) // 4) :])
    rows = trainer.train_dataset
    if "labels" not in (getattr(rows, "column_names", None) or ()):
        return None
    labels = rows.select(range(min(len(rows), 10_000)))["labels"]
    return mean(sum(label != -100 for label in row) for row in labels) - 1


def _train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """Train from the checkpoint, if any, to the last step; the trainer's metrics, none where no step was left."""
    from transformers import TrainerCallback

    class Complete(Exception):
        """The checkpoint was the last one: its weights are loaded, and no step is left to take."""

    class StopWhenComplete(TrainerCallback):
        # Left to itself, the trainer takes one step more before it looks at the count, or none with a loss of 0.
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.global_step >= state.max_steps:
                raise Complete

    _show_progress(trainer)
    trainer.add_callback(StopWhenComplete)
    try:
        return trainer.train(resume_from_checkpoint=checkpoint).metrics
    except Complete:
        return {}


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


def _last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that is whole: the trainer writes its state last, and a kill or a full disk may cut it."""
    states = filter(_is_json, output.glob("checkpoint-*/trainer_state.json"))
    newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
    return str(newest.parent) if newest else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def dry_run(
    base: Base, rows: Dataset, config: TrainingArguments, limit_tokens: int | None, limit_has_prompt: bool = False
) -> None:
    """Print what a fine-tuning run would cost, from the model on the meta device and one tokenised batch.

    Args:
        base: where the run starts.
        rows: training rows; their `total_tokens` or `reference_tokens` are the known lengths of completions.
        config: the trainer's arguments.
        limit_tokens: length at which training cuts a completion; None for no limit.
        limit_has_prompt: the limit holds for prompt and completion together.
    """
    from transformers import AutoConfig

    from efficient_reasoning.prompts import encode_prompt

    samples_per_row = getattr(config, "num_generations", 1) * getattr(config, "num_iterations", 1)
    batch = rows.select(range(min(max(1, _samples_per_step(config) // samples_per_row), len(rows))))
    prompt_tokens = mean(len(encode_prompt(base.tokenizer, prompt)) for prompt in batch["prompt"])
    column = next((name for name in ("total_tokens", "reference_tokens") if name in rows.column_names), None)
    clipped = "unknown (the rows have no length column)"
    if column is not None:
        room_tokens = math.inf if limit_tokens is None else limit_tokens - limit_has_prompt * prompt_tokens
        share = sum(length > room_tokens for length in rows[column]) / len(rows)
        clipped = f"{share:.1%} of the rows, longer than {limit_tokens} tokens"
        completion_tokens = mean(batch[column])
    elif "completion" in rows.column_names:
        texts = [text if isinstance(text, str) else text[0]["content"] for text in batch["completion"]]
        completion_tokens = mean(map(len, base.tokenizer(texts)["input_ids"]))
    else:
        completion_tokens = limit_tokens
    model_config = AutoConfig.from_pretrained(base.path)
    print_costs(model_config, config, len(rows), prompt_tokens + completion_tokens, clipped, samples_per_row)


def print_costs(
    model_config: PretrainedConfig,
    config: TrainingArguments,
    num_rows: int,
    tokens_per_sample: float,
    clipped: str,
    samples_per_row: int = 1,
) -> None:
    """The table of a dry run; the model is built on the meta device, which takes no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    samples_per_step = _samples_per_step(config)
    batches = num_rows * samples_per_row / samples_per_step
    steps_per_epoch = math.ceil(batches) if samples_per_row == 1 else int(batches)  # groups are never cut for the last
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * steps_per_epoch)
    tokens_per_step = tokens_per_sample * samples_per_step
    # Weights, gradients and Adam's two moments in fp32; under bf16 one more copy of the weights in two bytes.
    state_bytes = parameters * (16 + (2 if config.bf16 else 0))
    table = {
        "model": f"{model_config.model_type}, {parameters:,} parameters",
        "rows": f"{num_rows:,}",
        "steps": f"{steps:,} of {samples_per_step:,} samples, about {tokens_per_step:,.0f} tokens each",
        "memory": f"{state_bytes / 2**20:,.0f} MiB of model states a process without ZeRO; activations come on top",
        "clipped": clipped,
    }
    print("\n".join(f"{name:<8} {value}" for name, value in table.items()))


def _samples_per_step(config: TrainingArguments) -> int:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
