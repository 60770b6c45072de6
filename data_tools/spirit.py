"""Drop the steps of a chain that the model itself does not miss: SPIRIT (arXiv 2502.13260).

1. A step matters as much as the perplexity grows when it is gone. Of all steps the one is dropped without which the
   perplexity of the response is lowest, then again, until the next would raise it above `max_perplexity_ratio` times
   the first perplexity, or `keep_ratio` is reached. One step and the answer always stay.
2. The perplexity is that of the paper: of the whole response that is left, chain and answer, after the question, to
   the model that `model` names. All candidates of many traces are scored in common batches.
3. The paper also merges steps, by a second model that rewrites them; here they are only dropped.
4. `order: random` drops steps by lot, of each trace as many tokens as by this rule: the control of equal length.

    efficient-reasoning data spirit --config configs/data/spirit_overthinker.yaml
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, training_row
from efficient_reasoning.compression.chains import Unit, first_usable
from efficient_reasoning.compression.steps import Step, steps_of, without
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner

_CHUNK_PROBLEMS = 16  # which are scored together; progress is saved behind them
_SCORED_TOKENS = 1 << 15  # most of one call of the engine


@dataclass(kw_only=True)
class SpiritArguments(CompressionArguments):
    """Which steps go, and when it is enough."""

    model: str = field(metadata={"help": "Folder or Hub id of the model that scores; its tokenizer is the traces'."})
    order: Literal["perplexity", "random"] = field(
        default="perplexity", metadata={"help": "Least important step first, or by lot (the control)."}
    )
    max_perplexity_ratio: float | None = field(
        default=None, metadata={"help": "Most perplexity / that of the whole response; null for any."}
    )
    keep_ratio: float | None = field(
        default=None, metadata={"help": "Total tokens to come down to, as a share of the trace's; null for any."}
    )
    unit: Literal["sentence", "line", "paragraph"] | None = field(
        default=None, metadata={"help": "What a step is; null for paragraphs where there are several, else sentences."}
    )
    max_traces: int | None = field(default=None, metadata={"help": "Most traces of a problem; the first usable ones."})
    steps_per_round: int = field(
        default=1, metadata={"help": "Steps dropped before the rest is scored again; more is faster for long chains."}
    )
    max_tokens: int | None = field(default=None, metadata={"help": "Longer traces are left out."})
    seed: int = field(default=0, metadata={"help": "Of the lot."})
    backend: str = field(default="auto", metadata={"help": "What scores, as for evaluate."})

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise BadInput(f"keep_ratio is {self.keep_ratio}; it must lie in (0, 1].")
        if self.max_perplexity_ratio is not None and self.max_perplexity_ratio <= 0:
            raise BadInput(f"max_perplexity_ratio is {self.max_perplexity_ratio}; give a positive number.")
        if self.keep_ratio is None and self.max_perplexity_ratio is None:
            raise BadInput("Nothing says when to stop dropping steps; give max_perplexity_ratio or keep_ratio.")
        for name in ("steps_per_round", "max_traces"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; give at least 1.")


@dataclass
class _Chain:
    """A trace on its way: `steps` between `head` (prompt and open delimiter) and `tail` (close and answer)."""

    trace: Mapping
    head: list[int]
    steps: list[Step]
    tail: list[int]
    source_steps: int
    total_tokens: int
    first_perplexity: float | None = None
    before: tuple[list[Step], int] | None = None  # `steps` and `total_tokens` before the last round
    steps_a_round: int | None = None  # where it is less than what was asked for

    @property
    def ids(self) -> list[int]:
        """Of the steps."""
        return list(chain.from_iterable(step.ids for step in self.steps))

    def drop(self, place: int, reader: Reader) -> None:
        before = len(self.ids)
        self.steps = without(self.steps, place, reader)
        self.total_tokens -= before - len(self.ids)

    def droppable(self, keep_ratio: float | None) -> list[int]:
        """The steps without which a step is left, and the length comes nearer to what is asked for."""
        if len(self.steps) == 1:
            return []
        if keep_ratio is None:
            return list(range(len(self.steps)))
        excess = self.total_tokens - keep_ratio * self.trace["total_tokens"]
        return [place for place, step in enumerate(self.steps) if abs(excess - len(step.ids)) < abs(excess)]


def spirit(
    rows: Iterable[Mapping],
    engine: Reasoner | None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    order: Literal["perplexity", "random"] = "perplexity",
    max_perplexity_ratio: float | None = None,
    keep_ratio: float | None = None,
    unit: Unit | None = None,
    steps_per_round: int = 1,
    max_traces: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row for each correct trace.

    Args:
        rows: traces, those of a problem together; all of them are scored together, and stay in memory.
        engine: the model that scores; needed unless steps are dropped by lot down to `keep_ratio` alone.
        thinking: the delimiters of the traces' tokenizer.
        rejected: counts traces that give no row.
        order: "perplexity", or "random" for the control.
        max_perplexity_ratio: perplexity of what may be left / perplexity of the whole response.
        keep_ratio: total tokens of what is left / total tokens of the trace, come as near as whole steps allow.
        unit: of steps, as for `split_steps`.
        steps_per_round: how many are dropped on one scoring.
        max_traces: of a problem; the first usable ones.
        max_tokens: of a trace, in total.
        seed: of the lot; it does not depend on the order of the rows.

    Yields:
        the columns of `training_row`, `steps` and `source_steps`.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    rejected = Counter() if rejected is None else rejected
    reader = Reader(thinking)
    chains: list[_Chain] = []
    for traces in by_problem(same_tokenizer(rows, thinking)):
        usable = first_usable(traces, thinking, rejected, max_tokens, max_traces)
        chains += [_chain(trace, reader, unit) for trace in usable]
    if order == "perplexity" or max_perplexity_ratio is not None:
        limit_tokens = math.inf if engine.context_tokens is None else engine.context_tokens
        fitting = [each for each in chains if len(each.trace["prompt_ids"]) + each.total_tokens <= limit_tokens]
        rejected += Counter({"too long to be scored": len(chains) - len(fitting)})
        chains = fitting
        active = [each for each in chains if len(each.steps) > 1]
        while active:
            perplexities = list(_perplexities(engine, active, reader))
            active = [
                each
                for each, (whole, candidates) in zip(active, perplexities, strict=True)
                if _drop_least(each, whole, candidates, reader, max_perplexity_ratio, keep_ratio, steps_per_round)
            ]
    if order == "random":
        chains = [_dropped_by_lot(each, reader, unit, max_perplexity_ratio, keep_ratio, seed) for each in chains]
    for each in chains:
        text = thinking.tokenizer.decode(each.ids, clean_up_tokenization_spaces=False).strip()
        counts = {"steps": len(each.steps), "source_steps": each.source_steps}
        method = "spirit" if order == "perplexity" else "random_steps"
        yield training_row(each.trace, thinking, text, method=method, **counts)


def _chain(trace: Mapping, reader: Reader, unit: Unit | None) -> _Chain:
    thinking, prompt_ids = reader.thinking, trace["prompt_ids"]
    split = thinking.split(trace["completion_ids"], prompt_ids)
    steps = steps_of(split.thinking_ids, reader, unit)
    return _Chain(
        trace,
        head=[*prompt_ids, *thinking.open(prompt_ids)],
        steps=steps,
        tail=[*thinking.closing(), *split.answer_ids],
        source_steps=len(steps),
        total_tokens=trace["total_tokens"],
    )


def _dropped_by_lot(
    each: _Chain,
    reader: Reader,
    unit: Unit | None,
    max_perplexity_ratio: float | None,
    keep_ratio: float | None,
    seed: int,
) -> _Chain:
    """The whole chain again, and by lot made as short as it has become, or else as `keep_ratio` says."""
    if max_perplexity_ratio is not None:
        keep_ratio = each.total_tokens / each.trace["total_tokens"]
    lot = random.Random(f"{seed}/{each.trace['id']}/{each.trace['seed']}")
    each = _chain(each.trace, reader, unit)
    while places := each.droppable(keep_ratio):
        each.drop(lot.choice(places), reader)
    return each


def _drop_least(
    each: _Chain,
    whole: float,
    candidates: list[float],
    reader: Reader,
    max_perplexity_ratio: float | None,
    keep_ratio: float | None,
    count: int,
) -> bool:
    """Drop up to `count` steps, least important first; whether there may be more.

    Args:
        each: whose `first_perplexity` is set in the first round.
        whole: its perplexity now.
        candidates: its perplexity without each step.
    """
    each.first_perplexity = each.first_perplexity or whole
    limit = math.inf if max_perplexity_ratio is None else max_perplexity_ratio * each.first_perplexity
    if whole > limit * (1 + 1e-6) and each.before:  # steps that may each go, and not together
        each.steps, each.total_tokens = each.before
        each.steps_a_round = 1
        return True
    each.before = each.steps, each.total_tokens
    for dropped in range(each.steps_a_round or count):
        least = min(each.droppable(keep_ratio), key=candidates.__getitem__, default=None)
        if least is None or candidates[least] > limit:
            return dropped > 1 and limit < math.inf  # is looked at once more
        each.drop(least, reader)
        del candidates[least]
    return True


def _perplexities(engine: Reasoner, chains: Sequence[_Chain], reader: Reader) -> Iterator[tuple[float, list[float]]]:
    """Of each chain, the perplexity of its response, and those without each of its steps."""

    def pairs() -> Iterator[tuple[list[int], list[int]]]:
        for each in chains:
            yield each.head, [*each.ids, *each.tail]
            for place in range(len(each.steps)):
                left = [*chain.from_iterable(step.ids for step in without(each.steps, place, reader)), *each.tail]
                same_tokens = sum(len(step.ids) for step in each.steps[:place])  # are as likely as they were
                yield [*each.head, *left[:same_tokens]], left[same_tokens:]

    logprobs = _scored(engine, pairs())
    for each in chains:
        whole = next(logprobs)
        ends = [0]
        for step in each.steps:
            ends.append(ends[-1] + len(step.ids))
        candidates = [
            math.exp(-(sum(whole[:end]) + sum(rest)) / (end + len(rest)))
            for end, rest in zip(ends, (next(logprobs) for _ in each.steps), strict=False)
        ]
        yield math.exp(-sum(whole) / len(whole)), candidates


def _scored(engine: Reasoner, pairs: Iterable[tuple[list[int], list[int]]]) -> Iterator[list[float]]:
    """Log-probabilities of continuations, a few tens of thousands of tokens at a time."""
    batch: list[tuple[list[int], list[int]]] = []
    tokens = 0
    for prefix, ids in pairs:
        if batch and tokens + len(prefix) + len(ids) > _SCORED_TOKENS:
            yield from (score.logprobs for score in engine.engine.score(batch))
            batch, tokens = [], 0
        batch.append((prefix, ids))
        tokens += len(prefix) + len(ids)
    yield from (score.logprobs for score in engine.engine.score(batch))


def main(argv: list[str] | None = None) -> None:
    arguments = parse(SpiritArguments, argv=argv, doc=__doc__)

    if arguments.order == "random" and arguments.max_perplexity_ratio is None:
        compress(arguments, spirit, thinking=load_thinking(arguments.model))
        return
    from efficient_reasoning.inference import load_reasoner
    from efficient_reasoning.inference.engine import SCORE

    reasoner = load_reasoner(arguments.model, arguments.backend)
    if SCORE not in reasoner.engine.capabilities:
        raise BadInput(f"backend {reasoner.backend} cannot score text; use graph, transformers or vllm.")
    compress(arguments, spirit, reasoner, chunk_problems=_CHUNK_PROBLEMS, thinking=reasoner.thinking)


if __name__ == "__main__":
    run(main)
