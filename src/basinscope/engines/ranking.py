"""Log-likelihood of continuations: each distinct context run once, continuations branch off it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch

from basinscope.engines.alone import STEPPED, Held
from basinscope.engines.batches import batches, by_head, split_fitting
from basinscope.engines.forward import Forward
from basinscope.engines.tokens import Row
from basinscope.tasks.base import Likelihood, Ranking

STATES = 128  # hidden states whose logits are held at once: 25 MB for 49,152 tokens


class Scored(NamedTuple):
    """What is known of each token of one tail, without what the tail skips (see `Likelihood`).

    Margins are empty where they were not asked for.
    """

    logp: torch.Tensor
    hit: torch.Tensor
    margin: torch.Tensor

    @classmethod
    def empty(cls, n: int, margins: bool) -> Scored:
        """Room for n tokens."""
        hit = torch.empty(n, dtype=torch.bool)
        return cls(torch.empty(n), hit, torch.empty(n if margins else 0))

    def put(self, where: torch.Tensor, part: Scored) -> None:
        """Write what is known of the tokens that a mask names."""
        for column, values in zip(self, part, strict=True):
            if len(column):
                column[where] = values

    def cut(self, start: int, end: int) -> Scored:
        """Some of the tokens."""
        return Scored(*(column[start:end] for column in self))


def rank(forward: Forward, rows: Sequence[Row], budget: int) -> list[Ranking]:
    """Total log-likelihood in nats of every row's continuations, in the order given.

    Beside it, whether greedy decoding would write them.
    """
    fitting, failures = split_fitting(rows, [0] * len(rows), forward.context)
    rankings = {i: Ranking((), failure) for i, failure in failures.items()}
    for i, tails in score_tails(forward, fitting, budget).items():
        loglik = tuple(float(tail.logp.sum()) for tail in tails)
        bad = not all(math.isfinite(x) for x in loglik)
        greedy = tuple(bool(tail.hit.all()) for tail in tails)
        rankings[i] = Ranking(loglik, "non-finite logits" if bad else "", greedy)
    return [rankings[i] for i in range(len(rows))]


def read(forward: Forward, texts: Sequence[Sequence[Row]], budget: int) -> list[Likelihood]:
    """Likelihood of every text, given as the rows of its windows, in the order given."""
    places = [(t, w) for t, rows in enumerate(texts) for w in range(len(rows))]
    rows = {i: texts[t][w] for i, (t, w) in enumerate(places)}
    parts: list[list[Scored]] = [[] for _ in texts]
    for i, (tail,) in sorted(score_tails(forward, rows, budget, margins=True).items()):
        parts[places[i][0]].append(tail)
    return [_joined(own) for own in parts]


def distributions(forward: Forward, row: Row) -> torch.Tensor:
    """Log-probabilities (T, V) of all tokens in the place of each token of a row's one tail."""
    full, n = [*row.head, *row.body, *row.tails[0]], len(row.tails[0])
    if not forward.fits_cache(row.longest):
        logits_NV, _ = forward.alone.read(full, last=n + 1, keep=False)
        forward.alone.settle()
        return logits_NV[:-1].float().log_softmax(-1)
    hidden_BLD, _ = forward.extend(None, [full[:-1]])
    states_ND = hidden_BLD[0, len(full) - 1 - n : len(full) - 1]
    parts = [forward.logits(states_ND[a : a + STATES]) for a in range(0, n, STATES)]
    return torch.cat([part.log_softmax(-1) for part in parts])


def _joined(windows: list[Scored]) -> Likelihood:
    """One text from its windows."""
    if not windows:
        return Likelihood((), (), (), "text of one token has nothing to score")
    logp = torch.cat([own.logp for own in windows])
    if not bool(torch.isfinite(logp).all()):
        return Likelihood((), (), (), "non-finite logits")
    hit = torch.cat([own.hit for own in windows])
    margin = torch.cat([own.margin for own in windows])
    return Likelihood(tuple(logp.tolist()), tuple(hit.tolist()), tuple(margin.tolist()))


def score_tails(
    forward: Forward, rows: dict[int, Row], budget: int, *, margins: bool = False
) -> dict[int, list[Scored]]:
    """Every token of every row's tails. The rows fit the model's context."""
    # row by row, so that no row's path depends on the others
    short = {i: row for i, row in rows.items() if forward.fits_cache(row.longest)}
    long = {i: row for i, row in rows.items() if i not in short}
    return _cached(forward, short, budget, margins) | _alone(forward, long, margins)


def _cached(
    forward: Forward, rows: dict[int, Row], budget: int, margins: bool
) -> dict[int, list[Scored]]:
    """Each context once with all its continuations behind it, blind to each other."""
    scored: dict[int, list[Scored]] = {}

    def width(key: int) -> int:
        return len(rows[key].body) + sum(len(tail) - 1 for tail in rows[key].tails)

    for head, keys in by_head(rows):
        past = forward.extend(None, [head])[1] if head else None
        slots = forward.slots(budget) // 2
        for batch in batches(keys, width, budget, forward.least_rows, len(head), slots):
            own = [rows[k] for k in batch]
            hidden_BLD, _ = forward.extend(
                past.repeated(len(own)) if past is not None else None,
                [row.body for row in own],
                [[tail[:-1] for tail in row.tails] for row in own],
            )
            scored.update(zip(batch, _score(forward, own, hidden_BLD, margins), strict=True))
    return scored


def _score(
    forward: Forward, rows: list[Row], hidden_BLD: torch.Tensor, margins: bool
) -> list[list[Scored]]:
    """Every token of each row's tails, from the hidden states of the row and its tails."""
    # which state foretells which token: a tail's first token is foretold by the context's last,
    # each other one by the token before it
    places: list[tuple[int, int]] = []
    targets: list[tuple[int, int]] = []
    spans: list[list[tuple[int, int]]] = []
    for b, row in enumerate(rows):
        last, nth = len(row.body) - 1, len(places)
        places += [(b, last + k) for k in range(1 + sum(len(t) - 1 for t in row.tails))]
        start, own = nth + 1, []
        for tail, skip in zip(row.tails, row.skips, strict=True):
            states = [nth, *range(start, start + len(tail) - 1)]
            start += len(tail) - 1
            own.append((len(targets), len(targets) + len(tail) - skip))
            targets += list(zip(states, tail, strict=True))[skip:]
        spans.append(own)
    index = torch.tensor(places, device=hidden_BLD.device)
    states_ND = hidden_BLD[index[:, 0], index[:, 1]]
    scored = Scored.empty(len(targets), margins)
    wanted = torch.tensor(targets, device=hidden_BLD.device)
    for a in range(0, len(places), STATES):
        logits = forward.logits(states_ND[a : a + STATES])
        here = (wanted[:, 0] >= a) & (wanted[:, 0] < a + STATES)
        part = _of_tokens(logits, wanted[here, 0] - a, wanted[here, 1], margins)
        scored.put(here.cpu(), part)
    return [[scored.cut(a, b) for a, b in own] for own in spans]


def _alone(forward: Forward, rows: dict[int, Row], margins: bool) -> dict[int, list[Scored]]:
    """Each row by itself through the module's own forward; a common head is read once."""
    alone, scored = forward.alone, dict[int, list[Scored]]()
    for head, keys in by_head(rows):
        start: Held | None = None  # the cache of the head
        for k in keys:
            row = rows[k]
            many = alone.extends and alone.one_way(row.longest)
            few = [alone.one_way(row.longest) and len(tail) <= STEPPED for tail in row.tails]
            if many and head:
                start = start or alone.read(head)[1]
                state, held = alone.read(row.body, start and start.copy())
            elif many or any(few):
                state, held = alone.read((*head, *row.body))
            scored[k] = []
            for tail, skip, short in zip(row.tails, row.skips, few, strict=True):
                if many or short:
                    assert held is not None
                    parts = chain((state,), alone.behind(tail[:-1], held.copy()))
                else:
                    full = (*head, *row.body, *tail)
                    whole, _ = alone.read(full, last=len(tail) + 1, keep=False)
                    parts = chain((whole[:-1],))
                scored[k].append(_of_tail(parts, tail, skip, margins))
    alone.settle()
    return scored


def _of_tail(
    parts: Iterable[torch.Tensor], tail: Sequence[int], skip: int, margins: bool
) -> Scored:
    """Every token of a tail, from the logits before each of them, in parts."""
    done: list[Scored] = []
    start = 0
    for logits in parts:
        target = torch.tensor(tail[start : start + len(logits)], device=logits.device)
        each = torch.arange(len(target), device=logits.device)
        done.append(_of_tokens(logits.float(), each, target, margins))
        start += len(logits)
    return Scored(*(torch.cat(column)[skip:] for column in zip(*done, strict=True)))


def _of_tokens(
    logits_NV: torch.Tensor, state_T: torch.Tensor, token_T: torch.Tensor, margins: bool
) -> Scored:
    """What the logits of state ``state_T[t]`` say of token ``token_T[t]``."""
    logp_T = logits_NV.log_softmax(-1)[state_T, token_T].cpu()
    hit_T = (logits_NV.argmax(-1)[state_T] == token_T).cpu()
    if not margins:
        return Scored(logp_T, hit_T, torch.empty(0))
    own_TV, at_T1 = logits_NV[state_T], token_T[:, None]
    logit_T1 = own_TV.gather(1, at_T1)
    margin_T = logit_T1[:, 0] - own_TV.scatter_(1, at_T1, -math.inf).amax(-1)
    return Scored(logp_T, hit_T, margin_T.cpu())
