"""A forced close inside the step: which phase each row is in, what it must not draw, and what is put in its place.

The same rules as `two_pass`, as tensors: a step that follows them can be captured. Delimiters must be single ids.

Legend: R rows, V vocabulary, S ids of the longest suffix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efficient_reasoning.inference.engine import Request
from efficient_reasoning.inference.memory import send
from efficient_reasoning.thinking import ThinkingFormat

_UNBEGUN, _THINKING, _CLOSED, _ANSWERING = range(4)
_PHASES = {"unbegun": _UNBEGUN, "thinking": _THINKING, "closed": _CLOSED, "answering": _ANSWERING}
_WORD, _OPEN, _CLOSE, _BLANK, _TOOL = range(5)
_NEVER = 2**31 - 1
_STATES = ("guarded", "after", "phase", "blanks", "suffix_at", "which", "was_forced", "forced", "masked")


class CloseTable:
    """The state of forced closes, one a row; rows change in place.

    Args:
        rows: R; none of them guarded until they are set.
        thinking: the model's delimiters.
        vocabulary: V of the logits, which may be padded.
        device: where the logits are.
    """

    def __init__(self, rows: int, thinking: ThinkingFormat, vocabulary: int, device: torch.device | str):
        kinds = torch.zeros(vocabulary, dtype=torch.long)
        kinds[[token for token in thinking.blank_ids if token < vocabulary]] = _BLANK
        kinds[list(thinking.tool_ids)] = _TOOL
        kinds[thinking.open_ids[0]], kinds[thinking.close_ids[0]] = _OPEN, _CLOSE
        ends = torch.zeros(vocabulary, dtype=torch.bool)
        ends[list(thinking.eos_ids)] = True
        suffixes = [thinking.empty(), thinking.closing()]  # by phase
        longest = max(map(len, suffixes))
        padded = torch.tensor([suffix + [0] * (longest - len(suffix)) for suffix in suffixes])  # (2, S)
        self.kinds, self.ends, self.suffixes = kinds.to(device), ends.to(device), padded.to(device)
        self.is_blank, self.is_delimiter = self.kinds == _BLANK, (self.kinds == _OPEN) | (self.kinds == _CLOSE)
        self.suffix_lengths = torch.tensor([len(suffix) for suffix in suffixes], device=device)
        self.allowance = thinking.blank_allowance

        def numbers(value: int) -> torch.Tensor:
            return torch.full((rows,), value, device=device)

        self.guarded = torch.zeros(rows, dtype=torch.bool, device=device)
        self.after = numbers(_NEVER)  # new tokens at which the thinking is closed
        self.phase = numbers(_ANSWERING)
        self.blanks = numbers(0)  # since the close
        self.suffix_at, self.which = numbers(-1), numbers(0)  # place in the suffix that is being forced, and which
        self.was_forced = torch.zeros(rows, dtype=torch.bool, device=device)  # the last token
        self.forced, self.masked = numbers(0), numbers(0)  # counts

    def set(self, rows: torch.Tensor, requests: Sequence[Request]) -> None:
        """Start the rows (their indices) with these requests."""
        starts = [_start(request) for request in requests]
        for name in _STATES:
            column = torch.tensor([start.get(name, 0) for start in starts])
            getattr(self, name)[rows] = send(column, self.after.device).to(getattr(self, name).dtype)

    def of_rows(self, rows: torch.Tensor | slice) -> CloseTable:
        """A table of these rows alone: of a slice the same memory, of indices a copy."""
        table = object.__new__(CloseTable)
        table.__dict__.update(self.__dict__)
        for name in _STATES:
            setattr(table, name, getattr(self, name)[rows])
        return table

    def put(self, rows: torch.Tensor, table: CloseTable) -> None:
        """Take over what `of_rows(rows)` has become."""
        for name in _STATES:
            getattr(self, name)[rows] = getattr(table, name)

    def forbid(self, logits: torch.Tensor, counts: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) without what must not follow `counts` (R,) new tokens; rows that are done count nothing."""
        is_closed = self.phase == _CLOSED
        no_end = self.guarded & (self.phase != _ANSWERING)
        no_blank = self.guarded & is_closed & (self.blanks >= self.allowance)
        # A late close would make an answer of what follows it, as a late open would take the answer away.
        no_delimiter = self.guarded & (self.phase >= _CLOSED) & (counts >= self.after)
        forbidden = no_end[:, None] & self.ends
        forbidden |= no_blank[:, None] & self.is_blank
        forbidden |= no_delimiter[:, None] & self.is_delimiter
        best = logits.argmax(-1, keepdim=True)
        is_free = ~self._is_forced(counts)
        self.masked.add_(forbidden.gather(1, best)[:, 0] & is_free & ~done)
        return logits.masked_fill(forbidden, -torch.inf)

    def follow(self, drawn: torch.Tensor, counts: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """The tokens (R,) that stand behind `counts` new ones: those drawn, or those forced."""
        forced = self._is_forced(counts) & ~done
        begins = forced & (self.suffix_at < 0)
        self.which.copy_(torch.where(begins, self.phase, self.which))
        at = torch.where(begins, 0, self.suffix_at).clamp(min=0)
        tokens = torch.where(forced, self.suffixes[self.which, at], drawn)
        is_last = at + 1 == self.suffix_lengths[self.which]
        self.suffix_at.copy_(torch.where(forced & ~is_last, at + 1, -1))
        self.forced.add_(forced)
        self.was_forced.copy_(forced)
        self._read(tokens)
        return tokens

    def _is_forced(self, counts: torch.Tensor) -> torch.Tensor:
        begins = self.guarded & (counts == self.after) & (self.phase <= _THINKING)
        return begins | (self.suffix_at >= 0)

    def _read(self, tokens: torch.Tensor) -> None:
        kind = self.kinds[tokens]
        thinking = self.phase == _THINKING
        outside = torch.where(kind == _BLANK, self.phase, _ANSWERING)
        phase = torch.where(thinking, torch.where(kind == _TOOL, _ANSWERING, _THINKING), outside)
        phase = torch.where(kind == _OPEN, _THINKING, torch.where(kind == _CLOSE, _CLOSED, phase))
        is_blank = (kind == _BLANK) & (phase == _CLOSED)
        self.blanks.copy_(torch.where(kind == _CLOSE, 0, self.blanks + is_blank))
        self.phase.copy_(phase)


def _start(request: Request) -> dict[str, int]:
    """The state of a row before the request's first token."""
    if request.forced_close is None:
        return {"phase": _ANSWERING, "after": _NEVER, "suffix_at": -1}
    begin = len(request.prompt_ids) - request.offset
    states = request.forced_close.thinking.states(request.prompt_ids[begin:], request.prompt_ids[:begin])
    phase, blanks = states[-1]
    return {
        "guarded": 1,
        "after": request.forced_close.after_tokens,
        "phase": _PHASES[phase],
        "blanks": blanks,
        "suffix_at": -1,
    }
