"""How often is the answer right that comes of this beginning? Rows that train a process verifier, by sampling on.

1. Math-Shepherd (arXiv 2312.08935): from the end of a step the model goes on to an answer `continuations` times; the
   share of them that are right is the value of that step. At a trace's own end it is whether its answer is right.
2. Right and wrong traces are used alike, up to `traces_per_problem` by lot. Of each, up to `steps_per_trace` steps are
   sampled on from, by lot too, which bounds what a row costs. A trace that was cut off has no end to be right at.
3. A row holds the ids that the model read and wrote, and where in them steps end (`inference/search/steps.py`): a
   verifier is trained at the very ids at which it will be asked.

    efficient-reasoning data step_values --config configs/data/step_values_overthinker.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.tokenizer import same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from efficient_reasoning.inference import Completion, Reasoner

_CHUNK_PROBLEMS = 16  # whose continuations are decoded together; progress is saved behind them


@dataclass(kw_only=True)
class StepValuesArguments(CompressionArguments):
    """Who goes on, how often, and from where."""

    model: str = field(metadata={"help": "Folder or Hub id that goes on; its tokenizer is the traces'."})
    traces_per_problem: int = field(default=4, metadata={"help": "Traces of a problem that give a row, by lot."})
    steps_per_trace: int = field(default=4, metadata={"help": "Steps of a trace to go on from, by lot."})
    continuations: int = field(default=8, metadata={"help": "How often to go on from each."})
    max_new_tokens: int = field(default=512, metadata={"help": "Most tokens of a response, its beginning included."})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus; 1 keeps every token."})
    top_k: int = field(default=0, metadata={"help": "Candidates kept; 0 keeps every token."})
    backend: str = field(default="auto", metadata={"help": "What decodes, as for evaluate."})
    seed: int = field(default=0, metadata={"help": "Of the lots and of every continuation."})

    def __post_init__(self) -> None:
        for name in ("traces_per_problem", "steps_per_trace", "continuations", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1.")


def step_values(
    rows: Iterable[Mapping],
    engine: Reasoner,
    *,
    rejected: Counter[str] | None = None,
    traces_per_problem: int = 4,
    steps_per_trace: int = 4,
    continuations: int = 8,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[dict]:
    """Up to `traces_per_problem` rows a problem.

    Args:
        rows: traces, those of a problem together; all of them are held.
        engine: goes on.
        rejected: counts traces that give no row.
        traces_per_problem, steps_per_trace, continuations: how many.
        max_new_tokens: of a response, its beginning included; no step behind them is sampled on from.
        temperature, top_p, top_k: of the continuations, see `Sampling`.
        seed: of the lots and of the continuations, which do not depend on the other problems.

    Yields:
        `prompt`, `completion`, `prompt_ids`, `completion_ids`, `step_ends` (places in `completion_ids`, ascending),
        `values` (of those steps, in [0, 1]), `correct`, `tokenizer_hash`, `method`, `source_id`, `total_tokens`.

    Raises:
        BadInput: a trace of another tokenizer, or a model that thinks in latents.
    """
    from efficient_reasoning.inference.search.steps import line_ends
    from efficient_reasoning.traces import tokenizer_hash

    rejected = Counter() if rejected is None else rejected
    if engine.latent_ids:
        raise BadInput(f"{engine.name} thinks in latents or pauses, which no verifier reads; take another model.")
    thinking = engine.thinking
    chosen: list[tuple[Mapping, list[int]]] = []
    for traces in by_problem(same_tokenizer(rows, thinking)):
        lot = random.Random(f"{seed}/{traces[0]['id']}")
        for trace in lot.sample(traces, min(traces_per_problem, len(traces))):
            ends = line_ends(thinking, trace["completion_ids"], trace["prompt_ids"])
            ends = [end for end in ends if end + 1 < max_new_tokens]
            if trace["truncated"] and not ends:
                rejected["truncated before the end of a step"] += 1
            elif not trace["completion_ids"]:
                rejected["empty"] += 1
            else:
                chosen.append((trace, sorted(lot.sample(ends, min(steps_per_trace, len(ends))))))
    sampling = (temperature, top_p, top_k)
    shares = _shares(chosen, engine, continuations, max_new_tokens, sampling, seed)
    for (trace, ends), values in zip(chosen, shares, strict=True):
        if not trace["truncated"]:
            ends, values = [*ends, len(trace["completion_ids"]) - 1], [*values, float(trace["correct"])]
        yield {
            **{name: trace[name] for name in ("prompt", "completion", "prompt_ids", "completion_ids")},
            "step_ends": ends,
            "values": values,
            "correct": trace["correct"],
            "tokenizer_hash": tokenizer_hash(engine.tokenizer),
            "method": "step_values",
            "source_id": trace["id"],
            "total_tokens": trace["total_tokens"],
        }


def _shares(
    chosen: Sequence[tuple[Mapping, list[int]]],
    engine: Reasoner,
    count: int,
    max_new_tokens: int,
    sampling: tuple[float, float, int],
    seed: int,
) -> list[list[float]]:
    """For each trace the shares of continuations that are right, behind these places of it."""
    from efficient_reasoning.answers import verify_many
    from efficient_reasoning.inference import Request, Response, Sampling, take_apart
    from efficient_reasoning.inference.strategy import run_all
    from efficient_reasoning.traces import sample_seed

    begun = [(trace, list(trace["completion_ids"][: end + 1])) for trace, ends in chosen for end in ends]

    def go_on(trace: Mapping, ids: list[int]) -> Iterator[list[Request]]:
        # Not the seed of the trace, whose luck would come again.
        own_seed = sample_seed(seed, f"{trace['id']}/{trace['seed']}/{len(ids)}", 0)
        request = Request([*trace["prompt_ids"], *ids], max_new_tokens - len(ids), Sampling(*sampling), own_seed)
        return (yield [replace(request, offset=len(ids), n=count)])

    def answer(trace: Mapping, ids: list[int], completion: Completion) -> str:
        response = Response([*ids, *completion.ids], completion.finished, prompt_ids=list(trace["prompt_ids"]))
        return take_apart(engine.thinking, response).answer

    asked, answers = [], []
    for (trace, ids), completions in zip(begun, run_all(engine.engine, [go_on(*one) for one in begun]), strict=True):
        asked += [trace] * count
        answers += [answer(trace, ids, completion) for completion in completions]
    right = iter(verify_many(asked, answers))
    return [[sum(next(right) for _ in range(count)) / count for _ in ends] for _, ends in chosen]


def main(argv: list[str] | None = None) -> None:
    arguments = parse(StepValuesArguments, argv=argv, doc=__doc__)

    from efficient_reasoning.inference import load_reasoner

    engine = load_reasoner(arguments.model, arguments.backend)
    compress(arguments, step_values, engine, chunk_problems=_CHUNK_PROBLEMS)


if __name__ == "__main__":
    run(main)
