"""Fixed steps in a crossed design: draw after draw, until time is over or all are precise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from basinscope import stats
from basinscope.landscape.crossed import FEWEST, samples, score_of, strata_of
from basinscope.runs.bench import Unit
from basinscope.runs.session import Session

TOGETHER = 4  # draws that are measured between two looks

Point = tuple[int, float, int]
"""Direction, step and task."""


def measure(
    session: Session,
    steps: Iterable[float],
    shares: Sequence[tuple[int, int]],
    precision: float | None,
    late: Callable[[], bool],
) -> None:
    """Measure every random direction at these steps; step 0 is there already.

    All points have their first draws before one has more, so that it may end at any time.

    Args:
        session: where points are measured.
        steps: not 0.
        shares: of each task the draws at a step, at most, and how many items a draw answers.
        precision: half-width at which a point has enough draws.
        late: asked every few draws whether time is over.
    """
    bench = session.bench
    strata = strata_of(session, [each for _, each in shares])
    scores: dict[Point, list[float]] = {
        (d, step, t): []
        for d, direction in enumerate(bench.directions)
        if direction.draws_among(2) > 1
        for step in steps
        for t in strata
    }
    wanted, first = set(scores), 0
    while wanted and not (first and late()):
        units = []
        for draw in range(first, first + TOGETHER):
            for d, step in dict.fromkeys((d, step) for d, step, _ in scores):
                tasks = tuple(t for t in strata if (d, step, t) in wanted and draw < shares[t][0])
                if tasks:
                    some = samples({t: strata[t] for t in tasks}, draw)
                    units.append(Unit(d, draw, step, tasks, some))
        session.measure(units)
        for unit in units:
            for t in unit.tasks:
                score = score_of(session, strata[t][0], unit, t)
                scores[unit.direction or 0, unit.step, t].append(score)
        first += TOGETHER
        wanted = {
            point
            for point in wanted
            if first < shares[point[2]][0] and not _precise(scores[point], precision)
        }


def _precise(scores: Sequence[float], precision: float | None) -> bool:
    if precision is None or len(scores) < FEWEST:
        return False
    interval = stats.mean_over_draws(scores)
    return (interval.high - interval.low) / 2 <= precision
