"""Scores of the strata of a task (the subjects of MMLU, the types of XSTest), and their mean."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from basinscope import stats
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape

MACRO = "(macro mean)"


def strata(run: Landscape, task: str, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row for each direction, draw, step and stratum, and one for the mean over strata.

    A stratum is what stands before the slash of an item's id. Columns: direction, draw, step,
    stratum, n (items), score, low, high. The intervals are for the score on items like these along
    this draw: exact (Clopper-Pearson) for a stratum, Hoeffding's for the row `MACRO`, where every
    stratum weighs alike (`basinscope.stats.mean_over_strata`; strata without an item are left
    out). They are not simultaneous: of 57 subjects at 95%, about three miss. Draws of a crossed
    design, which answered a few items each, have no rows.

    Raises:
        BasinscopeError: for a task that was not measured, or whose items have no strata.
    """
    import pandas as pd

    run.task(task)
    items = run.items()
    items = items[items["task"] == task]
    whole = items.groupby(["direction", "draw", "step"])["item"].transform("size")
    crossed = items["direction"].map(lambda direction: run.crossed(task, direction))
    items = items[~crossed | (whole == run.task(task).n_items)]
    names = items["item"].str.partition("/")
    if (names[1] == "").any():
        raise BasinscopeError(
            f"the items of task {task!r} have no strata",
            "items called stratum/rest",
            "mmlu or xstest",
        )
    exact = cache(stats.clopper_pearson)
    rows = []
    points = items.assign(stratum=names[0]).groupby(["direction", "draw", "step"], sort=False)
    for point, group in points:
        counts = group.groupby("stratum", sort=False)["outcome"].agg(["sum", "count"])
        right, sizes = counts["sum"].tolist(), counts["count"].tolist()
        intervals = [exact(k, n, confidence) for k, n in zip(right, sizes, strict=True)]
        intervals.append(stats.mean_over_strata(right, sizes, confidence))
        for name, n, score in zip(
            [*counts.index, MACRO], [*sizes, sum(sizes)], intervals, strict=True
        ):
            rows.append((*point, name, n, score.estimate, score.low, score.high))
    names = ["direction", "draw", "step", "stratum", "n", "score", "low", "high"]
    return pd.DataFrame(rows, columns=names)
