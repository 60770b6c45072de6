"""What one response must not or has to say next: the rules of a forced close, token by token, without tensors.

1. The same rules as `two_pass` and `closing`, for decoders that are not ours and call us at every step. Delimiters
   must be single ids.
2. At `close_after_tokens` thinking that is not over is closed, and no response ends before a token of an answer.
3. Before `min_thinking_tokens` thinking cannot be closed; `close_bias` makes a close likelier (early exit) or rarer.
4. What a guard has seen can be told afterwards: `replay` reads a finished response and finds the first token that the
   rules did not allow. A budget that nobody keeps is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.thinking import ThinkingFormat

# What keeps these rules inside vLLM, as vLLM wants it named.
PROCESSOR = "efficient_reasoning.inference.vllm_processor:ThinkingProcessor"
_NAMES = "close_after_tokens", "min_thinking_tokens", "close_bias", "forbidden_first_ids", "response_tokens"


@dataclass(frozen=True)
class Rules:
    """What a request asks for. Counts are new tokens of this request, forced ones and delimiters included.

    Attributes:
        close_after_tokens: where thinking that is not over is closed; None for never.
        min_thinking_tokens: where it may be closed at the earliest.
        close_bias: added to the logit of the close delimiter while the model thinks.
        forbidden_first_ids: tokens that the first new one must not be.
        response_tokens: how much of the prompt's end is an earlier part of the response.
    """

    close_after_tokens: int | None = None
    min_thinking_tokens: int = 0
    close_bias: float = 0.0
    forbidden_first_ids: tuple[int, ...] = ()
    response_tokens: int = 0

    @classmethod
    def read(cls, arguments: Mapping | None) -> Rules | None:
        """Those among a request's extra arguments, which may belong to others; None where there are none.

        Raises:
            BadInput: a name of ours with a value that it cannot have, or one that is almost ours.
        """
        arguments = arguments or {}
        ours = {name: arguments[name] for name in _NAMES if name in arguments}
        for name in arguments.keys() - ours.keys():
            if (hint := near(name, _NAMES)).startswith(", did"):
                raise BadInput(f"Unknown argument {name!r}{hint}")
        for name, value in ours.items():
            if name == "forbidden_first_ids":
                valid = isinstance(value, list | tuple) and all(type(token) is int for token in value)
            elif name == "close_bias":
                valid = type(value) in (int, float)
            else:
                valid = type(value) is int and value >= 0
            if not valid:
                raise BadInput(f"{name} is {value!r}; give {_KINDS.get(name, 'a whole number of at least 0')}.")
        if "forbidden_first_ids" in ours:
            ours["forbidden_first_ids"] = tuple(ours["forbidden_first_ids"])
        return cls(**ours) if ours else None


_KINDS = {"forbidden_first_ids": "a list of token ids", "close_bias": "a number"}


class Guard:
    """Follows one response.

    Args:
        rules: of the request.
        thinking: the model's delimiters, each of them one id.
        prompt_ids: of the request, an earlier part of the response included.

    Attributes:
        count: new tokens that were read.
        forced: the places of those that had to be what they are; none where thinking was not closed by force.
    """

    def __init__(self, rules: Rules, thinking: ThinkingFormat, prompt_ids: Sequence[int]):
        self.rules = rules
        self.thinking = thinking
        begin = len(prompt_ids) - rules.response_tokens
        self.phase, self.blanks = thinking.states(prompt_ids[begin:], prompt_ids[:begin])[-1]
        self.count = 0
        self.forced: list[int] = []
        self._suffix: list[int] = []  # what is still to be forced, the last one first

    def forces(self) -> int | None:
        """The token that has to come next; None where the model may choose."""
        if not self._suffix and self.count == self.rules.close_after_tokens and self.phase in ("unbegun", "thinking"):
            ids = self.thinking.closing() if self.phase == "thinking" else self.thinking.empty()
            self._suffix = ids[::-1]
        return self._suffix[-1] if self._suffix else None

    def forbids(self) -> list[int]:
        """The tokens that must not come next."""
        rules, thinking, forbidden = self.rules, self.thinking, []
        if self.count == 0:
            forbidden += rules.forbidden_first_ids
        is_early = self.phase == "thinking" and self.count < rules.min_thinking_tokens
        if is_early:
            forbidden += [thinking.close_ids[0], *thinking.tool_ids]
        if rules.close_after_tokens is None:
            return [*forbidden, *thinking.eos_ids] if is_early else forbidden
        if self.phase != "answering":
            forbidden += thinking.eos_ids
        if self.phase == "closed" and self.blanks >= thinking.blank_allowance:
            forbidden += thinking.blank_ids
        if self.phase in ("closed", "answering") and self.count >= rules.close_after_tokens:
            forbidden += [thinking.open_ids[0], thinking.close_ids[0]]
        return forbidden

    def bias(self) -> dict[int, float]:
        """What is added to logits, by token id."""
        thinks = self.rules.close_bias and self.phase == "thinking"
        return {self.thinking.close_ids[0]: self.rules.close_bias} if thinks else {}

    def read(self, token: int) -> None:
        """Take note of the token that has come."""
        if self.forces() is not None:
            self._suffix.pop()
            self.forced.append(self.count)
        thinking = self.thinking
        if token == thinking.open_ids[0]:
            self.phase = "thinking"
        elif token == thinking.close_ids[0]:
            self.phase, self.blanks = "closed", 0
        elif self.phase == "thinking":
            self.phase = "answering" if token in thinking.tool_ids else "thinking"
        elif token not in thinking.blank_ids:
            self.phase = "answering"
        elif self.phase == "closed":
            self.blanks += 1
        self.count += 1


def replay(guard: Guard, ids: Sequence[int]) -> int | None:
    """Read a finished response; where it breaks the rules for the first time, or None."""
    for place, token in enumerate(ids):
        forced = guard.forces()
        if token != forced if forced is not None else token in guard.forbids():
            return place
        guard.read(token)
    return None
