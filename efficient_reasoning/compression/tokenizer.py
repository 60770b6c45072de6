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
    """The traces, as long as their ids are of this tokenizer.

    Raises:
        BadInput: a trace of another tokenizer.
    """
    from efficient_reasoning.traces import tokenizer_hash

    own = tokenizer_hash(thinking.tokenizer)
    for row in rows:
        if row.get("tokenizer_hash", own) != own:
            raise BadInput(
                f"Trace of problem {row['id']!r}: its ids are of another tokenizer than that of model; give the model "
                f"that wrote the traces ({row.get('model')})."
            )
        yield row
