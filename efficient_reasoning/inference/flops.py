"""Floating-point operations of decoding: two for each weight a token meets, and attention by what it looks at.

Matrix products, attention and states are all that counts; norms, rotations and softmaxes are left out, as is usual.
Tests hold the numbers against torch's `FlopCounterMode`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from efficient_reasoning.linear.configuration_linearized import LINEAR, LinearizedConfig
from efficient_reasoning.window_global.configuration_window_global import WindowGlobalConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_WITHOUT_ATTENTION = ("linear_attention", LINEAR, "conv", "mlp", "moe")  # kinds of layers that look at no token


@dataclass(frozen=True)
class DecodingFlops:
    """What a model's tokens cost.

    Attributes:
        body: of one token in all layers, attention's scores and sums left out.
        head: of the logits behind one token.
        attention: of one token looking at one, in all layers that look at all of them.
        window_attention: the same in all layers that look at the last `window_tokens`.
        window_tokens: 0 where no layer does.
    """

    body: float
    head: float
    attention: float
    window_attention: float = 0.0
    window_tokens: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel) -> DecodingFlops:
        """Count the weights of a model. Of the experts of a mixture, as many count as a token is sent to; a token
        classifier has no head, and its classes are part of its body.

        Layers that keep a state cost every token the same; the window of a linearized one counts as full from the
        first token on.
        """
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        body = _of_weights(module for module in model.modules() if module is not head)
        experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        if experts:
            stacked = sum(weight.numel() for weight in model.parameters() if weight.ndim == 3)
            body += 2 * stacked * config.num_experts_per_tok / experts
        kinds = _kinds_of(config)
        heads = getattr(config, "num_attention_heads", 0)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        # Multi-head latent attention compares in more dimensions than it sums in.
        key_dim, value_dim = (getattr(config, name, None) or head_dim for name in ("qk_head_dim", "v_head_dim"))
        attention = 2 * heads * (key_dim + value_dim)
        body += sum(kinds[kind] for kind in ("linear_attention", "hybrid")) * _of_state(config)
        if config.model_type == LinearizedConfig.model_type:
            # Queries and keys through their feature maps, a window, a key into the state, and queries through it.
            keys, features = config.num_key_value_heads, 2 * head_dim
            window = 2 * heads * config.sliding_window * head_dim
            state = features * (keys * head_dim + heads * (head_dim + 1))
            body += 2 * kinds[LINEAR] * ((heads + keys) * head_dim**2 + window + state)
        sliding = kinds["sliding_attention"]
        window_tokens = (config.sliding_window or 0) if sliding else 0
        if config.model_type == WindowGlobalConfig.model_type:  # global tokens are seen beside a full window
            sliding, window_tokens = kinds.total(), config.window_tokens + config.num_global_tokens
        full = kinds.total() - sliding - sum(kinds[kind] for kind in _WITHOUT_ATTENTION)
        of_head = 0.0 if head is None else 2.0 * head.weight.numel()
        whole = cls(body, of_head, full * attention, sliding * attention, window_tokens)
        return _of_recurrent(model, whole, attention) if config.model_type == "recurrent_depth" else whole

    def looks(self, first: int, last: int) -> float:
        """What tokens number first + 1 to last look at costs, each looking at itself and all before it."""
        in_window = sum_of_positions(first, last)
        if self.window_tokens:
            full = max(first, self.window_tokens)  # from there on windows are full
            in_window = sum_of_positions(min(first, full), min(last, full)) + max(0, last - full) * self.window_tokens
        return sum_of_positions(first, last) * self.attention + in_window * self.window_attention

    def of_prompt(self, tokens: int, computed_tokens: int) -> float:
        """Reading a prompt whose last `computed_tokens` are not cached, and the logits behind it."""
        if not computed_tokens:
            return 0.0
        return computed_tokens * self.body + self.head + self.looks(tokens - computed_tokens, tokens)

    def of_new(self, prompt_tokens: int, new_tokens: int, iterations: Sequence[int] = ()) -> float:
        """Decoding; the first token comes from the prompt's logits, and the last one is never read.

        Args:
            prompt_tokens, new_tokens: how many there are.
            iterations: those behind each new token, of models of recurrent depth.
        """
        steps = max(0, new_tokens - 1)
        return steps * (self.body + self.head) + self.looks(prompt_tokens, prompt_tokens + steps)

    def of_token(self, position: int) -> float:
        """One token that looks at so many, itself included, and the logits behind it."""
        return self.body + self.head + self.looks(position - 1, position)

    def of_score(self, prefix_tokens: int, tokens: int, held_tokens: int = 0) -> float:
        """Reading a prefix that begins with `held_tokens`, and a continuation, with logits for the latter alone."""
        total = prefix_tokens + tokens
        return (total - held_tokens) * self.body + tokens * self.head + self.looks(held_tokens, total)


@dataclass(frozen=True)
class RecurrentFlops(DecodingFlops):
    """What the tokens of a model of recurrent depth cost; the fields above are of all its iterations.

    Attributes:
        depth: iterations that a token takes unless it exits.
        iteration: of one iteration.
        look: of what adaptive exit does after each iteration but the last: coda and logits; None without.
    """

    depth: int = field(kw_only=True)
    iteration: DecodingFlops = field(kw_only=True)
    look: DecodingFlops | None = field(kw_only=True)

    def of_new(self, prompt_tokens: int, new_tokens: int, iterations: Sequence[int] = ()) -> float:
        total = super().of_new(prompt_tokens, new_tokens)
        for place, count in enumerate(iterations[1:new_tokens], prompt_tokens + 1):
            total -= (self.depth - count) * self.iteration.of_token(place)
            if self.look is not None:
                total += min(count, self.depth - 1) * self.look.of_token(place)
        return total


def _of_recurrent(model: PreTrainedModel, once: DecodingFlops, attention: float) -> RecurrentFlops:
    """From the costs with each weight met once and all layers' attention, and those of one layer's attention."""
    config, decoder = model.config, model.base_model
    core = _of_weights([*decoder.core.modules(), decoder.adapter])
    iteration = DecodingFlops(core, 0.0, config.num_core_layers * attention)
    coda = DecodingFlops(_of_weights(decoder.coda.modules()), once.head, config.num_coda_layers * attention)
    body = once.body + (config.depth - 1) * core
    look = None if config.exit_kl is None else coda
    return RecurrentFlops(body, once.head, once.attention, depth=config.depth, iteration=iteration, look=look)


def _kinds_of(config: PretrainedConfig) -> Counter[str]:
    """How many layers attend to what, in the words of `layer_types`, which not every config has."""
    if kinds := getattr(config, "layer_types", None):
        return Counter(kinds)
    is_sliding = getattr(config, "sliding_window", None) is not None
    return Counter({"sliding_attention" if is_sliding else "full_attention": config.num_hidden_layers})


def _of_state(config: PretrainedConfig) -> float:
    """Of one token that goes into the state of a layer, and reads it: gated DeltaNet (which also looks up what it
    replaces), or Mamba-2; 0 of other kinds."""
    if hasattr(config, "linear_key_head_dim"):
        return 6.0 * config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim
    if hasattr(config, "mamba_n_heads"):
        return 4.0 * config.mamba_n_heads * config.mamba_d_head * config.mamba_d_state
    if config.model_type == "mamba2":
        return 4.0 * config.num_heads * config.head_dim * config.state_size
    return 0.0


def _of_weights(modules: Iterable[torch.nn.Module]) -> float:
    """Of one token that meets the weights of each module once."""
    return sum(2.0 * module.weight.numel() for module in modules if isinstance(module, torch.nn.Linear | Conv1D))


def sum_of_positions(first: int, last: int) -> float:
    """What tokens number first + 1 to last look at, each at itself and all before it."""
    return (last * (last + 1) - first * (first + 1)) / 2
