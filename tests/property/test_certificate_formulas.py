"""What holds of the formulas for all numbers."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from basinscope.stats import smoothing as formulas

p = st.floats(0, 1)
r = st.floats(0, 1e6)
sigma = st.floats(1e-6, 1e6)


@given(p, r, sigma)
def test_weak_below_strong_below_p_below_its_mirror(p, r, sigma):
    weak, strong = (float(f(p, r, sigma)) for f in (formulas.weak_bound, formulas.lower_bound))
    assert 0 <= weak <= strong + 1e-12
    assert strong <= p <= float(formulas.upper_bound(p, r, sigma))


@given(p, p, r, r, sigma)
def test_rises_with_p_and_falls_with_r(p, q, r, s, sigma):
    (low, high), (near, far) = sorted((p, q)), sorted((r, s))
    bound = formulas.lower_bound
    assert bound(low, near, sigma) <= bound(high, near, sigma)
    assert bound(low, far, sigma) <= bound(low, near, sigma)


@given(p, p, sigma)
def test_radius_is_the_largest_distance_that_keeps_the_target(p, target, sigma):
    radius = float(formulas.radius(p, target, sigma))
    if math.isnan(radius):
        assert p < target
    elif math.isfinite(radius):
        assert radius >= 0
        assert float(formulas.lower_bound(p, radius * (1 - 1e-9), sigma)) >= target - 1e-9
    else:
        assert target == 0 or p == 1


@given(st.lists(p, min_size=1, max_size=20), r, sigma)
def test_mean_over_items_is_never_below_the_bound_of_the_mean(items, r, sigma):
    mean = float(formulas.mean_lower_bound(items, r, sigma))
    assert mean >= float(formulas.lower_bound(np.clip(np.mean(items), 0, 1), r, sigma)) - 1e-9
