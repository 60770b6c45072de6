"""What one response did with its tokens: where the right answer first stood, where its own did, and does it loop?

1. A response is cut at the ends of lines and sentences, and where its thinking ends. Every token id is decoded on its
   own, once, so that a cut is a number of ids and nothing is tokenised again.
2. What stands between two cuts may say a *candidate* answer, as the problem's verifier would extract it:

       numeric, exact, json,   what `answers.extract_answer` takes out of the sentence
       agrees_with_base
       math, gym:NAME          what is boxed or tagged; else the last number, if the gold answer is one
       unit_tests, judge       none: code is not one sentence, and a judge may charge for each

   The end of the response says its final answer. A verifier is asked once for each candidate of a problem.
3. An intermediate result may hit the answer by accident, and the check of an answer ends in another number without a
   change of mind ("5-2=3. Check: 3+2=5."). So the *first* hit counts, as in the papers, not the last change; where
   intermediate results are often the answer, both places come out too early.
4. Over many responses, of T tokens each, of which T' up to the first correct answer (T' = T where it never comes):

       outcome efficiency   mean of T'/T over the correct responses (Chen et al., arXiv 2412.21187, who divide by the
                            number of all responses, and so mix it with accuracy)
       underthinking        mean of 1 - T'/T over the wrong responses (Wang et al., arXiv 2501.18585): the share that
                            came after a correct thought, which was given up

The papers let a model find the solutions in a response; here the verifier does, by the rule above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficient_reasoning import answers
from efficient_reasoning.answers import gym, mathematics
from efficient_reasoning.answers.matching import NUMBER, extract_number
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    import numpy as np

LOOP_REPEATS = 3
LOOP_TOKENS = 64
_GRAM = 32
_MOST_VERDICTS = 100_000  # remembered: a run may read millions of problems

_END = re.compile(r"[.!?][\"')\]*]*\Z")
# The number of an item ("2. Then ...") is no answer.
_ITEM = re.compile(r"[\s*#-]*\d+\.\**")
_ITEM_BEFORE = re.compile(rf"\A{_ITEM.pattern}(?=\s+\S)")
_UNSEARCHED = ("unit_tests", "judge")


@dataclass(frozen=True)
class Reading:
    """Where the answers of one response stand. Tokens count from its first id, delimiters included, EOS excluded.

    Attributes:
        first_correct_tokens: up to the first cut with a correct candidate; None if there is none.
        settled_tokens: up to the first cut whose candidate is the final answer; None without a final answer.
        loops: see `loops`.
    """

    first_correct_tokens: int | None
    settled_tokens: int | None
    loops: bool


@dataclass(frozen=True)
class Claim:
    """A sentence that says an answer.

    Attributes:
        stop_tokens: up to its end, counted as in `Reading`.
        sentence: its text, without delimiters.
        candidate: the answer; equal answers are equal strings.
    """

    stop_tokens: int
    sentence: str
    candidate: str


class Reader:
    """Reads the responses of one tokenizer; what it has decoded and verified is remembered.

    Args:
        thinking: the tokenizer's think delimiters.
    """

    def __init__(self, thinking: ThinkingFormat):
        self.thinking = thinking
        self._texts: dict[int, str] = {}
        self._verdicts: dict[tuple[str, str], bool] = {}

    def read(self, ids: Sequence[int], prompt_ids: Sequence[int], problem: Mapping, correct: bool) -> Reading:
        """Read one response.

        Args:
            ids: as the model wrote them; EOS and what follows it is left out.
            prompt_ids: which tell whether the prompt opened the thinking.
            problem: with `id`, `task` and what its verifier needs.
            correct: whether the response was found to be correct.
        """
        claims, final, total_tokens = self._claims(ids, prompt_ids, problem)
        settled = (claim.stop_tokens for claim in claims if claim.candidate == final)
        right = (claim.stop_tokens for claim in claims if self._is_right(problem, claim, final, correct))
        return Reading(
            first_correct_tokens=next(right, total_tokens if correct else None),
            settled_tokens=next(settled, None if final is None else total_tokens),
            loops=loops(ids[:total_tokens]),
        )

    def correct_claims(
        self, ids: Sequence[int], prompt_ids: Sequence[int], problem: Mapping, correct: bool
    ) -> list[Claim]:
        """The sentences of a response that say the right answer, in order; arguments as for `read`."""
        claims, final, _ = self._claims(ids, prompt_ids, problem)
        return [claim for claim in claims if self._is_right(problem, claim, final, correct)]

    def _claims(
        self, ids: Sequence[int], prompt_ids: Sequence[int], problem: Mapping
    ) -> tuple[list[Claim], str | None, int]:
        """The sentences that say an answer, the final answer, and the length of the response in tokens."""
        total_tokens = self.thinking.count(ids, prompt_ids).total_tokens
        ids = list(ids[:total_tokens])
        answer_start = total_tokens - len(self.thinking.split(ids, prompt_ids).answer_ids)
        texts = self.texts(ids)
        final_text = "".join(texts[answer_start:])
        final = _candidate(problem, final_text) or answers.extract_answer(problem["task"], final_text)
        delimiters = self.thinking.open_text, self.thinking.close_text
        claims = [
            Claim(stop, text, candidate)
            for stop, text in _sentences(texts, delimiters, answer_start)
            if (candidate := _candidate(problem, text)) is not None
        ]
        return claims, final, total_tokens

    def _is_right(self, problem: Mapping, claim: Claim, final: str | None, correct: bool) -> bool:
        return correct if claim.candidate == final else self._verify(problem, claim.candidate)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """What each id spells behind another one."""
        return [self._text(token) for token in ids]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            tokenizer = self.thinking.tokenizer
            piece = tokenizer.convert_ids_to_tokens(token) or ""  # a padded embedding has ids without a piece
            text = tokenizer.convert_tokens_to_string([piece])
            # SentencePiece drops the blank in front of a text, and so of each of its ids.
            self._texts[token] = f" {text.lstrip(' ')}" if piece.startswith("▁") else text
        return self._texts[token]

    def _verify(self, problem: Mapping, candidate: str) -> bool:
        key = (problem["id"], candidate)
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        if key not in self._verdicts:
            self._verdicts[key] = _is_correct(problem, candidate)
        return self._verdicts[key]


def loops(ids: Sequence[int]) -> bool:
    """Whether a block of ids stands at least `LOOP_REPEATS` times back to back, over at least `LOOP_TOKENS` in all.

    The last repetition may be cut off once the others suffice. 32,000 ids take a tenth of a second.
    """
    import numpy as np

    ids = np.asarray(ids)
    for period in _distances(ids):
        # A stretch with a period of p that is as long as m + p has m ids that equal the one p places before.
        needed = max(LOOP_REPEATS * period, LOOP_TOKENS) - period
        differs = ids[period:] != ids[:-period]
        if len(differs) - np.count_nonzero(differs) < needed:
            continue
        ends = np.flatnonzero(np.concatenate(([True], differs, [True])))
        if np.diff(ends).max() > needed:
            return True
    return False


def _distances(ids: np.ndarray) -> np.ndarray:
    """How far apart the same `_GRAM` ids stand next to each other: a loop's period is among the distances.

    In a loop at least 43 ids in a row equal those one period before, and so do whole grams of them.
    """
    import numpy as np

    if len(ids) < LOOP_TOKENS:
        return np.empty(0, dtype=int)
    factors = np.random.default_rng(0).integers(1 << 63, size=_GRAM, dtype=np.uint64)
    grams = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint64), _GRAM) @ factors  # hashed, modulo 2**64
    order = np.argsort(grams, kind="stable")
    apart = np.diff(order)[np.diff(grams[order]) == 0]
    return np.unique(apart[apart <= len(ids) // LOOP_REPEATS])


def kept_share(sample: Mapping) -> float:
    """T'/T of one sample: the share of its tokens up to the first correct answer; 1 where that never comes."""
    first, total = sample["first_correct_tokens"], sample["total_tokens"]
    return 1.0 if first is None or total == 0 else first / total


def _sentences(texts: Sequence[str], delimiters: tuple[str, str], answer_start: int) -> Iterator[tuple[int, str]]:
    """What stands before each cut, after the place of the cut.

    Args:
        texts: of each id.
        delimiters: open and close, which are no part of a sentence.
        answer_start: before which id the answer begins, where there is always a cut.
    """
    begin = 0
    for stop, text in enumerate(texts, start=1):
        is_line = "\n" in text or stop in (answer_start, len(texts))
        blank_follows = stop < len(texts) and texts[stop][:1].isspace()
        # Quotation marks and brackets behind a full stop may be ids of their own.
        if is_line or (blank_follows and _END.search("".join(texts[max(begin, stop - 3) : stop]))) or "。" in text:
            sentence = "".join(texts[begin:stop])
            if not is_line and _ITEM.fullmatch(sentence):
                continue
            for delimiter in delimiters:
                sentence = sentence.replace(delimiter, " ")
            yield stop, _ITEM_BEFORE.sub("", sentence)
            begin = stop


def _candidate(problem: Mapping, text: str) -> str | None:
    """The answer that a sentence says, such that equal answers are equal strings; None where it says none."""
    task = problem["task"]
    if task in _UNSEARCHED:
        return None
    if task == "math" or task.startswith(gym.PREFIX):
        is_marked = "</answer>" in text if task != "math" else mathematics.extract(text) is not None
        if is_marked:
            marked = answers.extract_answer(task, text)
            return extract_number(marked) if marked and NUMBER.fullmatch(marked) else marked
        return extract_number(text) if _gold_number(problem) is not None else None
    return answers.extract_answer(task, text)


def _gold_number(problem: Mapping) -> str | None:
    """The gold answer as `extract_number` writes it, if it is a number and nothing else."""
    gold = str(problem.get("answer") or "").strip("$ \n")
    gold = mathematics.extract(gold) or gold
    return extract_number(gold) if NUMBER.fullmatch(gold) else None


def _is_correct(problem: Mapping, candidate: str) -> bool:
    task = problem["task"]
    if task == "math" or task.startswith(gym.PREFIX):
        # Numbers need no process of their own, and there are many in a chain of thought.
        if NUMBER.fullmatch(candidate) and (gold := _gold_number(problem)) is not None:
            return candidate == gold
        return answers.verify(problem, f"\\boxed{{{candidate}}}" if task == "math" else candidate)
    return answers.verify(problem, candidate)
