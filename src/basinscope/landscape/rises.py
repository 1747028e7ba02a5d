"""Does a model do better under noise? A rise of the mean above its score at zero, tested.

A model that knows less than its best under its own weights (it was made to fail: sandbagging) may
do better where noise has undone that; so may, by luck, the best of many points. The test is one
for a task: the points that were measured share its error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from basinscope import stats
from basinscope.landscape.edges import LOOKS
from basinscope.runs.store import Trial

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape.record import Landscape

NAMES = ("task", "points", "direction", "step", "draws", "score_at_zero", "score", "rise", "low",
         "p_value")  # fmt: skip


def rises(land: Landscape, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.rises`."""
    import pandas as pd

    rows = []
    for task in land.tasks:
        zero = land.at_steps(task, "").get(0.0, [None])[0]
        points = [
            (direction, step, trials)
            for direction in land.directions(task)
            for step, trials in land.at_steps(task, direction).items()
            if step != 0.0
        ]
        if zero is not None and points:
            rows.append((task, len(points), *_greatest(land, zero, points, confidence)))
    return pd.DataFrame(rows, columns=list(NAMES))


def _greatest(
    land: Landscape, zero: Trial, points: list[tuple[str, float, list[Trial]]], confidence: float
) -> tuple[Any, ...]:
    """The point with the most evidence for a rise; what it says is shared by all points."""
    rows = []
    for direction, step, trials in points:
        x, at_zero, scale, looks = _units(land, zero, trials)
        shares = looks * len(points)
        if at_zero > 0:
            evidence = stats.log_capital(x, at_zero)
        else:  # a mean of 0 is refuted for certain by whatever is above it
            evidence = math.inf if x.max() > 0 else 0.0
        low = scale * (stats.lower_mean(x, (1 - confidence) / shares) - at_zero)
        rise = scale * (float(x.mean()) - at_zero)
        p_value = min(1.0, shares * math.exp(-evidence))
        row = (direction, step, len(trials), zero.score, zero.score + rise, rise, min(low, rise))
        rows.append((p_value, -rise, (*row, p_value)))
    return min(rows, key=lambda row: row[:2])[2]


def _units(
    land: Landscape, zero: Trial, trials: list[Trial]
) -> tuple[np.ndarray[Any, Any], float, float, int]:
    """Units in [0, 1], their mean without a rise, how much one of them is in scores; looks.

    Draws are the units where there are several, by their scores on all items or, where a search
    stopped, by the change of the items that were asked. Of one draw the items are.
    """
    if land.weighted(trials[0]) or (len(trials) > 1 and all(t.whole for t in trials)):
        return np.array(list(map(land.score, trials))), zero.score, 1.0, 1
    before = dict(zip(zero.items, zero.correct, strict=True))
    changes = [
        [now - before[item] for item, now in zip(t.items, t.correct, strict=True)] for t in trials
    ]
    single = len(trials) == 1
    units = changes[0] if single else [sum(c) / len(c) for c in changes]
    return (np.array(units) + 1) / 2, 0.5, 2.0, 1 if single else LOOKS
