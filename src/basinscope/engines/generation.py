"""Greedy generation in batches whose finished rows make room for those that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from basinscope.engines.alone import Held
from basinscope.engines.batches import batches, by_head, split_fitting
from basinscope.engines.cache import Past, joined, up
from basinscope.engines.forward import Forward
from basinscope.engines.kernels import greatest
from basinscope.engines.pool import Pool, Span
from basinscope.engines.tokens import Row, Tokens
from basinscope.engines.writer import Writer
from basinscope.tasks.base import Generate, Generation

DECODE_SLOTS = 1 << 15  # slots of cache of the rows that are written together, at most:
SLOTS_PER_TOKEN = 8  # so many for each token of a pass, or less memory for passes would help little
DECODE_ROWS = 128  # more rows gain little: products of so many run at full speed
REFILL = 8  # rows that wait are read once a part of so many is free


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
    writers = {i: Writer(tokens, ends, requests[i], tokens.begins_text(rows[i])) for i in fitting}
    longest = {k: row.longest + caps[k] for k, row in fitting.items()}
    # row by row, so that no row's path depends on the others
    short = {k: row for k, row in fitting.items() if forward.fits_cache(longest[k])}
    for head, keys in by_head(short):
        past = forward.extend(None, [head])[1] if head else None
        keys.sort(key=lambda k: (-len(short[k].body), k))
        own = [_Text(short[k].body, writers[k]) for k in keys]
        write = _write_pooled if forward.pooled else _write_batches
        write(forward, past, len(head), own, budget)
    _write_alone(forward, {k: r for k, r in fitting.items() if k not in short}, writers)
    return [
        writers[i].result() if i in writers else Generation("", False, failures[i])
        for i in range(len(requests))
    ]


def _slots(forward: Forward, budget: int) -> int:
    """Most slots of cache of the rows that are written together."""
    return min(DECODE_SLOTS, SLOTS_PER_TOKEN * budget, forward.slots(budget))


@dataclass
class _Text:
    """A prompt behind its head, and what is written behind it."""

    body: Sequence[int]
    writer: Writer

    @property
    def longest(self) -> int:
        """Most tokens behind the head."""
        return len(self.body) + self.writer.request.max_tokens


def _read(
    forward: Forward, past: Past | None, head: int, bodies: list[Sequence[int]], budget: int
) -> list[tuple[list[int], torch.Tensor, Past]]:
    """Indices, last hidden states and cache of the prompts of every batch."""
    prompts = []
    for batch in batches(
        range(len(bodies)), lambda i: len(bodies[i]), budget, forward.least_rows, head,
        forward.slots(budget) // 2,
    ):  # fmt: skip
        new = [bodies[i] for i in batch]
        hidden, held = forward.extend(past.repeated(len(new)) if past is not None else None, new)
        rows = torch.arange(len(new), device=hidden.device)
        last = torch.tensor([len(row) - 1 for row in new], device=hidden.device)
        prompts.append((batch, hidden[rows, last], held))
    return prompts


# --- with a pool -------------------------------------------------------------------------


def _write_pooled(
    forward: Forward, past: Past | None, head: int, texts: list[_Text], budget: int
) -> None:
    """Write all texts; whoever is done makes room for those that wait, in the order given."""
    waiting = deque(text for text in texts if not text.writer.done)
    if not waiting:
        return
    slots = max(text.longest for text in waiting)
    rows = min(DECODE_ROWS, budget, max(1, _slots(forward, budget) // slots), len(waiting))
    pool = Pool(forward, past, head, rows, slots)
    live: dict[int, _Text] = {}
    while waiting or live:
        free = [row for row in range(rows) if row not in live]
        if waiting and (not live or len(free) * REFILL >= rows):
            new = [(row, waiting.popleft()) for row in free[: len(waiting)]]
            bodies = [text.body for _, text in new]
            for batch, states, held in _read(forward, past, head, bodies, budget):
                chosen = zip(*greatest(forward.raw_logits(states)), strict=True)
                for b, (i, (token, finite)) in enumerate(zip(batch, chosen, strict=True)):
                    row, text = new[i]
                    pool.put(row, held, b, len(text.body))
                    live[row] = text
                    text.writer.take(token, finite)
        live = {row: text for row, text in live.items() if not text.writer.done}
        if live:
            _pass(forward, pool, live)


def _pass(forward: Forward, pool: Pool, live: dict[int, _Text]) -> None:
    """Let every text take one token."""
    spans = [
        Span(row, text.writer.tokens[-1:], len(text.body) + len(text.writer.tokens) - 1)
        for row, text in live.items()
    ]
    chosen = zip(*greatest(forward.raw_logits(pool.extend(spans))), strict=True)
    for text, (token, finite) in zip(live.values(), chosen, strict=True):
        text.writer.take(token, finite)


# --- where a pool does not serve ---------------------------------------------------------


def _write_batches(
    forward: Forward, past: Past | None, head: int, texts: list[_Text], budget: int
) -> None:
    """As many texts as may be written together, read in smaller batches."""
    most = max(1, _slots(forward, budget) // max(head + text.longest for text in texts))
    for a in range(0, len(texts), most):
        own = texts[a : a + most]
        parts = _read(forward, past, head, [text.body for text in own], budget)
        order = [i for batch, _, _ in parts for i in batch]
        held = parts[0][2] if len(parts) == 1 else joined([part[2] for part in parts])
        states = torch.cat([part[1] for part in parts])
        _write_batch(forward, states, held, [own[i].writer for i in order])


def _write_batch(
    forward: Forward, states: torch.Tensor, cache: Past, writers: list[Writer]
) -> None:
    """Let every writer take token after token until all are done."""
    live = list(range(len(writers)))  # the writer of each row that is still carried
    if missing := up(len(live), forward.least_rows) - len(live):
        live += [0] * missing
        index = torch.tensor(live, device=states.device)
        states, cache = states[index], cache.rows(index)
    while True:
        best, finite = greatest(forward.raw_logits(states))
        for b, r in {b: r for r, b in enumerate(live)}.items():
            writers[b].take(best[r], finite[r])
        going = [r for r, b in enumerate(live) if not writers[b].done]
        if not going:
            return
        # dropping a row copies the cache: worth it once an eighth of the rows is finished
        rows = up(len(going), forward.least_rows)
        if rows <= len(live) * 7 // 8:
            keep = going + [going[0]] * (rows - len(going))
            cache = cache.rows(torch.tensor(keep, device=states.device))
            live, best = [live[r] for r in keep], [best[r] for r in keep]
        hidden, cache = forward.extend(cache, [(token,) for token in best], decode=True)
        states = hidden[:, 0]


def _write_alone(forward: Forward, rows: dict[int, Row], writers: dict[int, Writer]) -> None:
    """One text after another through the module's own forward."""
    alone = forward.alone
    for head, keys in by_head(rows):
        start: Held | None = None  # the cache of the head
        for k in keys:
            writer, prompt = writers[k], (*head, *rows[k].body)
            if writer.done:
                continue
            if head and alone.extends and alone.one_way(len(prompt)):
                start = start or alone.read(head)[1]
                logits, held = alone.read(rows[k].body, start and start.copy())
            else:
                logits, held = alone.more(prompt, None)
            while True:
                (token,), (finite,) = greatest(logits)
                writer.take(token, finite)
                if writer.done:
                    break
                logits, held = alone.more((*prompt, *writer.tokens), held)
    alone.settle()
