"""Rows of tokens through a causal model, with a key-value cache that rows can branch from.

Rows are padded on the right to a multiple of ``ROUND`` and told apart by a mask over the cache's
slots, so a row's numbers do not depend on which rows share its batch: every reduction over slots
adds exact zeros for slots that are not the row's, at places that keep their lane.

Shape legend: B rows, L new tokens, S slots of the cache, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ROUND = 32  # lanes of the widest bfloat16 vector in use
SHORT = 16  # rows appended to a cache are padded less below this, see `padded`
LEAST_ROWS = 4  # fewer rows than this may take a matrix-vector path that sums in another order
# settings by which a model changes its logits after the output head
_AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def padded(tokens: int) -> int:
    """Width of a row of new tokens behind a cache.

    The last few slots of an attention row are summed outside the vector loop, so which slots those
    are must not depend on the batch: new tokens shorter than `SHORT` always lie among them, longer
    ones never do, and the two are not mixed.
    """
    return _up(tokens, 4) if tokens < SHORT else _up(tokens, ROUND)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass
class Past:
    """Cache of B rows: keys and values per layer, which slots are real, how many those are."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]  # each (B, heads, S, head size)
    mask_BS: torch.Tensor
    length_B: torch.Tensor

    def rows(self, index: torch.Tensor) -> Past:
        """Copy of the given rows; an index may repeat, which branches the row."""
        return Past(
            [(k.index_select(0, index), v.index_select(0, index)) for k, v in self.layers],
            self.mask_BS.index_select(0, index),
            self.length_B.index_select(0, index),
        )

    @property
    def slots(self) -> int:
        """Number of slots, real or padding."""
        return self.mask_BS.shape[1]


class Forward:
    """The two forward passes a causal language model of transformers offers.

    `extend` runs the trunk with a cache and leaves the choice of logits to the caller; it is used
    where `agrees` finds that trunk, cache and output head together give what the module's own
    forward gives (a model may scale or cap its logits after the head, or keep a state that padding
    would spoil). `plain` is the module's own forward, and always right.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.trunk: Any = getattr(module, "base_model", None)
        self.head: Any = getattr(module, "get_output_embeddings", lambda: None)()
        self.config: Any = getattr(module, "config", None)
        self.cached = False

    @property
    def device(self) -> torch.device:
        """Where tokens go."""
        return next(self.module.parameters()).device

    @property
    def context(self) -> int:
        """Most tokens that a row may hold."""
        config = self.config
        for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
            size = getattr(config, name, None)
            if isinstance(size, int) and size > 0:
                return size
        return 1 << 30

    def extend(
        self, past: Past | None, rows: Sequence[Sequence[int]], *, decode: bool = False
    ) -> tuple[torch.Tensor, Past]:
        """Append tokens to each row (at least one each).

        Args:
            past: what the rows hold already; None for nothing.
            rows: new tokens; either all shorter than `SHORT` or none (see `padded`).
            decode: one token for each of at least `LEAST_ROWS` rows, without padding.

        Returns:
            Hidden states (B, L, D) and the longer cache. Position ``len(rows[b]) - 1`` of row b
            belongs to its last token; later positions are padding and mean nothing.
        """
        from transformers import DynamicCache

        longest = max(len(row) for row in rows)
        assert not decode or (longest == 1 and len(rows) >= LEAST_ROWS)
        width = 1 if decode else padded(longest) if past is not None else _up(longest, ROUND)
        ids_BL, new_BL = self._pad(rows, width)
        count_B = new_BL.sum(1)
        ahead_BL = (new_BL.cumsum(1) - 1).clamp(min=0)
        if past is None:
            # nothing but right padding: the causal mask alone keeps it from every real token
            mask, positions_BL, cache, mask_BS, length_B = (
                None, ahead_BL, DynamicCache(), new_BL, count_B,
            )  # fmt: skip
        else:
            mask_BS = torch.cat([past.mask_BS, new_BL], dim=1)
            mask, positions_BL = mask_BS, past.length_B[:, None] + ahead_BL
            cache, length_B = DynamicCache(past.layers), past.length_B + count_B
        out = self.trunk(
            input_ids=ids_BL,
            attention_mask=mask,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
        )
        layers = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        return out.last_hidden_state, Past(layers, mask_BS, length_B)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Float32 logits (N, V) of chosen hidden states."""
        n = hidden_ND.shape[0]
        if n < LEAST_ROWS:
            hidden_ND = torch.cat([hidden_ND, hidden_ND[:1].expand(LEAST_ROWS - n, -1)])
        return self.head(hidden_ND).float()[:n]  # type: ignore[no-any-return]

    def plain(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, L, V) of the module's own forward, without a cache."""
        width = max(len(row) for row in rows)
        ids_BL, mask_BL = self._pad(rows, width)
        return self.module(input_ids=ids_BL, attention_mask=mask_BL).logits  # type: ignore[no-any-return]

    def agrees(self) -> bool:
        """Whether branching rows off a padded cache gives the module's own logits.

        Tried once, at loading, on a dozen tokens. Tolerance: a root mean square error of 1% of the
        logits' spread in float32, 30% in 16 bits (rounding alone gives 5-14% on such odd tokens).
        """
        if self.trunk is None or self.trunk is self.module or self.head is None:
            return False
        if any(getattr(self.config, name, None) not in (None, 1, 1.0) for name in _AFTER_HEAD):
            return False
        vocabulary = self.head.weight.shape[0]
        rows = [[(7 * i + 3) % vocabulary for i in range(n)] for n in (9, 5)]
        try:
            _, past = self.extend(None, [row[:4] for row in rows])
            branch = torch.tensor([0, 1, 1, 0], device=self.device)
            news = [rows[0][4:8], rows[1][4:], rows[1][4:], [0]]
            _, past = self.extend(past.rows(branch), news)
            hidden, _ = self.extend(past, [rows[0][8:], [0], [0], [0]], decode=True)
            fast = self.logits(hidden[0, :1])
            second = self.logits(self.extend(None, [rows[1]])[0][:, 4])
        except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
            return False
        slow = self.plain(rows[:1])[:, 8].float()
        slow_second = self.plain(rows[1:])[:, 4].float()
        error = torch.stack([fast - slow, second - slow_second]).square().mean().sqrt()
        tolerance = 0.3 if self.head.weight.element_size() == 2 else 0.01
        return float(error) <= tolerance * float(slow.std()) + 1e-6

    def fits_cache(self, slots: int) -> bool:
        """Whether a cache of so many slots means what full attention means in every layer."""
        window = getattr(self.config, "sliding_window", None)
        return self.cached and not (isinstance(window, int) and slots > window)

    def _pad(
        self, rows: Sequence[Sequence[int]], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
            mask[b, : len(row)] = 1
        return ids.to(self.device), mask.to(self.device)
