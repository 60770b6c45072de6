"""Turn other people's reasoning into traces: data sets with think blocks, logs of servers with `reasoning_content`.

1. A response is written down as the model of this tokenizer would have written it: between its think delimiters, in
   its ids, with EOS where it ended. `efficient_reasoning/recorded.py` lists the shapes of rows that are read.
2. All responses to one question come together, whatever their order in the source.
3. Verdicts are those of the problem's verifier. Without gold answers the rows' own count (OpenR1's
   correctness_math_verify), or with `verifier: agrees_with_base` the majority of the responses to a question: two at
   least, and no tie.
4. What is a fact about a trace is imported as it is, and noted: no think block, several, an unclosed or empty one.

    efficient-reasoning data import_traces --config configs/data/import_traces_openr1.yaml
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression import compress
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from efficient_reasoning.compression.elsewhere import Recording
    from efficient_reasoning.inference.solve import Solution
    from efficient_reasoning.recorded import Said
    from efficient_reasoning.thinking import ThinkingFormat

CHUNK_RESPONSES = 64  # verified beside each other; with all their ids in memory


@dataclass(kw_only=True)
class ImportTracesArguments:
    """What to read, and for which model."""

    source: str = field(
        metadata={
            "help": "JSONL or Parquet file, folder of data files, or hub:NAME; behind it columns, as in "
            "FILE?question=COLUMN&answer=COLUMN&completion=COLUMN&thinking=COLUMN&task=T, for data sets also config "
            "and split."
        }
    )
    model: str = field(metadata={"help": "Folder or Hub id, whose tokenizer counts."})
    out: str = field(metadata={"help": "JSONL file of the traces; a report is kept beside it."})
    verifier: Literal["agrees_with_base", "judge"] | None = field(
        default=None, metadata={"help": "For rows without gold answers: the majority of responses, or a model."}
    )


def import_traces(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    noted: Counter[str] | None = None,
    thinking: ThinkingFormat,
    tokenizer_hash: str,
    mapping: Mapping[str, str] | None = None,
    verifier: str | None = None,
    name: str = "imported",
    is_math: bool = False,
    has_ids: bool = True,
) -> Iterator[dict]:
    """One trace a response.

    Args:
        rows: of the source, those of one question together.
        engine: not needed; every data tool has it.
        rejected: counts rows and responses that give no trace.
        noted: counts what is special about traces.
        thinking: the delimiters of the tokenizer.
        tokenizer_hash: of `traces.tokenizer_hash`.
        mapping: of the rows' columns.
        verifier: "agrees_with_base" or "judge", where there are no gold answers.
        name: what problems without ids are called after.
        is_math: gold answers for which neither row nor mapping names a verifier are mathematics.
        has_ids: problems are called by the rows' ids, where these have some.

    Yields:
        traces; `seed` and `sample_index` are the place among the responses to the question. What nobody knows
        (`strategy`, `budget_tokens`, `temperature`) is None.
    """
    from efficient_reasoning.overthinking import Reader
    from efficient_reasoning.scribes import describe

    rejected = Counter() if rejected is None else rejected
    noted = Counter() if noted is None else noted
    recordings = _usable(rows, mapping or {}, verifier, is_math, rejected)
    problems = (_joined(list(group), name, has_ids) for _, group in itertools.groupby(recordings, _key))
    written = _written(problems, thinking, verifier, rejected)
    while chunk := list(itertools.islice(written, CHUNK_RESPONSES)):
        reader = Reader(thinking)
        for one, correct in zip(chunk, _verdicts(chunk, rejected), strict=True):
            if correct is None:
                continue
            noted.update(one.kinds + ["correct"] * correct)
            yield {
                **describe(reader, one.problem, one.solution, correct),
                "strategy": None,
                "budget_tokens": None,
                "sample_index": one.index,
                "seed": one.index,
                "model": one.said.model,
                "temperature": None,
                "tokenizer_hash": tokenizer_hash,
            }


# ---- rows to problems ----


def _usable(
    rows: Iterable[Mapping], mapping: Mapping[str, str], verifier: str | None, is_math: bool, rejected: Counter[str]
) -> Iterator[Recording]:
    from efficient_reasoning.compression.elsewhere import Unusable, read_recording

    for row in rows:
        try:
            yield read_recording("row", dict(row), mapping, verifier, is_math)
        except Unusable as error:
            rejected[error.kind] += 1


def _key(recording: Recording) -> str:
    return recording.key


def _joined(recordings: Sequence[Recording], name: str, has_ids: bool) -> Recording:
    """The recordings of one question as one, with the problem of the first."""
    first = recordings[0]
    digest = hashlib.blake2b(first.key.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    own = first.problem.get("id") if has_ids else None
    problem = {**first.problem, "id": own or f"{name}-{digest}"}
    return replace(first, problem=problem, said=[said for one in recordings for said in one.said])


# ---- responses in the ids of a tokenizer ----


@dataclass
class _Written:
    """A response as this tokenizer spells it.

    Attributes:
        index: among the responses to its question.
        kinds: what is special about it.
        correct: the verdict, where it is known already.
    """

    problem: dict
    said: Said
    index: int
    solution: Solution
    kinds: list[str]
    correct: bool | None = None


def _written(
    recordings: Iterable[Recording], thinking: ThinkingFormat, verifier: str | None, rejected: Counter[str]
) -> Iterator[_Written]:
    from efficient_reasoning.prompts import conversation, encode_prompt, make_prompt

    for recording in recordings:
        try:
            prompt = make_prompt(thinking.tokenizer, conversation(recording.problem))
            prompt_ids = encode_prompt(thinking.tokenizer, prompt)
        except BadInput:
            rejected["with turns that the chat template refuses"] += len(recording.said)
            continue
        responses = []
        for index, said in enumerate(recording.said):
            if not said.text.strip() and not (said.reasoning or "").strip():
                rejected["without a response"] += 1
                continue
            solution, kinds = _solution(said, prompt_ids, thinking)
            if said.thinking_tokens and not solution.thinking_tokens:
                rejected["with thinking that the server hid"] += 1
                continue
            responses.append(_Written(recording.problem, said, index, solution, kinds))
        if recording.is_labelled:
            yield from _labelled(responses)
        elif verifier == "agrees_with_base":
            yield from _agreeing(responses, rejected)
        else:
            yield from responses


def _solution(said: Said, prompt_ids: list[int], thinking: ThinkingFormat) -> tuple[Solution, list[str]]:
    """A response taken apart, and what is special about it."""
    from efficient_reasoning.inference import Response, take_apart

    tokenizer = thinking.tokenizer
    has_block = True
    if said.ids and _spells(said.ids, said, thinking):
        ids, prompt_ids = said.ids, said.prompt_ids or prompt_ids
    else:
        opens = thinking.prompt_opens(prompt_ids)
        text, has_block = _text(said, thinking, opens)
        if opens:
            text = text.removeprefix(thinking.open_text).removeprefix(thinking.newline)
        ids = tokenizer.encode(text, add_special_tokens=False)
    split = thinking.split(ids, prompt_ids)
    finished = split.closed and not said.truncated
    if finished and tokenizer.eos_token_id is not None and not thinking.eos_ids.intersection(ids):
        ids = [*ids, tokenizer.eos_token_id]
    solution = take_apart(thinking, Response(ids, finished, prompt_ids=prompt_ids))
    kinds = {
        "without a think block": not has_block or not split.blocks,
        "with several think blocks": split.blocks > 1,
        "with an unclosed think block": not split.closed,
        "with empty thinking": has_block and split.blocks > 0 and not solution.thinking.strip(),
        "cut off": not finished,
    }
    return solution, [kind for kind, applies in kinds.items() if applies]


def _spells(ids: Sequence[int], said: Said, thinking: ThinkingFormat) -> bool:
    """Whether the row's ids are this tokenizer's: they spell what was said."""
    if max(ids) >= len(thinking.tokenizer):
        return False
    text = thinking.tokenizer.decode(ids, skip_special_tokens=True)
    return all(part.strip() in text for part in (said.text, said.reasoning or ""))


def _text(said: Said, thinking: ThinkingFormat, template_opens: bool) -> tuple[str, bool]:
    """The whole response between this tokenizer's delimiters, as it writes them, and whether it had a think block."""
    own = (thinking.open_text, thinking.close_text)
    text = said.text.strip().removesuffix(thinking.tokenizer.eos_token or "\0").rstrip()
    if said.reasoning is not None:
        return replace(said, reasoning=said.reasoning.strip(), text=text).spell(thinking), True
    text = _translated(text, own)
    if not any(delimiter in text for delimiter in own):
        return (thinking.write("", text) if template_opens else text), False
    chain, close, answer = text.removeprefix(thinking.open_text).partition(thinking.close_text)
    if close and not any(delimiter in part for part in (chain, answer) for delimiter in own):
        text = thinking.write(chain.strip(), answer.strip())
    elif text.startswith(thinking.open_text):
        text = f"{thinking.open_text}{thinking.newline}{text.removeprefix(thinking.open_text).lstrip()}"
    return text, True


def _translated(text: str, own: tuple[str, str]) -> str:
    """The text with other models' delimiters, if it has some and none of this one's, in the words of this one."""
    from efficient_reasoning.thinking import KNOWN_DELIMITERS

    if any(delimiter in text for delimiter in own):
        return text
    for opening, close in KNOWN_DELIMITERS:
        if close in text or text.startswith(opening):
            return text.replace(opening, own[0]).replace(close, own[1])
    return text


# ---- verdicts ----


def _labelled(responses: Sequence[_Written]) -> Iterator[_Written]:
    """Responses with the verdicts of their rows; the correct ones are what later answers must agree with."""
    right = [one.solution.answer for one in responses if one.said.correct]
    for one in responses:
        one.problem = _agree(one.problem, right or [""])
        one.correct = bool(one.said.correct)
        yield one


def _agreeing(responses: Sequence[_Written], rejected: Counter[str]) -> Iterator[_Written]:
    """Responses that are correct where they say what most to their question say."""
    from efficient_reasoning import answers

    said = [answers.extract_answer("agrees_with_base", one.solution.answer) for one in responses]
    votes = Counter(answer for answer in said if answer is not None).most_common(2)
    if sum(count for _, count in votes) < 2:
        rejected["with no other response to agree with"] += len(responses)
        return
    if len(votes) == 2 and votes[0][1] == votes[1][1]:
        rejected["of questions with a tie"] += len(responses)
        return
    majority = responses[said.index(votes[0][0])].solution.answer
    for one, answer in zip(responses, said, strict=True):
        one.problem = _agree(one.problem, [majority])
        one.correct = answer == votes[0][0]
        yield one


def _agree(problem: dict, base_answers: list[str]) -> dict:
    return {**problem, "metadata": {**problem["metadata"], "base_answers": base_answers}}


def _verdicts(chunk: Sequence[_Written], rejected: Counter[str]) -> list[bool | None]:
    """A verdict for each response; None where the gold answer is none that its verifier can read."""
    from efficient_reasoning import answers

    pending = [one for one in chunk if one.correct is None]
    try:
        verdicts = answers.verify_many([one.problem for one in pending], [one.solution.answer for one in pending])
    except BadInput:
        if any(one.problem["task"] == "judge" for one in pending):
            raise  # its server is missing, and asking again takes long
        if any(one.problem["task"] == "math" for one in pending):
            answers.verify({"id": "probe", "task": "math", "answer": "1"}, "\\boxed{1}")  # raises without its package
        verdicts = [_verdict(one) for one in pending]
    for one, verdict in zip(pending, verdicts, strict=True):
        one.correct = verdict if verdict is None else bool(verdict)
    unread = sum(one.correct is None for one in chunk)
    if unread:
        rejected["with a gold answer that its verifier cannot read"] += unread
    return [one.correct for one in chunk]


def _verdict(one: _Written) -> bool | None:
    from efficient_reasoning import answers

    try:
        return answers.verify(one.problem, one.solution.answer)
    except BadInput:
        return None


def main(argv: list[str] | None = None) -> None:
    arguments = parse(ImportTracesArguments, argv=argv, doc=__doc__)

    from efficient_reasoning.compression.elsewhere import Recordings
    from efficient_reasoning.compression.tokenizer import load_thinking
    from efficient_reasoning.traces import tokenizer_hash

    thinking = load_thinking(arguments.model)
    source = Recordings(arguments.source, arguments.verifier)
    print("\n".join(source.shown), file=sys.stderr, end="\n" * bool(source.shown))
    compress(
        arguments,
        import_traces,
        source=source,
        thinking=thinking,
        tokenizer_hash=tokenizer_hash(thinking.tokenizer),
        mapping=source.mapping,
        name=source.name,
        is_math=source.is_math,
        has_ids=source.has_ids,
    )


if __name__ == "__main__":
    run(main)
