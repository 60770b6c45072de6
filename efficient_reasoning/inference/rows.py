"""The state of R rows on the device, and what a step does with it: tensors that change in place.

Legend: R rows, V vocabulary, U most new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from efficient_reasoning.inference.closing import CloseTable
from efficient_reasoning.inference.engine import Request
from efficient_reasoning.inference.sampling import SamplingTable
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class Step:
    """What a step does, which is fixed when it is captured.

    Attributes:
        candidates: of `SamplingTable.draw`.
        stops: most stop ids of a request.
        biased_ids: tokens whose logits some request changes.
        logprobs: whether log-probabilities are kept.
        thinking: delimiters of forced closes; None where no request has one.
    """

    candidates: int | None
    stops: int
    biased_ids: tuple[int, ...]
    logprobs: bool
    thinking: ThinkingFormat | None

    @classmethod
    def of(cls, requests: Sequence[Request], candidates: int | None) -> Step:
        closes = (request.forced_close for request in requests)
        return cls(
            candidates,
            max(len(request.stop_ids) for request in requests),
            tuple(sorted({token for request in requests for token in request.logit_bias})),
            any(request.logprobs for request in requests),
            next((close.thinking for close in closes if close is not None), None),
        )

    def covers(self, other: Step) -> bool:
        """Whether this one does whatever the other does, for rows that ask for no more."""
        return (
            other.stops <= self.stops
            and set(other.biased_ids) <= set(self.biased_ids)
            and other.logprobs <= self.logprobs
            and other.thinking in (None, self.thinking)
        )


class Rows:
    """The state of R rows on the device.

    Args:
        step: which of it is needed.
        rows: R.
        new_tokens: U.
        vocabulary: V.
        device: of the model.
    """

    def __init__(self, step: Step, rows: int, new_tokens: int, vocabulary: int, device: torch.device):
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=device)

        self.tokens, self.counts = zeros(), zeros()  # the last of each row, and how many are new
        self.limits = zeros() + 1
        self.done = zeros(dtype=torch.bool) | True
        self.uniform = zeros(new_tokens + 1, dtype=torch.float)
        self.out = zeros(new_tokens + 1, dtype=torch.int32)  # the last column is for nobody
        self.logprobs = zeros(new_tokens + 1, dtype=torch.float) if step.logprobs else None
        self.masked = zeros()  # first tokens whose best candidate was forbidden
        self.stops = zeros(step.stops) - 1
        self.bias = zeros(len(step.biased_ids), dtype=torch.float)
        self.sampling = SamplingTable(rows, device)
        self.closes = CloseTable(rows, step.thinking, vocabulary, device) if step.thinking else None

    def keep(self, index: torch.Tensor) -> Rows:
        """These rows alone."""
        return self._map(lambda states: states[index], index)

    def put(self, index: torch.Tensor, rows: Rows) -> None:
        """Take over what `keep(index)` has become."""
        for name, states in vars(rows).items():
            if isinstance(states, torch.Tensor):
                getattr(self, name)[index] = states
        if self.closes is not None:
            self.closes.put(index, rows.closes)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor], rows: slice | torch.Tensor) -> Rows:
        view = object.__new__(Rows)
        for name, states in vars(self).items():
            if isinstance(states, torch.Tensor):
                setattr(view, name, change(states))
            else:
                setattr(view, name, states and states.of_rows(rows))
        return view
