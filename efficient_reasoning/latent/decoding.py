"""Prompts with latents, read once: what an engine goes on from.

A placeholder token stands in a prompt where a latent is to be, so that prompts stay lists of ids, and lengths add up.
Its embedding is never looked at. What the passes leave of a prompt is what any other leaves: keys and values of its
columns, and a last hidden state. Behind that, decoding is ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.passes import Row, collate, read
from efficient_reasoning.latent.projection import LatentProjection

BOT, LATENT, EOT = "<|bot|>", "<|latent|>", "<|eot|>"  # tokens of a latent checkpoint


@dataclass(frozen=True)
class Latents:
    """What an engine has to know of them.

    Attributes:
        latent_id: the placeholder.
        projection: makes latents of hidden states, as it did in training; None takes them as they are.
    """

    latent_id: int
    projection: LatentProjection | None = None

    def count(self, prompt_ids: Sequence[int]) -> int:
        return sum(token == self.latent_id for token in prompt_ids)

    def tail(self, prompt_ids: Sequence[int]) -> int | None:
        """How many tokens follow the last latent; None without latents."""
        return next((i for i, token in enumerate(reversed(prompt_ids)) if token == self.latent_id), None)

    def read(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Run prompts of equally many tokens behind their latents, which makes them end at the same column.

        Args:
            model: the language model.
            prompts: N, each with its latents side by side.
            pad_id: any token.

        Returns:
            keys and values (N, K, P, D) of each layer, padded on the left, and the last hidden states (N, width).

        Raises:
            BadInput: latents that do not stand side by side, or with nothing before or behind them.
        """
        rows = [self._row(prompt) for prompt in prompts]
        batch = collate(rows, pad_id).to(model.device)
        projection = None if self.projection is None else self.projection.to(model.device, model.dtype)
        passes = read(model, batch, projection)
        return [(layer.keys, layer.values) for layer in passes.cache.layers], passes.states[:, -1]

    def _row(self, prompt: Sequence[int]) -> Row:
        count, begin = self.count(prompt), list(prompt).index(self.latent_id)
        after = prompt[begin + count :]
        if self.latent_id in after or not after or not begin:
            raise BadInput("Latents of a prompt stand side by side, with a token before and a token behind them.")
        return Row(prompt[:begin], count, after)
