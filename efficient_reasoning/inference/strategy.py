"""Strategies decide what a model is made to do for one problem; a scheduler keeps the batch full.

1. A strategy is a generator: it yields batches of requests, is sent their completions, and returns one response. It
   never sees the engine, so any strategy runs on any engine, and tests drive it by hand.
2. `run_all` advances the strategies of many problems side by side and decodes what they ask for in common batches,
   one for each model that they ask. Meanwhile these hold what they read (`prefixes`).
3. Whatever a strategy asks for is charged to its problem's ledger, and latents of its prompts once (`charge_latents`).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, get_args, get_origin, get_type_hints

from efficient_reasoning.answers import extract_answer
from efficient_reasoning.config import read_value, split_parameters
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.inference.engine import (
    Completion,
    Engine,
    ForcedClose,
    Rated,
    Rater,
    Rating,
    Request,
    Sampling,
    keeping,
    single_samples,
)
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
        history: messages before the question.
        engine: decodes it, where that is another model's than the one that was asked.
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
    history: Sequence[Mapping] = ()
    engine: Engine | None = None

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
        return Request(
            prompt_ids,
            max_new_tokens,
            self.sampling,
            self.seed,
            offset=len(ids),
            forced_close=close,
            engine=self.engine,
        )

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
Asked = Request | Rating
# Yields requests, and is sent all of their samples; what it wants to be judged, and is sent the judgements.
Exchange = Generator[list[Asked], list[Completion | Rated], Result]
Steps = Exchange[Response]


class Strategy(Protocol):
    """How to spend a budget on one problem.

    A class may name as `needs` the capabilities that an engine must have for it. One that asks others beside the model
    has a method `bind` instead, which is given the reasoner and returns a strategy (`Bound`).
    """

    def solve(self, assignment: Assignment) -> Steps:
        """Yield batches of requests, receive their completions, return the response."""
        ...


@dataclass(frozen=True)
class Bound:
    """A strategy with whatever it was bound to."""

    solve: Callable[[Assignment], Steps]


def final_answer(assignment: Assignment, response: Response) -> str | None:
    """What a response votes for, in a form in which equal answers are equal strings; None where there is none."""
    prompt_ids = response.prompt_ids or assignment.prompt_ids
    answer_ids = assignment.thinking.split(response.ids, prompt_ids).answer_ids
    return extract_answer("agrees_with_base", assignment.thinking.tokenizer.decode(answer_ids))


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
    if name not in STRATEGIES:
        raise BadInput(f"Unknown strategy {name!r}{near(name, STRATEGIES)}")
    module, _, cls = STRATEGIES[name].partition(":")
    chosen = getattr(importlib.import_module(f"efficient_reasoning.inference.{module}"), cls)
    accepted = inspect.signature(chosen).parameters
    for key in (*given, *parameters):
        if key not in accepted:
            raise BadInput(f"Strategy {name!r} has no parameter {key!r}{near(key, list(accepted))}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in given and key not in parameters:
            raise BadInput(f"Strategy {name!r} needs {key}; write {name}?{key}=VALUE.")
    hints = get_type_hints(chosen)
    # Where text may stand for an object, what is written is text: a folder may be called 100.
    is_text = {key: str in get_args(hint) and get_origin(hint) is not tuple for key, hint in hints.items()}
    hints = {key: str if is_text[key] else hint for key, hint in hints.items()}
    written = {key: read_value(f"Strategy {name!r}: {key}", hints[key], text) for key, text in given.items()}
    return chosen(**written, **parameters)


STRATEGIES = {  # imported when they are asked for
    "adaptive-consistency": "search.voting:AdaptiveConsistency",
    "beam-search": "search.beam_search:BeamSearch",
    "best-of-n": "search.reranking:BestOfN",
    "budget-forcing": "budget_forcing:BudgetForcing",
    "cascade": "switching.cascade:Cascade",
    "chain-of-draft": "chain_of_draft:ChainOfDraft",
    "close-scaling": "close_scaling:CloseScaling",
    "control": "control:Control",
    "control-switch": "switching.switch:ControlSwitch",
    "deer": "deer:Deer",
    "dynasor": "dynasor:Dynasor",
    "l1-exact": "l1:L1Exact",
    "l1-max": "l1:L1Max",
    "no-thinking": "no_thinking:NoThinking",
    "planned": "planned:Planned",
    "probe-switch": "switching.switch:ProbeSwitch",
    "rebase": "search.rebase:Rebase",
    "router": "switching.cascade:Router",
    "self-consistency": "search.voting:SelfConsistency",
    "sequential-revision": "search.revision:SequentialRevision",
    "spec-reason": "switching.spec_reason:SpecReason",
    "tale-estimate": "tale:TaleEstimate",
    "tale-search": "tale:TaleSearch",
    "weighted-vote": "search.reranking:WeightedVote",
}


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
            if isinstance(request, Rating) or request.engine is not None:
                continue  # another's, which reads no latents
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
    inbox: dict[int, list[Completion | Rated] | None] = dict.fromkeys(range(len(steps)))
    with contextlib.ExitStack() as run:
        kept: dict[int, Engine | Rater] = {}

        def keep(reads: Engine | Rater) -> None:
            if id(reads) not in kept:
                kept[id(reads)] = reads
                run.enter_context(keeping(reads))

        while inbox:
            asked: dict[int, list[Asked]] = {}
            for index, answers in inbox.items():
                try:
                    asked[index] = steps[index].send(answers)
                except StopIteration as stop:
                    results[index] = stop.value
            if progress is not None and len(asked) < len(inbox):
                progress(len(inbox) - len(asked))
            inbox = _decode(engine, asked, keep)
    return results


def _decode(
    engine: Engine, asked: Mapping[int, Sequence[Asked]], keep: Callable[[Engine | Rater], object]
) -> dict[int, list[Completion | Rated]]:
    """What everybody asked for, by who asked; those whom it is for are asked once each, and keep what they read."""
    requests = [(index, request) for index, own in asked.items() for request in own]
    groups: dict[int, list[int]] = {}
    for place, (_, request) in enumerate(requests):
        groups.setdefault(id(_addressee(request)), []).append(place)
    answered: dict[int, list[Completion | Rated]] = {}
    for places in groups.values():
        group = [requests[place][1] for place in places]
        if isinstance(group[0], Rating):
            keep(group[0].rater)
            answers = iter(group[0].rater.rate(group))
        else:
            decoder = group[0].engine or engine
            keep(decoder)
            answers = iter(decoder.generate([replace(request, engine=None) for request in group]))
        for place, request in zip(places, group, strict=True):
            answered[place] = [next(answers) for _ in range(request.n)]
    inbox: dict[int, list[Completion | Rated]] = {index: [] for index in asked}
    for place, (index, _) in enumerate(requests):
        inbox[index] += answered[place]
    return inbox


def _addressee(request: Asked) -> object | None:
    return request.rater if isinstance(request, Rating) else request.engine
