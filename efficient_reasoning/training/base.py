"""The checkpoint that a recipe starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.training.controls import without_control
from efficient_reasoning.training.rows import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from efficient_reasoning.checkpoint import ReasoningMetadata
    from efficient_reasoning.contamination import TrainingProblems
    from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class Base:
    """The checkpoint that a recipe starts from: its tokenizer and delimiters, and where its weights lie."""

    name: str
    path: str
    tokenizer: PreTrainedTokenizerBase
    thinking: ThinkingFormat

    def metadata_of(
        self, rows: Iterable[Mapping], *, stage: str, method: str, controls: Iterable[str] = ()
    ) -> ReasoningMetadata:
        """The reasoning.json of what these rows make of it; their controls come to those that it has."""
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
            trained_budget_range=before.trained_budget_range if before else None,
            controls=sorted({*(before.controls if before else ()), *controls}),
            data_fingerprint=fingerprint(rows),
        )

    def problems_with(self, rows: Iterable[Mapping]) -> TrainingProblems:
        """The record of all problems that it was trained on, these rows' included; a control is no part of one."""
        from efficient_reasoning.contamination import training_problems

        return training_problems(map(without_control, rows), self.path, self.name)

    def load_model(self, config: TrainingArguments) -> PreTrainedModel:
        """The weights as TRL's trainers load them from a path, for a trainer that gets them loaded."""
        from trl.trainer.utils import create_model_from_path

        options = {"trust_remote_code": getattr(config, "trust_remote_code", False)} | (config.model_init_kwargs or {})
        if config.world_size > 1 or config.deepspeed:
            options["device_map"] = None  # each process places its own
        return create_model_from_path(self.path, **options)

    def training_template(self) -> str | None:
        """As the function of this name."""
        return training_template(self.name, self.tokenizer, self.thinking)


def training_template(name: str, tokenizer: PreTrainedTokenizerBase, thinking: ThinkingFormat) -> str | None:
    """The chat template to train with: its own where that keeps the thinking of finished turns, else TRL's.

    Raises:
        BadInput: TRL does not know the template.
    """
    from trl.chat_template_utils import get_training_chat_template

    from efficient_reasoning.prompts import keeps_thinking

    if keeps_thinking(tokenizer, thinking):
        return tokenizer.chat_template
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        raise BadInput(
            f"{name}: its chat template strips the thinking of finished turns, and TRL has no version of it "
            "that does not; save the tokenizer with a chat_template that keeps it."
        ) from None


def load_base(model: str, trains_latents: bool = False) -> Base:
    """Load tokenizer and delimiters of a checkpoint; weights are loaded when it is trained, sharded where need be.

    Args:
        model: folder or Hub id.
        trains_latents: whether what comes knows latents and pauses; other trainings would drop them.

    Raises:
        BadInput: broken checkpoint, a verifier, no known think delimiters, or latents that would be dropped.
    """
    from efficient_reasoning.checkpoint import (
        ReasoningMetadata,
        check_writes,
        load_tokenizer,
        resolve_model,
        thinking_format,
    )

    path = resolve_model(model)
    check_writes(path)
    metadata = ReasoningMetadata.load(path)
    if not trains_latents and metadata is not None and (metadata.latent_steps or metadata.pause_steps):
        raise BadInput(
            f"{model}: thinks in latents or pauses, which only sft_latent trains; take the model before it."
        )
    tokenizer = load_tokenizer(path)
    thinking = thinking_format(path, tokenizer)
    name = Path(model).name if Path(model).is_dir() else model
    return Base(name, path, tokenizer, thinking)
