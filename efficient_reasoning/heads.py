"""Heads of language models: whether the last hidden states and the head alone make the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCALINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are what the head makes of the last hidden states, and nothing is done to them behind it."""
    config = model.config.get_text_config()
    return model.get_output_embeddings() is not None and not any(getattr(config, name, None) for name in _SCALINGS)
