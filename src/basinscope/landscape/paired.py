"""Every point against step 0, item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from basinscope import stats
from basinscope.landscape.edges import LOOKS
from basinscope.runs.store import Trial

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape.record import Landscape


def compare(land: Landscape, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.compare`."""
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for task in land.tasks:
        zero = land.at_steps(task, "").get(0.0, [None])[0]
        if zero is None:
            continue
        for direction in land.directions(task):
            for step, trials in land.at_steps(task, direction).items():
                if step == 0.0:
                    continue
                head = (task, direction, step, len(trials))
                if len(trials) > 1 and land.crossed(task, direction):
                    gap = stats.paired_difference_over_draws(
                        zero.score, list(map(land.score, trials)), confidence
                    )
                    counts = (math.nan, math.nan, math.nan)
                elif not all(t.whole for t in trials):
                    gap, counts = _stopped(zero, trials, confidence)
                elif len(trials) == 1:
                    pair = stats.paired_difference(zero.correct, trials[0].correct, confidence)
                    gap, counts = pair.difference, (pair.gained, pair.lost, pair.p_value)
                else:
                    gap = stats.paired_difference_over_draws(
                        zero.score, [t.score for t in trials], confidence
                    )
                    counts = (math.nan, math.nan, math.nan)
                rows.append((*head, gap.estimate, gap.low, gap.high, *counts))
    names = ["task", "direction", "step", "draws", "difference", "low", "high", "gained",
             "lost", "p_value"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def _stopped(
    zero: Trial, trials: Sequence[Trial], confidence: float
) -> tuple[stats.Interval, tuple[float, float, float]]:
    """Change of the items asked at a point where a search stopped, with gained, lost, p_value.

    The exact bounds and McNemar's test are for a number of items that was fixed beforehand.
    """
    before = dict(zip(zero.items, zero.correct, strict=True))
    changes = [
        [now - before[item] for item, now in zip(t.items, t.correct, strict=True)] for t in trials
    ]
    units = changes[0] if len(changes) == 1 else [sum(c) / len(c) for c in changes]
    each = confidence if len(changes) == 1 else 1 - (1 - confidence) / LOOKS
    interval = stats.mean_over_draws([(unit + 1) / 2 for unit in units], each)
    low, mean, high = (2 * end - 1 for end in (interval.low, interval.estimate, interval.high))
    gap = stats.Interval(low, mean, high, confidence)
    if len(changes) > 1:
        return gap, (math.nan, math.nan, math.nan)
    return gap, (units.count(1), units.count(-1), math.nan)
