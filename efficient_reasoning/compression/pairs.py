"""Pairs for preference training, as TRL's DPOTrainer takes them."""

from __future__ import annotations

from collections.abc import Mapping


def pair_row(row: Mapping, rejected: Mapping) -> dict:
    """A training row whose completion is preferred to that of a trace of the same problem.

    Args:
        row: with `prompt`, `completion` and `total_tokens`.
        rejected: the trace.

    Returns:
        the row with `chosen`, `rejected`, `chosen_tokens` and `rejected_tokens` in place of `completion`.
    """
    rest = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return {
        "prompt": row["prompt"],
        "chosen": row["completion"],
        "rejected": rejected["completion"],
        **rest,
        "chosen_tokens": row["total_tokens"],
        "rejected_tokens": rejected["total_tokens"],
    }
