"""Batched decoding of any transformers model that keeps a key-value cache.

1. Requests are sorted by prompt length and decoded in batches, as large as memory allows, padded on the left.
2. Keys and values live in buffers with spare room, so that a step writes one column instead of copying the cache.
3. Rows that have finished leave the batch as soon as a quarter of it is idle.
4. Every request samples with its own generator: its tokens do not depend on its neighbours.

Greedy tokens equal `model.generate`, which a test holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from efficient_reasoning.inference.engine import Completion, Request
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import column_bytes, rows_that_fit
from efficient_reasoning.inference.sampling import SamplingTable, sampling_groups, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Legend: B rows of a batch, P longest prompt, T columns of the cache, V vocabulary.


class RoomyLayer(DynamicLayer):
    """A cache layer that grows by blocks of columns and otherwise writes in place."""

    BLOCK = 64

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.length = 0
        end = self.length + key_states.shape[-2]
        if self.length == 0 or end > self.room_keys.shape[-2] or len(key_states) != len(self.room_keys):
            self.room_keys = self._with_room(self.keys, key_states, end)
            self.room_values = self._with_room(self.values, value_states, end)
        self.room_keys[..., self.length : end, :] = key_states
        self.room_values[..., self.length : end, :] = value_states
        self.length = end
        self.keys, self.values = self.room_keys[..., :end, :], self.room_values[..., :end, :]
        return self.keys, self.values

    def _with_room(self, old: torch.Tensor, like: torch.Tensor, end: int) -> torch.Tensor:
        columns = -(-end // self.BLOCK) * self.BLOCK
        room = like.new_empty(*like.shape[:-2], columns, like.shape[-1])
        if self.length:
            room[..., : self.length, :] = old
        return room


class TransformersEngine:
    """Decodes with a transformers causal language model, on whatever device it is.

    Args:
        model: in eval mode.
        eos_ids: token ids that end a completion.
        pad_id: fills the left of shorter prompts; never attended to.
        batch_size: most rows decoded together; fewer where their caches would fill more than half of the free memory.
    """

    def __init__(self, model: PreTrainedModel, eos_ids: frozenset[int], pad_id: int, batch_size: int = 512):
        self.model = model
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self.batch_size = batch_size

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        if not requests:
            return []
        completions: dict[int, Completion] = {}
        columns = max(len(request.prompt_ids) + request.max_new_tokens for request in requests)
        rows = min(self.batch_size, rows_that_fit(self.column_bytes, columns, self.model.device))
        for candidates, group in sampling_groups(requests):
            order = sorted(group, key=lambda index: len(requests[index].prompt_ids))
            for start in range(0, len(order), rows):
                indices = order[start : start + rows]
                batch = [requests[index] for index in indices]
                completions.update(zip(indices, self._decode(batch, candidates), strict=True))
        return [completions[index] for index in range(len(requests))]

    @cached_property
    def column_bytes(self) -> int:
        return column_bytes(self.model)

    @torch.inference_mode()
    def _decode(self, requests: list[Request], candidates: int | None) -> list[Completion]:
        began = time.perf_counter()
        device = self.model.device
        longest = max(len(request.prompt_ids) for request in requests)
        input_ids = torch.full((len(requests), longest), self.pad_id)  # (B, P)
        mask = torch.zeros(len(requests), longest, dtype=torch.long)  # (B, P)
        for row, request in enumerate(requests):
            input_ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, longest - len(request.prompt_ids) :] = 1
        input_ids, mask = input_ids.to(device), mask.to(device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # (B, P)
        table = SamplingTable.of(requests, device)
        steps = max(request.max_new_tokens for request in requests)
        uniform = torch.stack([uniforms(request.seed, steps) for request in requests]).to(device)  # (B, steps)
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        decoded: list[list[int]] = [[] for _ in requests]
        finished = [False] * len(requests)
        alive = list(range(len(requests)))  # request of each row of the batch
        done = torch.zeros(len(requests), dtype=torch.bool)

        for step in range(steps):
            logits = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]  # (B, V)
            tokens = table.draw(logits, uniform[:, step], candidates)  # (B,)
            for row, token in enumerate(tokens.tolist()):
                index = alive[row]
                if done[row]:
                    continue
                decoded[index].append(token)
                finished[index] = token in self.eos_ids
                done[row] = finished[index] or len(decoded[index]) == requests[index].max_new_tokens
            if done.all():
                break
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            input_ids = tokens[:, None]
            if done.float().mean() >= 0.25:
                keep = (~done).nonzero()[:, 0]
                alive = [alive[row] for row in keep.tolist()]
                done = done[keep]
                keep = keep.to(device)
                cache.batch_select_indices(keep)
                table = table.of_rows(keep)
                input_ids, mask, positions, uniform = (x[keep] for x in (input_ids, mask, positions, uniform))

        executed = sum(len(request.prompt_ids) for request in requests) + sum(map(len, decoded))
        seconds_per_token = (time.perf_counter() - began) / executed
        return [
            Completion(ids, ended, self._spend(request, ids, seconds_per_token))
            for request, ids, ended in zip(requests, decoded, finished, strict=True)
        ]

    @staticmethod
    def _spend(request: Request, ids: list[int], seconds_per_token: float) -> Ledger:
        prompt_tokens = len(request.prompt_ids)
        return Ledger(
            requests=1,
            prompt_tokens=prompt_tokens,
            computed_prompt_tokens=prompt_tokens,
            decoded_tokens=len(ids),
            seconds=seconds_per_token * (prompt_tokens + len(ids)),
        )
