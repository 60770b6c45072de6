"""Teach a model to skip steps, by what it could already do with fewer (arXiv 2411.01855).

1. A step is a sentence (or line, or paragraph) that holds an equation. `stage: initial` writes each correct trace
   behind the number of its steps, `<|steps 7|>`, one token behind the question: a model trained on it takes a number
   of steps to be an order. It needs traces of several lengths, as `data sample` draws them.
2. `stage: skip` asks that model for 1 ... `max_skip` steps less than the shortest correct trace of a problem has. What
   is right and has exactly as many steps as were asked for joins the traces. The next model starts from the base
   again, and is asked for less:

       train="efficient-reasoning train sft_compress --config sft_compress/step_skip_overthinker"
       efficient-reasoning data step_skip --config step_skip_initial_overthinker && $train
       for k in 1 2 3; do
           before=runs/quickstart/step_skip_$((k - 1)) now=runs/quickstart/step_skip_$k
           skip="--model $before --max_skip $((2 * k)) --out $now.jsonl"
           efficient-reasoning data step_skip --config data/step_skip_overthinker $skip
           $train --data $now.jsonl --output_dir $now
       done

3. The model that counts is asked plainly, and learns from the same chains without an order: `plain: all` of them, as
   in the paper, or the `fewest` steps of each problem.
4. A number of steps that no trace has is no order that the model knows; such questions are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from efficient_reasoning import answers
from efficient_reasoning.compression import (
    CompressionArguments,
    by_problem,
    compress,
    split_steps,
    training_row,
)
from efficient_reasoning.compression.chains import Unit, can_be_asked, first_usable
from efficient_reasoning.compression.steps import count_calculating
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.prompts import add_control, conversation
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner, Solution

_CONTROL = "<|steps {}|>"


@dataclass(kw_only=True)
class StepSkipArguments(CompressionArguments):
    """Which stage, what a step is, and how the model is asked."""

    stage: Literal["initial", "skip"] = field(metadata={"help": "Traces with their steps, or also skipped ones."})
    model: str = field(metadata={"help": "Folder or Hub id: of the traces (initial), or trained on the rows before."})
    unit: Literal["sentence", "line", "paragraph"] | None = field(
        default=None, metadata={"help": "What a step is; null for paragraphs where there are several, else sentences."}
    )
    plain: Literal["all", "fewest", "none"] = field(
        default="all", metadata={"help": "Chains that are also written without a number of steps."}
    )
    max_traces: int | None = field(default=None, metadata={"help": "Most traces of a problem, the first usable ones."})
    max_skip: int = field(default=2, metadata={"help": "Most steps to be skipped at once (skip)."})
    samples_per_question: int = field(default=1, metadata={"help": "How often each is asked (skip)."})
    temperature: float = field(default=0.6, metadata={"help": "0 is greedy (skip)."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus; 1 keeps every token (skip)."})
    top_k: int = field(default=20, metadata={"help": "Candidates kept; 0 keeps every token (skip)."})
    max_new_tokens: int = field(default=512, metadata={"help": "Most tokens of one chain (skip)."})
    backend: str = field(default="auto", metadata={"help": "What decodes, as for evaluate (skip)."})
    seed: int = field(default=0, metadata={"help": "Of every sample (skip)."})

    def __post_init__(self) -> None:
        for name in ("max_traces", "max_skip", "samples_per_question"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; give at least 1.")


def step_skip(
    rows: Iterable[Mapping],
    engine: Reasoner | None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    unit: Unit | None = None,
    plain: Literal["all", "fewest", "none"] = "all",
    max_traces: int | None = None,
    max_skip: int = 2,
    samples_per_question: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    max_new_tokens: int = 512,
    seed: int = 0,
) -> Iterator[dict]:
    """Rows of the traces, and of what the model could skip; without an engine of the traces alone.

    Args:
        rows: traces, those of a problem together; all of them stay in memory.
        engine: a model that was trained on rows of this tool; it is asked for all problems together.
        thinking: the delimiters of the traces' tokenizer.
        rejected: counts traces that give no row, and answers that were not kept.
        unit: of steps, as for `split_steps`.
        plain: which rows are written a second time, without their control: "all", one with the "fewest" steps of each
            problem, or "none".
        max_traces: of a problem; the first usable ones.
        max_skip: asks for 1 to so many steps less than the fewest of the problem's traces.
        samples_per_question: how often each is asked.
        temperature, top_p, top_k, max_new_tokens: as for `solve_many`.
        seed: from which the seed of each sample follows.

    Yields:
        the columns of `training_row`, the source of a skipped chain being the trace with the fewest steps, `steps` and
        `skipped_steps`; `control` is None where there is none.

    Raises:
        BadInput: a problem that cannot be asked or verified, or a trace of another tokenizer.
    """
    rejected = Counter() if rejected is None else rejected
    problems: list[list[tuple[int, Mapping]]] = []  # of each problem: steps and trace
    for traces in by_problem(same_tokenizer(rows, thinking)):
        usable = first_usable(traces, thinking, rejected, max_traces=max_traces)
        counted = [(steps, trace) for trace in usable if (steps := _count(trace["thinking"], unit))]
        rejected["without an equation"] += len(usable) - len(counted)
        if counted:
            problems.append(counted)
    asked = []
    if engine is not None:
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
        questions = _questions(engine, problems, max_skip, rejected)
        asked = _ask(engine, questions * samples_per_question, seed, sampling, unit, rejected)
    for counted in problems:
        chains = [(steps, trace["thinking"], trace, 0) for steps, trace in counted]
        fewest, source = _fewest(counted)
        kept = {text: steps for steps, trace, text in asked if trace is source}
        chains += [(steps, text, source, fewest - steps) for text, steps in kept.items()]
        for steps, text, trace, skipped in chains:
            yield _row(trace, thinking, text, steps, skipped, control=_CONTROL.format(steps))
        if plain == "fewest":
            chains = [min(chains, key=lambda each: each[0])]
        for steps, text, trace, skipped in chains if plain != "none" else []:
            yield _row(trace, thinking, text, steps, skipped) | {"control": None}


def _row(trace: Mapping, thinking: ThinkingFormat, text: str, steps: int, skipped: int, control: str = "") -> dict:
    counts = {"steps": steps, "skipped_steps": skipped}
    return training_row(trace, thinking, text, method="step_skip", control=control, **counts)


def _count(text: str, unit: Unit | None) -> int:
    return count_calculating(split_steps(text, unit))


def _fewest(counted: Sequence[tuple[int, Mapping]]) -> tuple[int, Mapping]:
    return min(counted, key=lambda each: each[0])


def _questions(
    engine: Reasoner, problems: Sequence[Sequence[tuple[int, Mapping]]], max_skip: int, rejected: Counter[str]
) -> list[tuple[int, Mapping]]:
    """Steps to ask for, and the trace with the fewest steps so far; a problem has as many as the model knows."""
    known = engine.tokenizer.get_added_vocab()
    questions = []
    for counted in problems:
        fewest, trace = _fewest(counted)
        if not trace.get("question"):
            raise BadInput(
                f"Trace of problem {trace['id']!r}: no question in it; `data sample` writes traces with one."
            )
        for steps in range(fewest - 1, max(0, fewest - 1 - max_skip), -1):
            if not can_be_asked(trace, _CONTROL.format(steps), engine):
                rejected["too long to be asked"] += 1
            elif _CONTROL.format(steps) in known:
                questions.append((steps, trace))
            else:
                rejected["asked for an unknown number of steps"] += 1
    return questions


def _ask(
    engine: Reasoner,
    questions: Sequence[tuple[int, Mapping]],
    seed: int,
    sampling: Mapping,
    unit: Unit | None,
    rejected: Counter[str],
) -> list[tuple[int, Mapping, str]]:
    """What was answered with so many steps, and right: steps, trace and the chain."""
    from efficient_reasoning.inference import solve_many
    from efficient_reasoning.traces import sample_seed

    times: Counter[tuple[str, int]] = Counter()
    seeds = []
    for steps, trace in questions:
        seeds.append(sample_seed(seed, f"{trace['id']}/{steps}", times[trace["id"], steps]))
        times[trace["id"], steps] += 1
    texts = [_ordered(conversation(trace), _CONTROL.format(steps)) for steps, trace in questions]
    solutions: list[Solution] = solve_many(engine, texts, seeds=seeds, **sampling) if texts else []
    traces = [trace for _, trace in questions]
    verdicts = answers.verify_many(traces, [solution.answer for solution in solutions])
    kept = []
    for (steps, trace), solution, correct in zip(questions, solutions, verdicts, strict=True):
        if solution.truncated:
            rejected["asked, and cut off"] += 1
        elif not correct:
            rejected["asked, and wrong"] += 1
        elif _count(solution.thinking, unit) != steps:
            rejected["asked, and not as many steps"] += 1
        else:
            kept.append((steps, trace, solution.thinking))
    return kept


def _ordered(question: str | list[dict], control: str) -> str | list[dict]:
    return question + control if isinstance(question, str) else add_control(question, control)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(StepSkipArguments, argv=argv, doc=__doc__)

    if arguments.stage == "initial":
        compress(arguments, step_skip, thinking=load_thinking(arguments.model))
        return
    from efficient_reasoning.inference import load_reasoner

    reasoner = load_reasoner(arguments.model, arguments.backend)
    if not any(token.startswith(_CONTROL.partition("{")[0]) for token in reasoner.tokenizer.get_added_vocab()):
        raise BadInput(f"{reasoner.name} knows no {_CONTROL.format(7)!r}; first train it on rows of stage initial.")
    compress(arguments, step_skip, reasoner, thinking=reasoner.thinking)


if __name__ == "__main__":
    run(main)
