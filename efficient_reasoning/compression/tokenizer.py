"""The tokenizer of traces: which a data tool needs to cut and to count, and must not mistake for another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from efficient_reasoning.errors import BadInput
from efficient_reasoning.thinking import ThinkingFormat


def load_thinking(model: str) -> ThinkingFormat:
    """The tokenizer of a checkpoint (a folder or Hub id) with its think delimiters; no weights are loaded.

    Raises:
        BadInput: no such checkpoint, or no known delimiters.
    """
    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format

    folder = resolve_model(model)
    return thinking_format(folder, load_tokenizer(folder))


def same_tokenizer(rows: Iterable[Mapping], thinking: ThinkingFormat) -> Iterator[Mapping]:
    """The traces, as long as their ids are of this tokenizer, or of what it was before tokens were added to it.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    from efficient_reasoning.traces import tokenizer_hash

    known: set[str | None] = {None, tokenizer_hash(thinking.tokenizer)}
    for row in rows:
        if (said := row.get("tokenizer_hash")) not in known:
            known |= set(_earlier_hashes(thinking.tokenizer))
        if said not in known:
            raise BadInput(
                f"Trace of problem {row['id']!r}: its ids are of another tokenizer than that of model; give the model "
                f"that wrote the traces ({row.get('model')})."
            )
        yield row


def _earlier_hashes(tokenizer) -> Iterator[str]:
    """Of the tokenizer without its last added token, without the last two, ...: controls come last."""
    from efficient_reasoning.traces import tokenizer_hash

    added = tokenizer.get_added_vocab()
    last_first = sorted(added, key=added.get, reverse=True)
    for count in range(1, len(last_first) + 1):
        yield tokenizer_hash(tokenizer, without=last_first[:count])
