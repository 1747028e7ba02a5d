"""Bands: Bonferroni over the steps, and nothing else."""

import math

import pytest

from basinscope.stats import (
    band_over_draws,
    band_over_items,
    clopper_pearson,
    mean_over_draws,
)

ROWS = [[1.0] * 12, [0.9, 1.0] * 6, [0.5] * 12, [0.0] * 12, [0.3]]


def test_each_step_has_its_share_of_the_error():
    band = band_over_draws(ROWS, 0.9)
    for found, row in zip(band, ROWS, strict=True):
        alone = mean_over_draws(row, 1 - 0.1 / len(ROWS))
        assert (found.low, found.estimate, found.high) == (alone.low, alone.estimate, alone.high)
        assert found.confidence == 0.9
    for found, k in zip(band_over_items([3, 7], [10, 10], 0.9), (3, 7), strict=True):
        alone = clopper_pearson(k, 10, 0.95)
        assert (found.low, found.high, found.confidence) == (alone.low, alone.high, 0.9)


def test_one_step_is_the_pointwise_interval():
    assert band_over_draws([ROWS[1]]) == [mean_over_draws(ROWS[1])]
    assert band_over_items([4], [9]) == [clopper_pearson(4, 9)]


def test_nothing_measured_is_nan_with_a_reason():
    assert band_over_draws([]) == band_over_items([], []) == []
    (empty,) = band_over_draws([[]])
    assert math.isnan(empty.low)
    assert "no draws" in empty.reason


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_confidence_out_of_range(confidence):
    with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
        band_over_draws(ROWS, confidence)
    with pytest.raises(ValueError, match="allowed: 0 < confidence < 1"):
        band_over_items([1], [2], confidence)


def test_scores_out_of_range():
    with pytest.raises(ValueError, match="outside"):
        band_over_draws([[0.5, 1.5]])
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        band_over_items([3], [2])
