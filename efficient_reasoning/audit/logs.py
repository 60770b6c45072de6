"""Logs as an audit reads them: `recorded` says in which shapes; beside those stand samples of `evaluate` and traces.

1. A length is a number of token ids, taken from the ids of a line, else from what the server says (`usage`), else from
   its text, tokenised again. `usage` adds up several choices, and counts the end token of each.
2. Responses of one question belong together: it has the same text or, where no line has the text, the same id.
3. Gold answers stand in the rows, or in a file of problems that has the same ids or questions.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.audit.responses import IDS, TEXT, USAGE, Response, from_sample
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_numbered_jsonl
from efficient_reasoning.problems import load_problems
from efficient_reasoning.problems.adapters import from_rows
from efficient_reasoning.recorded import Said, are_ids, parse_source, read_row
from efficient_reasoning.thinking import KNOWN_DELIMITERS, ThinkingFormat

# What tells a trace of ours from other rows, and what else is read in it where it is not None.
_TRACE = dict.fromkeys(("id", "question", "task", "final_answer"), str) | {
    "correct": bool,
    "total_tokens": int,
    "completion_ids": list,
}
_LENGTHS = dict.fromkeys(("thinking_tokens", "latent_tokens"), int)
_OF_TRACE = dict.fromkeys(("budget_tokens", "first_correct_tokens", "settled_tokens"), int) | {
    "strategy": str,
    "prompt_ids": list,
    "metadata": dict,
    "truncated": bool,
    "loops": bool,
}


@dataclass(frozen=True)
class Log:
    """What was read.

    Attributes:
        path: of the file.
        responses: without verdicts, but for those of samples, which bring theirs.
        failures: lines without a response, because the request had failed.
        point: strategy and budget of the samples among them; None without samples.
        left_out: samples of other points.
    """

    path: Path
    responses: list[Response]
    failures: int
    point: tuple[str | None, int | None] | None
    left_out: int


def read_logs(
    source: str,
    thinking: ThinkingFormat | None = None,
    answers_file: str | Path | None = None,
    verifier: str | None = None,
) -> Log:
    """Read a file of logs.

    Args:
        source: `FILE` or `FILE?question=COLUMN&answer=COLUMN&completion=COLUMN,...&task=TASK`.
        thinking: of the model's tokenizer, without which lines need ids or `usage`.
        answers_file: problems with gold answers, as for the task file:PATH.
        verifier: "agrees_with_base" or "judge", for logs without gold answers.

    Raises:
        BadInput: nothing to read; a line that is malformed, has no response, question, gold answer or length, or says
            what cannot be. The line is named.
    """
    path, mapping = parse_source(source)
    if verifier is not None:
        mapping |= {"task": verifier}
    problems = _Problems(answers_file, verifier) if answers_file else None
    samples: list[dict] = []
    lines: list[tuple[str, dict, list[Said]]] = []
    failures = 0
    for number, row in read_numbered_jsonl(path):
        place = f"{path}, line {number}"
        if _is_sample(place, row):
            samples.append(row)
            continue
        said, rest = read_row(place, row, mapping)
        failures += not said
        if said:
            lines.append((place, rest, said))
    num_samples, samples = len(samples), _one_point(path, samples)
    point = _point(samples[0]) if samples else None
    if not samples and not lines:
        raise BadInput(f"{path}: no response in it; give a log with at least one.")
    found = problems.of(lines) if problems else _own_problems(path, lines, mapping)
    responses = [from_sample(sample) for sample in samples]
    for response in responses if verifier is not None else ():
        response.problem |= {"task": verifier}
        response.correct = response.loops = None
    first_ids: dict[str, str] = {}
    questions: dict[str, str] = {}
    for (place, _, said), problem in zip(lines, found, strict=True):
        question = " ".join(problem["question"].split())
        problem = problem | {"id": first_ids.setdefault(question, problem["id"])}
        if questions.setdefault(problem["id"], question) != question:
            raise BadInput(
                f"{place}: its id {problem['id']!r} is that of another question before it; make ids unique."
            )
        responses += [_response(place, one, problem, thinking) for one in said]
    return Log(Path(path), responses, failures, point, num_samples - len(samples))


# ---- samples ----


def _is_sample(place: str, row: Mapping) -> bool:
    """Whether the line is a trace of ours.

    Raises:
        BadInput: it is, and somebody has changed it.
    """
    if not all(name in row for name in _TRACE):
        return False
    row = {"latent_tokens": 0, **row}  # lines of older versions do not name them
    for name, kind in (_TRACE | _LENGTHS | _OF_TRACE).items():
        value = row.get(name)
        if type(value) is not kind and not (value is None and name in _OF_TRACE):
            raise BadInput(f"{place}: its {name} is {json.dumps(value)[:40]}, as in no trace; make the trace again.")
        if kind is list and value and not are_ids(value):
            raise BadInput(f"{place}: its {name} are no token ids; make the trace again.")
    return True


def _point(sample: Mapping) -> tuple[str | None, int | None]:
    return sample.get("strategy"), sample.get("budget_tokens")


def _one_point(path: str, samples: list[dict]) -> list[dict]:
    """The samples of one point: the only one, or that without a budget."""
    points = list(dict.fromkeys(map(_point, samples)))
    if len(points) > 1:
        unlimited = [point for point in points if point[1] is None]
        points = [point for point in unlimited if point[0] == "budget-forcing"] or unlimited
        if not points:
            raise BadInput(f"{path}: all of its points have a budget; evaluate with --budgets none beside them.")
    return [sample for sample in samples if _point(sample) == points[0]]


# ---- problems ----


class _Problems:
    """Gold answers from a file of their own."""

    def __init__(self, path: str | Path, verifier: str | None):
        self.path = path
        problems = load_problems(f"file:{path}", num_problems=sys.maxsize)
        if verifier is not None:
            problems = [problem | {"task": verifier} for problem in problems]
        self.by_id = {problem["id"]: problem for problem in problems}
        self.by_question = {" ".join(problem["question"].split()): problem for problem in problems}

    def of(self, lines: list[tuple[str, dict, list[Said]]]) -> Iterator[dict]:
        for place, row, _ in lines:
            problem = self.by_id.get(str(row.get("id"))) or self.by_question.get(
                " ".join(str(row.get("question")).split())
            )
            if problem is None:
                raise BadInput(f"{place}: neither its id nor its question is in {self.path}; add the problem there.")
            yield problem


def _own_problems(path: str, lines: list[tuple[str, dict, list[Said]]], mapping: Mapping[str, str]) -> list[dict]:
    mapping = {key: value for key, value in mapping.items() if key not in ("completion", "thinking")}
    rows = [(place, row) for place, row, _ in lines]
    if mapping.get("task") == "agrees_with_base":
        # Nothing is asked about the question: an id is enough to put its responses together.
        rows = [
            (place, {"question": f"(the question of {row['id']})", **row} if "id" in row else row)
            for place, row in rows
        ]
    try:
        problems = from_rows(rows, mapping, Path(path).stem)
    except BadInput as error:
        if ": no answer " in str(error):
            said = str(error).partition("; ")[0]
            remedy = "map one (FILE?answer=COLUMN), give --answers FILE, or --verifier agrees_with_base or judge"
            raise BadInput(f"{said}; {remedy}.") from None
        if ": no question " in str(error):
            said = str(error).partition("; ")[0]
            raise BadInput(f"{said}; log the request's messages too, or give --answers FILE with its ids.") from None
        raise
    return problems


# ---- lengths ----


def _response(place: str, said: Said, problem: dict, thinking: ThinkingFormat | None) -> Response:
    if thinking is None:
        return _unread_response(place, said, problem)
    prompt_ids = said.prompt_ids or []
    ids = said.ids
    if ids is None:
        ids = thinking.tokenizer.encode(said.spell(thinking), add_special_tokens=False)
    count = thinking.count(ids, prompt_ids)
    by_usage = said.ids is None and said.total_tokens is not None
    # Some servers count thinking that they do not show.
    is_hidden = bool(said.thinking_tokens) and said.ids is None and count.thinking_tokens == 0
    answer_ids = thinking.split(ids, prompt_ids).answer_ids
    is_split = said.reasoning is not None and said.ids is None
    return Response(
        problem=problem,
        answer=said.text if is_split else thinking.tokenizer.decode(answer_ids, skip_special_tokens=True),
        total_tokens=said.total_tokens if by_usage else count.total_tokens,
        counted_by=IDS if said.ids is not None else USAGE if by_usage else TEXT,
        thinking_tokens=said.thinking_tokens
        if by_usage and said.thinking_tokens is not None
        else count.thinking_tokens,
        truncated=said.truncated,
        read_tokens=None if is_hidden else count.total_tokens,
        ids=None if is_hidden else array("i", ids),
        prompt_ids=prompt_ids,
    )


def _unread_response(place: str, said: Said, problem: dict) -> Response:
    total_tokens = len(said.ids) if said.ids is not None else said.total_tokens
    if total_tokens is None:
        raise BadInput(
            f"{place}: no length of its own in it (one choice with usage, or token_ids); "
            "give the model's tokenizer: --tokenizer FOLDER_OR_ID."
        )
    return Response(
        problem=problem,
        answer=said.text if said.reasoning is not None else _behind_thinking(said.text),
        total_tokens=total_tokens,
        counted_by=IDS if said.ids is not None else USAGE,
        thinking_tokens=said.thinking_tokens if said.ids is None else None,
        truncated=said.truncated,
    )


def _behind_thinking(text: str) -> str:
    """What follows the last close delimiter; nothing of a text that opens a block and does not close it."""
    for opening, close in KNOWN_DELIMITERS:
        if close in text:
            return text.rpartition(close)[2]
        if text.lstrip().startswith(opening):
            return ""
    return text
