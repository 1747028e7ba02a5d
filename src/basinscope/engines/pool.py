"""A pool of rows whose texts are being written, and the pass that extends any by any tokens.

The rows' new tokens lie one behind another in a batch of one, each with its own position, without
padding; only attention tells them apart (`basinscope.engines.kernels`). So a pass may carry one
token of some rows and ten of others, and a token's bits are the same either way: products of
``least_rows`` tokens sum over features in one order (`forward`), and attention is computed
token by token.

The trunk is that of transformers, whose attention is exchanged for the time of the pass: a cache
layer hands itself over in place of keys, and the attention function finds the pool there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from basinscope.engines import kernels
from basinscope.engines.cache import Past, up
from basinscope.engines.forward import Forward
from basinscope.engines.memory import REFUSALS, refusal

NAME = "basinscope-pool"  # of our attention among those of transformers
# arguments of attention that say nothing a pool would not know: rows are causal and fit the window
_HARMLESS = frozenset(
    ("dropout", "position_ids", "sliding_window", "use_cache", "cache_position", "is_causal")
)


class Span(NamedTuple):
    """New tokens of one row of the pool, and the slot of the first of them."""

    row: int
    tokens: Sequence[int]
    place: int


@dataclass
class _Layer:
    """Keys and values of one layer, as transformers' `Cache` wants a layer to be.

    ``keys`` is (R, G, E, S): a feature's slots lie side by side, and a score is summed over
    features in one order whatever the number of slots. ``shared`` holds keys (G, E, T) and values
    (G, T, E) of what all rows begin with.
    """

    keys: torch.Tensor
    values: torch.Tensor
    shared: tuple[torch.Tensor, torch.Tensor] | None
    spans: kernels.Array = field(default_factory=lambda: np.zeros((0, 4), np.int64))

    is_sliding = False
    is_compileable = False
    is_initialized = True

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[Any, Any]:
        """Write new keys and values (1, G, N, E) to their slots; hand over the layer itself."""
        new = keys[0].transpose(0, 1), values[0].transpose(0, 1)
        kernels.store(*new, self.keys, self.values, self.spans)
        return self, self

    def get_seq_length(self) -> int:
        """Slots in use: positions are always given, so nobody needs it."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots after the next tokens, and the first of them."""
        return query_length, 0


class Pool:
    """Slots for rows that begin with one head.

    Args:
        forward: the model.
        past: cache of the head; None for no head.
        head: number of its tokens.
        rows: how many rows there is room for.
        slots: most tokens of a row behind the head.
    """

    def __init__(
        self, forward: Forward, past: Past | None, head: int, rows: int, slots: int
    ) -> None:
        self.forward, self.past, self.head = forward, past, head
        self.rows, self.slots = rows, up(slots, kernels.BLOCK)
        self.epoch = forward.epoch()
        self.layers: list[_Layer] = []

    def put(self, row: int, read: Past, b: int, tokens: int) -> None:
        """Take a prompt's slots over: row b of a cache whose last part are so many tokens.

        Args:
            row: of this pool.
            read: cache of the head and prompts behind it, as `Forward.extend` leaves it.
            b: row of that cache.
            tokens: length of the prompt behind the head.
        """
        start = self.past.held if self.past is not None else 0
        if not self.layers:
            self.layers = [self._layer(n, layer.keys) for n, layer in enumerate(read.layers)]
        for own, layer in zip(self.layers, read.layers, strict=True):
            keys, values = (t[b, :, start : start + tokens] for t in (layer.keys, layer.values))
            own.keys[row, :, :, :tokens] = keys.transpose(1, 2)
            own.values[row, :, :tokens] = values

    def extend(self, spans: Sequence[Span]) -> torch.Tensor:
        """Append tokens to some rows; what stood behind a span's place is forgotten.

        Args:
            spans: at least one, no two of the same row, no token beyond the slots.

        Returns:
            Hidden states (N, D) of all tokens, span after span.
        """
        from transformers import Cache

        if self.epoch != (epoch := self.forward.epoch()):
            raise AssertionError(f"a pool of weights {self.epoch} under weights {epoch}")
        flat = [token for span in spans for token in span.tokens]
        ends = np.cumsum([len(span.tokens) for span in spans])
        where = np.array([
            (span.row, end - len(span.tokens), end, span.place)
            for span, end in zip(spans, ends, strict=True)
        ], np.int64)  # fmt: skip
        assert (where[:, 3] + where[:, 2] - where[:, 1]).max() <= self.slots
        ahead = np.concatenate([span.place + np.arange(len(span.tokens)) for span in spans])
        width = up(len(flat), self.forward.least_rows)
        ids, positions = np.zeros((2, 1, width), np.int64)
        ids[0, : len(flat)], positions[0, : len(flat)] = flat, self.head + ahead
        for layer in self.layers:
            layer.spans = where
        config = self.forward.config
        before, config._attn_implementation = config._attn_implementation, NAME
        try:
            out = self.forward.trunk(
                input_ids=torch.from_numpy(ids),
                # a mask of four dimensions is handed through; nobody reads it
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
                position_ids=torch.from_numpy(positions),
                past_key_values=Cache(layers=self.layers),
                use_cache=True,
            )
        finally:
            config._attn_implementation = before
        return out.last_hidden_state[0, : len(flat)]  # type: ignore[no-any-return]

    def _layer(self, n: int, like: torch.Tensor) -> _Layer:
        """Empty slots of layer n, for keys and values such as these (B, G, S, E)."""
        groups, size = like.shape[1], like.shape[3]
        keys = like.new_empty(self.rows, groups, size, self.slots)
        values = like.new_empty(self.rows, groups, self.slots, size)
        if self.past is None:
            return _Layer(keys, values, None)
        held = self.past.layers[n]
        head_keys, head_values = (t[0, :, : self.head] for t in (held.keys, held.values))
        shared = head_keys.transpose(1, 2).contiguous(), head_values.contiguous()
        return _Layer(keys, values, shared)


def probe(forward: Forward) -> None:
    """Find out whether a pool serves this model here.

    Tried once, at loading, on a dozen tokens: ``pooled`` where it gives the module's own logits (to
    the tolerance of `Forward.agrees`).
    """
    weights = {(t.device.type, t.dtype) for t in forward.module.parameters()}
    if not forward.cached or weights not in ({("cpu", d)} for d in (torch.float32, torch.bfloat16)):
        return
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    size = forward.vocabulary
    rows = [[(7 * i + 3) % size for i in range(n)] for n in (5, 9)]
    try:
        past = forward.extend(None, [rows[0][:2]])[1]
        pool = Pool(forward, past, 2, 2, 9)
        read = forward.extend(past.repeated(2), [row[2:4] for row in rows])[1]
        for r in range(2):
            pool.put(r, read, r, 2)
        states = pool.extend([Span(r, row[4:], 2) for r, row in enumerate(rows)])
        logits = forward.raw_logits(states[-1:]).float()[0]
    except REFUSALS as error:
        refusal(error)  # raised again where memory ran out
        return
    forward.pooled = forward.alike(logits, forward.plain(rows[1:])[0, -1].float())


def _attention(
    module: Any,
    query: torch.Tensor,
    key: _Layer,
    value: _Layer,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a pass of `Pool.extend`; queries are (1, H, N, E)."""
    unknown = [k for k, v in options.items() if v is not None and k not in _HARMLESS]
    if unknown or not isinstance(key, _Layer):
        raise TypeError(f"attention with {unknown} is not known to the pool")
    query_NHE = query[0].transpose(0, 1).contiguous()
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = kernels.attend(query_NHE, key.keys, key.values, key.shared, key.spans, factor)
    return out[None], None
