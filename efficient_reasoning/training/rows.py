"""Training rows: read and checked, mixed, counted, and told apart by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_numbered_jsonl
from efficient_reasoning.prompts import is_turn

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_LENGTHS = ("total_tokens", "reference_tokens", "source_tokens")


def load_rows(path: str, required: tuple[str, ...]) -> Dataset:
    """Training rows from JSONL or Parquet.

    Raises:
        BadInput: missing file, malformed line, no rows, a missing column, or one that mixes text and numbers.
    """
    from datasets import Dataset

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file of training rows; `efficient-reasoning data` writes them.")
    if path.endswith(".parquet"):
        rows = Dataset.from_parquet(path)
    else:
        rows = _table(path, _read_rows(path, required))
    if len(rows) == 0:
        raise BadInput(f"{path}: no training rows in it; look at what the data tool kept.")
    missing = [name for name in required if name not in rows.column_names]
    if missing:
        raise BadInput(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(rows.column_names)}.")
    for name in required:
        for number, value in enumerate(rows[name] if path.endswith(".parquet") else (), start=1):
            if _is_empty(value):
                raise BadInput(f"{path}, row {number}: no {name!r}; every row needs {', '.join(required)}.")
    return rows


def _table(path: str, rows: list[dict]) -> Dataset:
    """Rows as a table: objects of different keys (metadata) stay as they are, and are not filled up with all keys.

    Raises:
        BadInput: what no table holds: half of a surrogate pair, a whole number of more than 64 bits.
    """
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        return Dataset.from_list(rows, on_mixed_types="use_json")
    except UnicodeEncodeError:
        raise BadInput(f"{path}: half of a surrogate pair in it; write the character again.") from None
    except (ArrowException, OverflowError, ValueError, TypeError) as error:
        if "too large" in str(error):
            raise BadInput(f"{path}: a whole number of more than 64 bits in it; write it as text.") from None
        raise BadInput(f"{path}: its rows make no table ({error}); write every column in one kind.") from None


def load_prompts(path: str, required: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows with a `prompt`, as text or as messages, and what else is required.

    Raises:
        BadInput: as `load_rows`, or messages that this tokenizer cannot render.
    """
    rows = load_rows(path, required)
    check_kind(path, rows, ("prompt",), tokenizer)
    return rows


def load_turns(path: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows with `prompt` and `completion`; conversations under `messages` become one row a turn (`split_turns`).

    Raises:
        BadInput: as `load_rows`, text and messages in one row, or a conversation that cannot be split.
    """
    from efficient_reasoning.prompts import split_turns

    rows = load_rows(path, ())
    if "messages" not in rows.column_names:
        rows = load_rows(path, ("prompt", "completion"))
        check_kind(path, rows, ("prompt", "completion"), tokenizer)
        return rows
    rows, turns = load_rows(path, ("messages",)), []
    for number, row in enumerate(rows, start=1):
        try:
            turns += split_turns(tokenizer, row["messages"])
        except BadInput as error:
            raise BadInput(f"{path}, row {number}: {error}") from None
    return _table(path, turns)


def load_pairs(path: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows with `prompt`, and a `chosen` and a `rejected` response to it: all three as text, or as messages.

    Raises:
        BadInput: as `load_rows`, or text and messages in one row.
    """
    rows = load_rows(path, ("prompt", "chosen", "rejected"))
    check_kind(path, rows, ("prompt", "chosen", "rejected"), tokenizer)
    return rows


def check_kind(path: str, rows: Dataset, names: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse columns that training would fail on, or join as what they are not; one is of one kind (`_read_rows`).

    Raises:
        BadInput: text and messages in one row, what is no list of messages, or messages without a chat template.
    """
    texts = [name for name in names if isinstance(rows[0][name], str)]
    if texts and len(texts) < len(names):
        raise BadInput(f"{path}: {texts[0]} is text, and the rest of {', '.join(names)} is not; write one kind.")
    if not texts and not tokenizer.chat_template:
        name = tokenizer.name_or_path or "this tokenizer"
        raise BadInput(f"{path}: its rows are messages, and {name} has no chat template; write them as text.")
    for number, row in enumerate(() if texts else rows, start=1):
        for name in names:
            if not isinstance(row[name], list) or not row[name] or not all(map(_is_message, row[name])):
                raise BadInput(
                    f"{path}, row {number}: its {name} is no list of messages; write each as "
                    '{"role": "user", "content": "..."}.'
                )


def _is_message(message: object) -> bool:
    """A turn of text, or of parts, of which some may be pictures."""
    return is_turn(message) or (isinstance(message, Mapping) and isinstance(message.get("content"), list))


def mix(rows: Dataset, general: Dataset, defaults: Mapping[str, object]) -> Dataset:
    """All rows and all general rows, each once, both in their order and spread evenly among each other.

    Args:
        rows, general: with `prompt` and `completion`, of which both hold text, or both messages.
        defaults: further columns to keep, and what rows without them have there.

    Raises:
        BadInput: text in the one, and messages in the other.
    """
    from datasets import Dataset

    if isinstance(rows[0]["prompt"], str) != isinstance(general[0]["prompt"], str):
        raise BadInput("general_data and data: one holds text and the other messages; write one kind.")
    placed = []
    for side in (rows, general):
        for number, row in enumerate(side):
            kept = {"prompt": row["prompt"], "completion": row["completion"]}
            kept |= {name: row.get(name, default) for name, default in defaults.items()}
            placed.append(((number + 0.5) / len(side), kept))
    return Dataset.from_list([row for _, row in sorted(placed, key=lambda pair: pair[0])])


def response_tokens(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[float]]:
    """Lengths of the responses: a list of completions, or one of the chosen and one of the rejected; else none.

    Known ones (`total_tokens` or `reference_tokens`, of a pair those of the chosen) are believed. Others are counted,
    without end tokens and without what a template writes around a message.
    """
    columns = rows.column_names
    known = [rows[name] for name in ("total_tokens", "reference_tokens") if name in columns and None not in rows[name]]
    lengths = known[:1]
    for name in [name for name in ("completion", "chosen", "rejected") if name in columns][len(lengths) :]:
        texts = [text if isinstance(text, str) else text[0]["content"] or "" for text in rows[name]]
        end = tokenizer.eos_token_id
        lengths.append([sum(token != end for token in ids) for ids in tokenizer(texts)["input_ids"]])
    return lengths


def summary(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a run trains on, in one line: "240 rows of cot_valve, mean tokens 84.1 -> 41.0, controls <|short|>"."""
    [lengths, *rejected] = response_tokens(rows, tokenizer)
    before = rows["source_tokens"] if "source_tokens" in rows.column_names else [None]
    tokens = f"{mean(before):.1f} -> {mean(lengths):.1f}" if None not in before else f"{mean(lengths):.1f}"
    methods, controls = " + ".join(distinct(rows, "method")), " ".join(distinct(rows, "control"))
    parts = [f"{len(rows):,} rows" + (f" of {methods}" if methods else ""), f"mean tokens {tokens}"]
    parts += [f"rejected {mean(side):.1f}" for side in rejected]
    return ", ".join([*parts, f"controls {controls}"] if controls else parts)


def distinct(rows: Dataset, column: str) -> list[str]:
    """The values of a column that are there and not empty, sorted; none where there is no such column."""
    return sorted({str(value) for value in rows[column] if value}) if column in rows.column_names else []


def budget_range(rows: Dataset) -> tuple[int, int] | None:
    """The smallest and the largest `budget_tokens` of rows; None where none asks for a budget.

    Raises:
        BadInput: one that is no whole number of at least 1.
    """
    budgets = rows["budget_tokens"] if "budget_tokens" in rows.column_names else []
    known = [tokens for tokens in budgets if tokens is not None]
    for tokens in known:
        if type(tokens) is not int or tokens < 1:
            raise BadInput(f"Training rows: budget_tokens is {tokens!r}; give whole numbers of at least 1.")
    return (min(known), max(known)) if known else None


def _is_empty(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _read_rows(path: str, required: tuple[str, ...]) -> list[dict]:
    rows, kinds = [], {}
    for number, row in read_numbered_jsonl(path):
        for name in required:
            if _is_empty(row.get(name)):
                raise BadInput(f"{path}, line {number}: no {name!r}; every row needs {', '.join(required)}.")
        for name, value in row.items():
            kind = "number" if isinstance(value, (int, float)) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise BadInput(f"{path}, line {number}: {name} is {kind}, but {kinds[name]} before; write one kind.")
            if name in _LENGTHS and value is not None and kind != "number":
                raise BadInput(f"{path}, line {number}: {name} is {kind}; give a number of tokens, or leave it out.")
        rows.append(row)
    if rows:  # a table has the columns of its first row
        rows[0] = dict.fromkeys(kinds) | rows[0]
    return rows


def fingerprint(rows: Iterable[Mapping]) -> str:
    """Hash of the rows themselves: the same for the same rows, wherever they were built."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()
