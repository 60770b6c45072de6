"""Drawing tokens: every row from its own stream of uniform numbers, by inverting the cumulative distribution.

A token depends on its row's logits, settings and uniform number alone, so any engine, in any batch, draws the same.
Rows that cut nothing off (no top_k, no top_p) walk the vocabulary in its own order, which saves sorting it.

Legend: B rows or requests, V vocabulary, K candidates kept by top-k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efficient_reasoning.inference.engine import Request
from efficient_reasoning.inference.memory import send

_WHOLE = 2**31 - 1


def uniforms(requests: Sequence[Request], count: int) -> torch.Tensor:
    """The next numbers of each request's stream (B, count); a shorter count gives the beginning of the same."""
    table, generator = torch.empty(len(requests), count), torch.Generator()
    for row, request in zip(table.unbind(), requests, strict=True):
        generator.manual_seed(request.seed)
        if request.offset:
            row.copy_(torch.rand(request.offset + count, generator=generator)[request.offset :])
        else:
            row.uniform_(generator=generator)
    return table


class SamplingTable:
    """Sampling settings of rows as tensors, which may be captured: rows change in place.

    Args:
        rows: number B of rows; all greedy until they are set.
        device: where the logits are.
    """

    def __init__(self, rows: int, device: torch.device | str):
        self.greedy = torch.ones(rows, dtype=torch.bool, device=device)
        self.temperature = torch.ones(rows, device=device)
        self.top_p = torch.ones(rows, device=device)
        self.top_k = torch.full((rows,), _WHOLE, device=device)

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device | str) -> SamplingTable:
        table = cls(len(requests), device)
        table.set(slice(None), requests)
        return table

    def set(self, rows: torch.Tensor | slice, requests: Sequence[Request]) -> None:
        """Give the rows (their indices) the settings of the requests."""
        settings = [request.sampling for request in requests]
        columns = {
            "greedy": torch.tensor([setting.temperature == 0 for setting in settings]),
            # A temperature of zero means the best candidate; dividing by one keeps the row finite until it is picked.
            "temperature": torch.tensor([setting.temperature or 1.0 for setting in settings]),
            "top_p": torch.tensor([setting.top_p for setting in settings]),
            "top_k": torch.tensor([setting.top_k or _WHOLE for setting in settings]),
        }
        for name, column in columns.items():
            getattr(self, name)[rows] = send(column, self.greedy.device)

    def of_rows(self, rows: torch.Tensor | slice) -> SamplingTable:
        """A table of these rows alone: of a slice the same memory, of indices a copy."""
        table = SamplingTable(0, self.greedy.device)
        for name in ("greedy", "temperature", "top_p", "top_k"):
            setattr(table, name, getattr(self, name)[rows])
        return table

    def draw(self, logits: torch.Tensor, uniform: torch.Tensor, candidates: int | None) -> torch.Tensor:
        """Next token of each row.

        Args:
            logits: (B, V)
            uniform: (B,) in [0, 1)
            candidates: how many of the best tokens are looked at, from `sampling_groups`.

        Returns:
            (B,) token ids.
        """
        scaled = logits.float() / self.temperature[:, None]
        if candidates is None:
            cumulative = scaled.softmax(-1).cumsum(-1)  # (B, V)
            drawn = _invert(cumulative, uniform)
            return torch.where(self.greedy, scaled.argmax(-1), drawn)
        values, tokens = scaled.topk(min(candidates, scaled.shape[-1]))  # (B, K), best first
        rank = torch.arange(values.shape[-1], device=values.device)
        probabilities = values.masked_fill(rank >= self.top_k[:, None], -torch.inf).softmax(-1)
        cumulative = probabilities.cumsum(-1)
        # A candidate stays while those before it hold less than top_p; the best one always does.
        probabilities = probabilities.masked_fill(cumulative - probabilities >= self.top_p[:, None], 0.0)
        place = _invert(probabilities.cumsum(-1), uniform)
        return tokens.gather(1, place.masked_fill(self.greedy, 0)[:, None])[:, 0]

    def logprobs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B,) of the tokens at the rows' temperatures, nothing cut off. logits: (B, V)."""
        scaled = logits.float() / self.temperature[:, None]
        return scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index of the first entry above `uniform` times the total. (B, V), (B,) -> (B,)"""
    # Rounded up to 1, a uniform number would pick what comes after the last token that has any probability.
    threshold = uniform.clamp(max=1 - 1e-6)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def sampling_groups(requests: Sequence[Request]) -> list[tuple[int | None, list[int]]]:
    """Requests (their indices) that are decoded together, and the `candidates` that `draw` needs for them.

    Those that draw from the whole vocabulary, or the best token, need none; the others the largest top_k among them.
    """
    cuts = [
        request.sampling.temperature > 0 and (request.sampling.top_k, request.sampling.top_p) != (0, 1)
        for request in requests
    ]
    candidates = max((requests[i].sampling.top_k or _WHOLE for i, cut in enumerate(cuts) if cut), default=None)
    groups = [
        (None, [i for i, cut in enumerate(cuts) if not cut]),
        (candidates, [i for i, cut in enumerate(cuts) if cut]),
    ]
    return [(candidates, group) for candidates, group in groups if group]
