"""Floating-point operations of decoding: two for each weight a token meets, and attention by what it looks at.

Matrix products and attention are all that counts; norms, rotations and softmaxes are left out, as is usual. A test
holds the numbers against torch's `FlopCounterMode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from efficient_reasoning.linear.configuration_linearized import LINEAR, LinearizedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class DecodingFlops:
    """What a model's tokens cost.

    Attributes:
        body: of one token in all layers, attention's scores and sums left out.
        head: of the logits behind one token.
        attention: of one token looking at one, in all layers that look at all of them.
    """

    body: float
    head: float
    attention: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> DecodingFlops:
        """Count the weights of a model. Of the experts of a mixture, as many count as a token is sent to.

        A linearized layer costs every token the same: its window counts as full from the first token on.
        """
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        body = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
                body += 2 * module.weight.numel()
        experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        if experts:
            stacked = sum(weight.numel() for weight in model.parameters() if weight.ndim == 3)
            body += 2 * stacked * config.num_experts_per_tok / experts
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        # Multi-head latent attention compares in more dimensions than it sums in.
        key_dim, value_dim = (getattr(config, name, None) or head_dim for name in ("qk_head_dim", "v_head_dim"))
        linear = config.layer_types.count(LINEAR) if config.model_type == LinearizedConfig.model_type else 0
        if linear:
            # Queries and keys through their feature maps, a window, a key into the state, and queries through it.
            keys, features = config.num_key_value_heads, 2 * head_dim
            window = 2 * heads * config.sliding_window * head_dim
            state = features * (keys * head_dim + heads * (head_dim + 1))
            body += 2 * linear * ((heads + keys) * head_dim**2 + window + state)
        attention = 2 * (config.num_hidden_layers - linear) * heads * (key_dim + value_dim)
        return cls(body, 2 * head.weight.numel(), attention)

    def of_prompt(self, tokens: int, computed_tokens: int) -> float:
        """Reading a prompt whose last `computed_tokens` are not cached, and the logits behind it."""
        if not computed_tokens:
            return 0.0
        looked_at = sum_of_positions(tokens - computed_tokens, tokens)
        return computed_tokens * self.body + self.head + looked_at * self.attention

    def of_new(self, prompt_tokens: int, new_tokens: int) -> float:
        """Decoding; the first token comes from the prompt's logits, and the last one is never read."""
        steps = max(0, new_tokens - 1)
        looked_at = sum_of_positions(prompt_tokens, prompt_tokens + steps)
        return steps * (self.body + self.head) + looked_at * self.attention

    def of_score(self, prefix_tokens: int, tokens: int) -> float:
        """Reading a prefix and a continuation, with logits for the latter alone."""
        total = prefix_tokens + tokens
        return total * self.body + tokens * self.head + sum_of_positions(0, total) * self.attention


def sum_of_positions(first: int, last: int) -> float:
    """What tokens number first + 1 to last look at, each at itself and all before it."""
    return (last * (last + 1) - first * (first + 1)) / 2
