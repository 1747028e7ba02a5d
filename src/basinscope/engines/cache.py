"""Key-value cache of a batch of rows, kept in slots that grow in place.

Attention sums over slots, so how many there are can change a row's rounding. Empty slots add exact
zeros; they leave no trace as long as the kernel sums the others in the same order. The CPU's was
found to do so for any multiple of `ROUND` slots up to `NEAR` (in float32 multiples of 16 would do),
and for one query at any number; many queries over more slots were not. So rows share a batch only
if their number of slots is alike (`alike`). The tests check it on the machine they run on.

Shape legend: B rows, S slots, H key-value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

ROUND = 32  # slots that a product of bfloat16 takes at once; float32 takes 16
NEAR = 192  # slots up to which attention is summed in one way
GROWTH = 64  # slots added at once when a cache is full, and by which longer rows are told apart


def slots_for(tokens: int) -> int:
    """Slots that attention runs over for so many slots in use."""
    return up(tokens, ROUND if tokens <= NEAR else GROWTH)


def alike(tokens: int) -> int:
    """Class of a row of so many slots in use: rows of one class may share a batch."""
    return 0 if tokens <= NEAR else up(tokens, GROWTH)


def up(n: int, multiple: int) -> int:
    """Least multiple that is not below n."""
    return -(-n // multiple) * multiple


class Slots:
    """Keys and values (B, H, S, E) of one layer, as transformers' `Cache` wants a layer to be.

    Appending by concatenation would copy everything for every token; here new tokens are written
    behind the old ones into memory held in reserve.
    """

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def __init__(
        self,
        keys: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        held: int = 0,
    ) -> None:
        self.keys: Any = keys
        self.values: Any = values
        self.held = held
        self._own = keys is None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return `slots_for` what is then in use: the last ones are empty."""
        total = self.held + keys.shape[-2]
        shown = slots_for(total)
        if not self._own or self.keys is None or shown > self.keys.shape[-2]:
            self._move(keys, values, shown + (GROWTH if self.held and self._own else 0))
        self.keys[:, :, self.held : total], self.values[:, :, self.held : total] = keys, values
        self.held = total
        return self.keys[:, :, :shown], self.values[:, :, :shown]

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self.held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots after the next tokens, and the first of them."""
        return slots_for(self.held + query_length), 0

    def _move(self, keys: torch.Tensor, values: torch.Tensor, size: int) -> None:
        """Move what is held to memory of our own with room for ``size`` slots."""
        more_keys = keys.new_zeros((*keys.shape[:2], size, keys.shape[-1]))
        more_values = values.new_zeros((*values.shape[:2], size, values.shape[-1]))
        if self.held:
            more_keys[:, :, : self.held] = self.keys[:, :, : self.held]
            more_values[:, :, : self.held] = self.values[:, :, : self.held]
        self.keys, self.values, self._own = more_keys, more_values, True


@dataclass
class Past:
    """What B rows hold: a layer's slots each, which slots are real, and how many those are.

    Extending it writes into it: a row that is to be extended twice is viewed (`repeated`) before.
    ``epoch`` is that of the weights it was computed with: under others it is refused.
    """

    layers: list[Slots]
    mask_BS: torch.Tensor
    length_B: torch.Tensor
    epoch: int = 0

    @property
    def held(self) -> int:
        """Slots in use, real or empty: the next tokens begin there."""
        return self.mask_BS.shape[1]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot of one row in all layers."""
        sides = (side for layer in self.layers for side in (layer.keys, layer.values))
        return sum(side[0, :, 0].numel() * side.element_size() for side in sides)

    def rows(self, index: torch.Tensor) -> Past:
        """Copy of the given rows; an index may repeat."""
        layers = [
            Slots(
                layer.keys[:, :, : self.held].index_select(0, index),
                layer.values[:, :, : self.held].index_select(0, index),
                self.held,
            )
            for layer in self.layers
        ]
        mask_BS = self.mask_BS.index_select(0, index)
        return Past(layers, mask_BS, self.length_B[index], self.epoch)

    def repeated(self, n: int) -> Past:
        """The one row of this cache, n times, without a copy."""
        layers = [
            Slots(s.keys.expand(n, -1, -1, -1), s.values.expand(n, -1, -1, -1), self.held)
            for s in self.layers
        ]
        return Past(layers, self.mask_BS.expand(n, -1), self.length_B.expand(n), self.epoch)

    def align(self, multiple: int = ROUND) -> Past:
        """Count empty slots as used up to a multiple, so that the next tokens keep their lanes."""
        held = up(self.held, multiple)
        for layer in self.layers:
            if held > layer.keys.shape[-2]:
                layer._move(layer.keys, layer.values, held)
            layer.held = held
        self.mask_BS = pad(self.mask_BS, (0, held - self.held))
        return self


def joined(pasts: Sequence[Past]) -> Past:
    """The rows of several caches in one, empty slots behind the shorter ones."""
    held = max(past.held for past in pasts)
    layers = []
    for own in zip(*(past.align(held).layers for past in pasts), strict=True):
        keys = torch.cat([layer.keys[:, :, :held] for layer in own])
        values = torch.cat([layer.values[:, :, :held] for layer in own])
        layers.append(Slots(keys, values, held))
    mask_BS = torch.cat([past.mask_BS for past in pasts])
    (epoch,) = {past.epoch for past in pasts}
    return Past(layers, mask_BS, torch.cat([past.length_B for past in pasts]), epoch)
