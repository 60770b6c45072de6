"""The chain of thought of a trace: whether it can be compressed, its steps, and the training row that comes of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.prompts import add_control, encode_prompt, make_completion
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner

Unit = Literal["sentence", "line", "paragraph"]

_PARAGRAPH = re.compile(r"(?<=\n\n)(?=[^\n])")
_LINE = re.compile(r"(?<=\n)(?=[^\n])")
# Behind a line break, or a full stop that a blank follows. The number of an item ("2. Then") ends no sentence.
_SENTENCE = re.compile(r"(?<=\n)(?=[^\n])|(?<=[.!?])(?=[ \t])(?!\s*\Z)|(?<=。)(?=[^\s])")
_ITEM = re.compile(r"[\s*#-]*\d+\.")
_TITLE = re.compile(r"\b(?:Mrs?|Ms|Dr|St)\.\Z")
# A sentence may end with these too; it goes on where a small letter follows: "5 p.m. to 6", "20 ft. of".
_SHORTHAND = re.compile(r"\b(?:[^\W\d_]\.[^\W\d_]|vs|approx|sq|ft|oz|lbs?)\.\Z")


def by_problem(rows: Iterable[Mapping]) -> Iterator[list[Mapping]]:
    """The traces of each problem; they stand together in what `compress` hands to a data tool."""
    for _, group in itertools.groupby(rows, key=lambda row: row["id"]):
        yield list(group)


def is_solved(trace: Mapping) -> bool:
    """Whether a trace ended with a right answer; one that ended in its thinking has none, whatever its label says."""
    return trace["correct"] and not trace["truncated"] and bool(trace["final_answer"].strip())


def refusal(trace: Mapping, thinking: ThinkingFormat, max_tokens: int | None = None) -> str | None:
    """Why a trace cannot be compressed, in the words that a report counts; None where it can.

    Args:
        trace: of `read_traces`.
        thinking: the delimiters of its tokenizer.
        max_tokens: most total tokens; None for no limit.
    """
    if trace["truncated"]:
        return "truncated"
    if not trace["correct"]:
        return "wrong"
    split = thinking.split(trace["completion_ids"], trace["prompt_ids"])
    if not split.closed:
        return "unclosed"
    if not trace["thinking"].strip():
        return "no thinking"
    if split.blocks > 1:
        return "several blocks"
    if not trace["final_answer"].strip():
        return "no answer"
    return "too long" if max_tokens is not None and trace["total_tokens"] > max_tokens else None


def usable_traces(
    traces: Iterable[Mapping], thinking: ThinkingFormat, rejected: Counter[str], max_tokens: int | None = None
) -> list[Mapping]:
    """The traces of one problem that can be compressed, shortest first, in an order that is not that of the files.

    Args:
        traces: of one problem.
        thinking, max_tokens: as in `refusal`.
        rejected: where there are none, counts the problem under the reason that most of them share.
    """
    reasons: Counter[str] = Counter()
    usable = []
    for trace in traces:
        reason = refusal(trace, thinking, max_tokens)
        if reason is None:
            usable.append(trace)
        else:
            reasons[reason] += 1
    if not usable:
        rejected[max(sorted(reasons), key=reasons.get)] += 1
    return sorted(usable, key=lambda trace: (trace["total_tokens"], trace["seed"], trace["thinking"]))


def first_usable(
    traces: Iterable[Mapping],
    thinking: ThinkingFormat,
    rejected: Counter[str],
    max_tokens: int | None = None,
    max_traces: int | None = None,
) -> list[Mapping]:
    """Up to `max_traces` traces that can be compressed, as they stand; counts why those before them cannot."""
    usable: list[Mapping] = []
    for trace in traces:
        if len(usable) == max_traces:
            break
        if reason := refusal(trace, thinking, max_tokens):
            rejected[reason] += 1
        else:
            usable.append(trace)
    return usable


def split_steps(text: str, unit: Unit | None = None) -> list[str]:
    """Cut a chain into steps, which joined are the chain again.

    Args:
        text: of the thinking.
        unit: "paragraph" (behind a blank line), "line" or "sentence"; by default paragraphs where there are several,
            as in the chains of large models, else sentences.
    """
    if unit is None:
        unit = "paragraph" if "\n\n" in text.strip() else "sentence"
    if unit != "sentence":
        return [step for step in (_PARAGRAPH if unit == "paragraph" else _LINE).split(text) if step]
    steps: list[str] = []
    for part in _SENTENCE.split(text):
        if steps and (_ITEM.fullmatch(steps[-1]) or _goes_on(steps[-1][-10:], part)):
            steps[-1] += part
        elif part:
            steps.append(part)
    return steps


def _goes_on(end: str, part: str) -> bool:
    """Whether a full stop at the end of a text is one of an abbreviation, and the sentence goes on behind it."""
    return bool(_TITLE.search(end)) or (part.lstrip()[:1].islower() and bool(_SHORTHAND.search(end)))


def question_text(trace: Mapping) -> str:
    """What a trace was asked, as text; of a conversation all messages."""
    prompt = trace["prompt"]
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def can_be_asked(trace: Mapping, behind: str, reasoner: Reasoner) -> bool:
    """Whether the trace's prompt, with a text behind its question, leaves the model room for a response."""
    prompt_tokens = len(encode_prompt(reasoner.tokenizer, add_control(trace["prompt"], behind)))
    return reasoner.context_tokens is None or prompt_tokens < reasoner.context_tokens


def training_row(
    trace: Mapping, thinking: ThinkingFormat, chain: str, *, method: str, control: str = "", **columns: object
) -> dict:
    """The row that trains a model to think `chain` where it thought what the trace has.

    Args:
        trace: whose prompt and answer stay as they are.
        thinking: the delimiters of its tokenizer, in which the new length is counted.
        chain: the new thinking.
        method: of the data tool.
        control: text behind the question that asks for this kind of chain.
        columns: further ones.

    Returns:
        `prompt`, `completion`, `method`, `keep_ratio` (new length / old length, both total tokens), `source_id`,
        `source_tokens`, `total_tokens`, and `control` where there is one.
    """
    text = thinking.write(chain, trace["final_answer"])
    total_tokens = len(thinking.tokenizer.encode(text, add_special_tokens=False))
    if thinking.prompt_opens(trace["prompt_ids"]):  # the text holds the opening, which is not generated
        total_tokens -= len(thinking.open([]))
    written = {**trace, "completion": make_completion(thinking.tokenizer, text), "total_tokens": total_tokens}
    return whole_row(written, trace["total_tokens"], method=method, control=control, **columns)


def whole_row(trace: Mapping, source_tokens: float, *, method: str, control: str = "", **columns: object) -> dict:
    """The row that trains a model on a trace as it stands.

    Args:
        trace: whose prompt and completion it has.
        source_tokens: total tokens of what it stands for, such as another trace of its problem.
        method, control, columns: as in `training_row`.

    Returns:
        the columns of `training_row`.
    """
    return {
        "prompt": add_control(trace["prompt"], control) if control else trace["prompt"],
        "completion": trace["completion"],
        "method": method,
        "keep_ratio": trace["total_tokens"] / (source_tokens or 1),  # a response may be an end token alone
        "source_id": trace["id"],
        "source_tokens": source_tokens,
        "total_tokens": trace["total_tokens"],
        **({"control": control} if control else {}),
        **columns,
    }
