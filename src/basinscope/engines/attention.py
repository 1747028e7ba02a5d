"""Attention of many new tokens in bfloat16 on the CPU, faster than torch's own kernel there.

torch's kernel cuts the work into small products and runs over keys that no query of a block sees.
Here a block of queries meets only the slots before its end, all query heads that share keys are one
matrix product, and the scores of a block stay in the processor's cache. As there, scores are sums
of products of bfloat16 numbers held in float32, and probabilities are rounded to bfloat16 before
they weigh the values. Rows that branch off one head may lie behind each other in one (`Branch`):
then no token is padding, and the head's keys and values are there once.

What a query gets depends on its own row alone: blocks begin at fixed places of the row, a product
sums over slots in their order, and slots that are not the row's add exact zeros. The tests check it
on the machine they run on.

Shape legend: B rows, H heads of queries, K heads of keys, L new tokens, S slots, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from basinscope.engines.cache import ROUND, up

NAME = "basinscope"
BLOCK = 64  # queries that meet the slots together
SCORES = 1 << 20  # float32 scores held at once, unless one row's block has more
# what a model may hand over that changes nothing here: no dropout while it is evaluated, and who
# sees what, and where, is settled by the plan and by the positions that went into the queries
_SETTLED = ("dropout", "is_causal", "position_ids", "cache_position", "use_cache")

_mkldnn: Any = torch.backends.mkldnn


@dataclass(frozen=True)
class Block:
    """Queries ``start .. stop`` of every row.

    All of them see the slots before ``free``; none sees one from ``end`` on; ``bias_BLS`` is 0 or
    -inf for those between.
    """

    start: int
    stop: int
    free: int
    end: int
    bias_BLS: torch.Tensor


@dataclass(frozen=True)
class Branch:
    """New tokens ``start .. stop`` of a row: they see what is held and, as blocks say, each other.

    In its blocks queries count from ``start``, and its own slots follow what is held.
    """

    start: int
    stop: int
    blocks: tuple[Block, ...]


@dataclass
class Plan:
    """Who sees what in one forward pass, the same in each layer; ``used`` once a layer asked.

    Blocks of every row, or branches of a single one that holds ``held`` slots.
    """

    blocks: tuple[Block, ...]
    branches: tuple[Branch, ...] = ()
    held: int = 0
    used: bool = False


def serves(module: nn.Module, config: Any) -> bool:
    """Whether this attention may stand in for the one that the model was loaded with."""
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and hasattr(getattr(_mkldnn, "matmul", None), "fp32_precision")
        and _mkldnn.is_available()
        and all(p.device.type == "cpu" for p in module.parameters())
        and {p.dtype for p in module.parameters()} == {torch.bfloat16}
    )


def plan(seen_BLS: torch.Tensor, held: int) -> Plan:
    """Plan of a pass whose new tokens lie in the slots from ``held`` on."""
    rows, length, slots = seen_BLS.shape
    blocks = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        end = min(up(held + stop, ROUND), slots)
        own_BLS = seen_BLS[:, start:stop, :end]
        hidden_S = ~own_BLS.all(1).all(0)
        free = int(hidden_S.to(torch.uint8).argmax()) if bool(hidden_S.any()) else end
        bias_BLS = torch.zeros(rows, stop - start, end - free)
        bias_BLS.masked_fill_(~own_BLS[:, :, free:], -torch.inf)
        blocks.append(Block(start, stop, free, end, bias_BLS))
    return Plan(tuple(blocks))


def branches(seen: Sequence[torch.Tensor], held: int) -> Plan:
    """Plan of a pass of one row, in which rows that branch off what it holds lie in turn.

    Args:
        seen: for each of them what its new tokens see, (1, L, held + L) bool.
        held: slots in use.
    """
    rows, start = [], 0
    for own_1LS in seen:
        stop = start + own_1LS.shape[1]
        rows.append(Branch(start, stop, plan(own_1LS, held).blocks))
        start = stop
    return Plan((), tuple(rows), held)


@contextmanager
def used(config: Any) -> Iterator[None]:
    """Inside it a model of this config takes its attention from here."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: nn.Module,
    query_BHLE: torch.Tensor,
    key_BKSE: torch.Tensor,
    value_BKSE: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention, as transformers' registry wants it; the plan is asked in place of the mask.

    Raises:
        TypeError: If there is no plan, or the model asks for what is not done here (a window, a
            cap on the scores, sinks).
    """
    asked = {k for k, v in options.items() if k not in _SETTLED and v is not None}
    if plan is None or asked:
        raise TypeError(f"attention with {sorted(asked) or 'no plan'}")
    plan.used = True
    rows, heads, length, size = query_BHLE.shape
    scale = size**-0.5 if scaling is None else scaling
    # nobody reads what follows the last branch, but it has to be finite
    out_BLHE = query_BHLE.new_zeros(rows, length, heads, size)
    key_BKSE = key_BKSE.float()
    with _products_of_bfloat16():
        if not plan.branches:
            _fill(out_BLHE, query_BHLE, key_BKSE, value_BKSE, plan.blocks, scale)
        for branch in plan.branches:
            new = slice(branch.start, branch.stop)
            key, value = (
                torch.cat([t[:, :, : plan.held], t[:, :, plan.held :][:, :, new]], 2)
                for t in (key_BKSE, value_BKSE)
            )
            _fill(out_BLHE[:, new], query_BHLE[:, :, new], key, value, branch.blocks, scale)
    return out_BLHE, None


def _fill(
    out_BLHE: torch.Tensor,
    query_BHLE: torch.Tensor,
    key_BKSE: torch.Tensor,
    value_BKSE: torch.Tensor,
    blocks: Sequence[Block],
    scale: float,
) -> None:
    """Write what the queries of each block find; keys are float32."""
    rows, heads, _, size = query_BHLE.shape
    kinds = key_BKSE.shape[1]
    key_BKES = key_BKSE.transpose(2, 3)
    # bfloat16 numbers stay such if scaled by a power of two
    first, then = (scale, 1.0) if math.frexp(scale)[0] == 0.5 else (1.0, scale)
    for block in blocks:
        new, end = slice(block.start, block.stop), block.end
        n = block.stop - block.start
        step = max(1, SCORES // (heads * n * end))
        for b in range(0, rows, step):
            own = slice(b, min(b + step, rows))
            some = own.stop - own.start
            # queries of heads that share keys lie under each other
            q = query_BHLE[own, :, new].float().mul(first).reshape(some * kinds, -1, size)
            k = key_BKES[own, :, :, :end].reshape(some * kinds, size, end)
            v = value_BKSE[own, :, :end].reshape(some * kinds, end, size)
            scores = torch.bmm(q, k)
            if then != 1:
                scores.mul_(then)
            scores = scores.view(some, heads, n, end)
            scores[..., block.free :].add_(block.bias_BLS[own, None])
            weights = scores.softmax(-1).to(v.dtype).view(some * kinds, -1, end)
            mixed = torch.bmm(weights, v).view(some, heads, n, size)
            out_BLHE[own, new] = mixed.transpose(1, 2)


@contextmanager
def _products_of_bfloat16() -> Iterator[None]:
    """Inside it float32 matrices are multiplied as bfloat16 and summed in float32.

    Exact where they hold bfloat16 numbers. No other way gives torch's users that product.
    """
    settings = _mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
