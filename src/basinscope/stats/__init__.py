"""Statistics of scores: exact and betting bounds, intervals, and the width of a basin.

Needs numpy and scipy only.
"""

from basinscope.stats.bounds import log_capital, lower_mean, upper_mean
from basinscope.stats.intervals import (
    Interval,
    PairedDifference,
    clopper_pearson,
    lower_proportion,
    mean_over_draws,
    paired_difference,
    paired_difference_over_draws,
    upper_proportion,
)
from basinscope.stats.ranks import auc
from basinscope.stats.student import student, student_ratio
from basinscope.stats.width import Width, threshold, width_over_draws, width_over_items

__all__ = [
    "Interval",
    "PairedDifference",
    "Width",
    "auc",
    "clopper_pearson",
    "log_capital",
    "lower_mean",
    "lower_proportion",
    "mean_over_draws",
    "paired_difference",
    "paired_difference_over_draws",
    "student",
    "student_ratio",
    "threshold",
    "upper_mean",
    "upper_proportion",
    "width_over_draws",
    "width_over_items",
]
