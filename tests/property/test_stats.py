"""Properties of the statistics that hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basinscope.stats import (
    clopper_pearson,
    log_capital,
    lower_mean,
    lower_proportion,
    mean_over_draws,
    paired_difference,
    paired_difference_over_draws,
    threshold,
    upper_mean,
    upper_proportion,
    width_over_draws,
    width_over_items,
)

# The same examples on every run: a property that fails is a bug, never a bad draw.
always = settings(derandomize=True, deadline=None, database=None, max_examples=150)

scores = st.floats(0.0, 1.0)
some_scores = st.lists(scores, min_size=1, max_size=40)
errors = st.floats(1e-9, 0.499)
confidences = st.floats(0.01, 0.999)


@always
@given(some_scores, errors)
def test_bounds_lie_around_the_mean(x, error) -> None:
    mean = math.fsum(x) / len(x)
    assert 0.0 <= lower_mean(x, error) <= mean * (1 + 1e-12)
    assert mean * (1 - 1e-12) - 1e-15 <= upper_mean(x, error) <= 1.0


@always
@given(some_scores, errors)
def test_bound_is_a_root(x, error) -> None:
    low = lower_mean(x, error)
    if low > 0.0:
        assert log_capital(x, low) >= -math.log(error) - 1e-9
        assert log_capital(x, min(1.0, low * (1 + 1e-6))) <= -math.log(error) + 1e-9


@always
@given(some_scores, errors, st.randoms(use_true_random=False))
def test_order_of_the_scores_does_not_matter(x, error, random) -> None:
    shuffled = list(x)
    random.shuffle(shuffled)
    assert lower_mean(shuffled, error) == lower_mean(x, error)
    assert upper_mean(shuffled, error) == upper_mean(x, error)


@always
@given(some_scores, errors, st.integers(0, 39), scores)
def test_raising_a_score_never_lowers_a_bound(x, error, index, raised) -> None:
    better = list(x)
    better[index % len(x)] = max(raised, x[index % len(x)])
    assert lower_mean(better, error) >= lower_mean(x, error) * (1 - 1e-9)
    assert 1 - upper_mean(better, error) <= (1 - upper_mean(x, error)) * (1 + 1e-9)


@always
@given(some_scores, errors, errors)
def test_less_error_gives_wider_bounds(x, one, other) -> None:
    strict, loose = min(one, other), max(one, other)
    assert lower_mean(x, strict) <= lower_mean(x, loose) * (1 + 1e-9)
    assert upper_mean(x, strict) >= upper_mean(x, loose) - 1e-9


@always
@given(some_scores, errors)
def test_upper_mirrors_lower(x, error) -> None:
    mirrored = 1.0 - np.asarray(x)
    assert upper_mean(x, error) == pytest.approx(1.0 - lower_mean(mirrored, error), abs=1e-12)


@always
@given(some_scores, errors, st.floats(0.01, 1.0))
def test_lower_bound_scales_with_the_scores(x, error, scale) -> None:
    # K depends on x/m alone.
    scaled = lower_mean(np.asarray(x) * scale, error)
    assert scaled == pytest.approx(scale * lower_mean(x, error), rel=1e-7, abs=1e-290)


@always
@given(st.integers(1, 300), st.data(), confidences)
def test_proportions_are_ordered_and_symmetric(n, data, confidence) -> None:
    k = data.draw(st.integers(0, n))
    interval = clopper_pearson(k, n, confidence)
    assert 0.0 <= interval.low <= k / n <= interval.high <= 1.0
    assert clopper_pearson(n - k, n, confidence).low == pytest.approx(1 - interval.high, abs=1e-9)
    lower, upper = lower_proportion(k, n, confidence), upper_proportion(k, n, confidence)
    assert lower.low >= interval.low - 1e-12
    assert upper.high <= interval.high + 1e-12
    if k < n:
        assert clopper_pearson(k + 1, n, confidence).low >= interval.low


@always
@given(some_scores, confidences, scores)
def test_intervals_over_draws_are_ordered(x, confidence, before) -> None:
    interval = mean_over_draws(x, confidence)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    change = paired_difference_over_draws(before, x, confidence)
    assert -1.0 <= change.low <= change.estimate <= change.high <= 1.0


@always
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), confidences)
def test_paired_difference_is_antisymmetric(pairs, confidence) -> None:
    before, after = zip(*pairs, strict=True)
    there, back = (
        paired_difference(before, after, confidence),
        paired_difference(after, before, confidence),
    )
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-9)
    assert there.difference.estimate == -back.difference.estimate
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.p_value == pytest.approx(back.p_value)
    assert 0.0 < there.p_value <= 1.0


@st.composite
def measured_curves(draw):
    """Draw settings and outcomes of any shape at all, (n_steps, n_units, n_items)."""
    n_steps, n_draws = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    n_items = draw(st.integers(1, 40))
    gaps = draw(st.lists(st.floats(1e-4, 1.0), min_size=n_steps, max_size=n_steps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centre = draw(st.lists(scores, min_size=n_steps, max_size=n_steps))
    outcomes = rng.uniform(size=(n_steps, n_draws, n_items)) < np.reshape(centre, (-1, 1, 1))
    at_zero = rng.uniform(size=n_items) < draw(st.floats(0.3, 1.0))
    return (
        np.cumsum(gaps),
        outcomes,
        at_zero,
        draw(st.sampled_from([0.0, 0.1, 0.25, 0.5])),
        draw(st.floats(0.05, 0.95)),
        draw(st.floats(0.1, 0.99)),
    )


def check(width, steps, means, s_star) -> None:
    """Check what must hold for every width."""
    if math.isnan(width.low):
        assert width.unresolved
        assert "no basin" in width.reason
        return
    assert width.low in {0.0, *steps}
    assert width.high in {math.inf, *steps}
    if width.unresolved:
        assert np.all(means >= s_star - 1e-12)
        assert width.high == math.inf
        assert width.reason
        return
    assert width.low <= width.estimate <= width.high
    assert 0.0 <= width.estimate <= steps[-1]
    assert bool(width.reason) == math.isinf(width.high)
    assert np.all(means[steps < width.estimate] >= s_star - 1e-12)
    assert np.any(means < s_star + 1e-12)


@always
@given(measured_curves())
def test_width_over_draws_is_ordered_and_inside_the_grid(curve) -> None:
    steps, outcomes, at_zero, chance, level, confidence = curve
    by_draw = outcomes.mean(axis=2)
    width = width_over_draws(
        steps,
        by_draw,
        score_at_zero=float(at_zero.mean()),
        n_items=at_zero.size,
        chance=chance,
        level=level,
        confidence=confidence,
    )
    check(width, steps, by_draw.mean(axis=1), threshold(at_zero.mean(), chance, level))


@always
@given(measured_curves())
def test_width_over_items_is_ordered_and_inside_the_grid(curve) -> None:
    steps, outcomes, at_zero, chance, level, confidence = curve
    width = width_over_items(
        steps,
        outcomes[:, 0],
        correct_at_zero=at_zero,
        chance=chance,
        level=level,
        confidence=confidence,
    )
    means = outcomes[:, 0].mean(axis=1)
    check(width, steps, means, threshold(at_zero.mean(), chance, level))


@always
@given(measured_curves())
def test_more_confidence_never_narrows_a_width(curve) -> None:
    steps, outcomes, at_zero, chance, level, _ = curve
    widths = [
        width_over_draws(
            steps,
            outcomes.mean(axis=2),
            score_at_zero=float(at_zero.mean()),
            n_items=at_zero.size,
            chance=chance,
            level=level,
            confidence=confidence,
        )
        for confidence in (0.5, 0.95)
    ]
    loose, strict = widths
    if not (math.isnan(loose.low) or math.isnan(strict.low)):
        assert strict.low <= loose.low
        assert strict.high >= loose.high


@always
@given(measured_curves(), st.floats(0.001, 1000.0))
def test_width_has_the_unit_of_the_steps(curve, scale) -> None:
    steps, outcomes, at_zero, chance, level, confidence = curve
    one, other = (
        width_over_items(
            grid,
            outcomes[:, 0],
            correct_at_zero=at_zero,
            chance=chance,
            level=level,
            confidence=confidence,
        )
        for grid in (steps, steps * scale)
    )
    expected = np.array([one.low, one.estimate, one.high]) * scale
    np.testing.assert_allclose([other.low, other.estimate, other.high], expected)
