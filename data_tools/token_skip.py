"""Leave out the tokens of a chain of thought that matter least, as many as the prompt says.

1. TokenSkip (arXiv 2502.12067): of a correct trace, the tokens of its chain are rated, the least important ones left
   out down to a ratio, and the answer kept. A row's ratio is drawn from `ratios`, and stands behind its question as
   `<|keep 0.5|>`, so that the trained model can be asked for a length. The paper asks for 1.0 by asking for nothing;
   here 1.0 has its control like the others, so that all of them are asked for, and measured, in one way.
2. The ratio is one of total tokens: those of the row's response over those of the trace's. Digits and operators stay,
   and the order of what stays; `level: token` leaves out single words only.
3. `level: chunk` (R1-Compress, arXiv 2505.16838) first leaves out whole paragraphs or sentences, those with the least
   importance a token first, and then words, down to the ratio. Ratios below the share of the digits need it. A
   sentence stays while one behind it, or the answer, takes up a number that it calculates or is the first to say,
   unless its calculations stand in front of it already: a repetition, or one done backwards, which is a check.
4. A row that misses its ratio by more than `tolerance` would lie in its prompt. A chain without anything to spare has
   no short version, so its ratio is drawn from those that it can reach: nothing is lost, nothing is untrue.
5. What matters, `importance` says: `self_information` of the target model, LLMLingua-2's classifier (`llmlingua`), or
   a small `classifier` trained on what the long chains of these very problems share with the shortest.

    efficient-reasoning data token_skip --config configs/data/token_skip_overthinker.yaml
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress, refusal, training_row
from efficient_reasoning.compression.chains import question_text
from efficient_reasoning.compression.importance import (
    LLMLINGUA_2,
    Importance,
    Rating,
    SelfInformation,
    TokenClassifier,
    word_tokens,
    word_values,
)
from efficient_reasoning.compression.token_classifier import is_trained_on, train_token_classifier
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.compression.tool import TraceFiles
from efficient_reasoning.compression.words import NUMBER, is_remark, join_words, split_chunks, split_words
from efficient_reasoning.config import parse
from efficient_reasoning.errors import run
from efficient_reasoning.files import read_jsonl
from efficient_reasoning.thinking import ThinkingFormat

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_RATED_TOGETHER = 64  # traces
_RESULT = re.compile(rf"[=≈]\s*[-−$€£(\\]{{0,3}}({NUMBER.pattern})")
_NEGATIVE = re.compile(rf"(?:^|[=≈(*/+×÷])\s*[-−]\s*({NUMBER.pattern})")
_CLAUSE_END = re.compile(r"[,;:.!?](?!\d)")
_MOST_HOLDERS = 32  # of a number; more would take long chains long
_NEAR = 0.02  # of a ratio: so near, whole words are not worth a broken sentence
Level = Literal["token", "chunk"]


@dataclass(kw_only=True)
class TokenSkipArguments(CompressionArguments):
    """What to leave out."""

    model: str = field(metadata={"help": "Folder or Hub id of the model to train, whose tokens are counted."})
    importance: Literal["self_information", "llmlingua", "classifier"] = field(
        default="self_information", metadata={"help": "What rates tokens; classifier is one that is trained here."}
    )
    importance_model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id for llmlingua; folder for classifier, trained on the traces if null."},
    )
    level: Level = field(default="chunk", metadata={"help": "Leave out words only, or whole sentences first."})
    ratios: list[float] = field(
        default_factory=lambda: list(RATIOS), metadata={"help": "Shares of the total tokens to keep, in (0, 1]."}
    )
    all_ratios: bool = field(default=False, metadata={"help": "A row of every ratio, not of one that is drawn."})
    tolerance: float = field(default=0.05, metadata={"help": "How far a row may be from its ratio."})
    max_tokens: int | None = field(default=None, metadata={"help": "Longest trace, in total tokens; null for any."})
    seed: int = field(default=0, metadata={"help": "Of the ratios drawn."})
    backend: str = field(default="auto", metadata={"help": "What rates tokens by self-information."})

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios are {self.ratios}; give at least one, each above 0 and at most 1.")
        if len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"ratios are {self.ratios}; give each of them once.")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; give a share between 0 and 1.")


def token_skip(
    rows: Iterable[Mapping],
    engine: Importance,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    level: Level = "chunk",
    ratios: Sequence[float] = RATIOS,
    all_ratios: bool = False,
    tolerance: float = 0.05,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """One training row a trace, or with `all_ratios` one for every ratio that the trace can reach.

    Args:
        rows: traces, streamed.
        engine: rates the tokens of their chains.
        thinking: the target model's delimiters and tokenizer.
        rejected: counts traces that give no row, and with `all_ratios` the ratios that they cannot reach.
        level: "token" leaves out words, "chunk" whole steps before them.
        ratios: total tokens of a row over those of its trace.
        all_ratios: take all of them.
        tolerance: most that a row may miss its ratio by.
        max_tokens: longer traces are left out (total tokens).
        seed: of the ratio drawn; which one it is does not depend on the order of the rows.

    Yields:
        `prompt` (with the control), `completion`, `control`, `method`, `keep_ratio` (reached), `requested_ratio`,
        `source_id`, `source_tokens`, `total_tokens`.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    rejected = Counter() if rejected is None else rejected
    fit = (row for row in same_tokenizer(rows, thinking) if not _refused(row, thinking, max_tokens, rejected))
    while batch := list(itertools.islice(fit, _RATED_TOGETHER)):
        for row, ratings in zip(batch, engine.rate([row["thinking"] for row in batch]), strict=True):
            if ratings is None:
                rejected["too long to be rated"] += 1
                continue
            chain = _Chain(row, thinking, ratings, level)
            if all_ratios:
                wanted = ratios
            else:
                lot = random.Random(f"{seed}/{row['id']}/{row['seed']}")
                wanted = lot.sample(list(ratios), len(ratios))
            found = (one for ratio in wanted if (one := chain.row(ratio, tolerance)))
            made = list(found) if all_ratios else list(itertools.islice(found, 1))
            rejected["cannot reach the ratio"] += (len(ratios) if all_ratios else 1) - len(made)
            yield from made


def _refused(row: Mapping, thinking: ThinkingFormat, max_tokens: int | None, rejected: Counter[str]) -> bool:
    reason = refusal(row, thinking, max_tokens)
    if reason is not None:
        rejected[reason] += 1
    return reason is not None


class _Chain:
    """The chain of one trace, ready to be shortened.

    Args:
        trace: that `refusal` lets pass.
        thinking: the target model's delimiters and tokenizer.
        ratings: of the chain's tokens.
        level: of `token_skip`.
    """

    def __init__(self, trace: Mapping, thinking: ThinkingFormat, ratings: Sequence[Rating], level: Level):
        self.trace = trace
        self.thinking = thinking
        self.words = split_words(trace["thinking"])
        self.values = word_values(self.words, ratings)
        self.tokens = word_tokens(thinking.tokenizer, trace["thinking"], self.words)
        self.steps = split_chunks(trace["thinking"], self.words) if level == "chunk" else []
        self.sentences = split_chunks(trace["thinking"], self.words, "sentence")
        self.whole = self._row([True] * len(self.words), 1.0)

    def row(self, ratio: float, tolerance: float) -> dict | None:
        """The training row of a ratio; None where the chain comes no nearer than the tolerance, or nothing is left."""
        target = ratio * self.trace["total_tokens"]
        near = _NEAR * self.trace["total_tokens"]
        kept = self._without_steps(self.whole["total_tokens"] - target, near)
        row = self._without_words(kept, ratio, target, near)
        if abs(row["keep_ratio"] - ratio) > tolerance + 1e-9:
            return None
        return row if row["total_tokens"] > self._row([False] * len(self.words), ratio)["total_tokens"] else None

    def _without_steps(self, surplus: float, near: float) -> list[bool]:
        """Which words stay when the least important steps are left out, as long as they fit into the surplus."""
        kept = [True] * len(self.words)
        lengths = [sum(self.tokens[i] for i in step) for step in self.steps]
        left = set(range(len(self.steps)))
        sayers: dict[str, list[int]] = {}  # steps that say a number, those left out aside
        for step, said in enumerate(self._said):
            for number in said:
                sayers.setdefault(number, []).append(step)

        def is_spare(step: int) -> bool:
            answers = self._found[step] & self._answer
            if all(any(i in left and answers <= self._found[i] for i in earlier) for earlier in self._repeated[step]):
                return True
            news = {number for number in self._said[step] - self._given if sayers[number][0] == step}
            return not any(sayers[number][-1] > step or number in self._answer for number in news | self._found[step])

        order = sorted(left, key=self._importance)
        needed: set[int] = set()  # until a step goes that has a number in common
        while surplus > near:
            for step in order:
                if step in needed or lengths[step] > surplus + near:
                    continue
                if is_spare(step):
                    break
                needed.add(step)
            else:
                break
            order.remove(step)
            left.remove(step)
            surplus -= lengths[step]
            for number in self._said[step]:
                sayers[number].remove(step)
                needed.difference_update(sayers[number])
            for word in self.steps[step]:
                kept[word] = False
        return kept

    def _without_words(self, kept: Sequence[bool], ratio: float, target: float, near: float) -> dict:
        """The row without as many of the least important words as it takes."""
        order = [group for group in self._groups if all(kept[i] for i in group)]

        @functools.cache
        def row(count: int) -> dict:
            out = set(itertools.chain.from_iterable(order[:count]))
            return self._row([stays and i not in out for i, stays in enumerate(kept)], ratio)

        if abs(row(0)["total_tokens"] - target) <= near:
            return row(0)

        def fits(count: int) -> bool:
            return row(count)["total_tokens"] <= target

        # The words' own tokens say about how many have to go; from there, ever larger strides enclose the place.
        spared = list(itertools.accumulate((sum(self.tokens[i] for i in group) for group in order), initial=0))
        low = high = min(bisect_left(spared, row(0)["total_tokens"] - target), len(order))
        stride = 1
        while high < len(order) and not fits(high):
            low, high, stride = high + 1, min(high + stride, len(order)), 2 * stride
        while low and fits(low - 1):
            low, high, stride = max(low - stride, 0), low - 1, 2 * stride
        count = low + bisect_left(range(low, high), True, key=fits)
        return min(row(max(count - 1, 0)), row(count), key=lambda made: abs(made["total_tokens"] - target))

    @functools.cached_property
    def _groups(self) -> list[list[int]]:
        """The words that may be left out, the least important first; a remark goes as a whole.

        Of "The same." no "The" is left.
        """
        remarks = [list(part) for part in self.sentences if is_remark([self.words[i] for i in part])]
        alone = set(range(len(self.words))).difference(*remarks)
        groups = [*remarks, *([i] for i in sorted(alone))]
        spare = [group for group in groups if not any(self.words[i].fixed for i in group)]
        return sorted(spare, key=lambda group: sum(self.values[i] for i in group) / len(group))

    def _row(self, kept: Sequence[bool], ratio: float) -> dict:
        return training_row(
            self.trace,
            self.thinking,
            join_words(self.words, kept),
            method="token_skip",
            control=f"<|keep {ratio:g}|>",
            requested_ratio=ratio,
        )

    def _importance(self, step: int) -> float:
        """The mean over a step's tokens."""
        words = self.steps[step]
        tokens = sum(self.tokens[i] for i in words)
        return sum(self.values[i] * self.tokens[i] for i in words) / max(tokens, 1)

    @functools.cached_property
    def _texts(self) -> list[str]:
        """Of the steps."""
        return ["".join(f"{self.words[i].space}{self.words[i].text}" for i in step) for step in self.steps]

    @functools.cached_property
    def _said(self) -> list[set[str]]:
        """The numbers of each step."""
        return [_numbers(text) for text in self._texts]

    @functools.cached_property
    def _found(self) -> list[set[str]]:
        """The numbers that each step calculates: those behind an equals sign."""
        return [{_plain(number) for number in _RESULT.findall(text)} for text in self._texts]

    @functools.cached_property
    def _repeated(self) -> list[list[list[int]]]:
        """For every clause of each step that has numbers, the steps in front whose clauses hold all of these.

        What a calculation says, only another one can say before it.
        """
        holders: dict[str, list[tuple[int, set[str]]]] = {}  # clauses that hold a number
        repeated: list[list[list[int]]] = []
        for step, text in enumerate(self._texts):
            clauses = [facts for clause in _CLAUSE_END.split(text) if (facts := _facts(clause))]
            found = [min((holders.get(fact, []) for fact in facts), key=len) for facts in clauses]
            repeated.append(
                [[i for i, held in holding if facts <= held] for facts, holding in zip(clauses, found, strict=True)]
            )
            for facts in clauses:
                for fact in facts:
                    if len(holding := holders.setdefault(fact, [])) < _MOST_HOLDERS:
                        holding.append((step, facts))
        return repeated

    @functools.cached_property
    def _given(self) -> set[str]:
        """Numbers of the question, which need nobody to say them."""
        return _numbers(question_text(self.trace))

    @functools.cached_property
    def _answer(self) -> set[str]:
        return _numbers(self.trace["final_answer"])


def _numbers(text: str) -> set[str]:
    return {_plain(number) for number in NUMBER.findall(text)}


def _plain(number: str) -> str:
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _facts(clause: str) -> set[str]:
    """Its numbers, those with a sign apart from those without, and whether it calculates."""
    facts = _numbers(_NEGATIVE.sub(" ", clause)) | {f"-{_plain(number)}" for number in _NEGATIVE.findall(clause)}
    return facts | {"="} if facts and _RESULT.search(clause) else facts


def load_importance(arguments: TokenSkipArguments, source: TraceFiles, thinking: ThinkingFormat) -> Importance:
    """What rates tokens; a classifier is trained first, into OUT.classifier-..., where none is named or there."""
    if arguments.importance == "self_information":
        from efficient_reasoning.inference import load_reasoner

        return SelfInformation(load_reasoner(arguments.model, arguments.backend))
    if arguments.importance == "llmlingua":
        return TokenClassifier(arguments.importance_model or LLMLINGUA_2)
    if arguments.importance_model is not None:
        return TokenClassifier(arguments.importance_model)
    folder = Path(f"{arguments.out}.classifier-{source.digest[:8]}")  # other traces leave it as it is
    if not is_trained_on(folder, source.digest):
        groups = by_problem(same_tokenizer(source.read(0, len(source)), thinking))
        report = train_token_classifier(groups, thinking, folder, source=source.digest)
        auc = "no problem held out" if report["auc"] is None else f"AUC {report['auc']:.2f} on problems held out"
        print(f"{folder}: learnt from {report['pairs']:,} long and short chains, {auc}.")
    return TokenClassifier(str(folder))


def print_ratios(path: str) -> None:
    """What was asked for and what it became, a line a ratio."""
    found: dict[float, list[float]] = {}
    for row in read_jsonl(path):
        found.setdefault(row["requested_ratio"], []).append(row["keep_ratio"])
    for ratio, kept in sorted(found.items(), reverse=True):
        farthest = max(abs(one - ratio) for one in kept)
        print(f"{ratio:g}: {len(kept):,} rows, {mean(kept):.3f} on average, at most {farthest:.3f} off.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse(TokenSkipArguments, argv=argv, doc=__doc__)

    thinking = load_thinking(arguments.model)
    source = TraceFiles([arguments.traces] if isinstance(arguments.traces, str) else arguments.traces)
    importance = load_importance(arguments, source, thinking)
    compress(arguments, token_skip, importance, source, thinking=thinking)
    print_ratios(arguments.out)


if __name__ == "__main__":
    run(main)
