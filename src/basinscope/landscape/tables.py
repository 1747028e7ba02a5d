"""Tables of a landscape: its points, items, mean curves and widths.

What their columns mean is said where they are asked for: `basinscope.landscape.Landscape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from basinscope import stats
from basinscope.errors import BasinscopeError
from basinscope.landscape.edges import LOOKS
from basinscope.runs.store import Trial

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape.record import Landscape


def points(land: Landscape, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.to_pandas`."""
    import pandas as pd

    rows = []
    exact = cache(stats.clopper_pearson)
    for trial, direction, draw in land.placed():
        interval = (
            exact(sum(trial.correct), trial.n, confidence)
            if trial.whole
            else stats.mean_over_draws([land.score(trial)], confidence)
            if land.weighted(trial)
            else stats.mean_over_draws(trial.correct, confidence)
        )
        rows.append((trial.task, direction, draw, trial.step, trial.n, sum(trial.correct),
                     land.score(trial), interval.low, interval.high))  # fmt: skip
    names = ["task", "direction", "draw", "step", "n", "correct", "score", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def items(land: Landscape) -> pd.DataFrame:
    """Table of `Landscape.items`."""
    import pandas as pd

    rows = [
        (trial.task, direction, draw, trial.step, *columns)
        for trial, direction, draw in land.placed()
        for columns in zip(
            trial.items, trial.correct, trial.labels, trial.margins, trial.nlls,
            trial.tokens or (None,) * trial.n, strict=True,
        )
    ]  # fmt: skip
    numbers = ["margin", "nll", "tokens"]
    names = ["task", "direction", "draw", "step", "item", "outcome", "label", *numbers]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(numbers, float))


def means(land: Landscape, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.means`."""
    import pandas as pd

    rows = []
    for task in land.tasks:
        for direction in land.directions(task) or [""]:
            curve = {
                step: (sum(map(land.score, trials)) / len(trials), trials)
                for step, trials in land.at_steps(task, direction).items()
            }
            top = max((mean for mean, _ in curve.values()), default=0.0)
            bottom = min((mean for mean, _ in curve.values()), default=0.0)
            differ = top - bottom > 1e-9  # sums of weights differ in their last bits
            several = any(len(trials) > 1 for _, trials in curve.values())
            for step, (mean, trials) in curve.items():
                loss = 1 - (mean - bottom) / (top - bottom) if differ else math.nan
                known = several and step == 0.0
                interval = (mean, mean) if known else _interval(land, trials, confidence)
                rows.append((task, direction, step, len(trials), mean, *interval, loss))
    names = ["task", "direction", "step", "draws", "score", "low", "high", "T"]
    return pd.DataFrame(rows, columns=names)


def widths(land: Landscape, level: float, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.widths`."""
    import pandas as pd

    rows = []
    for task, spec in ((name, land.task(name)) for name in land.tasks):
        zero = land.at_steps(task, "").get(0.0, [None])[0]
        if zero is None:
            continue
        at_zero = stats.clopper_pearson(sum(zero.correct), zero.n, confidence)
        head = (task, spec.chance, zero.score, at_zero.low, at_zero.high)
        if not land.directions(task):
            why = "nothing but step 0 was measured"
            rows.append((*head, "", 0, 0, *[math.nan] * 6, why, math.nan))
        for direction in land.directions(task):
            other = land.sits_at(direction)
            mark = math.nan if other is None else other
            for sign in (1, -1):
                if not any(s * sign > 0 for s in land.at_steps(task, direction)):
                    continue
                try:
                    w = land.width(
                        task, level, direction=direction, sign=sign, confidence=confidence
                    )
                except BasinscopeError as error:  # the other rows are right all the same
                    nothing = [math.nan] * 6
                    rows.append((*head, direction, sign, 0, *nothing, error.given, mark))
                    continue
                ends = (w.estimate, w.low, w.high)
                draws = w.n_units if w.unit == "draws" else 1
                in_rms = (x / (land.spec.model.rms or math.nan) for x in ends)
                rows.append((*head, direction, sign, draws, *ends, *in_rms, w.reason, mark))
    names = ["task", "chance", "score", "score_low", "score_high", "direction", "sign", "draws",
             "width", "low", "high", "width_rms", "low_rms", "high_rms", "reason",
             "sits_at"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def _interval(land: Landscape, trials: Sequence[Trial], confidence: float) -> tuple[float, float]:
    """Of the mean score over draws; over items where there is one draw."""
    first, whole = trials[0], all(t.whole for t in trials)
    if len(trials) > 1:
        one_look = whole or land.weighted(first)
        each = confidence if one_look else 1 - (1 - confidence) / LOOKS
        interval = stats.mean_over_draws(list(map(land.score, trials)), each)
    elif whole:
        interval = stats.clopper_pearson(sum(first.correct), first.n, confidence)
    else:
        interval = stats.mean_over_draws(first.correct, confidence)
    return interval.low, interval.high
