"""Data sets that may go up beside a model: the samples of its evaluation, and the rows that it was trained on.

A data set is one JSONL file and a card, checked like the model's own files. Rows keep their order and their columns.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from efficient_reasoning.cards import write_data_card
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import atomic_folder, read_jsonl
from efficient_reasoning.hub.checks import check_texts
from efficient_reasoning.traces import budget_label

SAMPLES, ROWS = "samples.jsonl", "rows.jsonl"
FILES = {SAMPLES, ROWS, "README.md"}
# Columns of traces and training rows that a reader may not guess.
_MEANINGS = {
    "id": "of the problem",
    "question": "the problem",
    "answer": "its gold answer",
    "task": "the verifier that decides whether a solution is correct",
    "difficulty": "as the family counts it",
    "metadata": "what else the problem brings along",
    "prompt": "what the model read, as TRL takes it",
    "completion": "what the model wrote, as TRL takes it",
    "prompt_ids": "the same as token ids",
    "completion_ids": "the same as token ids; an end token is kept",
    "thinking": "text between the think delimiters",
    "final_answer": "text behind them",
    "thinking_tokens": "length of the thinking",
    "answer_tokens": "length of the answer",
    "total_tokens": "length of the whole completion",
    "latent_tokens": "latents or pauses before the completion, which no length counts",
    "floor_tokens": "length of the shortest solution that still thinks, where it is known",
    "correct": "what the verifier says",
    "truncated": "cut off before the end token",
    "forced_close": "the thinking was closed from outside",
    "empty_answer": "nothing stands behind the thinking",
    "first_correct_tokens": "tokens up to the first correct answer; null where there is none",
    "settled_tokens": "tokens up to where the final answer stands first",
    "loops": "a block of tokens repeats itself",
    "strategy": "how the budget was kept",
    "budget_tokens": "most tokens that the strategy might decode; null is no budget",
    "spend": "all that the strategy made the model do",
    "sample_index": "which of the samples of a problem",
    "seed": "of the sampling",
    "tokenizer_hash": "where it is equal, token ids mean the same",
    "method": "the data tool that made the row",
    "keep_ratio": "tokens of the completion, over the mean of those it was chosen from",
    "source_id": "id of the problem that the row was made from",
    "reference_tokens": "mean length of the base model's solutions",
    "reference_accuracy": "share of the base model's solutions that are correct",
}


def build_samples(folder: Path, run: Path, model: str, summary: Mapping) -> None:
    """Build the data set of a run's samples.

    Args:
        folder: that is built, whole or not at all.
        run: evaluation run.
        model: id of the model on the Hub.
        summary: of the run.

    Raises:
        BadInput: a secret or a path of this machine in a line.
    """
    config = summary["config"]
    points = ", ".join(f"{point['strategy']} ({budget_label(point['budget_tokens'])})" for point in summary["points"])
    k = config["samples_per_problem"]
    origin = (
        f"Every sample of the evaluation of {model}: {summary['points'][0]['n_problems']:,} problems, "
        f"{'one sample' if k == 1 else f'{k} samples'} a problem and point, at temperature {config['temperature']}. "
        f"Points: {points}."
    )
    _build(folder, run / SAMPLES, SAMPLES, f"{model}-samples", model, origin)


def build_rows(folder: Path, rows: Path, model: str) -> None:
    """Build the data set of a file of traces or training rows; the arguments are those of `build_samples`.

    Raises:
        BadInput: no JSONL file, or no rows in it; a secret or a path of this machine in a line.
    """
    if rows.suffix != ".jsonl":
        raise BadInput(f"{rows}: --with-data takes a .jsonl file, such as `efficient-reasoning data` writes.")
    _build(folder, rows, ROWS, f"{model}-data", model, f"Traces or training rows that go with {model}.")


def _build(folder: Path, source: Path, file_name: str, repo: str, model: str, origin: str) -> None:
    columns: dict[str, str] = {}
    n_rows = 0
    for row in read_jsonl(source):
        columns |= {name: _MEANINGS.get(name, "") for name in row if name not in columns}
        n_rows += 1
    if not n_rows:
        raise BadInput(f"{source}: no rows in it; name a file with at least one.")
    with atomic_folder(folder) as built:
        shutil.copyfile(source, built / file_name)
        write_data_card(built, repo, model, origin, file_name, columns, n_rows)
        check_texts({path.name: path for path in sorted(built.iterdir())}, source.parent)
