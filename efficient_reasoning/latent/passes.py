"""Passes through a causal language model some of whose inputs are its own last hidden states.

1. A latent is a position whose input is what the model made of the position before it, as it is or through a
   projection, so latents are computed one after another. What stands before them is read once into a key-value cache,
   each latent but the last is a pass over one column of the batch, and the last one is read with what follows: K + 1
   passes, and no position is computed twice. Gradients flow back through the cache.
2. Rows may differ in their latents, also in having none. All latents of a batch end at the same column; where a row
   has fewer, tokens of its prompt stand in the columns of others' latents, and are read there. So a row computes what
   it would alone, and all processes can be made to run equally many passes.
3. The head runs over what has a label, and over nothing else.

Legend: B rows, W columns before the first latent of any row, K columns with latents, T columns behind them, S = W + K
+ T, D width, N labelled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from efficient_reasoning.errors import BadInput
from efficient_reasoning.heads import has_plain_head
from efficient_reasoning.latent.projection import LatentProjection

IGNORED = -100  # a label that does not count
_FULL, _WINDOW = "full_attention", "sliding_window"  # of configs


@dataclass(frozen=True)
class Row:
    """What one row of a batch is made of.

    Attributes:
        prompt_ids: tokens before the latents; at least one.
        latents: how many follow.
        completion_ids: tokens behind them.
        given: how many of the first completion ids are given, such as a delimiter, and are not to be learnt.
        step_ids: of the steps that its latents stand for, where somebody asks.
    """

    prompt_ids: Sequence[int]
    latents: int
    completion_ids: Sequence[int]
    given: int = 0
    step_ids: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Batch:
    """Rows side by side.

    Attributes:
        input_ids: (B, S); what stands where a latent or padding is does not matter.
        attention_mask: (B, S), 0 for padding, which is on both sides.
        is_latent: (B, W + K) bool.
        labels: (B, T), `IGNORED` where nothing is to be learnt.
        labelled: (N,) which of the B * T labels are others.
        first_column: W.
        is_padded: whether there is padding at all.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    is_latent: torch.Tensor
    labels: torch.Tensor
    labelled: torch.Tensor
    first_column: int
    is_padded: bool

    @property
    def end_column(self) -> int:
        """W + K."""
        return self.is_latent.shape[1]

    def to(self, device: torch.device | str) -> Batch:
        tensors = (self.input_ids, self.attention_mask, self.is_latent, self.labels, self.labelled)
        return Batch(*(tensor.to(device) for tensor in tensors), self.first_column, self.is_padded)


def collate(rows: Sequence[Row], pad_id: int, columns: int | None = None, first_columns_apart: int = 1) -> Batch:
    """A batch of rows.

    Args:
        rows: at least one.
        pad_id: any token.
        columns: K, where it is to be more than the most latents of these rows: the passes that other processes run.
        first_columns_apart: W is a multiple of it.

    Raises:
        BadInput: a row without prompt, or with more latents than columns.
    """
    most = max(row.latents for row in rows)
    columns = most if columns is None else columns
    if most > columns or not all(row.prompt_ids for row in rows):
        raise BadInput(f"A row has {most} latents of {columns} columns, or no token before them; give it one.")
    prompts, latents, completions, given = (
        np.array(lengths)[:, None]  # (B, 1)
        for lengths in zip(
            *((len(row.prompt_ids), row.latents, len(row.completion_ids), row.given) for row in rows), strict=True
        )
    )
    first = max(1, int((prompts + latents).max()) - columns)
    first = -(-first // first_columns_apart) * first_columns_apart
    end = first + columns
    until, width = end - latents, int(completions.max())
    ids = np.full((len(rows), end + width), pad_id)
    for row, own, last in zip(rows, ids, until[:, 0].tolist(), strict=True):
        own[last - len(row.prompt_ids) : last] = row.prompt_ids
        own[end : end + len(row.completion_ids)] = row.completion_ids
    column = np.arange(end + width)
    behind = column[:width]
    is_learnt = (given <= behind) & (behind < completions)
    is_token = (until - prompts <= column) & (column < end + completions)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(is_token.astype(np.int64)),
        torch.from_numpy(until <= column[:end]),
        torch.from_numpy(np.where(is_learnt, ids[:, end:], IGNORED)),
        torch.from_numpy(np.flatnonzero(is_learnt)),
        first,
        not is_token.all(),
    )


class Passes(NamedTuple):
    """What the passes of a batch leave.

    Attributes:
        states: (B, 1 + T, D) last hidden states from the last column before the completions on, each of which
            predicts the next column.
        latents: (B, K, D) inputs of the columns with latents, tokens of prompts among them.
        layers: (B, T, D) of every layer, the last one as it is in `states`, where they were asked for.
        cache: of all columns (B, S).
    """

    states: torch.Tensor
    latents: torch.Tensor
    layers: tuple[torch.Tensor, ...]
    cache: DynamicCache


def read(
    model: PreTrainedModel, batch: Batch, projection: LatentProjection | None = None, with_layers: bool = False
) -> Passes:
    """Run the passes of a batch.

    Args:
        model: a causal language model whose embeddings are as wide as its hidden states.
        batch: on its device.
        projection: makes latents of hidden states; None takes them as they are.
        with_layers: keep the hidden states of every layer on the completions.

    Raises:
        BadInput: gradient checkpointing, which would drop the cache, embeddings of another width, or logits that are
            scaled behind the head.
    """
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise BadInput("Latents are computed through a key-value cache; set gradient_checkpointing to false.")
    embed = model.get_input_embeddings()
    widths = embed.weight.shape[1], model.get_output_embeddings().weight.shape[1]
    if widths[0] != widths[1]:
        raise BadInput(
            f"Embeddings are {widths[0]} wide and hidden states {widths[1]}: these cannot stand in for those; take "
            "another model."
        )
    if not has_plain_head(model):
        raise BadInput(f"A {model.config.model_type} scales its logits behind the head; take another model.")
    embedded = embed(batch.input_ids)  # (B, S, D)
    positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    mask = _whole_mask(model, batch)
    first, end = batch.first_column, batch.end_column
    cache = DynamicCache()  # all columns of all layers, also where they attend to a window only: others go on from it

    def run(inputs: torch.Tensor, begin: int, with_layers: bool = False):
        """The model's output for the inputs (B, C, D) of the columns from `begin` on."""
        until = begin + inputs.shape[1]
        return model.base_model(
            inputs_embeds=inputs,
            attention_mask=batch.attention_mask[:, :until] if mask is None else mask[:, :, begin:until, :until],
            position_ids=positions[:, begin:until],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=with_layers,
        )

    latents = []  # of K columns (B, D)
    begin, waiting = 0, embedded[:, :first]  # what no pass has read yet
    for column in range(first, end):
        state = run(waiting, begin).last_hidden_state[:, -1]  # (B, D)
        latent = (state if projection is None else projection(state)).to(embedded.dtype)
        latents.append(torch.where(batch.is_latent[:, column, None], latent, embedded[:, column]))
        begin, waiting = column, latents[-1][:, None]
    last = run(torch.cat([waiting, embedded[:, end:]], 1), begin, with_layers)
    states = last.last_hidden_state[:, end - 1 - begin :]
    width = batch.labels.shape[1]
    layers = tuple(layer[:, layer.shape[1] - width :] for layer in last.hidden_states[1:]) if with_layers else ()
    return Passes(states, torch.stack(latents, 1) if latents else embedded[:, end:end], layers, cache)


def _whole_mask(model: PreTrainedModel, batch: Batch) -> torch.Tensor | None:
    """Which column sees which, (B, 1, S, S) bool, of which every pass takes its part.

    transformers would make one in every pass, and look into it first, for which the device has to be waited for. It
    does so where this is None: where layers differ in what they see, and where it needs none, without padding.
    """
    config = model.config.get_text_config()
    has_windows = set(getattr(config, "layer_types", None) or [_FULL]) != {_FULL} or getattr(config, _WINDOW, None)
    if has_windows or config._attn_implementation != "sdpa" or not batch.is_padded:
        return None
    columns = batch.input_ids.shape[1]
    ones = torch.ones(columns, columns, dtype=torch.bool, device=batch.input_ids.device)
    is_seen = ones.tril() & batch.attention_mask[:, None, None].bool()
    is_seen.diagonal(0, 2, 3).fill_(True)  # of padding, too: a column that sees nothing has no softmax
    return is_seen


def completion_loss(model: PreTrainedModel, batch: Batch, passes: Passes | None = None) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens of a batch, in nats.

    Args:
        model, batch: those of `read`.
        passes: of this batch; None runs them without a projection.
    """
    states = (read(model, batch) if passes is None else passes).states[:, :-1]  # (B, T, D)
    logits = model.get_output_embeddings()(states.flatten(0, 1)[batch.labelled])  # (N, V)
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels.flatten()[batch.labelled])
