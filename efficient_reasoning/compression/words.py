"""A chain of thought as words that can be left out, and whole again without them.

1. A word is what stands between blanks, its punctuation marks apart; an expression ("12 + 30 = 42", "$9.50",
   "\\frac{1}{2}") is one word, whatever blanks are in it. Half an equation says something else than the whole one, so
   words with a digit or an operator are *fixed*: they stay as long as anything around them does.
2. White space belongs to the word that follows it. Where words are left out, the line break in front of one of them
   stays, and no two words grow together; a punctuation mark goes with what it closes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from efficient_reasoning.compression.chains import Unit, split_steps

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

# Repetitions are bounded, so that no nonsense takes more than linear time.
_COMMAND = r"\\[A-Za-z]+(?:\{[^{}\n]{0,200}\}){0,4}"  # of LaTeX, with its arguments
_DIGITS = r"(?:\w{0,40}\d\w*(?:[.,:]\d+)*(?:-[^\W\d_]+)*|(?<!\w)\.\d+)"  # "1,200", "3:4", "10r4", "12-year-old", ".5"
_VARIABLE = r"(?<!\w)(?![aAI][ \t]+[^\W\d_]{2})[A-Za-z](?!\w)"  # no article, and not oneself
_OPERAND = rf"(?:[(\[{{$€£]{{1,3}}[-−]?)?√?(?:{_COMMAND}|{_DIGITS}|{_VARIABLE})[)\]}}$%°!]*"
_TIMES = r"(?<=[\w)%][ \t])[xX](?=[ \t][.\d($€£])"  # "12 x 2", "3 packs x 2"
_OPERATOR = rf"(?:[+*/=<>^×÷±·−≤≥≠≈]|(?<!-)-(?!-)|{_TIMES})"  # "--" is a dash
_OPERATORS = rf"[ \t]{{0,3}}{_OPERATOR}(?:[ \t]{{0,3}}{_OPERATOR}){{0,2}}"
_EXPRESSION = (
    rf"(?:{_OPERATORS}[ \t]{{0,3}}(?=[(\[{{$€£]{{0,3}}(?:\w{{0,40}}|\.)\d))?"
    rf"{_OPERAND}(?:{_OPERATORS}[ \t]{{0,3}}{_OPERAND}|{_OPERAND})*(?:{_OPERATORS}(?!\w))?"
)
_PLAIN = r"(?:(?<=[\w)%])/)?[(\[{\"'“‘]{0,3}[^\W\d_]+(?:['’/-][^\W\d_]+)*[)\]}\"'”’]*"  # or a unit: "/hour"
_WORD = re.compile(rf"(\s*)({_EXPRESSION}|{_PLAIN}|[,;:.!?…]+|-+|_+|\S)")
_FIXED = re.compile(r"\d|[-+*/=<>^×÷±·−≤≥≠≈\\]")
_MATHS = re.compile(r"[\d²³¹⁰⁴-₉¼-¾⅐-↉√∛∑∏∫∈∉∪∩≡→⇒∞]")  # also within what looks like a word: "x²"
_FREE = re.compile(rf"{_PLAIN}|-+")  # a dash or a hyphen between words is no operator
_MARKS = re.compile(r"[,;:.!?…]+")
_CALCULATION = re.compile(_OPERATOR)
_REMARK_WORDS = 3


@dataclass(frozen=True)
class Word:
    """A word of a chain.

    Attributes:
        space: the white space in front of it.
        text: itself.
        start, stop: where both together stand in the chain, in characters.
        fixed: it holds a digit or an operator.
        is_mark: it is punctuation.
    """

    space: str
    text: str
    start: int
    stop: int
    fixed: bool
    is_mark: bool


def split_words(text: str) -> list[Word]:
    """The words of a chain; white space at its end belongs to none."""
    return [
        Word(
            match[1],
            match[2],
            match.start(),
            match.end(),
            fixed=bool(_MATHS.search(match[2]) or (_FIXED.search(match[2]) and not _FREE.fullmatch(match[2]))),
            is_mark=_MARKS.fullmatch(match[2]) is not None,
        )
        for match in _WORD.finditer(text.rstrip())
    ]


def join_words(words: Sequence[Word], kept: Sequence[bool]) -> str:
    """The text that remains of a chain."""
    parts: list[str] = []
    last: Word | None = None
    space, follows_gap = "", False
    for word, is_kept in zip(words, kept, strict=True):
        if not is_kept:
            space, follows_gap = _wider(space, word.space), True
            continue
        opens_line = last is None or "\n" in _wider(space, word.space)
        if word.is_mark and follows_gap and (opens_line or last.is_mark):
            if not opens_line and last.text in ",;:":  # a sentence ends with the stronger mark
                parts[-1], last = word.text, word
            continue
        if last is not None:
            grows = last.text[-1].isalnum() and word.text[0].isalnum()
            white = _wider(space, word.space) if opens_line or grows else word.space
            parts.append(white or " " * (grows and follows_gap))
        parts.append(word.text)
        last, space, follows_gap = word, "", False
    return "".join(parts)


def _wider(space: str, other: str) -> str:
    """The one with more line breaks, else the later one that is not empty."""
    return space if space.count("\n") > other.count("\n") or not other else other


def split_chunks(text: str, words: Sequence[Word], unit: Unit | None = None) -> list[range]:
    """The steps of a chain as places of words.

    Args:
        text: the chain.
        words: all of them.
        unit: of `split_steps`; by default paragraphs where there are several, else sentences, each with the short
            remarks on it.
    """
    chunks: list[range] = []
    start = end = 0
    for step in split_steps(text, unit):
        end += len(step)
        stop = start
        while stop < len(words) and words[stop].stop - len(words[stop].text) < end:
            stop += 1
        if unit is None and chunks and is_remark(words[start:stop]):
            chunks[-1] = range(chunks[-1].start, stop)
        elif stop > start:
            chunks.append(range(start, stop))
        start = stop
    return chunks


def is_remark(sentence: Sequence[Word]) -> bool:
    """Whether a sentence says something about the one before, and nothing without it: "Yes.", "Not 12."."""
    spoken = [word for word in sentence if not word.is_mark]
    return len(spoken) <= _REMARK_WORDS and not any(_CALCULATION.search(word.text) for word in spoken)
