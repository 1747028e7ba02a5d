"""Greedy generation in batches whose finished rows are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from basinscope.engines.cache import Past, joined, up
from basinscope.engines.forward import LEAST_ROWS, Forward
from basinscope.engines.packing import batches, by_head, split_fitting
from basinscope.engines.tokens import Row, Tokens
from basinscope.tasks.base import Generate, Generation

DECODE_SLOTS = 1 << 14  # slots of cache of the rows that are written together


def generate(
    forward: Forward,
    tokens: Tokens,
    ends: frozenset[int],
    requests: Sequence[Generate],
    budget: int,
) -> list[Generation]:
    """Greedy continuation of every request's prompt, in the order given.

    Args:
        forward: the model.
        tokens: its tokenizer.
        ends: tokens that end a text.
        requests: prompts.
        budget: most tokens in one pass.
    """
    rows = [tokens.row(request) for request in requests]
    caps = [request.max_tokens for request in requests]
    fitting, failures = split_fitting(rows, caps, forward.context)
    writers = {i: _Writer(tokens, ends, requests[i]) for i in fitting}
    longest = {k: row.longest + caps[k] for k, row in fitting.items()}
    # row by row, so that no row's path depends on the others
    short = {k: row for k, row in fitting.items() if forward.fits_cache(longest[k])}
    for head, keys in by_head(short):
        past = forward.extend(None, [head])[1] if head else None
        # as many rows as may be written together, which are read in smaller batches
        most = max(1, DECODE_SLOTS // max(longest[k] for k in keys))
        keys.sort(key=lambda k: (-len(short[k].body), k))
        for a in range(0, len(keys), most):
            own = [short[k].body for k in keys[a : a + most]]
            states, held = _read(forward, past, len(head), own, budget)
            _write(forward, states, held, [writers[k] for k in keys[a : a + most]])
    for batch in batches(fitting.keys() - short.keys(), lambda k: longest[k], budget):
        _decode_plain(forward, [fitting[k] for k in batch], [writers[k] for k in batch])
    return [
        writers[i].result() if i in writers else Generation("", False, failures[i])
        for i in range(len(requests))
    ]


def _read(
    forward: Forward, past: Past | None, head: int, bodies: list[Sequence[int]], budget: int
) -> tuple[torch.Tensor, Past]:
    """Last hidden state of every prompt, and the cache of all of them, in the order given."""
    order: list[int] = []
    states, pasts = [], []
    for batch in batches(range(len(bodies)), lambda i: len(bodies[i]), budget, head):
        new = [bodies[i] for i in batch]
        hidden, held = forward.extend(past.repeated(len(new)) if past is not None else None, new)
        last = torch.tensor([len(row) - 1 for row in new], device=hidden.device)
        states.append(hidden[torch.arange(len(new)), last])
        pasts.append(held)
        order += batch
    back = torch.tensor(order, device=states[0].device).argsort()
    held = pasts[0] if len(pasts) == 1 else joined(pasts)
    return torch.cat(states)[back], held if order == sorted(order) else held.rows(back)


def _write(forward: Forward, states: torch.Tensor, cache: Past, writers: list[_Writer]) -> None:
    """Let every writer take token after token until all are done."""
    live = list(range(len(writers)))  # the writer of each row that is still carried
    if missing := up(len(live), LEAST_ROWS) - len(live):
        live += [0] * missing
        index = torch.tensor(live, device=states.device)
        states, cache = states[index], cache.rows(index)
    while True:
        logits = forward.logits(states)
        best = logits.argmax(-1).tolist()
        finite = torch.isfinite(logits).all(-1).tolist()
        for b, r in {b: r for r, b in enumerate(live)}.items():
            writers[b].take(best[r], finite[r])
        going = [r for r, b in enumerate(live) if not writers[b].done]
        if not going:
            return
        # dropping a row copies the cache: worth it once an eighth of the rows is finished
        rows = up(len(going), LEAST_ROWS)
        if rows <= len(live) * 7 // 8:
            keep = going + [going[0]] * (rows - len(going))
            cache = cache.rows(torch.tensor(keep, device=states.device))
            live, best = [live[r] for r in keep], [best[r] for r in keep]
        hidden, cache = forward.extend(cache, [(token,) for token in best], decode=True)
        states = hidden[:, 0]


def _decode_plain(forward: Forward, rows: list[Row], writers: list[_Writer]) -> None:
    """Without a cache: the whole row again for every token."""
    while going := [b for b, writer in enumerate(writers) if not writer.done]:
        full = [(*rows[b].head, *rows[b].body, *writers[b].tokens) for b in going]
        logits = forward.plain(full)
        for r, b in enumerate(going):
            row = logits[r, len(full[r]) - 1].float()
            writers[b].take(int(row.argmax()), bool(torch.isfinite(row).all()))


class _Writer:
    """One text being written: its tokens, and whether it is finished."""

    def __init__(self, tokens: Tokens, ends: frozenset[int], request: Generate) -> None:
        self.tokenizer, self.ends, self.request = tokens, ends, request
        self.tokens: list[int] = []
        self.done = request.max_tokens < 1
        self.finished, self.failure = False, ""

    def take(self, token: int, finite: bool) -> None:
        """Add the next token, unless the text is done."""
        if self.done:
            return
        if not finite:
            self.done, self.failure = True, "non-finite logits"
        elif token in self.ends:
            self.done = self.finished = True
        else:
            self.tokens.append(token)
            self.finished = self._stopped()
            self.done = self.finished or len(self.tokens) >= self.request.max_tokens

    def result(self) -> Generation:
        """The text so far, without what follows a stop string."""
        text = self.tokenizer.text(self.tokens)
        for stop in self.request.stop:
            text = text.split(stop)[0]
        return Generation(text, self.finished, self.failure)

    def _stopped(self) -> bool:
        stop, decided = self.request.stop, self.request.decided
        if not stop and decided is None:
            return False
        text = self.tokenizer.text(self.tokens)
        return any(s in text for s in stop) or (decided is not None and decided(text))
