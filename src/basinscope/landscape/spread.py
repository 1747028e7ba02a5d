"""How much directions differ, from the records of a landscape: bands, variances, widths of draws.

What the numbers mean and what holds is said where they are computed: `basinscope.stats.bands`,
`variance` and `spread`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from basinscope import stats
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape.record import Landscape


def bands(land: Landscape, task: str, direction: str, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.bands`."""
    import pandas as pd

    curve = land.curve(task, direction)
    sizes = [trials[0].n for trials in land.at_steps(task, direction).values()]
    if any(len(scores) > 1 for scores in curve.values()):
        steps = [step for step in curve if step != 0.0]
        pointwise = [stats.mean_over_draws(curve[step], confidence) for step in steps]
        band = stats.band_over_draws([curve[step] for step in steps], confidence)
    else:
        steps = list(curve)
        right = [round(scores[0] * n) for n, scores in zip(sizes, curve.values(), strict=True)]
        counts = list(zip(right, sizes, strict=True))
        pointwise = [stats.clopper_pearson(k, n, confidence) for k, n in counts]
        band = stats.band_over_items(right, sizes, confidence)
    ends = {
        step: (p.low, p.high, b.low, b.high)
        for step, p, b in zip(steps, pointwise, band, strict=True)
    }
    rows = []
    for step, scores in curve.items():
        mean = sum(scores) / len(scores)
        # where draws are the unit, the score of these items at zero has no error
        rows.append((step, len(scores), mean, *ends.get(step, [mean] * 4)))
    names = ["step", "draws", "score", "low", "high", "band_low", "band_high"]
    return pd.DataFrame(rows, columns=names)


def variance(
    land: Landscape, task: str, direction: str, half_width: float, confidence: float
) -> pd.DataFrame:
    """Table of `Landscape.variance`."""
    import pandas as pd

    rows = []
    for step, trials in land.at_steps(task, direction).items():
        trials = [t for t in trials if t.whole]
        if step == 0.0 or len(trials) < 2:
            continue
        split = stats.split_variance([t.correct for t in trials])
        try:
            needed = (
                split.draws_needed(half_width, confidence),
                split.items_needed(half_width, confidence),
            )
        except ValueError as error:
            raise BasinscopeError(
                f"half_width={half_width}, confidence={confidence}",
                "half_width above 0, confidence between 0 and 1",
                "half_width=0.01, confidence=0.95",
            ) from error
        parts = (split.total, split.direction, split.item, split.residual)
        head = (step, split.n_draws, split.n_items, split.mean)
        rows.append((*head, *parts, split.standard_error(), *needed))
    if not rows:
        raise BasinscopeError(
            f"no step of {task!r} along {direction!r} was measured in two draws on all items",
            "a step that two draws answered in full",
            "run the line again with --steps or --grid, and with more --draws",
        )
    names = ["step", "draws", "items", "score", "total", "between_directions", "between_items",
             "residual", "se", "draws_needed", "items_needed"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def draw_widths(
    land: Landscape, task: str, direction: str, level: float, confidence: float
) -> pd.DataFrame:
    """Table of `Landscape.draw_widths`."""
    import pandas as pd

    rows = []
    for draw, trials in land.draws(task, direction).items():
        for sign in (1, -1):
            if any(t.step * sign > 0 for t in trials):
                w = land.width(
                    task, level, direction=direction, draw=draw, sign=sign, confidence=confidence
                )
                rows.append((sign, draw, w.estimate, w.low, w.high, w.reason))
    names = ["sign", "draw", "width", "low", "high", "reason"]
    return pd.DataFrame(rows, columns=names).sort_values(["sign", "draw"], ascending=[False, True])


def spread(land: Landscape, task: str | None, level: float, confidence: float) -> pd.DataFrame:
    """Table of `Landscape.spread`."""
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for name in land.tasks if task is None else [land.task(task).name]:
        # draws of a crossed design answered too little to have widths of their own
        for direction in (d for d in land.directions(name) if not land.crossed(name, d)):
            own = draw_widths(land, name, direction, level, confidence)
            for sign, of_side in own.groupby("sign", sort=False):
                rows.append((name, direction, sign, *_summary(of_side, confidence)))
    names = ["task", "direction", "sign", "draws", "crossed", "least", "median", "greatest",
             "share", "median_low", "median_high", "relative", "relative_low", "relative_high",
             "reason"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def _summary(widths: pd.DataFrame, confidence: float) -> tuple[Any, ...]:
    """What the widths of one side say, without task, direction and sign."""
    n = len(widths)
    if widths["low"].isna().any():  # nothing to measure: the score at zero is chance
        return (n, 0, *[math.nan] * 9, widths["reason"].iloc[0])
    # a draw that never fell below the threshold is wider than what was measured: infinite here
    values = widths["width"].fillna(math.inf)
    median = stats.median_interval(values, confidence)
    relative = stats.relative_spread(values, confidence)
    share = stats.share_between_extremes(n, confidence)
    extremes = (values.min(), median.estimate, values.max(), share)
    ends = (max(median.low, 0.0), median.high)  # a width is not negative
    crossed, reason = int(widths["width"].notna().sum()), relative.reason
    if crossed < n:
        reason = (
            f"{n - crossed} of {n} draws stay above the threshold to the outermost step: "
            "measure further out"
        )
    of_log = (relative.estimate, relative.low, relative.high, reason)
    return (n, crossed, *extremes, *ends, *of_log)
