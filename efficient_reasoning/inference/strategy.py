"""Strategies decide what a model is made to do for one problem; a scheduler keeps the batch full.

1. A strategy is a generator: it yields batches of requests, is sent their completions, and returns one response. It
   never sees the engine, so any strategy runs on any engine, and tests drive it by hand.
2. `run_all` advances the strategies of many problems side by side and decodes what they ask for in common batches.
3. Whatever a strategy asks for is charged to its problem's ledger.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.inference.engine import Completion, Engine, Request, Sampling
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class Assignment:
    """One problem as a strategy sees it.

    Attributes:
        prompt_ids: the rendered prompt.
        thinking: the model's delimiters.
        budget_tokens: most tokens to decode or force for this problem; None for no budget.
        max_new_tokens: most tokens of one chain when there is no budget.
        sampling: how tokens are drawn.
        seed: of this problem; requests of a strategy derive theirs from it.
    """

    prompt_ids: list[int]
    thinking: ThinkingFormat
    budget_tokens: int | None
    max_new_tokens: int
    sampling: Sampling
    seed: int

    @property
    def limit_tokens(self) -> int:
        return self.max_new_tokens if self.budget_tokens is None else self.budget_tokens

    def request(self, ids: Sequence[int], max_new_tokens: int) -> Request:
        """Continue the response `ids`. Its length makes the seed differ from that of the part before."""
        return Request([*self.prompt_ids, *ids], max_new_tokens, self.sampling, self.seed + len(ids))


@dataclass
class Response:
    """What a strategy made of a problem.

    Attributes:
        ids: the response in order, forced tokens and EOS included.
        finished: it ends with EOS.
        forced_close: the thinking was closed from outside.
        spend: everything it took.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    forced_close: bool = False
    spend: Ledger = field(default_factory=Ledger)

    def append(self, completion: Completion) -> None:
        self.ids += completion.ids
        self.finished = completion.finished
        self.spend += completion.spend

    def force(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.spend += Ledger(forced_tokens=len(ids))


Steps = Generator[list[Request], list[Completion], Response]


class Strategy(Protocol):
    """How to spend a budget on one problem."""

    def solve(self, assignment: Assignment) -> Steps:
        """Yield batches of requests, receive their completions, return the response."""
        ...


def answer_reserve(assignment: Assignment, answer_reserve_tokens: int | None = None) -> int:
    """The part of a budget that is kept for closing the thinking and answering.

    Args:
        assignment: with a budget.
        answer_reserve_tokens: what was asked for; by default an eighth of the budget, and at least an empty block plus
            four tokens.

    Raises:
        BadInput: the reserve does not hold what it may have to force, or the budget is not larger than it.
    """
    budget_tokens = assignment.budget_tokens
    # The most that may have to be forced: both delimiters, when the chain is blank.
    forced_tokens = len(assignment.thinking.empty())
    reserve_tokens = answer_reserve_tokens
    if reserve_tokens is None:
        reserve_tokens = max(budget_tokens // 8, forced_tokens + 4)
    if reserve_tokens <= forced_tokens:
        raise BadInput(
            f"answer_reserve_tokens is {reserve_tokens}, but closing the thinking may take {forced_tokens}; "
            f"give at least {forced_tokens + 1}."
        )
    if budget_tokens <= reserve_tokens:
        raise BadInput(
            f"budget_tokens is {budget_tokens}, of which {reserve_tokens} are reserved for the answer; "
            f"give at least {reserve_tokens + 1}."
        )
    return reserve_tokens


def get_strategy(name: str, **parameters) -> Strategy:
    """A strategy by its name in kebab case, such as "budget-forcing".

    Raises:
        BadInput: unknown name or parameter; near names are listed.
    """
    from efficient_reasoning.inference.budget_forcing import BudgetForcing
    from efficient_reasoning.inference.dynasor import Dynasor
    from efficient_reasoning.inference.no_thinking import NoThinking

    known = {"budget-forcing": BudgetForcing, "dynasor": Dynasor, "no-thinking": NoThinking}
    if name not in known:
        raise BadInput(f"Unknown strategy {name!r}{near(name, known)}")
    accepted = list(inspect.signature(known[name]).parameters)
    for key in parameters:
        if key not in accepted:
            raise BadInput(f"Strategy {name!r} has no parameter {key!r}{near(key, accepted)}")
    return known[name](**parameters)


def run_all(engine: Engine, steps: Sequence[Steps], progress: Callable[[int], None] | None = None) -> list[Response]:
    """Drive the strategies of many problems to their end, decoding their requests together.

    Args:
        engine: decodes.
        steps: started by nobody yet, one a problem.
        progress: told how many more problems are done.
    """
    responses: list[Response | None] = [None] * len(steps)
    inbox: dict[int, list[Completion] | None] = dict.fromkeys(range(len(steps)))
    while inbox:
        batch: list[Request] = []
        asked: dict[int, int] = {}
        for index, completions in inbox.items():
            try:
                requests = steps[index].send(completions)
            except StopIteration as stop:
                responses[index] = stop.value
                continue
            asked[index] = len(requests)
            batch += requests
        if progress is not None and len(asked) < len(inbox):
            progress(len(inbox) - len(asked))
        decoded = iter(engine.generate(batch) if batch else [])
        inbox = {index: [next(decoded) for _ in range(count)] for index, count in asked.items()}
    return responses
