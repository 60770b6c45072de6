"""The interface between strategies and whatever runs the model: requests in, completions out.

A request owns its randomness (`seed`) and its sampling settings: what it gets does not depend on which other requests
share its batch, so evaluations can be cut, resumed and reordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.ledger import Ledger


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are those of reasoning models, which loop under greedy decoding.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus; applied after top_k, as in transformers.
        top_k: 0 keeps the whole vocabulary.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BadInput(f"temperature is {self.temperature}; it must be 0 (greedy) or a greater number.")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; it must lie in (0, 1].")
        if self.top_k < 0:
            raise BadInput(f"top_k is {self.top_k}; it must be 0 (off) or more.")


@dataclass(frozen=True)
class Request:
    """One continuation to decode.

    Attributes:
        prompt_ids: everything the model has read so far, forced tokens and an earlier completion included.
        max_new_tokens: at least 1.
        sampling: how tokens are drawn.
        seed: of this request alone.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """What an engine decoded.

    Attributes:
        ids: decoded token ids, EOS included.
        finished: ended by EOS, not by `max_new_tokens`.
        spend: what this request cost.
    """

    ids: list[int]
    finished: bool
    spend: Ledger


class Engine(Protocol):
    """Anything that decodes batches of requests."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Decode all requests, in their order."""
        ...
