"""Scribes: they turn a response, which is ids, into a trace: taken apart, verified, measured, a line of a file.

This is the one place that says what is written down of a response, whoever sampled it. On a GPU, other processes do
it while the next responses are decoded.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import IO, TYPE_CHECKING

from efficient_reasoning import answers, inference
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.problems import FAMILIES, FIELDS, family_of
from efficient_reasoning.prompts import conversation, make_completion, make_prompt

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner, Response, Solution
    from efficient_reasoning.thinking import ThinkingFormat

_MANY_SAMPLES = 8192  # for fewer, starting processes does not pay

Solved = tuple[Mapping, "Response", dict]  # a problem, what came back, how it was asked


def read_solved(reader: Reader, solved: Sequence[Solved]) -> list[dict]:
    """Traces of what was solved: taken apart, verified, counted."""
    solutions = [inference.take_apart(reader.thinking, response) for _, response, _ in solved]
    problems = [problem for problem, _, _ in solved]
    verdicts = answers.verify_many(problems, [solution.answer for solution in solutions])
    return [
        describe(reader, problem, solution, bool(correct)) | {"spend": solution.spend.as_dict()} | asked
        for (problem, _, asked), solution, correct in zip(solved, solutions, verdicts, strict=True)
    ]


def describe(reader: Reader, problem: Mapping, solution: Solution, correct: bool) -> dict:
    """What a trace says of a response, whoever wrote it: the problem, the response, its lengths and its verdict."""
    thinking = reader.thinking
    return {
        **{key: problem[key] for key in FIELDS if key in problem},
        "prompt": make_prompt(thinking.tokenizer, conversation(problem)),
        "completion": make_completion(thinking.tokenizer, completion_text(thinking, solution)),
        "prompt_ids": list(solution.prompt_ids),
        "completion_ids": list(solution.completion_ids),
        "thinking": solution.thinking,
        "final_answer": solution.answer,
        "thinking_tokens": solution.thinking_tokens,
        "answer_tokens": solution.answer_tokens,
        "total_tokens": solution.total_tokens,
        "latent_tokens": solution.latent_tokens,
        "floor_tokens": floor_tokens(problem, thinking),
        "truncated": solution.truncated,
        "forced_close": solution.forced_close,
        "empty_answer": not solution.answer.strip(),
        "correct": correct,
        **dataclasses.asdict(reader.read(solution.completion_ids, solution.prompt_ids, problem, correct)),
    }


def completion_text(thinking: ThinkingFormat, solution: Solution) -> str:
    """What the ids before EOS spell, delimiters included.

    A template that opens the block in the prompt renders finished turns whole, so there the opening is put back.
    """
    opening = thinking.open([]) if thinking.prompt_opens(solution.prompt_ids) else []
    # The total counts exactly the ids before EOS and padding. Cleaning up would change white space.
    ids = [*opening, *solution.completion_ids[: solution.total_tokens]]
    return thinking.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def floor_tokens(problem: Mapping, thinking: ThinkingFormat) -> int | None:
    """Length of the shortest solution that still thinks, in this model's tokens; None where nobody knows it.

    Problems of the built-in families are written out in bare steps; others may bring `metadata.floor_tokens`.
    """
    family = family_of(problem)
    if family is None:
        floor = (problem.get("metadata") or {}).get("floor_tokens")
        return floor if type(floor) in (int, float) and floor > 0 else None
    equations = FAMILIES[family].chain(problem, "equations", random.Random(0))
    text = thinking.write(equations.strip(), problem["answer"])
    return len(thinking.tokenizer.encode(text, add_special_tokens=False))


class Scribes:
    """Those who turn what was decoded into lines.

    Where a GPU or a server decodes, they are processes of their own, and read one chunk while the next is decoded: on
    a GPU, a model of a few million parameters decodes faster than one process reads. On the CPU, decoding has all
    cores, and this process reads.

    Args:
        reasoner: which decodes.
        num_samples: how many are to come; for a few, starting processes does not pay.
    """

    def __init__(self, reasoner: Reasoner, num_samples: int):
        self.reader = Reader(reasoner.thinking)
        self.processes = 0
        if reasoner.decodes_elsewhere and num_samples >= _MANY_SAMPLES:
            self.processes = max(0, min(8, (os.cpu_count() or 1) - 2))
        self._parts: list[Future] = []

    def __enter__(self) -> Scribes:
        if self.processes:
            # Never a fork of this process, whose CUDA context and threads would not survive it.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self.pool = ProcessPoolExecutor(self.processes, context, _start_scribe, (self.reader.thinking,))
        return self

    def __exit__(self, *exception: object) -> None:
        if self.processes:
            self.pool.shutdown(cancel_futures=True)

    def write(self, stream: IO[str], solved: Sequence[Solved], made_with: Mapping) -> None:
        """Have these read; what was given before goes to the disk."""
        if not self.processes:
            self._append(stream, _lines(self.reader, solved, made_with))
            return
        size = math.ceil(len(solved) / self.processes)
        parts = [self.pool.submit(_scribble, solved[i : i + size], made_with) for i in range(0, len(solved), size)]
        self.flush(stream)
        self._parts = parts

    def flush(self, stream: IO[str]) -> None:
        """Bring all that was given to the disk."""
        if self._parts:
            self._append(stream, "".join(part.result() for part in self._parts))
            self._parts = []

    @staticmethod
    def _append(stream: IO[str], lines: str) -> None:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())


def _start_scribe(thinking: ThinkingFormat) -> None:
    global _scribe
    _scribe = Reader(thinking)


def _scribble(solved: Sequence[Solved], made_with: Mapping) -> str:
    return _lines(_scribe, solved, made_with)


def _lines(reader: Reader, solved: Sequence[Solved], made_with: Mapping) -> str:
    rows = read_solved(reader, solved)
    return "".join(json.dumps(row | made_with, ensure_ascii=False) + "\n" for row in rows)
