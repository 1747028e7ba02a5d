r"""The smoothed model itself: every query is answered under noise of its own.

A certificate bounds the average of the score over weight noise, which no single model has. A model
that draws the noise anew for each query has exactly that score, so the guarantee holds of it
literally.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from basinscope import stats
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.geometries.base import Geometry
from basinscope.geometries.words import builder
from basinscope.runs.bench import score
from basinscope.runs.models import Model, engine_of
from basinscope.stats.rounded import at_least, at_most, percent
from basinscope.tasks.base import Answer, Request, Task
from basinscope.tasks.words import one


@dataclass(frozen=True)
class SmoothedScore:
    """Score of a smoothed model on a task, and what it cost.

    Attributes:
        interval: for the smoothed score p(theta0) on these items; each item saw one draw.
        correct: how many were right.
        n_items: items, each with noise of its own.
        seconds: wall clock.
        plain_seconds: wall clock of the model without noise on the same items, all at once.
    """

    interval: stats.Interval
    correct: int
    n_items: int
    seconds: float
    plain_seconds: float

    def __str__(self) -> str:
        """One line."""
        i = self.interval
        return (
            f"smoothed score {i.estimate:.4f} [{at_least(i.low)}, {at_most(i.high)}] at "
            f"{percent(i.confidence)}, "
            f"{self.n_items} queries with noise of their own in {self.seconds:.1f} s "
            f"({self.seconds / max(self.plain_seconds, 1e-9):.1f} times the plain model)"
        )


class Smoothed:
    """A model whose weights are drawn from N(theta0, sigma^2 Sigma) anew for each query.

    Attributes:
        queries: draws taken so far; the next query takes draw number ``queries``.
    """

    def __init__(self, engine: Engine, sigma: float, seed: int, geometry: Geometry) -> None:
        self.engine, self.sigma = engine, sigma
        self.noise = geometry.noise(seed)
        self.queries = 0

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer each request under a draw of its own, in the order given."""
        answers = []
        for request in requests:
            with self.engine.at(self.noise, step=self.sigma, draw=self._next()):
                answers += self.engine.answer([request])
        return answers

    def score(self, task: str | Task, *, confidence: float = 0.95) -> SmoothedScore:
        """Score a task, every item under a draw of its own (all requests of an item share it).

        Guarantee: the interval holds the smoothed score on these items with the confidence: the
        outcomes are independent, and for a fixed number of them the betting bound needs no more
        (the product of their expectations is at most that of their mean).
        """
        task = one(task)
        start = time.perf_counter()
        outcomes = []
        for item in task.items:
            with self.engine.at(self.noise, step=self.sigma, draw=self._next()):
                outcomes += [o.correct for o in score(self.engine, task, [item])]
        seconds, start = time.perf_counter() - start, time.perf_counter()
        score(self.engine, task)
        return SmoothedScore(
            stats.mean_over_draws([float(correct) for correct in outcomes], confidence),
            sum(outcomes), len(outcomes), seconds, time.perf_counter() - start,
        )  # fmt: skip

    def _next(self) -> int:
        self.queries += 1
        return self.queries - 1


def smoothed(
    model: Model, sigma: float, seed: int = 0, *, geometry: Geometry | str | None = None
) -> Smoothed:
    """Model that answers each query under a fresh draw of weight noise.

    Args:
        model: an engine, or what `basinscope.load` takes; the fine-tuned one, where that shall be
            served.
        sigma: standard deviation of the noise, the certificate's.
        seed: of the noise; another than the certificate's, whose draws were seen.
        geometry: the certificate's covariance, or its word.

    Returns:
        An object with ``answer(requests)`` and ``score(task)``.

    Raises:
        BasinscopeError: sigma not positive and finite.

    Cost: each query sets and restores all weights, and shares its batch with no other.
    """
    if not 0 < sigma < float("inf"):
        raise BasinscopeError(f"sigma={sigma}", "above 0 and finite", "0.005")
    build = builder(geometry)
    engine = engine_of(model)
    return Smoothed(engine, sigma, seed, build(engine))
