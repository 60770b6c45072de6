"""Thinking and answer: the only place that knows the delimiters between them.

1. A completion is a list of token ids. It is split where the delimiters' ids stand and never re-tokenised: whatever is
   measured is what was decoded.
2. Whether a block is open decides what an id is. A prompt that ends with the open delimiter, white space aside, opens
   it (DeepSeek-R1, Qwen3.5), else the model does (Qwen3); a delimiter anywhere else in the prompt is somebody's text
   and counts for nothing. A close that no open precedes shows that the block was open from the start. A tool call
   closes the block that it stands in. A second open in a block, or a second close behind it, is a delimiter, no more.
3. total = thinking + answer + delimiters and the white space around them. Thinking is all blocks together. The answer
   is what follows the last close, and nothing while a block is open. Text between blocks is neither, but it was shown:
   its tokens are counted with the answer's.
4. EOS and whatever follows it, and padding at the end, count nowhere.
5. A delimiter of one token is matched by its id. One of several tokens is matched in the text that the ids spell, for
   its ends may merge with their neighbours (">\\n\\n" is one id of Qwen3). Ids are never cut: a merged id is delimiter
   when nothing but white space is left of it, else it belongs to the text that it carries.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Literal

from efficient_reasoning.errors import BadInput

KNOWN_DELIMITERS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, Nemotron, Phi-4, ...
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi
    ("[THINK]", "[/THINK]"),  # Magistral
)
# What starts a tool call, where the vocabulary holds it as one token: Qwen, Mistral, DeepSeek, Kimi, Seed-OSS, LFM2.
TOOL_CALLS = (
    "<tool_call>",
    "[TOOL_CALLS]",
    "<｜tool▁calls▁begin｜>",
    "<|tool_calls_section_begin|>",
    "<seed:tool_call>",
    "<|tool_call_start|>",
)
OPEN, CLOSE, TOOL = "open", "close", "tool"
Phase = Literal["unbegun", "thinking", "closed", "answering"]


@dataclass(frozen=True)
class Split:
    """The parts of one completion, without delimiters, the white space around them, EOS and padding."""

    thinking_ids: list[int]  # of all blocks, in order
    answer_ids: list[int]  # what follows the last close; empty while a block is open
    closed: bool  # no block is open at the end: the next id would be answer
    blocks: int  # how many blocks were begun, empty and unclosed ones included


@dataclass(frozen=True)
class Count:
    """The lengths of one completion, in token ids."""

    thinking_tokens: int
    answer_tokens: int  # all text outside the blocks, also between them
    total_tokens: int  # everything generated but EOS and padding


@dataclass(frozen=True)
class ThinkingFormat:
    """How one tokenizer marks thinking. Make it with `from_tokenizer`; it pickles together with its tokenizer.

    Completions and prompts are sequences of ids: lists, NumPy arrays or 1-D tensors.
    """

    open_text: str
    close_text: str
    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    eos_ids: frozenset[int]  # the first of them ends a completion
    pad_id: int | None
    newline: str  # "\n" where the chat template sets the delimiters on lines of their own, else ""
    vocab_size: int  # of the model's embedding, which may be larger than the tokenizer's
    tokenizer: Any = field(repr=False, compare=False)
    _spelling: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _blanks: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer,
        open_text: str | None = None,
        close_text: str | None = None,
        eos_ids: Iterable[int] = (),
        vocab_size: int = 0,
    ) -> ThinkingFormat:
        """Find the delimiters of a tokenizer, or use those that are given.

        Without texts: the first known pair whose two sides are tokens of the vocabulary, else the first known pair
        that the chat template mentions. `eos_ids` adds those of a model's generation config to the tokenizer's EOS;
        `vocab_size` is that of the model, where it is known.

        Raises:
            BadInput: no known pair fits, one text is given without the other, or the vocabulary cannot write them.
        """
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        name = tokenizer.name_or_path or "this tokenizer"
        if open_text is None and close_text is None:
            in_vocabulary = (p for p in KNOWN_DELIMITERS if all(_token_id(tokenizer, text) is not None for text in p))
            in_template = (p for p in KNOWN_DELIMITERS if any(text in template for text in p))
            pair = next(in_vocabulary, None) or next(in_template, None)
            if pair is None:
                raise BadInput(f"{name}: no known thinking delimiters in it; pass its open_text and close_text.")
            open_text, close_text = pair
        elif not (open_text and close_text):
            raise BadInput(f"{name}: open_text and close_text belong together; pass both or neither.")
        return cls(
            open_text=open_text,
            close_text=close_text,
            open_ids=_delimiter_ids(tokenizer, open_text),
            close_ids=_delimiter_ids(tokenizer, close_text),
            eos_ids=frozenset(eos_ids) | ({tokenizer.eos_token_id} - {None}),
            pad_id=tokenizer.pad_token_id,
            vocab_size=vocab_size,
            newline="\n" if re.search(re.escape(open_text) + r"(\n|\\n)", template) else "",
            tokenizer=tokenizer,
        )

    def prompt_opens(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the rendered prompt leaves a block open: it ends with the open delimiter, white space aside."""
        return self._prompt_tail(prompt_ids) == OPEN

    def split(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> Split:
        """Take a completion apart; `prompt_ids` tell whether its prompt opened the block."""
        return self.take_apart(ids, prompt_ids)[0]

    def count(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> Count:
        """The lengths of a completion's parts, in tokens."""
        return self.take_apart(ids, prompt_ids)[1]

    def take_apart(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> tuple[Split, Count]:
        """`split` and `count` in one."""
        segments, blocks, total_tokens = self._segments(ids, prompt_ids)
        last_thinks, last_ids = segments[-1]
        thinking_ids = list(chain.from_iterable(segment for thinks, segment in segments if thinks))
        answer_tokens = sum(len(segment) for thinks, segment in segments if not thinks)
        split = Split(thinking_ids, [] if last_thinks else last_ids, closed=not last_thinks, blocks=blocks)
        return split, Count(len(thinking_ids), answer_tokens, total_tokens)

    def open(self, prompt_ids: Sequence[int]) -> list[int]:
        """The ids to append to a prompt so that its block is open; none where the template opens it."""
        return [] if self.prompt_opens(prompt_ids) else self._encode(self._opening_text)

    def close(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[int]:
        """The ids to append to a completion so that the answer must follow (budget forcing, s1, arXiv 2501.19393).

        No ids where the completion, or its prompt, is past its thinking; the empty block where nothing was begun.
        """
        phase = self.phases(ids, prompt_ids)[-1]
        return {"unbegun": self.empty(), "thinking": self.closing()}.get(phase, [])

    def closing(self) -> list[int]:
        """The ids that end an open block."""
        return self._encode(self._closing_text)

    def empty(self) -> list[int]:
        """The ids of an empty block, which is how "no thinking" is forced (NoThinking, arXiv 2504.09858).

        Where the prompt may have opened the block, `close([], prompt_ids)` does the same.
        """
        return self._encode(self.write("", ""))

    def reopen(self, ids: Sequence[int]) -> list[int]:
        """The ids before the last close, and the white space in front of it: what thinking can go on from.

        Where the block was empty, its open may share an id with the close ("></"); both are gone then.
        """
        ids = self._generated(ids)
        marks = self._marks(ids)
        starts = [start for start, _, kind in marks if kind == CLOSE]
        if not starts:
            return ids
        cut = min([start for start, stop, _ in marks if start < starts[-1] < stop], default=starts[-1])
        return self._trim(ids[:cut], left=False, right=True)

    def phases(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[Phase]:
        """What a completion is at, before its first id and after each one: length of the ids before EOS, plus one.

        "unbegun" while nothing but white space is there, "thinking" in a block, "closed" behind one while only white
        space has followed, "answering" from the first other id outside of blocks. Padding says as little as white
        space.
        """
        tail = self._prompt_tail(prompt_ids)
        phase = {OPEN: "thinking", CLOSE: "closed"}.get(tail, "unbegun")
        ids, phases = self._before_eos(ids), [phase]
        marks = [mark for mark in self._marks(ids) if mark[2] != TOOL]
        # A delimiter whose ids all carry text takes none of them (start = stop), and still changes the phase.
        reached = {stop: {OPEN: "thinking", CLOSE: "closed"}[kind] for _, stop, kind in marks}
        within = set(chain.from_iterable(range(start, stop) for start, stop, _ in marks))
        for place, token in enumerate(ids):
            says_something = place not in within and token != self.pad_id and not self._blank(token)
            if place + 1 in reached:
                phase = reached[place + 1]
            elif says_something and (phase != "thinking" or self._kinds.get(token) == TOOL):
                phase = "answering"
            phases.append(phase)
        return phases

    def states(self, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[tuple[Phase, int]]:
        """The phases, each with how many ids of white space have followed the last close."""
        phases, blanks = self.phases(ids, prompt_ids), 0
        states = [(phases[0], blanks)]
        for token, phase in zip(ids, phases[1:], strict=False):
            blanks = blanks + 1 if phase == "closed" and token in self.blank_ids else 0
            states.append((phase, blanks))
        return states

    @property
    def blank_allowance(self) -> int:
        """How many ids of white space the format writes behind a close."""
        return len(self._encode(2 * self.newline))

    @cached_property
    def blank_ids(self) -> frozenset[int]:
        """All ids that are white space, spell nothing (a padded embedding has some) or pad: what is no answer."""
        blank = filter(self._blank, range(max(len(self.tokenizer), self.vocab_size)))
        return frozenset(blank) | ({self.pad_id} - {None})

    @cached_property
    def break_ids(self) -> frozenset[int]:
        """All ids with a line break in what they spell."""
        every = range(max(len(self.tokenizer), self.vocab_size))
        spell = self.tokenizer.convert_tokens_to_string
        return frozenset(token for token in every if "\n" in spell(self._pieces([token])))

    @property
    def tool_ids(self) -> frozenset[int]:
        """Ids that start a tool call, and close the block they stand in."""
        return frozenset(token for token, kind in self._kinds.items() if kind == TOOL)

    @property
    def has_single_ids(self) -> bool:
        """Whether each delimiter is one id."""
        return self._pattern is None

    def write(self, thinking: str, answer: str) -> str:
        """The text of a whole completion, as training rows hold it.

        It begins with the open delimiter even where the prompt opens the block: templates render finished turns whole.
        """
        return f"{self._opening_text}{thinking}{self._closing_text}{answer}"

    @property
    def _opening_text(self) -> str:
        return self.open_text + self.newline

    @property
    def _closing_text(self) -> str:
        return self.newline + self.close_text + 2 * self.newline

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _segments(
        self, ids: Sequence[int], prompt_ids: Sequence[int]
    ) -> tuple[list[tuple[bool, list[int]]], int, int]:
        """What stands before, between and after the delimiters as (is it thinking, ids), the blocks, the total."""
        ids = self._generated(ids)
        marks = self._marks(ids)
        tail = self._prompt_tail(prompt_ids)
        first = next((kind for _, _, kind in marks if kind != TOOL), None)
        thinks = tail == OPEN or first == CLOSE
        blocks = int(thinks)
        segments = []
        position, at_delimiter = 0, tail is not None
        for start, stop, kind in marks:
            if kind == TOOL and not thinks:
                continue  # a tool call in the answer is answer
            segments.append((thinks, self._trim(ids[position:start], left=at_delimiter, right=True)))
            blocks += kind == OPEN and not thinks
            thinks, position, at_delimiter = kind == OPEN, stop, True
        segments.append((thinks, self._trim(ids[position:], left=at_delimiter, right=False)))
        return segments, blocks, len(ids)

    def _generated(self, ids: Sequence[int]) -> list[int]:
        """The ids before EOS and without padding at the end."""
        ids = self._before_eos(ids)
        while ids and ids[-1] == self.pad_id:
            ids.pop()
        return ids

    def _before_eos(self, ids: Sequence[int]) -> list[int]:
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        for eos_id in self.eos_ids:
            if eos_id in ids:
                del ids[ids.index(eos_id) :]
        return ids

    def _prompt_tail(self, prompt_ids: Sequence[int]) -> str | None:
        """The kind of the delimiter that ends the prompt, white space aside; None where something else does."""
        ids = prompt_ids.tolist() if hasattr(prompt_ids, "tolist") else list(prompt_ids)
        marks = self._marks(ids)
        if not marks:
            return None
        _, stop, kind = marks[-1]
        return kind if all(map(self._blank, ids[stop:])) else None

    def _marks(self, ids: list[int]) -> list[tuple[int, int, str]]:
        """The delimiters as (start, stop, kind), in positions of ids; a tool call closes without taking an id."""
        marks = [
            (position, position + (kind != TOOL), kind)
            for token, kind in self._kinds.items()
            for position in _positions(ids, token)
        ]
        return sorted(marks + self._marks_in_text(ids) if self._pattern else marks)

    def _marks_in_text(self, ids: list[int]) -> list[tuple[int, int, str]]:
        pieces = self._pieces(ids)
        ends = list(accumulate(map(len, pieces)))
        text = "".join(pieces)
        rest = self._pattern.sub(lambda match: "\0" * len(match[0]), text)

        def is_delimiter(i: int) -> bool:
            return self._is_blank(rest[ends[i] - len(pieces[i]) : ends[i]].replace("\0", ""))

        marks = []
        for match in self._pattern.finditer(text):
            first, last = bisect_right(ends, match.start()), bisect_right(ends, match.end() - 1)
            start = first if is_delimiter(first) else first + 1
            stop = last + 1 if is_delimiter(last) else last
            marks.append((start, max(start, stop), match.lastgroup))
        return marks

    @cached_property
    def _kinds(self) -> dict[int, str]:
        """What single ids mean."""
        kinds = {_token_id(self.tokenizer, text): TOOL for text in TOOL_CALLS}
        kinds.pop(None, None)
        if not self._pattern:
            kinds |= {self.open_ids[0]: OPEN, self.close_ids[0]: CLOSE}
        return kinds

    @cached_property
    def _pattern(self) -> re.Pattern | None:
        """The delimiters in the tokenizer's own spelling (`_pieces`), or None where both are single ids."""
        if len(self.open_ids) == len(self.close_ids) == 1:
            return None
        # A SentencePiece tokenizer begins every text with a word mark, which a delimiter inside a text may lack.
        open_piece, close_piece = (
            re.escape("".join(self._pieces(ids)).lstrip("▁")) for ids in (self.open_ids, self.close_ids)
        )
        return re.compile(f"(?P<{OPEN}>{open_piece})|(?P<{CLOSE}>{close_piece})")

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own strings. Joined, they spell the ids without loss, which decoding them one by one does
        not: half of a UTF-8 character has a piece, but no text. An id of a padded embedding spells nothing.
        """
        unseen = [*set(ids).difference(self._spelling)]
        for token, piece in zip(unseen, self.tokenizer.convert_ids_to_tokens(unseen), strict=True):
            self._spelling[token] = piece or ""
        return [*map(self._spelling.__getitem__, ids)]

    def _is_blank(self, piece: str) -> bool:
        """Whether a piece, or what a delimiter leaves of it, is white space."""
        return not self.tokenizer.convert_tokens_to_string([piece]).strip()

    def _blank(self, token: int) -> bool:
        if token not in self._blanks:
            self._blanks[token] = self._is_blank(*self._pieces([token]))
        return self._blanks[token]

    def _trim(self, ids: list[int], left: bool, right: bool) -> list[int]:
        """Without the white space at the sides that touch a delimiter."""
        start, stop = 0, len(ids)
        while right and stop and self._blank(ids[stop - 1]):
            stop -= 1
        while left and start < stop and self._blank(ids[start]):
            start += 1
        return ids[start:stop]


def _token_id(tokenizer, text: str) -> int | None:
    """The id of a text that is one token of the vocabulary."""
    token = tokenizer.convert_tokens_to_ids(text)
    return None if token == tokenizer.unk_token_id else token


def _positions(ids: list[int], token: int) -> Iterator[int]:
    """Where an id stands, at the speed of `list.index`: rewards split whole batches on every step."""
    position = -1
    for _ in range(ids.count(token)):
        position = ids.index(token, position + 1)
        yield position


def _delimiter_ids(tokenizer, text: str) -> tuple[int, ...]:
    token = _token_id(tokenizer, text)
    if token is not None:
        return (token,)
    ids = tokenizer.encode(text, add_special_tokens=False)
    # White space aside, because word-level tokenizers decode "<", "think", ">" with blanks in between.
    if "".join(tokenizer.decode(ids).split()) != "".join(text.split()):
        name = tokenizer.name_or_path or "this tokenizer"
        raise BadInput(f"{name}: its vocabulary cannot write {text!r}; add it as a token or pass other delimiters.")
    return tuple(ids)
