"""What an audit knows of one response, wherever it comes from."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from efficient_reasoning.traces import shown_tokens

# Where a length comes from, the surest first.
IDS, USAGE, TEXT = "token ids", "usage", "text tokenised again"


@dataclass
class Response:
    """One response to one question. None is what the source does not tell.

    Attributes:
        problem: the question's, with `id`; responses with equal ids are to the same question.
        answer: text after the thinking, which is verified.
        total_tokens: generated, EOS excluded where it can be told (a server's `usage` has it).
        counted_by: where the length comes from.
        thinking_tokens: of the total.
        truncated: it was cut off.
        correct: the verdict, once there is one.
        read_tokens: length of what was read for the next three: the total, but for lengths from `usage`.
        first_correct_tokens, settled_tokens, loops: see `overthinking.Reading`; loops is None where nothing was read.
        floor_tokens: length of the shortest solution.
        ids, prompt_ids: of what is to be read; an array is a tenth of a list.
    """

    problem: dict
    answer: str
    total_tokens: int
    counted_by: str
    thinking_tokens: int | None = None
    truncated: bool | None = None
    correct: bool | None = None
    read_tokens: int | None = None
    first_correct_tokens: int | None = None
    settled_tokens: int | None = None
    loops: bool | None = None
    floor_tokens: float | None = None
    ids: array | None = field(default=None, repr=False)
    prompt_ids: list[int] = field(default_factory=list, repr=False)

    @property
    def is_read(self) -> bool:
        return self.loops is not None


def from_sample(sample: Mapping) -> Response:
    """The response of a line of samples.jsonl, or of the traces of `data sample`."""
    floor = sample.get("floor_tokens")
    return Response(
        problem={key: sample.get(key) for key in ("id", "question", "answer", "task", "difficulty", "metadata")},
        answer=sample["final_answer"],
        counted_by=IDS,
        total_tokens=shown_tokens(sample),
        thinking_tokens=shown_tokens(sample, "thinking_tokens"),
        read_tokens=sample["total_tokens"],
        ids=array("i", sample["completion_ids"]),
        **{
            key: sample.get(key)
            for key in (
                *("truncated", "correct", "prompt_ids"),
                *("first_correct_tokens", "settled_tokens", "loops"),
            )
        },
        floor_tokens=floor if type(floor) in (int, float) else None,
    )
