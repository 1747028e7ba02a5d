"""How well a number foretells a yes or no."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from basinscope.stats.intervals import check_binary


def auc(values: ArrayLike, outcomes: ArrayLike) -> float:
    r"""Area under the ROC curve: the chance that a yes has the larger value than a no.

    :math:`P(v_+ > v_-) + P(v_+ = v_-)/2` over all pairs (Mann and Whitney 1947): 1 if the values
    tell the outcomes apart, 1/2 if they say nothing.

    Args:
        values: Shape (n,), finite.
        outcomes: Shape (n,), 0 or 1.

    Returns:
        The area; NaN where all outcomes are the same, for there is no pair.

    Example:
        >>> auc([0.1, 0.4, 0.3, 0.9], [0, 1, 0, 1])
        1.0
    """
    x, yes = np.asarray(values, dtype=np.float64), check_binary(outcomes, "outcomes")
    if x.shape != yes.shape or not np.isfinite(x).all():
        raise ValueError(
            f"values of shape {x.shape} for outcomes of shape {yes.shape} were given; "
            "allowed: one finite value for each outcome"
        )
    n, m = int(yes.sum()), int((~yes).sum())
    if not n or not m:
        return math.nan
    return float((scipy.stats.rankdata(x)[yes].sum() - n * (n + 1) / 2) / (n * m))
