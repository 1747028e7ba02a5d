"""Key-value cache of a batch of rows, kept in slots that grow in place.

Shape legend: B rows, S slots, H key-value heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

ROUND = 32  # lanes of the widest bfloat16 vector in use
GROWTH = 64  # slots added at once when a cache is full


class Slots:
    """Keys and values (B, H, S, E) of one layer, as transformers' `Cache` wants a layer to be.

    Appending by concatenation would copy everything for every token; here new tokens are written
    behind the old ones into memory held in reserve.
    """

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def __init__(
        self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None
    ) -> None:
        self.keys: Any = keys
        self.values: Any = values
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return everything."""
        held, total = self.get_seq_length(), self.get_seq_length() + keys.shape[-2]
        if self._room is None or total > self._room[0].shape[-2]:
            size = -(-total // ROUND) * ROUND + (GROWTH if self._room is not None else 0)
            shape = (*keys.shape[:2], size, keys.shape[-1])
            room = keys.new_zeros(shape), values.new_zeros((*shape[:-1], values.shape[-1]))
            if held:
                room[0][:, :, :held], room[1][:, :, :held] = self.keys, self.values
            self._room = room
        self._room[0][:, :, held:total], self._room[1][:, :, held:total] = keys, values
        self.keys, self.values = self._room[0][:, :, :total], self._room[1][:, :, :total]
        return self.keys, self.values

    def align(self, empty: int) -> None:
        """Append empty slots."""
        keys = self.keys.new_zeros((*self.keys.shape[:2], empty, self.keys.shape[-1]))
        values = self.values.new_zeros((*self.values.shape[:2], empty, self.values.shape[-1]))
        self.update(keys, values)

    def get_seq_length(self) -> int:
        """Slots in use."""
        return 0 if self.keys is None else int(self.keys.shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots after the next tokens, and the first of them."""
        return self.get_seq_length() + query_length, 0


@dataclass
class Past:
    """What B rows hold: a layer's slots each, which slots are real, and how many those are.

    Extending it writes into it: a row that is to be extended twice is copied (`rows`) or viewed
    (`repeated`) before.
    """

    layers: list[Slots]
    mask_BS: torch.Tensor
    length_B: torch.Tensor

    def rows(self, index: torch.Tensor) -> Past:
        """Copy of the given rows; an index may repeat."""
        layers = [
            Slots(s.keys.index_select(0, index), s.values.index_select(0, index))
            for s in self.layers
        ]
        mask_BS, length_B = self.mask_BS.index_select(0, index), self.length_B[index]
        return Past(layers, mask_BS, length_B)

    def repeated(self, n: int) -> Past:
        """The one row of this cache, n times, without a copy."""
        layers = [
            Slots(s.keys.expand(n, -1, -1, -1), s.values.expand(n, -1, -1, -1)) for s in self.layers
        ]
        return Past(layers, self.mask_BS.expand(n, -1), self.length_B.expand(n))

    def align(self) -> Past:
        """Pad with empty slots to a multiple of `ROUND`, where the next tokens begin."""
        empty = -self.mask_BS.shape[1] % ROUND
        if empty:
            for layer in self.layers:
                layer.align(empty)
            self.mask_BS = pad(self.mask_BS, (0, empty))
        return self
