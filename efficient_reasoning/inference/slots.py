"""A key-value cache of fixed rows, whose occupants come and go.

1. All rows write the same column each step, so a step has fixed shapes and can be captured. What a row holds ends at
   that column and is as long as its `lengths` entry: a new prompt is copied in front of the column, over whatever its
   row held before.
2. The column moves to the right. At the end of the buffer, what the rows still need is moved back to its beginning.
3. Idle rows keep a length of one, so that a softmax over them is defined.

Legend: R rows, K key-value heads, C columns, D head dimension, N prompts, P longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer


class PromptCache:
    """What a model's attention reads about prompts, and leaves for `SlotCache.place`.

    Args:
        lengths: (N,) of prompts that are padded on the left.

    Attributes:
        layers: keys and values (N, K, P, D) of each layer.
        asked: how many layers have asked for the lengths.
    """

    def __init__(self, lengths: torch.Tensor):
        self.lengths = lengths
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.asked = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        # Values may be a view of a product that is several times as large.
        self.layers.append((key_states.contiguous(), value_states.contiguous()))
        return self.layers[-1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class SlotCache:
    """What a model's attention writes to and reads from during a step.

    Args:
        like: prefilled keys and values (N, K, P, D) of each layer, for their shapes.
        rows: R.
        columns: C, at least as many as a row may come to hold, and more by how often one wants to move them.
    """

    def __init__(self, like: Layers, rows: int, columns: int):
        def room(states: torch.Tensor) -> torch.Tensor:
            return states.new_zeros(rows, states.shape[1], columns, states.shape[3])

        self.layers = [(room(keys), room(values)) for keys, values in like]
        device = like[0][0].device
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
            for states in layer:
                states[:, :, end - held : end] = states[:, :, begin : self.at].clone()
        self._begins = {row: first + end - self.at for row, first in self._begins.items()}
        self._first += end - self.at
        self.at = end
        self.column.fill_(end)

    def place(
        self, rows: Sequence[int], index: torch.Tensor, prompts: Layers, sources: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        """Copy prompts into rows.

        Args:
            rows: whose occupants are replaced.
            index: (rows,) the same, on the device.
            prompts: keys and values (N, K, P, D) of each layer, padded on the left.
            sources: (rows,) the prompt of each row.
            lengths: (rows,) of the prompts, in tokens.
        """
        width = prompts[0][0].shape[2]
        for layer, prefilled in zip(self.layers, prompts, strict=True):
            for states, prompt in zip(layer, prefilled, strict=True):
                states[index, :, self.at - width : self.at] = prompt[sources]
        self.lengths[index] = lengths
        self._begins |= dict.fromkeys(rows, self.at - width)

    def keep(self, rows: Sequence[int], index: torch.Tensor) -> None:
        """Make these rows, all that are occupied, the first ones; `index` is the same on the device."""
        for layer in self.layers:
            for states in layer:
                states[: len(rows), :, self._first : self.at] = states[index, :, self._first : self.at]
        self.lengths[: len(rows)] = self.lengths[index]
        self._begins = {place: self._begins[row] for place, row in enumerate(rows)}

    def release(self, row: int) -> None:
        """What the row holds is no longer needed."""
        del self._begins[row]

    def clear(self) -> None:
        """No row is needed any longer. An interruption may have come between a step and its `stepped`."""
        self._begins.clear()
        self.column.fill_(self.at)
