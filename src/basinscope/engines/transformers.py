"""Text requests answered by a causal language model of transformers under its live weights.

Every answer is a function of the weights and its own request: rows are grouped, padded, branched
and dropped for speed only (`forward`). Nothing computed from the weights outlives one `answer`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from basinscope.engines.base import Engine
from basinscope.engines.forward import LEAST_ROWS, ROUND, SHORT, Forward, Past, padded
from basinscope.tasks.base import Answer, Choices, Generate, Generation, Ranking, Request, Task

MIN_SHARED = 2 * ROUND  # shorter common starts are not worth a pass of their own


class TransformersEngine(Engine):
    """A causal language model with its tokenizer.

    Args:
        module: a ``PreTrainedModel`` with a language-model head (wrapped or not).
        tokenizer: its tokenizer.
        token_budget: most tokens, padding included, in one forward pass; bounds memory, changes
            no answer.
        source: as in `Engine`.
        params: as in `Engine`.
        mapped: as in `Engine`.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        token_budget: int = 4096,
        source: str = "module",
        params: str | None = None,
        mapped: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(module, source=source, params=params, mapped=mapped)
        self.tokenizer: Any = tokenizer
        self.token_budget = token_budget
        self._forward = Forward(module)
        with torch.inference_mode():
            self._forward.cached = self._forward.agrees()
        self.kind = "transformers/1" if self._forward.cached else "transformers-plain/1"
        self._end = _end_tokens(module, tokenizer)
        self._tokens: dict[object, Any] = {}  # of requests, not of weights

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer text requests under the live weights, in the order given.

        Cost: one pass over each distinct context (what all contexts share at their start once),
        one over the continuations after their first token, one per generated token.
        """
        answers: list[Answer | None] = [None] * len(requests)
        rank = [i for i, r in enumerate(requests) if isinstance(r, Choices)]
        for i, ranking in zip(rank, self._rank([requests[i] for i in rank]), strict=True):  # type: ignore[misc]
            answers[i] = ranking
        write = [i for i, r in enumerate(requests) if isinstance(r, Generate)]
        for i, text in zip(write, self._generate([requests[i] for i in write]), strict=True):  # type: ignore[misc]
            answers[i] = text
        assert all(a is not None for a in answers)
        return answers  # type: ignore[return-value]

    @torch.inference_mode()
    def estimate_s(self, tasks: Sequence[Task]) -> float:
        """Rough seconds for one evaluation of these tasks on one thread.

        Tokens to be run (half of each generation's cap) over the measured rate of one small batch.
        """
        requests = [r for task in tasks for item in task.items for r in item.requests]
        tokens = 0.0
        for request in requests:
            if isinstance(request, Generate):
                tokens += len(self._prompt(request)) + request.max_tokens / 2
            else:
                context, tails, _ = self._choices(request)
                tokens += len(context) + sum(map(len, tails))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            rows = [[i] * ROUND for i in range(8)]
            self._forward.plain(rows)
            start = time.perf_counter()
            self._forward.plain(rows)
            per_token = (time.perf_counter() - start) / (8 * ROUND)
        finally:
            torch.set_num_threads(threads)
        return super().estimate_s(tasks) + tokens * per_token

    # --- ranking --------------------------------------------------------------------------------

    def _rank(self, requests: list[Choices]) -> list[Ranking]:
        parsed = [self._choices(r) for r in requests]
        found: list[Ranking | None] = [None] * len(requests)
        fit: list[int] = []
        for i, (context, tails, _) in enumerate(parsed):
            longest = len(context) + max(len(t) for t in tails)
            if longest > self._forward.context:
                found[i] = Ranking((), _too_long(longest, self._forward.context))
            else:
                fit.append(i)
        rank = self._rank_cached if self._forward.fits_cache(self._slots(parsed)) else None
        for i, loglik in (rank or self._rank_plain)({i: parsed[i] for i in fit}):
            bad = any(x != x for x in loglik)
            found[i] = Ranking(tuple(loglik), "non-finite logits" if bad else "")
        return found  # type: ignore[return-value]

    def _rank_cached(self, parsed: dict[int, Any]) -> Iterator[tuple[int, list[float]]]:
        shared, past = self._shared({i: p[0] for i, p in parsed.items()})
        lengths = {i: len(p[0]) - shared for i, p in parsed.items()}
        for batch in _batches(lengths, self.token_budget, shared):
            rows = [parsed[i][0][shared:] for i in batch]
            hidden, after = self._forward.extend(_repeat(past, len(batch)), rows)
            last = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
            logits = self._forward.logits(hidden[torch.arange(len(rows)), last])
            first = logits.log_softmax(-1)
            branches = [
                (b, c) for b, i in enumerate(batch) for c, t in enumerate(parsed[i][1]) if t[1:]
            ]
            further = self._branches(after, batch, parsed, branches)
            for b, i in enumerate(batch):
                _, tails, skips = parsed[i]
                yield i, [
                    (float(first[b, tail[0]]) if not skip else 0.0) + further.get((b, c), 0.0)
                    for c, (tail, skip) in enumerate(zip(tails, skips, strict=True))
                ]

    def _branches(
        self, past: Past, batch: list[int], parsed: dict[int, Any], branches: list[tuple[int, int]]
    ) -> dict[tuple[int, int], float]:
        """Log-likelihood of each continuation after its first token."""
        found: dict[tuple[int, int], float] = {}
        lengths = {n: len(parsed[batch[b]][1][c]) - 1 for n, (b, c) in enumerate(branches)}
        for group in _batches(lengths, self.token_budget, past.slots):
            pairs = [branches[n] for n in group]
            tails = [parsed[batch[b]][1][c] for b, c in pairs]
            index = torch.tensor([b for b, _ in pairs], device=past.mask_BS.device)
            hidden, _ = self._forward.extend(past.rows(index), [t[:-1] for t in tails])
            for r, ((b, c), tail) in enumerate(zip(pairs, tails, strict=True)):
                skip = parsed[batch[b]][2][c]
                logp = self._forward.logits(hidden[r, : len(tail) - 1]).log_softmax(-1)
                target = torch.tensor(tail[1:], device=logp.device)
                token_logp = logp.gather(1, target[:, None])[:, 0]
                found[b, c] = float(token_logp[max(skip - 1, 0) :].sum())
        return found

    def _rank_plain(self, parsed: dict[int, Any]) -> Iterator[tuple[int, list[float]]]:
        """Every continuation as a row of its own through the module's forward."""
        flat = [(i, c) for i, p in parsed.items() for c in range(len(p[1]))]
        lengths = {n: len(parsed[i][0]) + len(parsed[i][1][c]) for n, (i, c) in enumerate(flat)}
        found: dict[int, dict[int, float]] = {i: {} for i in parsed}
        for batch in _batches(lengths, self.token_budget):
            rows = [parsed[flat[n][0]][0] + parsed[flat[n][0]][1][flat[n][1]] for n in batch]
            logits = self._forward.plain(rows)
            for r, n in enumerate(batch):
                i, c = flat[n]
                context, tails, skips = parsed[i]
                start, end = len(context) + skips[c], len(rows[r])
                logp = logits[r, start - 1 : end - 1].float().log_softmax(-1)
                target = torch.tensor(rows[r][start:], device=logp.device)
                found[i][c] = float(logp.gather(1, target[:, None]).sum())
        for i, values in found.items():
            yield i, [values[c] for c in sorted(values)]

    # --- generation -----------------------------------------------------------------------------

    def _generate(self, requests: list[Generate]) -> list[Generation]:
        prompts = {i: self._prompt(r) for i, r in enumerate(requests)}
        found: dict[int, Generation] = {}
        for i, request in enumerate(requests):
            longest = len(prompts[i]) + request.max_tokens
            if longest > self._forward.context:
                found[i] = Generation("", False, _too_long(longest, self._forward.context))
                del prompts[i]
        if not prompts:
            return [found[i] for i in range(len(requests))]
        slots = max(len(p) for p in prompts.values()) + max(r.max_tokens for r in requests)
        cached = self._forward.fits_cache(slots + ROUND)
        shared, past = self._shared(prompts) if cached else (0, None)
        lengths = {i: len(p) - shared for i, p in prompts.items()}
        for batch in _batches(lengths, self.token_budget, shared):
            decode = self._decode_cached if cached else self._decode_plain
            rows = [prompts[i] for i in batch]
            texts = decode([requests[i] for i in batch], rows, shared, past)
            found.update(zip(batch, texts, strict=True))
        return [found[i] for i in range(len(requests))]

    def _decode_cached(
        self, requests: list[Generate], rows: list[list[int]], shared: int, past: Past | None
    ) -> list[Generation]:
        n = len(rows)
        live = list(range(n)) + [0] * max(0, LEAST_ROWS - n)
        new = [rows[b][shared:] for b in live]
        hidden, cache = self._forward.extend(_repeat(past, len(live)), new)
        last = torch.tensor([len(row) - 1 for row in new], device=hidden.device)
        states = hidden[torch.arange(len(new)), last]
        writers = [_Writer(self, request) for request in requests]
        while True:
            logits = self._forward.logits(states)
            best = logits.argmax(-1).tolist()
            finite = torch.isfinite(logits.sum(-1)).tolist()
            for b, token, good in {b: (b, t, g) for b, t, g in zip(live, best, finite, strict=True)}.values():  # fmt: skip
                writers[b].take(token, good)
            going = [r for r, b in enumerate(live) if not writers[b].done]
            if not going:
                return [writer.result() for writer in writers]
            # dropping a row copies the cache: worth it once an eighth of the rows is finished
            if len(live) > LEAST_ROWS and len(going) <= len(live) * 7 // 8:
                keep = going + [going[0]] * max(0, LEAST_ROWS - len(going))
                cache = cache.rows(torch.tensor(keep, device=states.device))
                live, best = [live[r] for r in keep], [best[r] for r in keep]
            hidden, cache = self._forward.extend(cache, [[t] for t in best], decode=True)
            states = hidden[:, 0]

    def _decode_plain(
        self, requests: list[Generate], rows: list[list[int]], shared: int, past: Past | None
    ) -> list[Generation]:
        """Without a cache: the whole row again for every token."""
        writers = [_Writer(self, request) for request in requests]
        while going := [b for b, writer in enumerate(writers) if not writer.done]:
            full = [rows[b] + writers[b].tokens for b in going]
            logits = self._forward.plain(full)
            for r, b in enumerate(going):
                row = logits[r, len(full[r]) - 1].float()
                writers[b].take(int(row.argmax()), bool(torch.isfinite(row.sum())))
        return [writer.result() for writer in writers]

    # --- tokens ---------------------------------------------------------------------------------

    def _choices(self, request: Choices) -> tuple[list[int], list[list[int]], list[int]]:
        """Shared context, the rest of each continuation, and how many of its tokens are context.

        Context and continuation are tokenized together, as the model saw text in training, so a
        continuation may change the context's last token; what all continuations have in common is
        run once, and only tokens past the context's own count are scored.
        """
        if request not in self._tokens:
            own = self._encode(request.context) or [self._start()]
            lead = [] if self._encode(request.context) else own
            rows = [lead + self._encode(request.context + c) for c in request.continuations]
            common = min(_common(rows), len(own), *(len(row) - 1 for row in rows))
            common = max(common, 1)
            # a continuation that melts into the context's last token is scored from that token on
            skips = [max(0, min(len(own), len(row) - 1) - common) for row in rows]
            self._tokens[request] = (rows[0][:common], [row[common:] for row in rows], skips)
        return self._tokens[request]  # type: ignore[no-any-return]

    def _prompt(self, request: Generate) -> list[int]:
        if request not in self._tokens:
            if request.chat and getattr(self.tokenizer, "chat_template", None):
                message = [{"role": "user", "content": request.prompt}]
                text = self.tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True
                )
                tokens = self.tokenizer.encode(text, add_special_tokens=False)
            else:
                tokens = self._encode(request.prompt)
            self._tokens[request] = tokens or [self._start()]
        return self._tokens[request]  # type: ignore[no-any-return]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text)) if text else []

    def _start(self) -> int:
        """Token to begin with where there is no text: the model must see one."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _shared(self, rows: dict[int, list[int]]) -> tuple[int, Past | None]:
        """Run what all rows have in common at their start, once; its length and its cache."""
        common = _common(list(rows.values()))
        common = min(common, *(len(row) - 1 for row in rows.values())) if rows else 0
        common -= common % ROUND
        if len(rows) < 2 or common < MIN_SHARED:
            return 0, None
        _, past = self._forward.extend(None, [next(iter(rows.values()))[:common]])
        return common, past

    @staticmethod
    def _slots(parsed: list[Any]) -> int:
        """Most slots that a cached row of these requests can take."""
        return max((len(p[0]) + max(map(len, p[1])) + 2 * ROUND for p in parsed), default=0)


class _Writer:
    """One text being written: its tokens, and whether it is finished."""

    def __init__(self, engine: TransformersEngine, request: Generate) -> None:
        self.engine, self.request = engine, request
        self.tokens: list[int] = []
        self.done = request.max_tokens < 1
        self.finished, self.failure = False, ""

    def take(self, token: int, finite: bool) -> None:
        if self.done:
            return
        if not finite:
            self.done, self.failure = True, "non-finite logits"
        elif token in self.engine._end:
            self.done = self.finished = True
        else:
            self.tokens.append(token)
            request = self.request
            if request.stop or request.decided:
                text = self._text()
                stopped = any(s in text for s in request.stop)
                if stopped or (request.decided is not None and request.decided(text)):
                    self.done = self.finished = True
            self.done = self.done or len(self.tokens) >= request.max_tokens

    def result(self) -> Generation:
        text = self._text()
        for stop in self.request.stop:
            text = text.split(stop)[0]
        return Generation(text, self.finished, self.failure)

    def _text(self) -> str:
        return str(self.engine.tokenizer.decode(self.tokens, skip_special_tokens=True))


def _batches(lengths: dict[int, int], budget: int, held: int = 0) -> Iterator[list[int]]:
    """Keys sorted by length, cut so that rows times padded length stays within the budget.

    A row's ``held`` slots of cache cost memory but no arithmetic: they count for a quarter. Rows
    shorter than `SHORT` are not mixed with longer ones.
    """
    batch: list[int] = []
    for key in sorted(lengths, key=lambda k: (-lengths[k], k)):
        longest = lengths[batch[0]] if batch else 0
        full = (len(batch) + 1) * (padded(longest) + held // 4) > budget
        if batch and (full or (longest >= SHORT) != (lengths[key] >= SHORT)):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def _repeat(past: Past | None, n: int) -> Past | None:
    if past is None:
        return None
    return past.rows(torch.zeros(n, dtype=torch.int64, device=past.mask_BS.device))


def _common(rows: list[list[int]]) -> int:
    """Length of the longest common start."""
    if not rows:
        return 0
    low, high = min(rows), max(rows)
    return next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
                min(len(low), len(high)))  # fmt: skip


def _too_long(tokens: int, context: int) -> str:
    return f"prompt of {tokens} tokens does not fit the context of {context}"


def _end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    config = getattr(module, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    own = tokenizer.eos_token_id
    return frozenset(ends + ([own] if own is not None else []))
