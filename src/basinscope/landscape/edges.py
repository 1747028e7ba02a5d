"""Where are the edges? Bracket, bisect and guard them, each point on no more answers than it takes.

At every point answers are asked for in batches until the point is decided: above or below the
threshold, by an anytime-valid test (`basinscope.stats.verdicts`). In a crossed design
(`basinscope.landscape.crossed`) a batch is more draws; where the draws are fixed, or a direction
has one, it is more items of every draw, in a seeded random order of its own. Far from an edge
sixteen outcomes do; what stays open until the last batch is close to the edge, which is what is
wanted. The search looks at nothing but records, so a resumed search takes the same way and measures
only what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

from basinscope import stats
from basinscope.landscape.crossed import FEWEST, Strata, samples, score_of, strata_of
from basinscope.runs.bench import ZERO, Unit
from basinscope.runs.plan import units_at
from basinscope.runs.session import Session

POINT_ERROR = 0.02  # of the verdict at one point, above or below
FIRST = 16  # outcomes at a point before the first look; twice as many before each further one
OUTCOMES = 256  # at a point at most
LOOKS = 5  # at a point at most: 16, 32, 64, 128, 256 outcomes
TOLERANCE = 0.15  # of the edge: a bracket this narrow is interpolated
REACH = 0.14  # of the edge: of a crossed design points so far on both sides are decided
GUARD = 0.4  # of the edge: no gap inside it is left wider than this
BEYOND = 1.5  # edges: so far out it is seen whether the score stays down,
FURTHEST = 3.0  # and further out where it is not surely down there, up to here


@dataclass(frozen=True)
class Seen:
    """A point that was measured.

    Attributes:
        margin: mean score less threshold.
        sure: whether the point was decided.
        close: whether it was not, and lies at the threshold for all that its outcomes can say.
    """

    margin: float
    sure: bool
    close: bool


Flanks = Callable[[Mapping[float, Seen], float, float], Iterable[float | None]]
"""Points to look at around a bracket, from what was seen and the bracket's ends."""


def next_step(
    seen: Mapping[float, Seen],
    first: float,
    least: float,
    furthest: float,
    flanks: Flanks | None = None,
) -> float | None:
    """Where on one side of zero to look next, as a distance; None where the edge is found.

    Outward or inward by factors of two until the edge is bracketed; then by the secant within the
    bracket, until it is narrow or one end is close to the threshold; then that end is flanked, so
    that it is known how far away the score is surely above and surely below; then the guards.

    Args:
        seen: points measured so far.
        first: where to begin.
        least: the edge is not sought closer to zero than this.
        furthest: nor further out than this.
        flanks: default `_flanks`.
    """
    if not seen:
        return first
    edge = min((a for a in seen if seen[a].margin < 0), default=math.inf)
    if edge == math.inf:
        last = max(seen)
        return _rounded(2 * last) if last < furthest else None
    inside = max((a for a in seen if a < edge), default=0.0)
    if not inside and edge > least:
        return _rounded(edge / 2)
    near = (_within(seen, inside, edge), *(flanks or _flanks)(seen, inside, edge)) if inside else ()
    for wanted in near:
        if wanted is not None and _rounded(wanted) not in seen:
            return _rounded(wanted)
    ordered = [0.0, *sorted(a for a in seen if a <= edge)]
    for a, b in pairwise(ordered):
        if b - a > GUARD * edge and b > least:
            return _rounded((a + b) / 2)
    last = max(seen)
    if last < 0.9 * BEYOND * edge:
        return _rounded(BEYOND * edge)
    down = seen[last].sure and seen[last].margin < 0
    return None if down or last > FURTHEST * edge else _rounded(BEYOND * last)


def _within(seen: Mapping[float, Seen], inside: float, edge: float) -> float | None:
    """Point of the bracket to look at; None where it is narrow, or an end lies at the threshold."""
    if not inside or edge - inside <= TOLERANCE * edge or seen[inside].close or seen[edge].close:
        return None
    above, below = seen[inside].margin, -seen[edge].margin
    share = min(max(above / (above + below), 0.3), 0.7)
    return inside + share * (edge - inside)


def _flanks(
    seen: Mapping[float, Seen], inside: float, edge: float
) -> tuple[float | None, float | None]:
    """Points on both sides of an end at the threshold, where only distant ones are decided."""
    ends = [a for a in (inside, edge) if a and seen[a].close]
    if not ends:
        return None, None
    at = min(ends, key=lambda a: abs(seen[a].margin))
    reach = 2 * TOLERANCE * at  # and a hundredth: steps are rounded
    before = max((a for a in seen if a < at), default=0.0)
    after = min((a for a in seen if a > at), default=math.inf)
    return (
        None if at - before <= 1.01 * reach else max(at - reach, (at + before) / 2),
        None if after - at <= 1.01 * reach else min(at + reach, (at + after) / 2),
    )


def both_sides(seen: Mapping[float, Seen], inside: float, edge: float) -> Iterator[float]:
    """Points on both sides of the crossing, further and further, until they are decided."""
    above, below = seen[inside].margin if inside else math.inf, -seen[edge].margin
    crossing = edge if not inside else inside + above / (above + below) * (edge - inside)
    low = max(takewhile(lambda a: seen[a].sure and seen[a].margin > 0, sorted(seen)), default=0.0)
    outside = takewhile(lambda a: seen[a].sure and seen[a].margin < 0, sorted(seen, reverse=True))
    high = min(outside, default=math.inf)
    if high == math.inf and max(seen) < 0.9 * BEYOND * edge:
        yield BEYOND * edge  # soon decided, and an upper end at least
    for reach in (REACH, 2 * REACH, 3 * REACH):
        for wanted in (crossing * (1 - reach), crossing * (1 + reach)):
            decided = low > 0.97 * wanted if wanted < crossing else high < 1.03 * wanted
            if not decided and all(abs(a - wanted) > 0.03 * wanted for a in seen):
                yield wanted


def ladder(draws: int, outcomes: int = OUTCOMES) -> list[int]:
    """Items of each draw that are answered by the first look, the second, and so on.

    >>> ladder(1), ladder(12), ladder(4, outcomes=100)
    ([16, 32, 64, 128, 256], [2, 4, 8, 16, 22], [4, 8, 16, 25])
    """
    return _doubling(math.ceil(FIRST / draws), math.ceil(outcomes / draws))


def _doubling(first: int, most: int) -> list[int]:
    counts = [min(first, most)]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


@dataclass(frozen=True)
class _Side:
    """One side of one direction: what was seen there of each task.

    ``looks`` are, of each task, items of every draw or, in a crossed design, draws; ``crossed`` are
    the strata of each task then, and how many of its items a draw answers; ``scores`` those of the
    draws at a task's point so far.
    """

    direction: int
    sign: float
    first: float
    draws: int
    looks: dict[int, list[int]]
    seen: dict[int, dict[float, Seen]]
    crossed: Mapping[int, tuple[Strata, int]] = field(default_factory=dict)
    scores: dict[tuple[int, float], list[float]] = field(default_factory=dict)

    @property
    def flanks(self) -> Flanks:
        """Where the crossing is looked for on both sides."""
        return both_sides if self.crossed else _flanks


def search(
    session: Session,
    draws: int,
    level: float,
    outcomes: int = OUTCOMES,
    crossed: Sequence[tuple[int, int]] = (),
    late: Callable[[], bool] = lambda: False,
    starts: Sequence[float] = (),
) -> float:
    """Find where each task's mean curve crosses its threshold, on both sides of zero.

    Args:
        session: where points are measured.
        draws: of a direction that has several.
        level: as in `basinscope.landscape`.
        outcomes: likewise; not of a crossed design.
        crossed: of each task the most draws at one point, and how many items a draw answers;
            empty where the draws are fixed.
        late: asked before each batch whether time is over.
        starts: of each direction where to begin, on that side of zero alone; empty for both sides,
            begun at a twentieth of RMS(theta0).

    Returns:
        The widest edge that was found, as a distance; the furthest point if there is none.
    """
    bench = session.bench
    session.measure(units_at(bench, [0.0], draws))
    thresholds: dict[int, float] = {}
    for t, spec in enumerate(bench.task_specs):
        at_zero = session.outcomes(ZERO, t)
        correct, n = sum(at_zero.values()), len(at_zero)
        if not stats.no_basin(correct, n, spec.chance, 0.95):  # else there is no edge to look for
            thresholds[t] = stats.threshold(correct / n, spec.chance, level)
    strata = strata_of(session, [each for _, each in crossed])
    scale = bench.model.rms or 1.0
    first, least, furthest = _rounded(0.05 * scale), 1e-6 * scale, 16 * scale
    sides = []
    for d in range(len(bench.directions)):
        own = bench.directions[d].draws_among(draws)
        many = strata if own > 1 else {}
        looks = {
            t: _doubling(FEWEST, crossed[t][0]) if many else ladder(own, outcomes)
            for t in range(len(bench.tasks))
        }
        begin = abs(starts[d]) if starts else first
        sides += [
            _Side(d, sign, begin, own, looks, {t: {} for t in thresholds}, many)
            for sign in ([math.copysign(1.0, starts[d])] if starts else (1.0, -1.0))
        ]
    # of a task without an edge the curve has a point at least
    rest = tuple(t for t in range(len(bench.tasks)) if t not in thresholds)
    session.measure([u for side in sides if rest for u in _batch(side, side.first, rest, 0)])
    while True:
        wanted = [
            (side, t, step)
            for side in sides
            for t in thresholds
            if (step := next_step(side.seen[t], side.first, least, furthest, side.flanks))
            is not None
        ]
        if not wanted or late():
            return _widest(sides, first)
        _decide(session, wanted, thresholds, level, late)


def _widest(sides: Sequence[_Side], first: float) -> float:
    curves = [seen for side in sides for seen in side.seen.values()]
    edges = [min((a for a in seen if seen[a].margin < 0), default=None) for seen in curves]
    return max(
        (a for a in edges if a is not None),
        default=max((first, *(max(seen) for seen in curves if seen))),
    )


def _decide(
    session: Session,
    wanted: list[tuple[_Side, int, float]],
    thresholds: Mapping[int, float],
    level: float,
    late: Callable[[], bool],
) -> None:
    """Measure points, look by look, until each is decided or has had its outcomes."""
    look = 0
    while wanted and not (look and late()):
        # what is asked of several tasks at one setting of the weights is asked there at once
        settings: dict[tuple[int, float, float], tuple[_Side, list[int]]] = {}
        for side, t, step in wanted:
            settings.setdefault((side.direction, side.sign, step), (side, []))[1].append(t)
        session.measure(
            [
                unit
                for (_, _, step), (side, tasks) in settings.items()
                for unit in _batch(side, step, tuple(tasks), look)
            ]
        )
        still = []
        for side, t, step in wanted:
            seen = _judged(session, side, t, step, look, thresholds[t], level)
            if seen is None:
                still.append((side, t, step))
            else:
                side.seen[t][step] = seen
        wanted, look = still, look + 1


def _batch(side: _Side, step: float, tasks: tuple[int, ...], look: int) -> list[Unit]:
    """What is answered before one look, beyond that of the look before."""
    at = side.sign * step
    parts = {t: (side.looks[t][look - 1] if look else 0, side.looks[t][look]) for t in tasks}
    if not side.crossed:
        part = parts[tasks[0]]
        return [Unit(side.direction, n, at, tasks, part=part) for n in range(side.draws)]
    draws = range(min(a for a, _ in parts.values()), max(b for _, b in parts.values()))
    asked = {n: tuple(t for t, (a, b) in parts.items() if a <= n < b) for n in draws}
    return [
        Unit(side.direction, n, at, some, samples({t: side.crossed[t] for t in some}, n))
        for n, some in asked.items()
        if some
    ]


def _judged(
    session: Session, side: _Side, t: int, step: float, look: int, threshold: float, level: float
) -> Seen | None:
    """What the outcomes so far say of a point; None while it is open and there are more items."""
    spec = session.bench.task_specs[t]
    if side.crossed:
        strata, _ = side.crossed[t]
        scores = side.scores.setdefault((t, step), [])
        scores += [score_of(session, strata, unit, t) for unit in _batch(side, step, (t,), look)]
        side_of = stats.verdict_of_draws(scores, threshold, POINT_ERROR)
        if not side_of and look + 1 < len(side.looks[t]):
            return None
        return Seen(sum(scores) / len(scores) - threshold, side_of != 0, not side_of)
    at_zero = session.outcomes(ZERO, t)
    rows: list[dict[str, int]] = [{} for _ in range(side.draws)]
    for earlier in range(look + 1):
        for row, unit in zip(rows, _batch(side, step, (t,), earlier), strict=True):
            row |= session.outcomes(unit, t)
    correct = [list(row.values()) for row in rows]
    before = [[at_zero[item] for item in row] for row in rows]
    n = len(correct[0])
    last = look + 1 == len(side.looks[t]) or n == spec.n_items
    verdict = stats.verdict(
        correct, before, n_items=spec.n_items, threshold=threshold, chance=spec.chance,
        level=level, error=POINT_ERROR, looks=len(side.looks[t]),
    )  # fmt: skip
    if not verdict and not last:
        return None
    total = n * side.draws
    right, right_before = sum(map(sum, correct)), sum(map(sum, before))
    margin = (right - (1 - level) * right_before) / total - level * spec.chance
    return Seen(margin, verdict != 0, last and abs(margin) < 0.5 / math.sqrt(total))


def _rounded(step: float) -> float:
    """Three significant digits: steps that can be read and typed again."""
    return float(f"{step:.3g}")
