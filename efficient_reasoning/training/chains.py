"""Rows of the built-in problem families: problems, each with a chain that is written, not sampled."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

from efficient_reasoning.contamination import TrainingProblems, training_problems
from efficient_reasoning.problems import FAMILIES, draw_problems
from efficient_reasoning.scratch import CLOSE, END, OPEN, collate, encode, make_tokenizer
from efficient_reasoning.training.rows import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, Trainer

STYLES = ("verbose", "plain", "equations", "empty")


def write_rows(task: str, num_rows: int, chain_shares: Mapping[str, float], seed: int) -> list[dict]:
    """Training rows with the chain styles in the given shares. Problems repeat beyond the first 100,000 new ones."""
    rng = random.Random(seed)
    problems = list(islice(draw_problems(task, "train", seed), min(num_rows, 100_000)))
    rows, styles = [], rng.choices(list(chain_shares), weights=list(chain_shares.values()), k=num_rows)
    drawn = problems if len(problems) == num_rows else (rng.choice(problems) for _ in range(num_rows))
    for style, problem in zip(styles, drawn, strict=True):
        chain = "" if style == "empty" else FAMILIES[problem["metadata"]["family"]].chain(problem, style, rng)
        completion = f"{OPEN}{chain.rstrip()}{CLOSE}{problem['answer']}{END}"
        rows.append({"prompt": f"{problem['question']}\n", "completion": completion})  # as `make_prompt` renders it
    return rows


@dataclass(frozen=True)
class Chains:
    """Rows that a model from scratch is trained on, in the order in which they were written.

    Attributes:
        rows: `prompt` and `completion`.
        tokenizer: a model's, or trained on the first of them.
        dataset: `input_ids` and `labels` of those that are not too long.
        max_row_tokens: of these.
        num_rows: how many there would be, were it no dry run.
    """

    rows: list[dict]
    tokenizer: PreTrainedTokenizerFast
    dataset: Dataset
    max_row_tokens: int
    num_rows: int

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.rows)

    @property
    def problems(self) -> TrainingProblems:
        return training_problems(self.rows)

    def costs(self) -> tuple[int, float, str]:
        """For `print_costs`: how many rows are trained on, the tokens of one, how many are left out."""
        kept = len(self.dataset) / len(self.rows)
        tokens_per_row = sum(len(row["input_ids"]) for row in self.dataset) / len(self.dataset)
        clipped = f"{1 - kept:.1%} of the rows, longer than {self.max_row_tokens} tokens, are left out"
        return round(kept * self.num_rows), tokens_per_row, clipped

    def trainer(self, **settings) -> Trainer:
        from transformers import Trainer

        return Trainer(train_dataset=self.dataset, data_collator=collate, **settings)


def write_chains(
    task: str,
    num_rows: int,
    chain_shares: Mapping[str, float],
    *,
    num_shards: int,
    tokenizer: str,
    vocab_size: int,
    max_row_tokens: int,
    seed: int,
    dry_run: bool = False,
) -> Chains:
    """Write rows, of a dry run some, make a tokenizer and encode them: the same on any number of processors."""
    from datasets import concatenate_datasets

    shards = range(num_shards)
    num_written = min(num_rows, 2_000) if dry_run else num_rows
    sizes = [len(range(shard, num_written, num_shards)) for shard in shards]
    seeds = [seed * num_shards + shard for shard in shards]
    with ProcessPoolExecutor(min(num_shards, os.cpu_count())) as pool:
        spread = pool.map if num_shards > 1 else map
        written = [*spread(write_rows, repeat(task), sizes, repeat(chain_shares), seeds)]
        rows = [row for shard in written for row in shard]
        made = make_tokenizer(tokenizer, [row["prompt"] + row["completion"] for row in rows[:5_000]], vocab_size)
        encoded = [*spread(encode, written, repeat(made), repeat(max_row_tokens))]
    return Chains(rows, made, concatenate_datasets(encoded), max_row_tokens, num_rows)
