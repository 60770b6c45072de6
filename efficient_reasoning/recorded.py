"""Responses as other people wrote them down, read one row at a time:

    chat       {"messages": [...], "choices": [{"message": {"content", "reasoning_content"}}], "usage"}: a reply of
               any OpenAI-compatible server, with the request's messages beside it, or {"request": {...}, "response"}
    batch      {"custom_id", "response": {"body": {"choices": ...}}}: what OpenAI's batch API writes
    rows       {"question", "answer", "completion"}, or "completions", "generations" (OpenR1) with a list of several
    turns      "messages", or "conversations" of {"from", "value"} (ShareGPT), the last of which is the response
    thinking   a column of its own: "reasoning_content", "deepseek_thinking_trajectory" beside "deepseek_attempt" (s1K)
    solutions  {"question", "solution", "answer"} (LIMO): with an answer beside it, the solution is the response

1. Columns of other names are mapped as in a URL: `FILE?question=stem&completion=model.output&thinking=model.thoughts`.
   A dot goes into an object; columns joined by a comma are several responses.
2. A row becomes what was *said*, once for each response, and the columns that tell the problem, which
   `problems.adapters.from_rows` reads. What the row tells of each response (finish reason, verdict) goes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.thinking import ThinkingFormat

KEYS = ("question", "answer", "completion", "thinking", "task")
_COMPLETIONS = (
    "completion",
    "completions",
    "response",
    "responses",
    "generation",
    "generations",
    "prediction",
    "messages",
    "conversations",
)
# Columns of thinking, and the answers that belong to them.
_TRAJECTORIES = {
    "deepseek_thinking_trajectory": "deepseek_attempt",
    "thinking_trajectories": "attempt",
}
# What a row says of each of its responses, in one value or in a list as long as theirs.
_FINISH_REASONS = ("finish_reason", "finish_reasons")
_VERDICTS = ("correctness_math_verify", "is_correct", "correct")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}
# What a server writes beside the request: nothing that a problem is made of.
_REPLY = {"choices", "usage", "response", "request", "messages", "error", "object", "created", "model", "id"}


@dataclass(frozen=True)
class Said:
    """One response as a row has it; None is what the row does not tell.

    Attributes:
        text: all of the response, or what follows the `reasoning`.
        reasoning: the thinking, where it stands apart.
        ids, prompt_ids: of tokens, by the tokenizer that wrote them.
        total_tokens, thinking_tokens: by the server's count.
        truncated: it was cut off.
        correct: the row's own verdict.
        model: that said it.
    """

    text: str
    reasoning: str | None = None
    ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    total_tokens: int | None = None
    thinking_tokens: int | None = None
    truncated: bool | None = None
    correct: bool | None = None
    model: str | None = None

    def spell(self, thinking: ThinkingFormat) -> str:
        """The whole response, its thinking between delimiters."""
        if self.reasoning is None:
            return self.text
        text = thinking.write(self.reasoning, self.text)
        # Without an answer the thinking never ended.
        return text if self.text else text[: text.rindex(thinking.close_text)]


def parse_source(source: str, keys: Sequence[str] = KEYS) -> tuple[str, dict[str, str]]:
    """`FILE?answer=key` -> FILE, {answer: key}; a question mark without an assignment belongs to the path.

    Raises:
        BadInput: a key that is not among `keys`.
    """
    path, _, query = source.rpartition("?")
    if not path or "=" not in query:
        return source, {}
    mapping = dict(parse_qsl(query, keep_blank_values=True))
    for key in mapping:
        if key not in keys:
            raise BadInput(f"{source}: unknown key {key!r} behind the question mark{near(key, keys)}")
    return path, mapping


def read_row(place: str, row: dict, mapping: Mapping[str, str]) -> tuple[list[Said], dict]:
    """The responses of a row, and the columns that tell its problem.

    Args:
        place: of the row, for messages.
        row: in one of the shapes above.
        mapping: of its columns, from `parse_source`.

    Returns:
        no response where the request had failed. The columns have a `question` where messages ask it, and
        `earlier_turns` where others stand before it.

    Raises:
        BadInput: neither a response nor a failure, or one that is no text.
    """
    reply = _reply(row)
    if reply is not None:
        return _read_reply(place, row, reply)
    names, thinking = _response_columns(row, mapping)
    values = [_column(place, row, name) for name in names]
    if not values:
        raise BadInput(
            f"{place}: neither choices nor a completion among its columns {', '.join(row) or '(none)'}; "
            "map one, as in FILE?completion=COLUMN."
        )
    texts = [text for value in values for text in (value if _is_list_of_responses(value) else [value])]
    used = {name.split(".")[0] for name in (*names, *thinking)}
    rest = {column: value for column, value in row.items() if column not in used}
    for name in ("prompt", "messages", "conversations"):
        if isinstance(row.get(name), list):
            rest.pop(name, None)
            rest |= _asked(place, row[name])
    reasonings = _each(place, row, thinking, len(texts))
    reasons, verdicts = (_told(row, rest, columns, len(texts)) for columns in (_FINISH_REASONS, _VERDICTS))
    if len(texts) == 1:
        ids = {"token_ids": row.get("completion_ids"), "prompt_token_ids": row.get("prompt_ids")}
        message = _message(place, texts[0])
        own = {"reasoning_content": row.get("reasoning_content") if reasonings is None else reasonings[0], **message}
        choice = {**row, **ids, "finish_reason": reasons[0], "message": own}
        return [_read_choice(place, choice, {}, *_usage(place, row.get("usage")), correct=verdicts[0])], rest
    choices = [
        {"finish_reason": reason, "model": row.get("model")}
        | {"message": {"reasoning_content": reasoning, **_message(place, text)}}
        for text, reasoning, reason in zip(texts, reasonings or [None] * len(texts), reasons, strict=True)
    ]
    return [
        _read_choice(place, choice, {}, correct=correct) for choice, correct in zip(choices, verdicts, strict=True)
    ], rest


def are_ids(value: object) -> bool:
    """Whether a value of a row is a list of token ids."""
    return isinstance(value, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in value)


# ---- columns ----


def _response_columns(row: Mapping, mapping: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The names of the columns that hold responses, and of those with their thinking."""
    thinking = mapping["thinking"].split(",") if "thinking" in mapping else []
    if "completion" in mapping:
        return mapping["completion"].split(","), thinking
    names = [name for name in _COMPLETIONS if name in row][:1]
    for trajectory, attempt in _TRAJECTORIES.items():
        if not names and not thinking and row.get(trajectory) is not None and attempt in row:
            return [attempt], [trajectory]
    if not names and "answer" in row and "solution" in row:
        names = ["solution"]
    return names, thinking


def _column(place: str, row: Mapping, name: str) -> object:
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadInput(f"{place}: no column {name!r} among {', '.join(row)}; map another completion.")
        value = value[part]
    return value


def _each(place: str, row: Mapping, names: Sequence[str], number: int) -> list | None:
    """One value of these columns for each response; None without columns."""
    if not names:
        return None
    columns = [_column(place, row, name) for name in names]
    values = [value for column in columns for value in (column if isinstance(column, list) else [column])]
    if len(values) != number:
        raise BadInput(
            f"{place}: {len(values)} texts of thinking for {number} responses; map columns that belong together."
        )
    return values


def _told(row: Mapping, rest: dict, names: Sequence[str], number: int) -> list:
    """What the first of these columns tells of each response, taken out of the rest."""
    for name in names:
        values = row.get(name) if isinstance(row.get(name), list) else [row.get(name)]
        if len(values) == number and values != [None]:
            rest.pop(name, None)
            return values
    return [None] * number


def _is_list_of_responses(value: object) -> bool:
    """Several responses, and not the messages of one."""
    return isinstance(value, list) and not _are_messages(value)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_role(part) for part in value)


def _role(message: object) -> str | None:
    """Who said it, in the words of chat templates; None of what is no message."""
    message = _object(message)
    role = message.get("role") or message.get("from")
    return _ROLES.get(role, role) if isinstance(role, str) else None


def _message(place: str, value: object) -> Mapping:
    """A response as a message: the last of some, or the text itself."""
    if _are_messages(value):
        if (role := _role(value[-1])) != "assistant":
            raise BadInput(f"{place}: its last message is the {role}'s, no response; map another completion.")
        return {"content": value[-1].get("value"), **value[-1]}
    return {"content": value}


def _text(place: str, value: object) -> str:
    """A text, or what the last of some messages says, or the texts of its parts."""
    if _are_messages(value):
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content", value.get("value"))
    if isinstance(value, list) and all(isinstance(_object(part).get("text", ""), str) for part in value):
        value = "".join(_object(part).get("text", "") for part in value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{place}: a response is {type(value).__name__}, not a text; map another completion.")
    return value


def _asked(place: str, messages: list) -> dict:
    """What the user asked last, and the turns before it."""
    places = [index for index, message in enumerate(messages) if _role(message) == "user"]
    if not places:
        return {"question": ""}
    before = [{"role": _role(turn), "content": _text(place, turn)} for turn in messages[: places[-1]]]
    return {"question": _text(place, messages[places[-1]]), **({"earlier_turns": before} if before else {})}


# ---- replies of servers ----


def _reply(row: Mapping) -> Mapping | None:
    """The part of a row that a server wrote; {} for a request that failed; None for a plain row."""
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


def _read_reply(place: str, row: Mapping, reply: Mapping) -> tuple[list[Said], dict]:
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
        rest |= _asked(place, messages)
    identity = row.get("custom_id") or (reply if "choices" in row else row).get("id")
    return said, rest | ({"id": identity} if identity else {})


def _object(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _read_choice(
    place: str,
    choice: Mapping,
    reply: Mapping,
    total_tokens: int | None = None,
    thinking_tokens: int | None = None,
    correct: object = None,
) -> Said:
    message = choice.get("message") if isinstance(choice.get("message"), Mapping) else choice
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    ids, prompt_ids = choice.get("token_ids"), choice.get("prompt_token_ids") or reply.get("prompt_token_ids")
    reason, model = choice.get("finish_reason"), reply.get("model", choice.get("model"))
    return Said(
        text=_text(place, message.get("content", message.get("text"))),
        reasoning=_text(place, reasoning) if reasoning else None,
        ids=ids if are_ids(ids) else None,
        prompt_ids=prompt_ids if are_ids(prompt_ids) else None,
        total_tokens=total_tokens,
        thinking_tokens=thinking_tokens,
        truncated=reason == "length" if isinstance(reason, str) else None,
        correct=correct if isinstance(correct, bool) else None,
        model=model if isinstance(model, str) else None,
    )


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
