"""Which of TRL's trainers serves which objective, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import Trainer, TrainingArguments

    from efficient_reasoning.training.base import Base

CONFIGS = {
    "sft": "trl:SFTConfig",
    "dpo": "trl:DPOConfig",
    "simpo": "efficient_reasoning.training.simpo:SimPOConfig",
}
_COLUMNS = ("prompt", "completion", "chosen", "rejected", "adapter_scale")


def needs_reference(objective: str, config: TrainingArguments, lora: LoraConfig | None) -> bool:
    """Whether a frozen copy of the model stands beside it; with LoRA it is the model without its adapters."""
    return objective == "dpo" and lora is None and not config.precompute_ref_log_probs


def build_trainer(
    objective: str,
    base: Base,
    rows: Dataset,
    config: TrainingArguments,
    template: str | None,
    lora: LoraConfig | None,
    new_tokens: Sequence[int],
    make: Callable[..., Trainer] | None = None,
) -> Trainer:
    """TRL's trainer of an objective, ready to train.

    Args:
        objective: a key of `CONFIGS`, or "offline" (`rl.offline`); `config` is of the class that belongs to it.
        base: its tokenizer already has all tokens.
        rows: with `prompt` and `completion`, or `prompt`, `chosen` and `rejected`; "offline" also wants `reward`.
        template: chat template to train with (`Base.training_template`); the tokenizer keeps its own.
        lora: adapters to train instead of the weights.
        new_tokens: of the tokenizer (`add_controls`).
        make: gives the trainer, from the loaded model and its arguments; None takes that of the objective.

    Raises:
        BadInput: settings that TRL refuses, rows that would be mixed, or none that is short enough.
    """
    from efficient_reasoning.prompts import template_kwargs
    from efficient_reasoning.training.adapters import hasten_controls, leave_fused_out
    from efficient_reasoning.training.controls import embed_controls

    wanted = (*_COLUMNS, "reward") if objective == "offline" else _COLUMNS
    rows = rows.select_columns([name for name in wanted if name in rows.column_names])
    switch = template_kwargs(base.tokenizer)
    if switch:  # it has to say in training what it says in inference
        rows = rows.add_column("chat_template_kwargs", [switch] * len(rows))
    models = [base.load_model(config) for _ in range(1 + needs_reference(objective, config, lora))]
    for model in models:
        embed_controls(model, base.tokenizer, new_tokens)
    if lora is not None:
        leave_fused_out(lora, models[0])
    config.model_init_kwargs = None  # they are spent
    common = {"args": config, "train_dataset": rows, "processing_class": base.tokenizer, "peft_config": lora}
    own_template, base.tokenizer.chat_template = base.tokenizer.chat_template, template
    try:
        trainer = make(*models, **common) if make else _trainer(objective, models, common)
    except BadInput:
        raise
    except (ValueError, NotImplementedError) as error:  # settings that TRL does not put together
        raise BadInput(" ".join(str(error).split())) from error
    finally:
        base.tokenizer.chat_template = own_template
    if lora is not None:
        hasten_controls(trainer)
    if not len(trainer.train_dataset):
        raise BadInput(f"max_length is {config.max_length}, and every prompt is as long; raise it.")
    return trainer


def _trainer(objective: str, models: list, common: dict) -> Trainer:
    if objective == "dpo":
        from trl import DPOTrainer

        return DPOTrainer(*models, **common)
    if objective == "simpo":
        from efficient_reasoning.training.simpo import SimPOTrainer

        return SimPOTrainer(*models, **common)
    if objective == "offline":
        from efficient_reasoning.rl.offline import OfflineTrainer

        return OfflineTrainer(*models, **common)
    from trl import SFTTrainer

    from efficient_reasoning.training.adapters import ScaledSFTTrainer
    from efficient_reasoning.training.packing import check_packing

    check_packing(*models, common["args"])
    scaled = "adapter_scale" in common["train_dataset"].column_names
    return (ScaledSFTTrainer if scaled else SFTTrainer)(*models, **common)
