"""A cache of fixed rows, whose occupants come and go.

1. All rows write the same column each step, so a step has fixed shapes and can be captured. What a row holds ends at
   that column and is as long as its `lengths` entry: a new prompt is copied in front of the column, over whatever its
   row held before.
2. The column moves to the right. At the end of the buffer, what the rows still need is moved back to its beginning.
3. Idle rows keep a length of one, so that a softmax over them is defined.
4. Linearized layers keep a window and a state a row, whatever its length: no column is theirs.

Legend: R rows, K key-value heads, C columns, D head dimension, N prompts, P longest prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from efficient_reasoning.inference.state_attention import WindowState, attend_prompts, attend_step

if TYPE_CHECKING:
    from efficient_reasoning.linear.modeling_linearized import LinearizedAttention


class KeyValues(NamedTuple):
    """Of all tokens: (N, K, P, D), padded on the left, of prompts, and (R, K, C, D) in rows."""

    keys: torch.Tensor
    values: torch.Tensor


Layers = Sequence[KeyValues | WindowState]  # of each layer


class PromptCache:
    """What a model's attention reads about prompts, and leaves for `SlotCache.place`.

    Args:
        lengths: (N,) of prompts that are padded on the left.
        held: keys and values (N, K, H, D) of their first columns, which are not computed again; padded like them.

    Attributes:
        layers: what each layer keeps, of held columns, too.
        asked: how many layers have asked for the lengths.
    """

    def __init__(self, lengths: torch.Tensor, held: Sequence[KeyValues] = ()):
        self.lengths = lengths
        self.held = held
        self.layers: list[KeyValues | WindowState] = []
        self.asked = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        if self.held:
            held = self.held[layer_idx]
            key_states, value_states = torch.cat([held.keys, key_states], 2), torch.cat([held.values, value_states], 2)
        # Values may be a view of a product that is several times as large.
        self.layers.append(KeyValues(key_states.contiguous(), value_states.contiguous()))
        return self.layers[-1]

    def attend_linear(
        self, layer: LinearizedAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Linearized attention; as `attend_prompts`."""
        self.asked += 1
        output, held = attend_prompts(layer, query, key, value, self.lengths)
        self.layers.append(held)
        return output

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class SlotCache:
    """What a model's attention writes to and reads from during a step.

    Args:
        like: what each layer keeps of prompts, for its shapes.
        rows: R.
        columns: C, at least as many as a row may come to hold, and more by how often one wants to move them.
    """

    def __init__(self, like: Layers, rows: int, columns: int):
        def room(layer: KeyValues | WindowState) -> KeyValues | WindowState:
            if isinstance(layer, KeyValues):
                layer = KeyValues(*(states[:, :, :1].expand(-1, -1, columns, -1) for states in layer))
            return layer._make(states.new_zeros(rows, *states.shape[1:]) for states in layer)

        self.layers = [room(layer) for layer in like]
        device = like[0].keys.device
        self.columns = columns
        self.lengths = torch.ones(rows, dtype=torch.long, device=device)  # (R,)
        self.column = torch.zeros(1, dtype=torch.long, device=device)  # where the next step writes
        self.at = 0  # the same, known without asking the device
        self._begins: dict[int, int] = {}  # first column of each occupied row
        self._first = 0  # of them all

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Write the step's column; (R, K, 1, D) -> all columns (R, K, C, D).

        On a CPU, where nothing is captured, only the columns that some row of these needs; there R may be fewer rows.
        """
        keys, values = self.layers[layer_idx]
        if keys.is_cuda:
            keys.index_copy_(2, self.column, key_states)
            values.index_copy_(2, self.column, value_states)
            return keys, values
        rows, needed = len(key_states), slice(self._first, self.at + 1)
        keys[:rows, :, self.at] = key_states[:, :, 0]
        values[:rows, :, self.at] = value_states[:, :, 0]
        return keys[:rows, :, needed], values[:rows, :, needed]

    def attend_linear(
        self, layer: LinearizedAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Linearized attention; as `attend_step`. On a CPU R may be fewer rows."""
        held = self.layers[layer.layer_idx]
        rows = slice(len(query))
        return attend_step(layer, query, key, value, held._make(each[rows] for each in held), self.lengths[rows])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are given outright

    def stepped(self) -> None:
        """A step, which moves `column` on the device, has been launched."""
        self.at += 1

    def make_room(self, longest: int = 0) -> None:
        """Move what the occupied rows hold to the beginning, if the buffer is at its end or a prompt has no room.

        Args:
            longest: of the prompts that may be placed before the next call.
        """
        self._first = begin = min(self._begins.values(), default=self.at)
        if longest <= self.at < self.columns:
            return
        held = self.at - begin
        end = max(longest, held)
        for layer in self.layers:
            if isinstance(layer, KeyValues):
                for states in layer:
                    states[:, :, end - held : end] = states[:, :, begin : self.at].clone()
        self._begins = {row: first + end - self.at for row, first in self._begins.items()}
        self._first += end - self.at
        self.at = end
        self.column.fill_(end)

    def place(
        self,
        rows: Mapping[int, int],
        index: torch.Tensor,
        prompts: Layers,
        sources: torch.Tensor,
        lengths: torch.Tensor,
    ) -> None:
        """Copy prompts into rows.

        Args:
            rows: whose occupants are replaced, and the tokens of each one's prompt.
            index: (rows,) the same, on the device.
            prompts: what each layer keeps of them.
            sources: (rows,) the prompt of each row.
            lengths: (rows,) of the prompts, in tokens, on the device.
        """
        width = width_of(prompts)
        for layer, prefilled in zip(self.layers, prompts, strict=True):
            for states, prompt in zip(layer, prefilled, strict=True):
                if isinstance(layer, KeyValues):
                    states[index, :, self.at - width : self.at] = prompt[sources]
                else:
                    states[index] = prompt[sources]
        self.lengths[index] = lengths
        self._begins |= {row: self.at - tokens for row, tokens in rows.items()}

    def keep(self, rows: Sequence[int], index: torch.Tensor) -> None:
        """Make these rows, all that are occupied, the first ones; `index` is the same on the device."""
        for layer in self.layers:
            for states in layer:
                if isinstance(layer, KeyValues):
                    states[: len(rows), :, self._first : self.at] = states[index, :, self._first : self.at]
                else:
                    states[: len(rows)] = states[index]
        self.lengths[: len(rows)] = self.lengths[index]
        self._begins = {place: self._begins[row] for place, row in enumerate(rows)}

    def begin(self, row: int) -> int:
        """The column of the first token that the row holds; one for each of the others follows."""
        return self._begins[row]

    def release(self, row: int) -> None:
        """What the row holds is no longer needed."""
        del self._begins[row]

    def clear(self) -> None:
        """No row is needed any longer. An interruption may have come between a step and its `stepped`."""
        self._begins.clear()
        self.column.fill_(self.at)


def width_of(prompts: Layers) -> int:
    """P: columns that prompts take, 0 where no layer has any."""
    return next((layer.keys.shape[2] for layer in prompts if isinstance(layer, KeyValues)), 0)
