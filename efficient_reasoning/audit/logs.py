"""Logs in the shapes that people have them, one JSON object a line, read as responses:

    chat       {"messages": [...], "choices": [{"message": {"content", "reasoning_content"}}], "usage"}: a reply of
               any OpenAI-compatible server, with the request's messages beside it, or {"request": {...}, "response"}
    batch      {"custom_id", "response": {"body": {"choices": ...}}}: what OpenAI's batch API writes
    samples    samples.jsonl of `evaluate`, traces of `data sample`
    rows       {"question", "answer", "completion"}, or "completions" with a list of several

1. Columns of other names are mapped as in a URL: `FILE?question=stem&answer=key&completion=model.output&task=numeric`.
   A dot goes into an object; columns joined by a comma are several responses.
2. A length is a number of token ids, taken from the ids of a line, else from what the server says (`usage`), else from
   its text, tokenised again. `usage` adds up several choices, and counts the end token of each.
3. Responses of one question belong together: it has the same text or, where no line has the text, the same id.
4. Gold answers stand in the rows, or in a file of problems that has the same ids or questions.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from efficient_reasoning.audit.responses import IDS, TEXT, USAGE, Response, from_sample
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.files import read_numbered_jsonl
from efficient_reasoning.problems import load_problems
from efficient_reasoning.problems.adapters import from_rows
from efficient_reasoning.thinking import KNOWN_DELIMITERS, ThinkingFormat

_KEYS = ("question", "answer", "completion", "task")
_COMPLETIONS = (
    "completion",
    "completions",
    "response",
    "responses",
    "generation",
    "generations",
    "prediction",
    "messages",
)
# What tells a trace of ours from other rows, and what else is read in it where it is not None.
_TRACE = dict.fromkeys(("id", "question", "task", "final_answer"), str) | {
    "correct": bool,
    "total_tokens": int,
    "completion_ids": list,
}
_OF_TRACE = dict.fromkeys(("budget_tokens", "thinking_tokens", "first_correct_tokens", "settled_tokens"), int) | {
    "strategy": str,
    "prompt_ids": list,
    "metadata": dict,
    "truncated": bool,
    "loops": bool,
}
# What a server writes beside the request: nothing that a problem is made of.
_REPLY = {"choices", "usage", "response", "request", "messages", "error", "object", "created", "model", "id"}


@dataclass(frozen=True)
class _Said:
    """One response as a line has it."""

    text: str
    reasoning: str | None = None
    ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    total_tokens: int | None = None  # by the server's count
    thinking_tokens: int | None = None
    truncated: bool | None = None


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
    path, mapping = _parse_mapping(source)
    if verifier is not None:
        mapping |= {"task": verifier}
    problems = _Problems(answers_file, verifier) if answers_file else None
    samples: list[dict] = []
    lines: list[tuple[str, dict, list[_Said]]] = []
    failures = 0
    for number, row in read_numbered_jsonl(path):
        place = f"{path}, line {number}"
        if _is_sample(place, row):
            samples.append(row)
            continue
        said, rest = _read_line(place, row, mapping)
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


def _parse_mapping(source: str) -> tuple[str, dict[str, str]]:
    path, _, query = source.rpartition("?")
    if not path or "=" not in query:
        return source, {}
    mapping = dict(parse_qsl(query, keep_blank_values=True))
    for key in mapping:
        if key not in _KEYS:
            raise BadInput(f"{source}: unknown key {key!r} behind the question mark{near(key, _KEYS)}")
    return path, mapping


# ---- lines ----


def _is_sample(place: str, row: Mapping) -> bool:
    """Whether the line is a trace of ours.

    Raises:
        BadInput: it is, and somebody has changed it.
    """
    if not all(name in row for name in _TRACE):
        return False
    for name, kind in (_TRACE | _OF_TRACE).items():
        value = row.get(name)
        if type(value) is not kind and not (value is None and name in _OF_TRACE):
            raise BadInput(f"{place}: its {name} is {json.dumps(value)[:40]}, as in no trace; make the trace again.")
        if kind is list and value and not _are_ids(value):
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


def _read_line(place: str, row: dict, mapping: Mapping[str, str]) -> tuple[list[_Said], dict]:
    """The responses of a line, and the columns that tell its problem."""
    reply = _reply(row)
    if reply is not None:
        return _read_reply(place, row, reply)
    names = mapping["completion"].split(",") if "completion" in mapping else _first_of(row, _COMPLETIONS)
    values = [_column(place, row, name) for name in names]
    if not values:
        raise BadInput(
            f"{place}: neither choices nor a completion among its columns {', '.join(row) or '(none)'}; "
            "map one, as in FILE?completion=COLUMN."
        )
    texts = [text for value in values for text in (value if _is_list_of_responses(value) else [value])]
    rest = {column: value for column, value in row.items() if column not in {name.split(".")[0] for name in names}}
    for name in ("prompt", "messages"):
        if isinstance(row.get(name), list):
            rest.pop(name, None)
            rest["question"] = _question(place, row[name])
    if len(texts) != 1:
        return [_Said(_text(place, text)) for text in texts], rest
    message = texts[0][-1] if _are_messages(texts[0]) else {"content": texts[0]}
    ids = {"token_ids": row.get("completion_ids"), "prompt_token_ids": row.get("prompt_ids")}
    choice = {**row, **ids, "message": {"reasoning_content": row.get("reasoning_content"), **message}}
    return [_read_choice(place, choice, {}, *_usage(place, row.get("usage")))], rest


def _first_of(row: Mapping, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in row][:1]


def _column(place: str, row: Mapping, name: str) -> object:
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadInput(f"{place}: no column {name!r} among {', '.join(row)}; map another completion.")
        value = value[part]
    return value


def _is_list_of_responses(value: object) -> bool:
    """Several responses, and not the messages of one."""
    return isinstance(value, list) and not _are_messages(value)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_object(part).get("role") for part in value)


def _text(place: str, value: object) -> str:
    """A text, or what the last of some messages says, or the texts of its parts."""
    if _are_messages(value):
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content")
    if isinstance(value, list) and all(isinstance(_object(part).get("text", ""), str) for part in value):
        value = "".join(_object(part).get("text", "") for part in value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{place}: a response is {type(value).__name__}, not a text; map another completion.")
    return value


def _reply(row: Mapping) -> Mapping | None:
    """The part of a line that a server wrote; {} for a request that failed; None for a plain row."""
    if "choices" in row:
        return row
    response = row.get("response")
    if isinstance(response, Mapping):
        body = response.get("body", response)
        if isinstance(body, Mapping) and "choices" in body:
            return body
        if "status_code" in response or "error" in response or row.get("error"):
            return {}
    has_failed = row.get("error") and all(row.get(name) is None for name in _COMPLETIONS)
    return {} if has_failed else None


def _read_reply(place: str, row: Mapping, reply: Mapping) -> tuple[list[_Said], dict]:
    choices = reply.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
        raise BadInput(f"{place}: its choices are no list of objects; remove the line.")
    total, thinking = _usage(place, reply.get("usage"))
    if len(choices) > 1:
        total = thinking = None  # of all choices together
    said = [_read_choice(place, choice, reply, total, thinking) for choice in choices]
    request = _object(row.get("request")) or row
    messages = request.get("messages") or _object(request.get("body")).get("messages")
    rest = {column: value for column, value in row.items() if column not in _REPLY}
    if isinstance(messages, list):
        rest["question"] = _question(place, messages)
    identity = row.get("custom_id") or (reply if "choices" in row else row).get("id")
    return said, rest | ({"id": identity} if identity else {})


def _object(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _question(place: str, messages: list) -> str:
    """What the user asked last."""
    asked = [message for message in messages if isinstance(message, Mapping) and message.get("role") == "user"]
    return _text(place, asked[-1].get("content")) if asked else ""


def _read_choice(
    place: str, choice: Mapping, reply: Mapping, total_tokens: int | None, thinking_tokens: int | None
) -> _Said:
    message = choice.get("message") if isinstance(choice.get("message"), Mapping) else choice
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    ids, prompt_ids = choice.get("token_ids"), choice.get("prompt_token_ids") or reply.get("prompt_token_ids")
    return _Said(
        text=_text(place, message.get("content", message.get("text"))),
        reasoning=_text(place, reasoning) if reasoning else None,
        ids=ids if _are_ids(ids) else None,
        prompt_ids=prompt_ids if _are_ids(prompt_ids) else None,
        total_tokens=total_tokens,
        thinking_tokens=thinking_tokens,
        truncated=_was_cut(choice),
    )


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in value)


def _was_cut(choice: Mapping) -> bool | None:
    reason = choice.get("finish_reason")
    return reason == "length" if isinstance(reason, str) else None


def _usage(place: str, usage: object) -> tuple[int | None, int | None]:
    """Tokens of the response and of its thinking."""
    usage = _object(usage)
    total = usage.get("completion_tokens")
    thinking = (_object(usage.get("completion_tokens_details")) or usage).get("reasoning_tokens")
    for name, value in (("completion_tokens", total), ("reasoning_tokens", thinking)):
        if value is not None and (type(value) is not int or value < 0):
            raise BadInput(f"{place}: usage says {name} {value!r}; fix or remove the line.")
    if total is not None and thinking is not None and thinking > total:
        raise BadInput(
            f"{place}: usage says {thinking} reasoning_tokens of {total} completion_tokens; fix or remove the line."
        )
    return total, thinking


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

    def of(self, lines: list[tuple[str, dict, list[_Said]]]) -> Iterator[dict]:
        for place, row, _ in lines:
            problem = self.by_id.get(str(row.get("id"))) or self.by_question.get(
                " ".join(str(row.get("question")).split())
            )
            if problem is None:
                raise BadInput(f"{place}: neither its id nor its question is in {self.path}; add the problem there.")
            yield problem


def _own_problems(path: str, lines: list[tuple[str, dict, list[_Said]]], mapping: Mapping[str, str]) -> list[dict]:
    mapping = {key: value for key, value in mapping.items() if key != "completion"}
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


def _response(place: str, said: _Said, problem: dict, thinking: ThinkingFormat | None) -> Response:
    if thinking is None:
        return _unread_response(place, said, problem)
    prompt_ids = said.prompt_ids or []
    ids = said.ids
    if ids is None:
        text = said.text if said.reasoning is None else thinking.write(said.reasoning, said.text)
        if said.reasoning is not None and not said.text:  # the thinking never ended
            text = text[: text.rindex(thinking.close_text)]
        ids = thinking.tokenizer.encode(text, add_special_tokens=False)
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


def _unread_response(place: str, said: _Said, problem: dict) -> Response:
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
