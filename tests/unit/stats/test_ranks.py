"""The area under the ROC curve against its definition over pairs, and against scipy's U."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from basinscope import stats


@pytest.mark.parametrize("seed", range(4))
def test_is_the_share_of_pairs_in_order(seed):
    generator = np.random.default_rng(seed)
    values, yes = generator.integers(0, 6, 40), generator.integers(0, 2, 40)
    a, b = values[yes == 1], values[yes == 0]
    pairs = [(x > y) + (x == y) / 2 for x in a for y in b]
    assert stats.auc(values, yes) == pytest.approx(np.mean(pairs))
    assert stats.auc(values, yes) == pytest.approx(mannwhitneyu(a, b).statistic / (len(a) * len(b)))


def test_of_values_that_tell_all_or_nothing():
    assert stats.auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert stats.auc([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0
    assert stats.auc([7, 7, 7, 7], [0, 0, 1, 1]) == 0.5


@pytest.mark.parametrize("outcomes", [[0, 0], [1, 1], []])
def test_without_a_pair_is_nan(outcomes):
    assert math.isnan(stats.auc([1.0] * len(outcomes), outcomes))


@pytest.mark.parametrize(("values", "outcomes"), [([1.0], [0, 1]), ([1.0, math.nan], [0, 1])])
def test_refuses_what_has_no_order(values, outcomes):
    with pytest.raises(ValueError, match="one finite value for each outcome"):
        stats.auc(values, outcomes)


def test_refuses_other_outcomes():
    with pytest.raises(ValueError, match="outcomes holds 2"):
        stats.auc([1.0, 2.0], [0, 2])
