"""What a model makes of text that it did not write: one forward pass over many prefixes and continuations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from efficient_reasoning.inference.engine import Hidden, Score
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import peak_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGITS = 1 << 26  # most of one pass

# Legend: N pairs of a pass, T longest prefix with its continuation, C longest continuation, V vocabulary.


@torch.inference_mode()
def score(
    model: PreTrainedModel, pad_id: int, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], flops: DecodingFlops
) -> list[Score]:
    """Log-probabilities of continuations; (prefix ids, continuation ids), neither of them empty."""
    scores: dict[int, Score] = {}
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][1]))
    while order:
        kept = len(pairs[order[-1]][1]) + 1
        count = max(1, _LOGITS // (kept * model.config.get_text_config().vocab_size))
        chosen, order = order[-count:], order[:-count]
        scores.update(zip(chosen, _one_pass(model, pad_id, [pairs[i] for i in chosen], flops), strict=True))
    return [scores[index] for index in range(len(pairs))]


def _one_pass(
    model: PreTrainedModel, pad_id: int, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], flops: DecodingFlops
) -> list[Score]:
    began = time.perf_counter()
    rows = [[*prefix, *ids] for prefix, ids in pairs]
    kept = max(len(ids) for _, ids in pairs) + 1
    inputs = _padded(model, pad_id, rows)
    logits = model(**inputs, logits_to_keep=kept).logits  # (N, C + 1, V)
    logprobs = logprobs_of(logits, inputs["input_ids"]).tolist()  # (N, C)
    seconds_per_token = (time.perf_counter() - began) / sum(map(len, rows))
    return [
        Score(
            row[len(row) - len(ids) :],
            Ledger(
                requests=1,
                prompt_tokens=len(prefix) + len(ids),
                computed_prompt_tokens=len(prefix) + len(ids),
                flops=flops.of_score(len(prefix), len(ids)),
                seconds=seconds_per_token * (len(prefix) + len(ids)),
                peak_memory_bytes=peak_bytes(model.device),
            ),
        )
        for (prefix, ids), row in zip(pairs, logprobs, strict=True)
    ]


def logprobs_of(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, C) of the last ids of rows (N, T); the logits (N, C + 1, V) end with those behind them."""
    targets = ids[:, 1 - logits.shape[1] :]  # (N, C)
    return logits[:, :-1].float().log_softmax(-1).gather(2, targets[:, :, None])[:, :, 0]


@torch.inference_mode()
def read(model: PreTrainedModel, pad_id: int, prompts: Sequence[Sequence[int]], flops: DecodingFlops) -> list[Hidden]:
    """Last hidden states behind prompts, none of them empty."""
    found: dict[int, Hidden] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    width = model.config.get_text_config().hidden_size
    while order:
        count = max(1, _LOGITS // (len(prompts[order[-1]]) * width))
        chosen, order = order[-count:], order[:-count]
        began = time.perf_counter()
        rows = [list(prompts[index]) for index in chosen]
        states = model.base_model(**_padded(model, pad_id, rows)).last_hidden_state[:, -1].float().cpu()  # (N, D)
        seconds_per_token = (time.perf_counter() - began) / sum(map(len, rows))
        for index, row, state in zip(chosen, rows, states, strict=True):
            spend = Ledger(
                requests=1,
                prompt_tokens=len(row),
                computed_prompt_tokens=len(row),
                flops=flops.of_score(len(row), 0),
                seconds=seconds_per_token * len(row),
                peak_memory_bytes=peak_bytes(model.device),
            )
            found[index] = Hidden(state, spend)
    return [found[index] for index in range(len(prompts))]


def _padded(model: PreTrainedModel, pad_id: int, rows: Sequence[Sequence[int]]) -> dict[str, object]:
    """Arguments of a pass over rows that end together."""
    longest = max(map(len, rows))
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)  # (N, T)
    return {
        "input_ids": torch.tensor([[pad_id] * (longest - len(row)) + [*row] for row in rows], device=model.device),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }
