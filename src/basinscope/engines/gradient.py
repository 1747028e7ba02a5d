"""Log-likelihoods that can be differentiated with respect to the live weights.

The rows are those of `ranking`, and where trunk and output head can be run apart (`Forward.cached`)
a context is run once with all its continuations behind it, blind to each other. There is no cache:
everything that a batch needs goes through the model at once, and logits are computed only where a
token is scored.

Shape legend: B rows, L tokens, D hidden size, V vocabulary, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from basinscope.engines.forward import Forward
from basinscope.engines.tokens import Row


@dataclass(frozen=True)
class Scored:
    """Log-likelihood (nats, differentiable) of one row's tails, and which tokens are hit.

    ``logp[c]`` holds the tokens of tail c, ``hits[c]`` whether each is the likeliest in its place.
    """

    logp: tuple[torch.Tensor, ...]
    hits: tuple[torch.Tensor, ...]


def cost_tokens(forward: Forward, row: Row) -> int:
    """Tokens that a row puts through the model."""
    context, tails = len(row.head) + len(row.body), [len(tail) for tail in row.tails]
    if forward.fits_cache(row.longest):
        return context + sum(n - 1 for n in tails)
    return sum(context + n for n in tails)


def batches(forward: Forward, rows: Sequence[Row], budget_tokens: int) -> list[list[int]]:
    """Rows that go through the model together: alike in length, padding within the budget.

    A row of more tokens than the budget has a batch of its own. Depends on the rows alone.
    """
    cost = [cost_tokens(forward, row) for row in rows]
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (-cost[i], i)):
        apart = forward.fits_cache(rows[i].longest)
        last = groups[-1] if groups else []
        same = last and forward.fits_cache(rows[last[0]].longest) == apart
        if same and (len(last) + 1) * cost[last[0]] <= budget_tokens:
            last.append(i)
        else:
            groups.append([i])
    return groups


def loglik(forward: Forward, rows: Sequence[Row]) -> list[Scored]:
    """Log-likelihoods of the rows' tails under the live weights, differentiable.

    All rows must fit the cache, or none (see `batches`).
    """
    if forward.fits_cache(rows[0].longest):
        return _packed(forward, rows)
    flat = [(row, c) for row in rows for c in range(len(row.tails))]
    logits_BLV = forward.plain([[*r.head, *r.body, *r.tails[c]] for r, c in flat])
    own = []
    for b, (row, c) in enumerate(flat):
        first = len(row.head) + len(row.body) + row.skips[c]
        target = _tensor(row.tails[c][row.skips[c] :], logits_BLV.device)
        own.append(_scored(logits_BLV[b, first - 1 : first - 1 + len(target)], target))
    scored, start = [], 0
    for row in rows:
        part = own[start : start + len(row.tails)]
        start += len(row.tails)
        scored.append(Scored(tuple(p for p, _ in part), tuple(h for _, h in part)))
    return scored


def _packed(forward: Forward, rows: Sequence[Row]) -> list[Scored]:
    contexts = [[*row.head, *row.body] for row in rows]
    tails = [[tail[:-1] for tail in row.tails] for row in rows]
    hidden_BLD = forward.branched(contexts, tails)
    # which state foretells which token: a tail's first token is foretold by the context's last,
    # each other one by the token before it
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    spans: list[list[int]] = []
    for b, row in enumerate(rows):
        last = len(contexts[b]) - 1
        after = last + 1
        spans.append([])
        for tail, skip in zip(row.tails, row.skips, strict=True):
            states = [last, *range(after, after + len(tail) - 1)][skip:]
            after += len(tail) - 1
            places += [(b, k) for k in states]
            targets += tail[skip:]
            spans[-1].append(len(states))
    index = torch.tensor(places, device=hidden_BLD.device)
    logits_NV = forward.head(hidden_BLD[index[:, 0], index[:, 1]])
    logp_N, hit_N = _scored(logits_NV, _tensor(targets, hidden_BLD.device))
    sizes = [n for own in spans for n in own]
    logps, hits = iter(torch.split(logp_N, sizes)), iter(torch.split(hit_N, sizes))
    return [
        Scored(tuple(next(logps) for _ in own), tuple(next(hits) for _ in own)) for own in spans
    ]


def _scored(logits_NV: torch.Tensor, target_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits_NV = logits_NV.float()
    logp_N = logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    return logp_N, logits_NV.detach().argmax(-1) == target_N


def _tensor(tokens: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=device)


@contextmanager
def checkpointed(
    module: nn.Module, around: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[None]:
    """Keep only the layers' inputs for the backward pass and run each layer a second time there.

    The layers are those that transformers marks for it. Its own switch works in training mode only,
    which would also switch dropout on.

    Args:
        module: the model.
        around: context of the second run, which may come in a thread of its own.
    """
    try:
        from transformers.modeling_layers import GradientCheckpointingLayer as Layer
    except ImportError:
        yield
        return
    layers = [part for part in module.modules() if isinstance(part, Layer)]

    def again(own: Any) -> Any:
        def forward(*given: Any, **named: Any) -> Any:
            return checkpoint(
                own,
                *given,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=lambda: (nullcontext(), around()),
                **named,
            )

        return forward

    for layer in layers:
        layer.forward = again(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
