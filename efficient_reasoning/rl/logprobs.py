"""Log-probabilities of given tokens, without the logits of all of them at once.

Logits of 16,384 tokens over Qwen3's vocabulary take 10 GB in float32, and their gradient as much again. Here the head
runs on a thousand tokens at a time, and once more for the gradient: what stays are hidden states.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from efficient_reasoning.heads import has_plain_head

CHUNK_TOKENS = 1024


def token_logprobs(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    counted: torch.Tensor,
    chunk_tokens: int = CHUNK_TOKENS,
) -> torch.Tensor:
    """Log-probability of each counted token behind those before it.

    Args:
        model: a causal language model, also one of PEFT.
        input_ids, attention_mask: (B, S).
        counted: (B, S) bool; the first token of a row has nothing before it and does not count.
        chunk_tokens: tokens whose logits stand in memory together.

    Returns:
        (N,) float32 in nats, row by row, of the N counted tokens.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    at = counted[:, 1:]
    targets = input_ids[:, 1:][at]
    if not has_plain_head(model):
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return _logprobs(torch.nn.Identity(), logits[:, :-1][at], targets)
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0][:, :-1][at]
    head = model.get_output_embeddings()
    parts = [
        checkpoint(_logprobs, head, states, tokens, use_reentrant=False)
        for states, tokens in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def mean_logprobs(logprobs: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The mean of each row: (N,) and counted (B, S) -> (B,); 0 where nothing counts."""
    rows = counted[:, 1:].nonzero()[:, 0]
    sums = torch.zeros(len(counted), dtype=logprobs.dtype, device=logprobs.device).index_add(0, rows, logprobs)
    return sums / counted[:, 1:].sum(1).clamp(min=1)


def _logprobs(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(hidden).float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
