"""One ledger for everything a strategy makes a model do. Nothing is free.

`decoded_tokens` are executed decoding steps: EOS, probes and rejected tokens included. `forced_tokens` were not
sampled but stand in the response (a forced close); they are part of the total that a budget bounds. Prompt tokens
are counted twice over: as the logical prompt of each request, and as computed, where a prefix shared or cached counts
once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass
class Ledger:
    """What was spent, in tokens, calls and seconds.

    Attributes:
        requests: calls to the engine.
        prompt_tokens: prompt tokens of all requests.
        computed_prompt_tokens: prompt tokens that were really run through the model.
        decoded_tokens: executed decoding steps.
        forced_tokens: tokens put into the response instead of being decoded.
        seconds: this problem's share of the engine's time (a batch's time is shared out by executed tokens).
    """

    requests: int = 0
    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    decoded_tokens: int = 0
    forced_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """What a token budget bounds: decoded and forced tokens."""
        return self.decoded_tokens + self.forced_tokens

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(**{key: value + getattr(other, key) for key, value in self.as_dict().items()})

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)
