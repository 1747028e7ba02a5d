"""What holds of bands, splits and spreads for any numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from basinscope.stats import (
    band_over_draws,
    mean_over_draws,
    median_interval,
    relative_spread,
    split_variance,
)

outcomes = st.tuples(st.integers(2, 6), st.integers(2, 8)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 1))
)
scores = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=6)


@given(outcomes, st.randoms(use_true_random=False))
def test_a_split_knows_no_order_and_no_names_of_right_and_wrong(y, random):
    one = split_variance(y)
    rows, columns = list(range(y.shape[0])), list(range(y.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    for other in (y[rows][:, columns], 1 - y):
        two = split_variance(other)
        for part in ("direction", "item", "residual"):
            assert getattr(two, part) == pytest.approx(getattr(one, part), abs=1e-12)
    flipped = split_variance(y.T)
    assert (flipped.direction, flipped.item) == pytest.approx((one.item, one.direction), abs=1e-12)
    assert one.residual >= -1e-12


@given(scores, st.floats(0.5, 0.99))
def test_a_band_holds_every_pointwise_interval(rows, confidence):
    band = band_over_draws(rows, confidence)
    for found, row in zip(band, rows, strict=True):
        alone = mean_over_draws(row, confidence)
        assert found.low <= alone.low <= found.estimate <= alone.high <= found.high


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=20), st.floats(1e-3, 1e3))
def test_spreads_move_with_the_unit(values, factor):
    scaled = [factor * v for v in values]
    one, two = relative_spread(values), relative_spread(scaled)
    assert two.estimate == pytest.approx(one.estimate, abs=1e-9)
    middle, moved = median_interval(values), median_interval(scaled)
    assert moved.estimate == pytest.approx(factor * middle.estimate)
    assert math.isinf(middle.high) or moved.high == pytest.approx(factor * middle.high)
    assert middle.low <= middle.estimate <= middle.high
