r"""How much of a score's variance is due to directions, and how much to items.

Legend: ``y[k, i]`` the 0-1 outcome of item ``i`` under draw ``k``; ``K`` draws; ``m`` items; every
item is asked under every draw (a crossed design with one outcome in each cell).

Model. Draws and items are sampled independently, :math:`y_{ki} = f(\delta_k, x_i)`, and

.. math:: y_{ki} = \mu + D_k + I_i + R_{ki}, \qquad
          \mathrm{Var}\, y = \sigma_D^2 + \sigma_I^2 + \sigma_R^2 = \mu (1 - \mu),

with :math:`D_k = E[y \mid \delta_k] - \mu` (some directions hurt more than others),
:math:`I_i = E[y \mid x_i] - \mu` (some items are hurt more than others) and R the rest (which items
are hurt differs from direction to direction). The three are uncorrelated by construction
(Hoeffding's decomposition): nothing is assumed of their distributions.

Estimates: from the mean squares of the two-way layout,

.. math:: \hat\sigma_R^2 = MS_R, \quad \hat\sigma_D^2 = (MS_D - MS_R)/m, \quad
          \hat\sigma_I^2 = (MS_I - MS_R)/K

(Searle, Casella and McCulloch, "Variance Components", 1992, section 4.3; Cornfield and Tukey
1956), which are unbiased, and so may come out below zero where the truth is near it.

No interval is given for a component. From the few draws that one can afford none that was tried
holds its level: with 8 to 16 draws a nominal 95% jackknife over draws and items covered the
direction's component 67 to 89% of the time in simulations of half-space scores (on the log of the
F ratio 79 to 99%). What can be said exactly of the draws is in `basinscope.stats.spread`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from basinscope.stats.intervals import check_binary, check_confidence


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """Variance of a 0-1 outcome, split; NaN only with a reason in words.

    Args:
        mean: Mean outcome over draws and items.
        direction: Between directions; unbiased, so possibly below zero.
        item: Between items; unbiased, so possibly below zero.
        residual: Of the interaction: which items fail differs from direction to direction.
        n_draws: K.
        n_items: m.
        reason: Why components are NaN; empty when they are not.
    """

    mean: float
    direction: float
    item: float
    residual: float
    n_draws: int
    n_items: int
    reason: str = ""

    @property
    def total(self) -> float:
        """Sum of the three: an unbiased estimate of mu (1 - mu)."""
        return self.direction + self.item + self.residual

    def standard_error(self, draws: int | None = None, items: int | None = None) -> float:
        r"""Standard error of the mean score of K draws and m items, both drawn anew.

        .. math:: SE^2 = \sigma_D^2 / K + \sigma_I^2 / m + \sigma_R^2 / (K m)

        Args:
            draws: K; None takes those that were measured.
            items: m; None takes those that were measured.

        Returns:
            The estimate; components estimated below zero count as zero.

        Example:
            Directions alone matter: more items do not help.

            >>> split = VarianceSplit(0.5, 0.25, 0.0, 0.0, n_draws=4, n_items=100)
            >>> split.standard_error(), split.standard_error(items=10_000)
            (0.25, 0.25)
        """
        k, m = draws or self.n_draws, items or self.n_items
        d, i, r = self._parts()
        return math.sqrt(d / k + i / m + r / (k * m))

    def draws_needed(self, half_width: float, confidence: float = 0.95) -> float:
        r"""Draws that bring the mean over directions, for these items, to a half-width.

        .. math:: K = \lceil z^2 (\sigma_D^2 + \sigma_R^2 / m) / h^2 \rceil

        For planning: z is the normal quantile and the components are estimates. The interval that
        is reported later is exact and so somewhat wider.

        Args:
            half_width: h, > 0, in units of score.
            confidence: Two-sided, in (0, 1).

        Returns:
            The number, a whole one, at least 1; NaN if the split is.

        Raises:
            ValueError: ``half_width`` or ``confidence`` out of range.

        Example:
            >>> VarianceSplit(0.5, 0.01, 0.1, 0.1, n_draws=4, n_items=100).draws_needed(0.05)
            17.0
        """
        d, _, r = self._parts()
        return _units(d + r / self.n_items, half_width, confidence)

    def items_needed(self, half_width: float, confidence: float = 0.95) -> float:
        r"""Items that bring the score over all items, for these directions, to a half-width.

        .. math:: m = \lceil z^2 (\sigma_I^2 + \sigma_R^2 / K) / h^2 \rceil

        Arguments, returns and caveat as :meth:`draws_needed`.
        """
        _, i, r = self._parts()
        return _units(i + r / self.n_draws, half_width, confidence)

    def _parts(self) -> tuple[float, float, float]:
        d, i, r = self.direction, self.item, self.residual
        return (math.nan,) * 3 if self.reason else (max(d, 0.0), max(i, 0.0), r)


def split_variance(correct: ArrayLike) -> VarianceSplit:
    r"""Split the variance of 0-1 outcomes into directions, items and the rest; see the module.

    Args:
        correct: 0 or 1, shape (n_draws, n_items): a row for each draw, the same items in each.

    Returns:
        Unbiased estimates; NaN with a reason for fewer than two draws or two items.

    Raises:
        ValueError: Another shape, or a value that is neither 0 nor 1.

    Guarantee:
        The expectation of each estimate is its component, over draws and items that were sampled
        independently, for any 0-1 scores and any K, m >= 2.

    Example:
        Two directions, one of which loses everything: all of the variance lies between them.

        >>> split = split_variance([[1, 1, 1], [0, 0, 0]])
        >>> split.direction, split.item, split.residual
        (0.5, 0.0, 0.0)
    """
    y = check_binary(correct, "correct").astype(np.float64)
    if y.ndim != 2 or y.size == 0:
        raise ValueError(
            f"correct of shape {y.shape} was given; allowed: (n_draws, n_items), none of them 0; "
            "try a row for each draw"
        )
    n_draws, n_items = y.shape
    mean = float(y.mean())
    if min(n_draws, n_items) < 2:
        reason = (
            f"{n_draws} draws of {n_items} items: a split needs two of each; measure more draws"
        )
        return VarianceSplit(mean, math.nan, math.nan, math.nan, n_draws, n_items, reason)
    of_draw, of_item = y.mean(axis=1), y.mean(axis=0)
    ms_draw = n_items * float(np.square(of_draw - mean).sum()) / (n_draws - 1)
    ms_item = n_draws * float(np.square(of_item - mean).sum()) / (n_items - 1)
    rest = y - of_draw[:, None] - of_item[None, :] + mean
    ms_rest = float(np.square(rest).sum()) / ((n_draws - 1) * (n_items - 1))
    return VarianceSplit(
        mean,
        (ms_draw - ms_rest) / n_items,
        (ms_item - ms_rest) / n_draws,
        ms_rest,
        n_draws,
        n_items,
    )


def _units(variance: float, half_width: float, confidence: float) -> float:
    check_confidence(confidence)
    if not half_width > 0.0:
        raise ValueError(f"half_width={half_width!r} was given; allowed: greater than 0")
    if math.isnan(variance):
        return math.nan
    z = float(scipy.stats.norm.ppf((1.0 + confidence) / 2.0))
    return float(max(1, math.ceil(z * z * variance / half_width**2)))
