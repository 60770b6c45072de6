"""One ledger for everything a strategy makes a model do. Nothing is free.

`decoded_tokens` are executed decoding steps: EOS, probes, rejected tokens and latents included. The pauses that a
control reads in place of latents are among them, too, so that the two can be compared. `forced_tokens` were not
sampled but stand in the response (a forced close); they are part of the total that a budget bounds. Prompt tokens
are counted twice over: as the logical prompt of each request, and as computed, where a prefix shared or cached counts
once.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass


@dataclass
class Ledger:
    """What was spent, in tokens, calls, floating-point operations and seconds.

    Attributes:
        requests: calls to the engine.
        prompt_tokens: prompt tokens of all requests.
        computed_prompt_tokens: prompt tokens that were really run through the model.
        decoded_tokens: executed decoding steps.
        forced_tokens: tokens put into the response instead of being decoded.
        masked_tokens: decoding steps whose likeliest token was forbidden, because no answer had been given yet.
        core_iterations: behind the decoded tokens of a model of recurrent depth, summed over them; 0 of other models.
        draft_tokens: tokens proposed by a draft model, taken or not; not part of a budget.
        rated_tokens: tokens read by verifiers, probes and judges, prompt tokens all of them; not part of a budget.
        flops: of the model's matrix products and attention (`flops`); 0 where an engine does not know its model.
        seconds: this problem's share of the engine's time (a batch's time is shared out by executed tokens).
        peak_memory_bytes: the most that was allocated on the device at any time, or resident in a process on the CPU;
            0 where the model runs elsewhere. Ledgers that are added keep the larger.
    """

    requests: int = 0
    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    decoded_tokens: int = 0
    forced_tokens: int = 0
    masked_tokens: int = 0
    core_iterations: int = 0
    draft_tokens: int = 0
    rated_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def tokens(self) -> int:
        """What a token budget bounds: decoded and forced tokens."""
        return self.decoded_tokens + self.forced_tokens

    def __add__(self, other: Ledger) -> Ledger:
        total = Ledger(*map(operator.add, vars(self).values(), vars(other).values()))
        total.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)
        return total

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)
