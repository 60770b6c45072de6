"""Strategies decide what a model is made to do for one problem; a scheduler keeps the batch full.

1. A strategy is a generator: it yields batches of requests, is sent their completions, and returns one response. It
   never sees the engine, so any strategy runs on any engine, and tests drive it by hand.
2. `run_all` advances the strategies of many problems side by side and decodes what they ask for in common batches.
3. Whatever a strategy asks for is charged to its problem's ledger, and latents of its prompts once (`charge_latents`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, get_type_hints

from efficient_reasoning.config import read_value, split_parameters
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.inference.engine import Completion, Engine, ForcedClose, Request, Sampling, single_samples
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class Assignment:
    """One problem as a strategy sees it.

    Attributes:
        prompt_ids: the rendered prompt.
        thinking: the model's delimiters.
        budget_tokens: most tokens to decode or force for this problem, the latents of one prompt aside; None for no
            budget.
        max_new_tokens: most tokens of one chain when there is no budget.
        sampling: how tokens are drawn.
        seed: of this problem.
        question: what is asked.
        render: any wording of a question -> its prompt; `render(question)` is `prompt_ids`.
        latents: how many end every prompt; who asks in other words besides leaves room for theirs (`charge_latents`).
    """

    prompt_ids: list[int]
    thinking: ThinkingFormat
    budget_tokens: int | None
    max_new_tokens: int
    sampling: Sampling
    seed: int
    question: str
    render: Callable[[str], list[int]]
    latents: int = 0

    @property
    def limit_tokens(self) -> int:
        return self.max_new_tokens if self.budget_tokens is None else self.budget_tokens

    def request(self, ids: Sequence[int], max_new_tokens: int, think_tokens: int | None = None) -> Request:
        """Continue the response `ids`; under a budget, close the thinking after `think_tokens` new ones (or never),
        and do not let it end without an answer.
        """
        close = None
        if self.budget_tokens is not None:
            close = ForcedClose(max_new_tokens if think_tokens is None else max(0, think_tokens), self.thinking)
        prompt_ids = [*self.prompt_ids, *ids]
        return Request(prompt_ids, max_new_tokens, self.sampling, self.seed, offset=len(ids), forced_close=close)

    def probe(self, ids: Sequence[int], max_new_tokens: int) -> Request:
        """Try out, greedily, which answer follows `ids`, behind which the thinking is closed."""
        request = self.request(ids, max_new_tokens)
        blank_or_end = self.thinking.eos_ids | self.thinking.blank_ids
        return replace(request, sampling=Sampling(temperature=0), forced_close=None, forbidden_first_ids=blank_or_end)


@dataclass
class Response:
    """What a strategy made of a problem.

    Attributes:
        ids: the response in order, forced tokens and EOS included.
        finished: it ends with EOS.
        forced_close: the thinking was closed from outside.
        spend: everything it took.
        prompt_ids: the prompt that it follows, where the strategy worded the question itself.
        latent_tokens: latents, or pauses, before it; charged, and none of `ids`.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    forced_close: bool = False
    spend: Ledger = field(default_factory=Ledger)
    prompt_ids: list[int] | None = None
    latent_tokens: int = 0

    def append(self, completion: Completion) -> None:
        self.ids += completion.ids
        self.finished = completion.finished
        self.forced_close |= completion.was_closed
        self.spend += completion.spend

    def force(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.spend += Ledger(forced_tokens=len(ids))


Result = TypeVar("Result")
Exchange = Generator[list[Request], list[Completion], Result]  # yields requests, is sent all of their samples
Steps = Exchange[Response]


class Strategy(Protocol):
    """How to spend a budget on one problem.

    A class may name as `needs` the capabilities that an engine must have for it.
    """

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
        latents = assignment.latents  # which the budget that was given holds, too
        taken = f" and {latents} taken by latents" if latents else ""
        raise BadInput(
            f"budget_tokens is {budget_tokens + latents}, of which {reserve_tokens} are reserved for the answer"
            f"{taken}; give at least {reserve_tokens + latents + 1}."
        )
    return reserve_tokens


def think_limit(assignment: Assignment, answer_reserve_tokens: int | None = None) -> int:
    """How many tokens may be spent before the answer: the budget less its reserve, and without a budget all of a
    chain, which then thinks to its own end.

    Raises:
        BadInput: as `answer_reserve`.
    """
    if assignment.budget_tokens is None:
        return assignment.max_new_tokens
    return assignment.budget_tokens - answer_reserve(assignment, answer_reserve_tokens)


def check_capabilities(
    name: str, strategy: Strategy, engine: Engine, backend: str, backends: Mapping[str, frozenset[str]]
) -> None:
    """Refuse a strategy that an engine cannot run, before it starts.

    Args:
        name: of the strategy.
        strategy: one that may name its `needs`.
        engine: which is to run it.
        backend: name of the engine's backend.
        backends: what each backend is capable of, to name those that can.

    Raises:
        BadInput: the engine lacks a capability that the strategy needs.
    """
    needs = getattr(strategy, "needs", frozenset())
    if missing := sorted(needs - engine.capabilities):
        able = [other for other, capabilities in backends.items() if needs <= capabilities]
        raise BadInput(
            f"Strategy {name!r} needs {' and '.join(missing)}, which backend {backend} does not have; "
            f"use {' or '.join(able)}."
        )


def get_strategy(name: str, **parameters) -> Strategy:
    """A strategy by its name in kebab case, such as "budget-forcing".

    Args:
        name: its parameters may stand behind it as in a URL: "budget-forcing?waits=1&wait_text=Hmm".
        parameters: those that do not.

    Raises:
        BadInput: unknown name or parameter, or a value that the parameter does not take; near names are listed.
    """
    name, given = split_parameters(name)
    from efficient_reasoning.inference.budget_forcing import BudgetForcing
    from efficient_reasoning.inference.chain_of_draft import ChainOfDraft
    from efficient_reasoning.inference.close_scaling import CloseScaling
    from efficient_reasoning.inference.control import Control
    from efficient_reasoning.inference.deer import Deer
    from efficient_reasoning.inference.dynasor import Dynasor
    from efficient_reasoning.inference.l1 import L1Exact, L1Max
    from efficient_reasoning.inference.no_thinking import NoThinking
    from efficient_reasoning.inference.tale import TaleEstimate, TaleSearch

    known = {
        "budget-forcing": BudgetForcing,
        "chain-of-draft": ChainOfDraft,
        "close-scaling": CloseScaling,
        "control": Control,
        "deer": Deer,
        "dynasor": Dynasor,
        "l1-exact": L1Exact,
        "l1-max": L1Max,
        "no-thinking": NoThinking,
        "tale-estimate": TaleEstimate,
        "tale-search": TaleSearch,
    }
    if name not in known:
        raise BadInput(f"Unknown strategy {name!r}{near(name, known)}")
    accepted = inspect.signature(known[name]).parameters
    for key in (*given, *parameters):
        if key not in accepted:
            raise BadInput(f"Strategy {name!r} has no parameter {key!r}{near(key, list(accepted))}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in given and key not in parameters:
            raise BadInput(f"Strategy {name!r} needs {key}; write {name}?{key}=VALUE.")
    hints = get_type_hints(known[name])
    written = {key: read_value(f"Strategy {name!r}: {key}", hints[key], text) for key, text in given.items()}
    return known[name](**written, **parameters)


def charge_latents(steps: Steps, latents: int) -> Steps:
    """The same steps, charged for the latents, or pauses, that end every prompt.

    They are decoded tokens of the first request that reads a prompt, whatever is forced behind it by then, and part of
    the prompt for those that go on from there. A strategy is not shown the charge of its first prompt, which its
    budget is already without; that of any further one is in the spend of the completion.

    Args:
        steps: a strategy at work; engines charge it latents as part of prompts.
        latents: how many end a prompt.
    """
    if not latents:
        return (yield from steps)
    read: set[tuple[int, ...]] = set()
    unshown, completions = Ledger(), None
    while True:
        try:
            requests = steps.send(completions)
        except StopIteration as stop:
            stop.value.spend += unshown
            stop.value.latent_tokens = latents if read else 0
            return stop.value
        completions = list((yield requests))
        for index, request in enumerate(single_samples(requests)):
            prompt = tuple(request.prompt_ids[: len(request.prompt_ids) - request.offset])
            if prompt in read:
                continue
            spend = completions[index].spend
            shown = 0 if not read else latents
            unshown.decoded_tokens += latents - shown
            completions[index] = replace(  # who recalls completions may give this one again
                completions[index],
                spend=replace(
                    spend,
                    prompt_tokens=spend.prompt_tokens - latents,
                    computed_prompt_tokens=max(0, spend.computed_prompt_tokens - latents),
                    decoded_tokens=spend.decoded_tokens + shown,
                ),
            )
            read.add(prompt)


def run_all(
    engine: Engine, steps: Sequence[Exchange[Result]], progress: Callable[[int], None] | None = None
) -> list[Result]:
    """Drive exchanges, such as the strategies of many problems, to their end, decoding their requests together.

    Args:
        engine: decodes.
        steps: started by nobody yet, one a problem.
        progress: told how many more problems are done.
    """
    results: list[Result | None] = [None] * len(steps)
    inbox: dict[int, list[Completion] | None] = dict.fromkeys(range(len(steps)))
    while inbox:
        batch: list[Request] = []
        asked: dict[int, int] = {}
        for index, completions in inbox.items():
            try:
                requests = steps[index].send(completions)
            except StopIteration as stop:
                results[index] = stop.value
                continue
            asked[index] = sum(request.n for request in requests)
            batch += requests
        if progress is not None and len(asked) < len(inbox):
            progress(len(inbox) - len(asked))
        decoded = iter(engine.generate(batch) if batch else [])
        inbox = {index: [next(decoded) for _ in range(count)] for index, count in asked.items()}
    return results
