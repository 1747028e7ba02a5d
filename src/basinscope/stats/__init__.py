"""Statistics of scores: exact and betting bounds, intervals and bands, widths and their spread.

Needs numpy and scipy only.
"""

from basinscope.stats.bands import band_over_draws, band_over_items
from basinscope.stats.bounds import (
    log_capital,
    log_capital_without_replacement,
    log_capitals,
    lower_mean,
    upper_mean,
)
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
from basinscope.stats.losses import exceeds, hochberg, items_to_decide, loss_bounds
from basinscope.stats.ranks import auc
from basinscope.stats.ratios import paired_ratio
from basinscope.stats.spread import median_interval, relative_spread, share_between_extremes
from basinscope.stats.strata import mean_over_strata
from basinscope.stats.student import student, student_ratio
from basinscope.stats.variance import VarianceSplit, split_variance
from basinscope.stats.verdicts import verdict, verdict_of_draws
from basinscope.stats.width import Width, no_basin, threshold, width_over_draws, width_over_items

__all__ = [
    "Interval",
    "PairedDifference",
    "VarianceSplit",
    "Width",
    "auc",
    "band_over_draws",
    "band_over_items",
    "clopper_pearson",
    "exceeds",
    "hochberg",
    "items_to_decide",
    "log_capital",
    "log_capital_without_replacement",
    "log_capitals",
    "loss_bounds",
    "lower_mean",
    "lower_proportion",
    "mean_over_draws",
    "mean_over_strata",
    "median_interval",
    "no_basin",
    "paired_difference",
    "paired_difference_over_draws",
    "paired_ratio",
    "relative_spread",
    "share_between_extremes",
    "split_variance",
    "student",
    "student_ratio",
    "threshold",
    "upper_mean",
    "upper_proportion",
    "verdict",
    "verdict_of_draws",
    "width_over_draws",
    "width_over_items",
]
