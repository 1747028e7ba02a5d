"""What an evaluation will take, from short real batches of the very requests.

Reading (prompts, continuations, corpora) takes time in proportion to its floating-point operations,
at a rate that is measured on whole batches of a task's own rows. Writing takes, for a batch of n
live rows, a + b n seconds for each token: a and b are fitted to a few short texts of the task's
own. How long texts grow is not known beforehand: a few are written under each of the given weights,
for as long as the probe may last, and those that are cut short are carried on at the rate at which
texts ended in the second half of that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from basinscope.directions.base import Direction
from basinscope.engines.base import Engine
from basinscope.tasks.base import CallableTask, Corpus, Generate, Request, Task

BATCH = 64  # rows that are written together in a probe, where time allows
TEXTS = 8  # texts whose lengths are probed under each of the weights
FIRST = 8  # requests that tell how many may be read in a probe

Setting = tuple[Direction, int, float]
"""Direction, draw and step: weights under which a probe is made."""


@dataclass(frozen=True)
class Cost:
    """What one setting of the weights takes: tokens read and written, seconds."""

    read_tokens: int
    written_tokens: int
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            self.read_tokens + other.read_tokens,
            self.written_tokens + other.written_tokens,
            self.seconds + other.seconds,
        )


def cost(
    engine: Engine,
    tasks: Sequence[Task],
    settings: Sequence[Setting] = (),
    *,
    probe_s: float = 1.0,
    threads: int | None = None,
) -> Cost:
    """Predict what these tasks take at one setting of the weights.

    Args:
        engine: the model, at its pristine weights.
        tasks: all of their items.
        settings: weights that stand for those of a run, with equal weight; the pristine ones where
            there are none. Perturbing and restoring is counted with them.
        probe_s: about how long the probe of each task may last; the longer, the nearer.
        threads: of torch; default as they are.

    Cost: the seconds of the probe; the calls of functions of the module.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        total = Cost(0, 0, _setting_s(engine, settings))
        for task in tasks:
            if isinstance(task, CallableTask):
                start = time.perf_counter()
                task.outcomes(engine.module)
                total += Cost(0, 0, time.perf_counter() - start)
            else:
                total += _Probe(engine, task, probe_s).cost(settings)
        return total
    finally:
        torch.set_num_threads(before)


def _setting_s(engine: Engine, settings: Sequence[Setting]) -> float:
    """Seconds to set the weights and to restore them."""
    if not settings:
        return 0.0
    direction, draw, step = settings[0]
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        with engine.at(direction, step=step, draw=draw):
            pass
    return time.perf_counter() - start


class _Probe:
    """Short real batches of one task's requests."""

    def __init__(self, engine: Any, task: Task, probe_s: float) -> None:
        self.engine, self.task, self.probe_s = engine, task, probe_s
        requests = [request for item in task.items for request in item.requests]
        self.read = [r for r in requests if not isinstance(r, Generate)]
        self.written = [r for r in requests if isinstance(r, Generate)]
        module = engine.module
        config = getattr(module, "config", None)
        layers = getattr(config, "num_hidden_layers", None) or 1
        width = getattr(config, "hidden_size", None) or 1
        head = getattr(module, "get_output_embeddings", lambda: None)()
        self.head_flops = 2 * head.weight.numel() if head is not None else 0
        self.token_flops = max(2 * engine.d - self.head_flops, 1)
        self.pair_flops = 4 * layers * width

    def cost(self, settings: Sequence[Setting]) -> Cost:
        """Of all items of the task."""
        total = Cost(0, 0, 0.0)
        if self.read:
            rate = self._reading_rate()
            tokens, flops = self._work(self.read)
            total += Cost(tokens, 0, flops / rate)
        if self.written:
            total += self._writing(settings)
        return total + Cost(0, 0, self._oracle_s())

    def _work(self, requests: Sequence[Request]) -> tuple[int, float]:
        """Tokens that are run, and their floating-point operations; a common head once."""
        tokens, flops, heads = 0, 0.0, set()
        for request in requests:
            if isinstance(request, Corpus):
                rows = self.engine.tokens.windows(request, self.engine.forward.context)
            else:
                rows = [self.engine.row(request)]
                if isinstance(request, Generate) and request.reference:
                    rows.append(self.engine.tokens.reference(request))
            for row in rows:
                extra = sum(len(tail) - 1 for tail in row.tails)
                scored = 1 + extra
                parts = [(len(row.body) + extra, len(row.head))]
                if row.head and row.head not in heads:
                    heads.add(row.head)
                    parts.append((len(row.head), 0))
                for new, before in parts:
                    tokens += new
                    flops += new * (self.token_flops + self.pair_flops * (before + new / 2))
                flops += scored * self.head_flops
        return tokens, flops

    def _reading_rate(self) -> float:
        """Floating-point operations per second on batches as large as the time allows."""
        few = self._spread(self.read, FIRST)
        self.engine.answer(few[:1])
        rate = self._timed_rate(few)
        most = rate * self.probe_s
        each = self._work(few)[1] / len(few)
        n = min(len(self.read), int(most / each))
        return self._timed_rate(self._together(n)) if n > 2 * FIRST else rate

    def _timed_rate(self, requests: Sequence[Request]) -> float:
        start = time.perf_counter()
        self.engine.answer(requests)
        return self._work(requests)[1] / (time.perf_counter() - start)

    def _spread(self, requests: Sequence[Any], n: int) -> list[Any]:
        return [requests[k * len(requests) // n] for k in range(min(n, len(requests)))]

    def _together(self, n: int) -> list[Request]:
        """Requests in a few runs of neighbours: neighbours share their heads, as in the whole."""
        runs = max(1, n // 16)
        length, total = n // runs, len(self.read)
        starts = [k * max(0, total - length) // max(1, runs - 1) for k in range(runs)]
        chosen = {i for a in starts for i in range(a, a + length)}
        return [self.read[i] for i in sorted(chosen)]

    def _writing(self, settings: Sequence[Setting]) -> Cost:
        n = len(self.written)
        share = self.probe_s / (1 + len(settings))
        runs = [self._write(self._spread(self.written, min(4, TEXTS)), share / 4)]
        rate = runs[0].read_flops / max(runs[0].read_s, 1e-9)
        each = runs[0].read_flops / runs[0].rows
        rows = int(min(BATCH, n, max(TEXTS, share / 2 * rate / each)))
        runs.append(self._write(self._spread(self.written, rows), share))
        perturbed = []
        for direction, draw, step in settings:
            with self.engine.at(direction, step=step, draw=draw):
                perturbed.append(self._write(self._spread(self.written, TEXTS), share))
        runs += perturbed
        a, b = _fit(runs)
        tokens, flops = self._work(self.written)
        read_s = flops * sum(r.read_s for r in runs[1:]) / sum(r.read_flops for r in runs[1:])
        written, write_s = 0.0, 0.0
        for run in perturbed or runs[-1:]:
            alive = run.survival()
            batches = [min(BATCH, n - k) for k in range(0, n, BATCH)]
            steps = sum(np.minimum(1.0, rows * alive).sum() for rows in batches)
            written += n * alive.sum() / len(perturbed or [0])
            write_s += (a * steps + b * n * alive.sum()) / len(perturbed or [0])
        return Cost(tokens, round(float(written)), float(read_s + write_s))

    def _write(self, requests: Sequence[Generate], most_s: float) -> _Run:
        """Write until all have ended or the time is over."""
        clock = _Clock(most_s)
        asked = [replace(r, decided=clock.watch(r.decided)) for r in requests]
        start = time.perf_counter()
        self.engine.answer(asked)
        end = time.perf_counter()
        first = clock.first or end
        lengths = [min(n, r.max_tokens) for n, r in zip(clock.lengths(), requests, strict=True)]
        cap = max(r.max_tokens for r in requests)
        return _Run(
            len(requests), first - start, self._work(requests)[1], end - first, lengths,
            clock.cut, cap,
        )  # fmt: skip

    def _oracle_s(self) -> float:
        """Seconds that the oracle takes, which may run programs."""
        items = self._spread(self.task.items, 4)
        answers = self.engine.answer([r for item in items for r in map(_brief, item.requests)])
        start, k = time.perf_counter(), 0
        for item in items:
            own = answers[k : k + len(item.requests)]
            k += len(item.requests)
            if not any(answer.failure for answer in own):
                self.task.oracle(item, own)
        return (time.perf_counter() - start) / len(items) * len(self.task.items)


def _brief(request: Request) -> Request:
    """A request whose answer comes soon."""
    if isinstance(request, Generate):
        return replace(request, max_tokens=min(request.max_tokens, 4), reference="")
    return request


class _Clock:
    """Counts the tokens of each text as it is written, and ends all of them when time is over."""

    def __init__(self, most_s: float) -> None:
        self.most_s, self.first = most_s, 0.0
        self.tokens: list[int] = []
        self.cut: list[bool] = []
        self.over: list[bool] = []

    def lengths(self) -> list[int]:
        """Tokens of each text; one that ended by itself has one more, which nobody was shown."""
        return [n if over else n + 1 for n, over in zip(self.tokens, self.over, strict=True)]

    def watch(self, decided: Callable[[str], bool] | None) -> Callable[[str], bool]:
        """The text's own predicate, with an eye on the clock."""
        k = len(self.tokens)
        self.tokens.append(0)
        self.cut.append(False)
        self.over.append(False)

        def watched(text: str) -> bool:
            now = time.perf_counter()
            self.first = self.first or now
            self.tokens[k] += 1
            self.over[k] = decided is not None and decided(text)
            self.cut[k] = not self.over[k] and now - self.first > self.most_s
            self.over[k] |= self.cut[k]
            return self.over[k]

        return watched


@dataclass(frozen=True)
class _Run:
    """One probe of writing: how long it read, how long it wrote, and how long each text grew."""

    rows: int
    read_s: float
    read_flops: float
    write_s: float
    lengths: list[int]
    cut: list[bool]
    cap: int

    def survival(self) -> np.ndarray[Any, Any]:
        """Share of texts that are still being written at each token up to the cap."""
        lengths, cut = np.array(self.lengths), np.array(self.cut)
        place = np.arange(self.cap)
        alive: np.ndarray[Any, Any] = (lengths[:, None] > place).mean(0)
        if cut.any():
            end = int(lengths[cut].max())
            late = lengths > end // 2
            ended = int((late & ~cut).sum())
            at_risk = int((lengths[late] - end // 2).sum())
            alive[end:] = cut.mean() * np.exp(-ended / max(at_risk, 1) * (place[end:] - end))
        return alive


def _fit(runs: Sequence[_Run]) -> tuple[float, float]:
    """Seconds for each pass, and for each row in it, neither below 0."""
    from scipy.optimize import nnls

    passes = [max(run.lengths) - 1 for run in runs]
    tokens = [sum(run.lengths) - run.rows for run in runs]
    seconds, _ = nnls(np.array([passes, tokens], float).T, np.array([run.write_s for run in runs]))
    return float(seconds[0]), float(seconds[1])
