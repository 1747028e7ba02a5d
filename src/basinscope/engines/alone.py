"""One row at a time through a model's own forward, with the cache that transformers makes for it.

Serves every causal model of transformers: sliding windows, recurrent states, experts, logits that
are changed behind the head. A row never shares a pass with another, so its numbers depend on it
alone. What many rows begin with is read once, and its cache copied for each of them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from basinscope.engines.memory import REFUSALS, refusal
from basinscope.engines.probing import near, right

CACHES = ("past_key_values", "cache_params", "state")  # what models call their cache
PROBED = 24  # tokens of the row that is tried at loading, or some more than a window of
WINDOW = 64  # tokens at most
LOGITS = 1 << 24  # held at once: 64 MB in float32
STEPPED = 16  # tokens that are read one by one rather than with the whole row again


@dataclass(frozen=True)
class Held:
    """The cache of one row, the number of its tokens, and the epoch of its weights."""

    cache: Any
    tokens: int
    epoch: int

    def copy(self) -> Held:
        """Another that can be extended without a change of this one."""
        return Held(copy.deepcopy(self.cache), self.tokens, self.epoch)


class Alone:
    """Reads rows by themselves.

    Args:
        module: the model.
        config: of its text part.
        epoch: gives the number of the present weights: a cache of others is refused.

    Attributes:
        steps: whether tokens can be read one by one behind a cache, and behind a copy of it.
        extends: whether many can be in one pass.
        why: why they cannot; empty where they can.
    """

    def __init__(self, module: Any, config: Any, epoch: Callable[[], int]) -> None:
        self.module, self.epoch = module, epoch
        self._names = inspect.signature(module.forward).parameters.keys()
        self._cache = next((name for name in CACHES if name in self._names), "")
        self.window, self.switch = smallest_window(config), rope_switch(config)
        self.stretch = rope_stretch(config)
        self.steps = self.extends = False
        self.piece = 1  # tokens whose logits are held at once
        self.why = "" if self._cache else "its forward takes no cache"

    def read(
        self, tokens: Sequence[int], held: Held | None = None, *, last: int = 1, keep: bool = True
    ) -> tuple[torch.Tensor, Held | None]:
        """Logits (last, vocabulary) of the last of some tokens, and the cache of the row with them.

        Args:
            tokens: new ones, at least one.
            held: of the tokens before them, which is written into; None at the start of a row.
            last: how many logits.
            keep: whether there will be more tokens: without, no cache is made.
        """
        start = 0 if held is None else held.tokens
        end = start + len(tokens)
        if held is not None and held.epoch != self.epoch():
            raise AssertionError(f"a cache of weights {held.epoch} under weights {self.epoch()}")
        device = next(self.module.parameters()).device
        if held is None or end <= self.switch:
            self.settle()
        options: dict[str, Any] = {
            "use_cache": keep,
            "logits_to_keep": last,
            "position_ids": torch.arange(start, end, device=device)[None],
        }
        options = {name: value for name, value in options.items() if name in self._names}
        if held is None or self._cache == CACHES[0]:  # recurrent states need no mask of the past
            options["attention_mask"] = torch.ones(1, end, dtype=torch.int64, device=device)
        if held is not None:
            options[self._cache] = held.cache
        ids = torch.tensor([list(tokens)], dtype=torch.int64, device=device)
        out = self.module(input_ids=ids, **options)
        cache = getattr(out, self._cache, None) if keep and self._cache else None
        return out.logits[0, -last:], None if cache is None else Held(cache, end, self.epoch())

    def settle(self) -> None:
        """Give rotary frequencies that depend on the longest row so far those of short rows."""
        if self.switch == 1 << 30:
            return
        for part in self.module.modules():
            kinds = getattr(part, "rope_type", None)
            if kinds is not None and isinstance(getattr(part, "inv_freq", None), torch.Tensor):
                first = torch.zeros(1, 1, dtype=torch.int64, device=part.inv_freq.device)
                part(part.inv_freq, first)
                part.inv_freq = part.inv_freq.clone()  # apart from the copy that it was reset to

    def one_way(self, tokens: int) -> bool:
        """Whether all starts of a row of so many tokens are read with the same frequencies.

        Otherwise a cache of the shorter ones does not fit the longer ones (`rope_switch`).
        """
        return self.steps and tokens <= self.switch

    def more(self, row: Sequence[int], held: Held | None) -> tuple[torch.Tensor, Held | None]:
        """Logits (1, vocabulary) behind a row of which all but the last token may be held."""
        # frequencies that stretch go on from the keys that there are, as transformers lets them
        switches = self.stretch == 1 and held is not None and held.tokens <= self.switch < len(row)
        if held is not None and self.steps and not switches:
            return self.read(row[held.tokens :], held)
        return self.read(row, keep=self.steps)

    def behind(self, tokens: Sequence[int], held: Held) -> Iterator[torch.Tensor]:
        """Logits of tokens behind a cache, in pieces."""
        step = self.piece if self.extends else 1
        after: Held | None = held
        for a in range(0, len(tokens), step):
            part = tokens[a : a + step]
            logits, after = self.read(part, after, last=len(part))
            yield logits

    def probe(self, vocabulary: int) -> None:
        """Find out what a cache is good for: `steps` and `extends`.

        They must give the logits of the whole row (`probing.right`).

        Args:
            vocabulary: number of tokens.
        """
        if not self._cache:
            return
        self.piece = max(1, LOGITS // vocabulary)
        size = PROBED if self.window > WINDOW else max(PROBED, self.window + 8)
        row = [(7 * i + 3) % vocabulary for i in range(min(size, self.switch))]

        def reads(parts: tuple[int, ...]) -> bool:
            """Whether parts of a row, the first of them begun twice, give the row's logits."""
            end = len(row) - sum(parts)
            held = self.read(row[:end])[1]
            if held is None:
                self.why = "its forward gives no cache back"
                return False
            for size in parts:
                assert held is not None
                self.read(row[:size], held.copy())  # a branch that must leave no trace
                logits, held = self.read(row[end : end + size], held, last=size)
                end += size
            whole, _ = self.read(row, last=parts[-1], keep=False)
            return near(logits, whole, self.module)

        try:
            self.steps = right(self.module, lambda: reads((1, 1)))
            self.extends = self.steps and right(self.module, lambda: reads((5, len(row) // 2)))
        except REFUSALS as error:
            self.why = "" if self.steps else refusal(error)
        if not self.steps:
            self.why = self.why or "its logits behind a cache are not those of the whole row"


def smallest_window(config: Any) -> int:
    """Most tokens that every layer sees all of."""
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if isinstance(size, int)), default=1 << 30)


def rotations(config: Any) -> list[dict[str, Any]]:
    """Settings of a model's rotary frequencies, of each kind of layer where they differ."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [settings, *(kind for kind in settings.values() if isinstance(kind, dict))]


def rope_switch(config: Any) -> int:
    """Most tokens of a row before its rotary frequencies become others, for all of its tokens."""
    most = getattr(config, "max_position_embeddings", None)
    original = getattr(config, "original_max_position_embeddings", None)
    sizes = [
        most if kind["rope_type"] == "dynamic"
        else kind.get("original_max_position_embeddings") or original
        for kind in rotations(config)
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]  # fmt: skip
    return min((size for size in sizes if isinstance(size, int)), default=1 << 30)


def rope_stretch(config: Any) -> float:
    """How many times more tokens than a model was trained on its rotary frequencies reach to."""
    factors = [k.get("factor") for k in rotations(config) if k.get("rope_type") == "dynamic"]
    return max((float(factor) for factor in factors if factor), default=1.0)
