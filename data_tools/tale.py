"""Search for the fewest tokens that each problem can be solved in, and train on the response that was found.

1. TALE (arXiv 2412.18547): the prompt asks to "use less than n tokens". From the length of a correct trace n is halved
   as long as the response is right and really comes with fewer tokens than the last (`inference/tale.py`).
2. TALE-PT trains on what was found behind the plain question: `objective: sft`, or `dpo` with the trace that the
   search began from as the rejected response. Of a problem's correct traces, that one is drawn by lot.
3. The search needs a model that minds such a sentence, as chat models do. One that never met it answers at random:
   the overthinker then solves none of 60 problems. For such a model `stage: initial` writes every correct trace behind
   a question that asks for less than one token more than it has; trained on them, it does the search, and what is
   trained on its rows may start from the base again. A model learns the form of the sentence long before its number.
   Until then the search finds what sampling happens to give, so look at the lengths under several budgets first.

    efficient-reasoning data tale --config configs/data/tale_overthinker.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import can_be_asked, usable_traces, whole_row
from efficient_reasoning.compression.pairs import pair_row
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.prompts import add_control, make_completion

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner
    from efficient_reasoning.thinking import ThinkingFormat

Stage = Literal["search", "initial"]
Objective = Literal["sft", "dpo"]


@dataclass(kw_only=True)
class TaleArguments(CompressionArguments):
    """Who searches, and what is written of it."""

    model: str = field(metadata={"help": "Folder or Hub id that searches; its tokenizer is the traces'."})
    stage: Stage = field(default="search", metadata={"help": "Search, or rows that teach to mind the sentence."})
    objective: Objective = field(default="sft", metadata={"help": "Responses, or pairs with the trace as rejected."})
    max_tokens: int | None = field(default=None, metadata={"help": "Most total tokens of a trace; null for all."})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus; 1 keeps every token."})
    top_k: int = field(default=0, metadata={"help": "Candidates kept; 0 keeps every token."})
    backend: str = field(default="auto", metadata={"help": "What decodes, as for evaluate."})
    seed: int = field(default=0, metadata={"help": "Of the lot and of every attempt."})

    def __post_init__(self) -> None:
        if self.stage == "initial" and self.objective == "dpo":
            raise BadInput("objective dpo needs a search; leave it out with stage initial.")


def tale(
    rows: Iterable[Mapping],
    engine: Reasoner | None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    stage: Stage = "search",
    objective: Objective = "sft",
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row a problem, of the response under the smallest budget that worked.

    Args:
        rows: traces, those of a problem together; for the search, all of them are held.
        engine: searches.
        thinking: the delimiters of the model that wrote the traces, which is also that of `engine`.
        rejected: counts problems that give no row.
        stage: "search", or "initial" for one row of each correct trace, behind its own budget.
        objective: "sft" or "dpo".
        max_tokens: longer traces are left out.
        temperature, top_p, top_k: of the attempts, see `Sampling`.
        seed: of the lot that draws the trace, and of the attempts.

    Yields:
        the columns of `training_row`, or for "dpo" of `pair_row`, and what was asked for: `budget_tokens` for stage
        "initial", where the prompt says it, else `searched_tokens`; `source_tokens` is the length of the trace.
    """
    from efficient_reasoning.inference.tale import budget_text

    rejected = Counter() if rejected is None else rejected
    firsts = []
    for traces in by_problem(same_tokenizer(rows, thinking)):
        usable = usable_traces(traces, thinking, rejected, max_tokens)
        if stage == "initial":
            for trace in usable:
                yield _behind_its_budget(trace)
        elif usable:
            first = random.Random(f"{seed}/{usable[0]['id']}").choice(usable)
            if can_be_asked(first, budget_text(first["total_tokens"]), engine):
                firsts.append(first)
            else:
                rejected["too long to be asked"] += 1
    for trace, found in zip(firsts, _search(firsts, engine, (temperature, top_p, top_k), seed), strict=True):
        if found is None:
            rejected["no smaller budget works"] += 1
        else:
            response, tokens = found
            row = whole_row(response, trace["total_tokens"], method="tale", searched_tokens=tokens)
            yield row if objective == "sft" else pair_row(row, trace)


def _behind_its_budget(trace: Mapping) -> dict:
    from efficient_reasoning.inference.tale import budget_text

    tokens = trace["total_tokens"] + 1
    asked = {**trace, "prompt": add_control(trace["prompt"], budget_text(tokens))}
    # The question as it was, for the record of what was trained on.
    columns = {"budget_tokens": tokens, "question": trace.get("question") or trace["prompt"]}
    return whole_row(asked, trace["total_tokens"], method="tale_initial", **columns)


def _search(
    traces: list[Mapping], engine: Reasoner | None, sampling: tuple[float, float, int], seed: int
) -> list[tuple[dict, int] | None]:
    """For each trace the response that was found, as a trace, and what was asked for it; None where there is none."""
    if not traces:
        return []
    from efficient_reasoning.answers import verify
    from efficient_reasoning.inference import Response, Sampling
    from efficient_reasoning.inference.solve import assign, take_apart
    from efficient_reasoning.inference.strategy import run_all
    from efficient_reasoning.inference.tale import halve
    from efficient_reasoning.scribes import completion_text
    from efficient_reasoning.traces import sample_seed

    def is_right(trace: Mapping, attempt: Response) -> bool:
        solution = take_apart(engine.thinking, attempt)
        return solution.thinking_tokens > 0 and verify(trace, solution.answer)  # without thinking, it is a guess

    prompts = [trace["prompt"] for trace in traces]
    questions = [prompt.removesuffix("\n") if isinstance(prompt, str) else prompt for prompt in prompts]
    seeds = [sample_seed(seed, trace["id"], 0) for trace in traces]
    searches = [
        halve(assignment, Response(list(trace["completion_ids"]), finished=True), partial(is_right, trace))
        for trace, assignment in zip(
            traces, assign(engine, questions, None, 1, Sampling(*sampling), seeds), strict=True
        )
    ]
    found = []
    for trace, (response, tokens) in zip(traces, run_all(engine.closing_engine, searches), strict=True):
        if tokens is None:
            found.append(None)
            continue
        solution = take_apart(engine.thinking, response)
        completion = make_completion(engine.tokenizer, completion_text(engine.thinking, solution))
        found.append(({**trace, "completion": completion, "total_tokens": solution.total_tokens}, tokens))
    return found


def main(argv: list[str] | None = None) -> None:
    arguments = parse(TaleArguments, argv=argv, doc=__doc__)

    engine = None
    if arguments.stage == "search":
        from efficient_reasoning.inference import load_reasoner

        engine = load_reasoner(arguments.model, arguments.backend)
    compress(arguments, tale, engine, thinking=engine.thinking if engine else load_thinking(arguments.model))


if __name__ == "__main__":
    run(main)
