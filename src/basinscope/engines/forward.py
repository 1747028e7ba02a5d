"""Rows of tokens through a causal model, with a key-value cache that rows can branch from.

Rows are padded on the right and told apart by a mask over the cache's slots. Attention adds exact
zeros for slots that are not the row's (see `cache`). On a CPU that sums every product of a multiple
of ``least_rows`` rows in one order (`orders` tries it), a row's numbers do not depend on which rows
share its batch. On other processors, and on a GPU, they may differ by rounding.

Shape legend: B rows, L new tokens, S slots of the cache, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from basinscope.engines.alone import Alone
from basinscope.engines.cache import Past, Slots, slots_for, up
from basinscope.engines.memory import CACHE_BYTES, REFUSALS, TOKEN_BUDGET, refusal
from basinscope.engines.orders import LEAST_ROWS, least_rows
from basinscope.engines.probing import near, right
from basinscope.weights.selection import is_expert

# settings by which a model changes its logits after the output head
_AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def _branch(
    seen_LL: torch.Tensor, ahead_L: torch.Tensor, start: int, tails: Sequence[Sequence[int]]
) -> None:
    """Make tails behind position ``start`` blind to each other and count on from ``start``."""
    first = start
    for tail in tails:
        seen_LL[first : first + len(tail), start:first] = False
        ahead_L[first : first + len(tail)] = start + torch.arange(len(tail), device=ahead_L.device)
        first += len(tail)


class Forward:
    """The two forward passes a causal language model of transformers offers.

    `extend` runs the trunk with a cache and leaves the choice of logits to the caller; it is used
    where `agrees` finds that trunk, cache and output head together give what the module's own
    forward gives (a model may scale or cap its logits after the head, or keep a state that padding
    would spoil). What it does not serve, as `why` says, and rows of more than `reach` tokens go
    `alone` through the module's own forward. `plain` is that forward over many rows: right, but a
    row's rounding depends on the others.

    Args:
        module: the model.
        epoch: gives the number of the present weights: a cache of others is refused (defect 6).
    """

    def __init__(self, module: nn.Module, epoch: Callable[[], int] = lambda: 0) -> None:
        self.module: Any = module
        self.epoch = epoch
        self.trunk: Any = getattr(module, "base_model", None)
        self.head: Any = getattr(module, "get_output_embeddings", lambda: None)()
        config = getattr(module, "config", None)
        # a model of text and pictures keeps the settings of its text part apart
        self.config: Any = getattr(config, "get_text_config", lambda: config)()
        self.alone = Alone(module, self.config, epoch)
        self.reach = min(self.alone.window, self.alone.switch)  # most tokens that `extend` serves
        self.why = ""  # `extend` does not serve
        self._names = [name for name, _ in module.named_parameters()]
        self.cached = False
        self.pooled = False  # whether texts may be written in a pool (`pool.probe`)
        self.least_rows = LEAST_ROWS  # products are of a multiple of so many rows
        self.slot_bytes = 1  # of a token's keys and values in all layers
        self._orders: dict[int, int | None] = {}  # `least_rows` by the number of threads

    @property
    def device(self) -> torch.device:
        """Where tokens go."""
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def context(self) -> int:
        """Most tokens that a row may hold."""
        config = self.config
        for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
            size = getattr(config, name, None)
            if isinstance(size, int) and size > 0:
                return int(size * self.alone.stretch)
        return 1 << 30

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model can read, as far as it says."""
        table = getattr(self.module, "get_input_embeddings", lambda: None)()
        return 1 << 30 if table is None else int(table.weight.shape[0])

    def extend(
        self,
        past: Past | None,
        rows: Sequence[Sequence[int]],
        tails: Sequence[Sequence[Sequence[int]]] | None = None,
        *,
        decode: bool = False,
    ) -> tuple[torch.Tensor, Past]:
        """Append tokens to each row (at least one each).

        Args:
            past: what the rows hold already, which is written into; None for nothing.
            rows: new tokens; with their tails all rows end in one class of slots (`cache.alike`).
            tails: for each row, continuations that all branch off its end and do not see each
                other; they lie behind the row one after another, and cannot be extended further.
            decode: one token for each of a multiple of ``least_rows`` rows, without padding.

        Returns:
            Hidden states (B, L, D), and what the rows hold then. Position ``len(rows[b]) - 1``
            belongs to the last token of row b; later ones are its tails, then padding, which means
            nothing.
        """
        from transformers import Cache

        epoch = self.epoch()
        if past is not None and past.epoch != epoch:
            raise AssertionError(f"a cache of weights {past.epoch} under weights {epoch}")
        full = rows if tails is None else [
            [*row, *(token for tail in own for token in tail)]
            for row, own in zip(rows, tails, strict=True)
        ]  # fmt: skip
        longest = max(len(row) for row in full)
        assert not decode or (longest == 1 and len(rows) % self.least_rows == 0)
        width = 1 if decode else up(longest, self.least_rows)
        ids_BL, new_BL = self._pad(full, width)
        ahead_BL = (new_BL.cumsum(1) - 1).clamp(min=0)
        seen_BLL = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        seen_BLL = seen_BLL.repeat(len(rows), 1, 1)
        if tails is not None:
            for b, (row, own) in enumerate(zip(rows, tails, strict=True)):
                _branch(seen_BLL[b], ahead_BL[b], len(row), own)
        if past is None:
            held_BS = new_BL[:, :0]
            length_B, cache = new_BL.sum(1), Cache(layer_class_to_replicate=Slots)
        else:
            held_BS = past.mask_BS
            ahead_BL = past.length_B[:, None] + ahead_BL
            length_B, cache = past.length_B + new_BL.sum(1), Cache(layers=past.layers)
        # a padding query sees itself: were it to see nothing, its softmax would be 0/0
        held_BLS = held_BS.bool()[:, None, :].expand(-1, width, -1)
        total = held_BS.shape[1] + width
        seen_BLS = pad(torch.cat([held_BLS, seen_BLL], dim=2), (0, slots_for(total) - total))
        out = self.trunk(
            input_ids=ids_BL,
            attention_mask=seen_BLS[:, None],
            # a finished row that is carried along may run past the end: nobody reads it
            position_ids=ahead_BL.clamp(max=min(self.context, self.reach) - 1),
            past_key_values=cache,
            use_cache=True,
        )
        after = Past(cache.layers, torch.cat([held_BS, new_BL], dim=1), length_B, epoch)
        return out.last_hidden_state, after if decode or tails is not None else after.align()

    def branched(
        self, contexts: Sequence[Sequence[int]], tails: Sequence[Sequence[Sequence[int]]]
    ) -> torch.Tensor:
        """Hidden states (B, L, D) of rows with tails that do not see each other.

        As `extend` gives them where nothing is held, but without a cache: can be differentiated.
        """
        full = [
            [*row, *(token for tail in own for token in tail)]
            for row, own in zip(contexts, tails, strict=True)
        ]
        width = max(map(len, full))
        ids_BL, new_BL = self._pad(full, width)
        ahead_BL = (new_BL.cumsum(1) - 1).clamp(min=0)
        seen_BLL = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        seen_BLL = seen_BLL.repeat(len(full), 1, 1)
        for b, (row, own) in enumerate(zip(contexts, tails, strict=True)):
            _branch(seen_BLL[b], ahead_BL[b], len(row), own)
        out = self.trunk(
            input_ids=ids_BL,
            attention_mask=seen_BLL[:, None],
            position_ids=ahead_BL,
            use_cache=False,
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Float32 logits (N, V) of chosen hidden states."""
        return self.raw_logits(hidden_ND).float()

    def raw_logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of chosen hidden states in the dtype of the head."""
        n = hidden_ND.shape[0]
        if missing := up(n, self.least_rows) - n:
            hidden_ND = torch.cat([hidden_ND, hidden_ND[:1].expand(missing, -1)])
        return self.head(hidden_ND)[:n]  # type: ignore[no-any-return]

    def plain(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, L, V) of the module's own forward, without a cache."""
        width = max(len(row) for row in rows)
        ids_BL, mask_BL = self._pad(rows, width)
        return self.module(input_ids=ids_BL, attention_mask=mask_BL).logits  # type: ignore[no-any-return]

    def ordered(self) -> bool:
        """Whether rows keep their bits in any company, with the present number of threads.

        Cost: tried once for each number of threads (`orders.least_rows`).
        """
        threads = torch.get_num_threads()
        if threads not in self._orders:
            self._orders[threads] = least_rows(self.module)
        self.least_rows = self._orders[threads] or LEAST_ROWS
        return self._orders[threads] is not None

    def choose(self) -> None:
        """Find the fastest of the ways that give the module's own logits (see `agrees`).

        Cost: some 20 short forward passes, and as many in float32 (`probing.right`).
        """
        self.ordered()
        self.cached = right(self.module, self.agrees)
        if not self.cached or self.reach < self.context:
            self.alone.probe(self.vocabulary)

    def agrees(self) -> bool:
        """Whether branching rows off a padded cache gives the module's own logits, to rounding.

        And whether no token is seen by those before it, or beside it, at all.
        """
        if self.trunk is None or self.trunk is self.module or self.head is None:
            self.why = "its output head does not stand apart from its layers"
        elif any(getattr(self.config, name, None) not in (None, 1, 1.0) for name in _AFTER_HEAD):
            self.why = "its logits are changed behind the output head"
        elif self.device.type == "cpu" and any(map(is_expert, self._names)):
            self.why = "an expert's products are over as many rows as choose it"
        else:
            try:
                self.why = self._fault()
            except REFUSALS as error:
                self.why = refusal(error)
        return not self.why

    def _fault(self) -> str:
        """What is wrong with `extend`, tried on a dozen tokens; empty where it serves."""
        size = self.head.weight.shape[0]
        rows = [[(7 * i + 3) % size for i in range(n)] for n in (9, 5)]
        others = self.least_rows - 1
        hidden, past = self.extend(None, [row[:4] for row in rows])
        start = hidden[0, :3]
        self.slot_bytes = past.slot_bytes
        branch = torch.tensor([0] + [1] * others, device=self.device)
        _, past = self.extend(past.rows(branch), [rows[0][4:8]] + [rows[1][4:]] * others)
        hidden, _ = self.extend(past, [rows[0][8:]] + [[0]] * others, decode=True)
        logits, expected = [self.logits(hidden[0, :1])], [0]
        # the same two rows as tails behind one token
        hidden, _ = self.extend(None, [rows[1][:1]], [[rows[0][1:3], rows[1][1:]]])
        logits, expected = [*logits, self.logits(hidden[:, 6])], [0, 1]
        # tokens that are not to be seen: the last of a row's start, and those of another tail
        unseen = [(token + 1) % size for token in rows[0][:4]]
        after, _ = self.extend(None, [[*rows[0][:3], unseen[3]], rows[1][:4]])
        beside, _ = self.extend(None, [rows[1][:1]], [[unseen[1:3], rows[1][1:]]])
        if not (self._same(start, after[0, :3]) and self._same(hidden[:, 6], beside[:, 6])):
            return "its tokens would see those behind them"
        slow = [self.plain([row])[:, -1].float() for row in rows]
        if self.alike(torch.stack(logits), torch.stack([slow[i] for i in expected])):
            return ""
        return "its logits would not be those of its own forward"

    def _same(self, hidden: torch.Tensor, again: torch.Tensor) -> bool:
        """Whether states are the same: to the bit, or on a GPU to rounding."""
        if self.device.type == "cpu":
            return torch.equal(hidden, again)
        return near(hidden, again, self.module)

    def alike(self, logits: torch.Tensor, expected: torch.Tensor) -> bool:
        """Whether logits are those of the module's own forward, up to rounding (see `near`)."""
        return near(logits, expected, self.module)

    def fits_cache(self, tokens: int) -> bool:
        """Whether rows of so many tokens may see all of themselves in every layer."""
        return self.cached and tokens <= self.reach

    def slots(self, budget: int) -> int:
        """Most slots of cache with so many tokens in a pass (`memory.CACHE_BYTES`)."""
        return CACHE_BYTES * budget // TOKEN_BUDGET // self.slot_bytes

    def _pad(self, rows: Sequence[Sequence[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
            mask[b, : len(row)] = 1
        return ids.to(self.device), mask.to(self.device)
