"""Prompts with latents, read once: what an engine goes on from.

A placeholder token stands in a prompt where a latent is to be, right behind the token that begins them, so that
prompts stay lists of ids, and lengths add up. Its embedding is not looked at there; elsewhere, in a question or in
what the model wrote, it is a token like any other. What the passes leave of a prompt is what any other leaves: keys
and values of its columns, and a last hidden state. Behind that, decoding is ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, takewhile

import torch
from transformers import PreTrainedModel

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.passes import Batch, Row, collate, read
from efficient_reasoning.latent.projection import LatentProjection

MARKERS = BOT, LATENT, EOT = "<|start-latent|>", "<|latent|>", "<|end-latent|>"  # of a checkpoint, as Coconut's


@dataclass(frozen=True)
class Latents:
    """What an engine has to know of them.

    Attributes:
        bot_id: begins them.
        latent_id: the placeholder.
        projection: makes latents of hidden states, as it did in training; None takes them as they are.
    """

    bot_id: int
    latent_id: int
    projection: LatentProjection | None = None

    def columns(self, prompt_ids: Sequence[int]) -> range:
        """Where they stand in a prompt: the placeholders behind the first begin token that has one behind it."""
        begins = (self.bot_id, self.latent_id)
        first = next((place for place, pair in enumerate(pairwise(prompt_ids), 1) if pair == begins), len(prompt_ids))
        count = sum(1 for _ in takewhile(lambda token: token == self.latent_id, islice(prompt_ids, first, None)))
        return range(first, first + count)

    def tail(self, prompt_ids: Sequence[int]) -> int | None:
        """How many tokens follow the last latent; None without latents."""
        columns = self.columns(prompt_ids)
        return len(prompt_ids) - columns.stop if columns else None

    def batch(self, prompts: Sequence[Sequence[int]], pad_id: int, columns_apart: int = 1) -> Batch:
        """Prompts of equally many tokens behind their latents, which makes them end at the same column.

        Args:
            prompts: N, each with latents.
            pad_id: any token.
            columns_apart: the columns before all latents are a multiple of it.

        Raises:
            BadInput: latents with nothing behind them.
        """
        return collate([self._row(prompt) for prompt in prompts], pad_id, first_columns_apart=columns_apart)

    def read(
        self, model: PreTrainedModel, batch: Batch
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Run a batch on the model's device.

        Returns:
            keys and values (N, K, P, D) of each layer, padded on the left, and the last hidden states (N, width).
        """
        projection = None if self.projection is None else self.projection.to(model.device, model.dtype)
        passes = read(model, batch, projection)
        return [(layer.keys, layer.values) for layer in passes.cache.layers], passes.states[:, -1]

    def _row(self, prompt: Sequence[int]) -> Row:
        columns = self.columns(prompt)
        if columns.stop == len(prompt):
            raise BadInput("Latents end a prompt; put a token behind them.")
        return Row(prompt[: columns.start], len(columns), prompt[columns.stop :])
