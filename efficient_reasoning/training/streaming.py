"""A stream of sequences to train on: rows are read, tokenised and packed as they are needed.

1. Each worker of each process is a *reader* with rows of its own: whole shards of the source where these divide evenly
   among the readers, else every n-th row.
2. A reader takes rows in *blocks* of `shuffle_rows`: a block is shuffled, packed into sequences, and these are
   shuffled again. The order of the shards is shuffled for each epoch. All of it is drawn from the seed and the place
   in the source alone, and nothing is left over from block to block.
3. So four numbers say where a reader is: epoch, shard, row, and how many sequences of the block are taken. Each
   sequence brings the place behind it along. Whoever goes on from there skips rows of one shard without tokenising
   them, makes one block again, and meets the same sequences. (`IterableDataset.state_dict` of `datasets` loses what
   its shuffle buffer holds, and a packer's leftovers would have to be saved beside it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from efficient_reasoning.contamination import TrainingProblems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.prompts import template_kwargs
from efficient_reasoning.scratch import make_tokenizer
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.training.base import training_template
from efficient_reasoning.training.sources import Source, open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from efficient_reasoning.training.stream_trainer import StreamTrainer

_SAMPLE_ROWS = 5_000  # for a tokenizer, and for a dry run


class Place(NamedTuple):
    """Where a reader is: `taken` sequences of the block that begins at `row` of the `shard`-th shard of its epoch."""

    epoch: int = 0
    shard: int = 0
    row: int = 0
    taken: int = 0


def open_stream(
    data: str, config: TrainingArguments, *, tokenizer: str, vocab_size: int, **settings: int | bool
) -> Stream:
    """The stream of a source, and a config that goes on where its places say instead of reading it all again.

    Args:
        data: as `open_source` takes it.
        config: the trainer's arguments; `ignore_data_skip` is set.
        tokenizer, vocab_size: as `make_tokenizer` takes them, to train on the first rows.
        settings: of the `Stream`.

    Raises:
        BadInput: no number of steps, an order of rows that is not the stream's, or as `open_source` and
            `make_tokenizer`.
    """
    if config.max_steps <= 0:
        raise BadInput("max_steps is missing, and a stream has no end of its own; give it.")
    if config.train_sampling_strategy != "random":
        chosen = config.train_sampling_strategy
        raise BadInput(f"train_sampling_strategy is {chosen}, and a stream is shuffled in blocks; leave it out.")
    config.ignore_data_skip = True
    source = open_source(data)
    columns = [name for name in source.columns if name != "truncated"]
    texts = ["".join(str(row[name] or "") for name in columns) for row in source.head(_SAMPLE_ROWS)]
    texts = [text.encode(errors="replace").decode() for text in texts]  # the stream says which row to write again
    made = make_tokenizer(tokenizer, texts, vocab_size)
    seed = config.seed if config.data_seed is None else config.data_seed
    return Stream(source, made, seed=seed, run=Path(config.output_dir).name, **settings)


class Stream:
    """Sequences without end from a source.

    Args:
        source: where the rows are.
        tokenizer: with an end token, which closes each row that is not `truncated`.
        max_row_tokens: length of a packed sequence. Longer texts are split; longer rows of prompt and completion are
            left out, since completions without their prompts teach to guess.
        shuffle_rows: rows of a block; more are shuffled better, and take more memory.
        packing: several rows in a sequence; else each has its own.
        seed: of every order.
        run: name of what trains on it; what that was trained on is not remembered.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_row_tokens: int,
        shuffle_rows: int,
        packing: bool,
        seed: int,
        run: str = "stream",
    ):
        self.source, self.tokenizer, self.max_row_tokens = source, tokenizer, max_row_tokens
        self.shuffle_rows, self.packing, self.seed, self.run = shuffle_rows, packing, seed, run

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def problems(self) -> TrainingProblems:
        return TrainingProblems(np.empty(0, np.uint64), (self.run,))

    def costs(self) -> tuple[None, float, str]:
        """For `print_costs`, from the first rows: no number, the tokens of a sequence, how many rows are left out."""
        rows = self.source.head(_SAMPLE_ROWS)
        encoded = self.encode(rows)
        sequences = self._pack(encoded)
        if not sequences:
            raise self._nothing()
        share = 0 if "text" in rows[0] else 1 - len(encoded) / len(rows)
        clipped = f"{share:.1%} of the first rows, longer than {self.max_row_tokens} tokens or empty, are left out"
        return None, sum(len(row["input_ids"]) for row in sequences) / len(sequences), clipped

    def trainer(self, **settings) -> StreamTrainer:
        from efficient_reasoning.training.stream_trainer import StreamTrainer

        return StreamTrainer(self, **settings)

    def sequences(self, reader: int, num_readers: int, place: Place) -> Iterator[dict]:
        """What a reader has from a place on: `{"input_ids", "labels", "seq_lengths", "place"}`, the place behind it.

        Raises:
            BadInput: a source that cannot be read, or that has no row for this reader.
        """
        while True:
            is_whole, given = not any(place[1:]), 0
            for start, rows in self._blocks(reader, num_readers, place):
                rng = Random(f"{self.seed} {reader} {start._replace(taken=0)}")
                rng.shuffle(rows)
                sequences = self._pack(self.encode(rows))
                rng.shuffle(sequences)
                for taken in range(start.taken, len(sequences)):
                    given += 1
                    yield {**sequences[taken], "place": start._replace(taken=taken + 1)}
            if is_whole and not given:
                raise self._nothing()
            place = Place(place.epoch + 1)

    def _blocks(self, reader: int, num_readers: int, place: Place) -> Iterator[tuple[Place, list[dict]]]:
        """Rows of the blocks to the end of an epoch, and where each begins; only the first may be taken in part."""
        shards = list(range(self.source.num_shards))
        Random(f"{self.seed} {place.epoch}").shuffle(shards)
        has_shards = len(shards) % num_readers == 0
        if has_shards:
            shards = [shard for shard in shards if shard % num_readers == reader]
        start, rows = place, []
        for number in range(place.shard, len(shards)):
            first = place.row if number == place.shard else 0
            for row, content in enumerate(self.source.read(shards[number], first), start=first):
                if has_shards or row % num_readers == reader:
                    rows.append(content)
                if len(rows) == self.shuffle_rows:
                    yield start, rows
                    start, rows = Place(place.epoch, number, row + 1), []
        if rows:
            yield start, rows

    def encode(self, rows: list[dict]) -> list[dict]:
        """Ids, and labels that leave out prompts and the first token of a row, which nothing comes before."""
        return self._encode_texts(rows) if "text" in rows[0] else self._encode_pairs(rows)

    def _encode_texts(self, rows: list[dict]) -> list[dict]:
        texts = [row["text"] for row in rows if self._is_text(row["text"], "text")]
        encoded, size = [], self.max_row_tokens
        for ids in self.tokenizer(texts)["input_ids"] if texts else ():
            ids = self._ended(ids)
            pieces = (ids[first : first + size] for first in range(0, len(ids), size))
            encoded += [{"input_ids": piece, "labels": [-100, *piece[1:]]} for piece in pieces if len(piece) > 1]
        return encoded

    def _encode_pairs(self, rows: list[dict]) -> list[dict]:
        from trl.data_utils import is_conversational

        keys = ("prompt", "completion")
        rows = [row for row in rows if all(row[key] for key in keys)]
        is_chat = bool(self.tokenizer.chat_template and rows) and is_conversational(rows[0])
        if is_chat:
            rows = [self._render(row) for row in rows if not row.get("truncated")]  # a template ends what it renders
        rows = [row for row in rows if all(self._is_text(row[key], key) for key in keys)]
        if not rows:
            return []
        # A template writes the tokens that begin a text itself.
        prompts = self.tokenizer([row["prompt"] for row in rows], add_special_tokens=not is_chat)["input_ids"]
        completions = self.tokenizer([row["completion"] for row in rows], add_special_tokens=False)["input_ids"]
        encoded = []
        for row, prompt, ids in zip(rows, prompts, completions, strict=True):
            completion = ids if is_chat or row.get("truncated") else self._ended(ids)
            if len(prompt) + len(completion) <= self.max_row_tokens:
                encoded.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
        return encoded

    def _render(self, row: dict) -> dict:
        """Messages as inference renders them, thinking included."""
        from jinja2 import TemplateError
        from trl.data_utils import apply_chat_template

        messages = {key: row[key] for key in ("prompt", "completion")}
        options = {"chat_template": self._template, **template_kwargs(self.tokenizer)}
        try:
            return apply_chat_template(messages, self.tokenizer, **options)
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            raise BadInput(
                f"{self.source.name}: the chat template cannot render a row's messages ({error}); correct them."
            ) from None

    @cached_property
    def _template(self) -> str | None:
        thinking = ThinkingFormat.from_tokenizer(self.tokenizer)
        return training_template(self.tokenizer.name_or_path, self.tokenizer, thinking)

    def _nothing(self) -> BadInput:
        return BadInput(
            f"{self.source.name}: too few rows for every worker of every process, or all longer than max_row_tokens "
            f"({self.max_row_tokens}); raise that, or have fewer dataloader_num_workers."
        )

    def _is_text(self, value: object, column: str) -> bool:
        """Whether there is something to learn; rows without are left out."""
        if value is not None and not isinstance(value, str):
            raise BadInput(
                f"{self.source.name}: a row's {column} is {type(value).__name__}, where the tokenizer reads text; "
                "write it as text."
            )
        try:
            return bool(value and value.strip().encode())
        except UnicodeEncodeError:
            raise BadInput(f"{self.source.name}: half of a surrogate pair in a {column}; write it again.") from None

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]

    def _pack(self, encoded: list[dict]) -> list[dict]:
        """Best fit, longest first: TRL's own packing."""
        if not self.packing or not encoded:
            return [{**row, "seq_lengths": [len(row["input_ids"])]} for row in encoded]
        import datasets
        from trl import pack_dataset

        datasets.disable_progress_bars()  # one a block
        rows = datasets.Dataset.from_list(encoded)
        return pack_dataset(rows, self.max_row_tokens, map_kwargs={"batch_size": len(rows)}).to_list()
