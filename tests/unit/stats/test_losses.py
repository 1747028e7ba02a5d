"""The exact test of a loss against what is allowed, and many of them at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from basinscope.stats import exceeds, hochberg, items_to_decide, loss_bounds


def test_nothing_lost_of_149_is_kept_within_two_points_and_of_148_is_not():
    # nobody could say more: 0.98 ** 149 = 0.0493 is the chance of seeing nothing at the boundary
    assert exceeds(0, 0, 149, -0.02) <= 0.05 < exceeds(0, 0, 140, -0.02)
    assert exceeds(0, 0, 149, -0.02) >= 0.98**149


@pytest.mark.parametrize(("up", "down"), [(12, 4), (30, 10), (5, 0), (1, 0)])
def test_without_a_margin_it_is_about_mcnemars_test(up, down):
    mcnemar = scipy.stats.binomtest(up, up + down, 0.5, alternative="greater").pvalue
    assert 0.2 * mcnemar < exceeds(up, down, 220, 0.0) <= 1.05 * mcnemar + 2e-5


@pytest.mark.parametrize("margin", [0.02, -0.02, 0.0])
@pytest.mark.parametrize("down", [0.02, 0.1, 0.3])
def test_the_size_is_exact(margin, down):
    """P(p <= error) at the boundary of the hypothesis, summed over all outcomes of 30 items."""
    n, error, share = 30, 0.05, 0.0
    for d in range(n + 1):
        chance = scipy.stats.binom.pmf(d, n, down)
        u = np.arange(n - d + 1)
        chances = chance * scipy.stats.binom.pmf(u, n - d, (down + margin) / (1 - down))
        share += sum(
            c
            for k, c in zip(u, chances, strict=True)
            if c > 1e-7 and exceeds(int(k), d, n, margin) <= error
        )
    assert share <= error


def test_more_that_went_up_is_more_evidence():
    values = [exceeds(up, 3, 100, 0.02) for up in range(3, 20)]
    assert values == sorted(values, reverse=True)


def test_bounds_are_where_the_test_refutes():
    low, high = loss_bounds(3, 24, 200, 0.05)
    assert low < -21 / 200 < high
    assert exceeds(24, 3, 200, -high - 1e-4) <= 0.05 < exceeds(24, 3, 200, -high + 1e-3)
    assert exceeds(3, 24, 200, low - 1e-4) <= 0.05 < exceeds(3, 24, 200, low + 1e-3)
    mirrored = loss_bounds(24, 3, 200, 0.05)
    assert mirrored == pytest.approx((-high, -low), abs=2e-5)


def test_bounds_of_all_lost_end_at_minus_one():
    low, high = loss_bounds(0, 20, 20, 0.05)
    assert low == -1.0
    assert -1.0 < high < -0.7


def test_hochberg_is_sharper_than_bonferroni():
    assert hochberg([0.04, 0.01, 0.05], 0.05) == [True, True, True]
    assert hochberg([0.04, 0.01, 0.06], 0.05) == [False, True, False]
    assert hochberg([], 0.05) == []


def test_items_that_would_decide_do_so_four_times_in_five():
    n = int(items_to_decide(3, 9, 200, 0.1, 0.05))  # a loss of 0.03 where 0.1 is allowed
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, [3 / 200, 9 / 200, 188 / 200], size=300)
    decided = [exceeds(int(g), int(lost), n, -0.1) <= 0.05 for g, lost, _ in counts]
    assert n > 200 or 0.7 < np.mean(decided)
    assert items_to_decide(0, 4, 200, 0.02, 0.05) == math.inf
    assert items_to_decide(0, 90, 100, 0.02, 0.05) == 101


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: exceeds(3, 3, 5, 0.0), r"up=3, down=3, n=5 was given; allowed: up \+ down <= n"),
        (lambda: exceeds(0, 0, 0, 0.0), "n=0 was given"),
        (lambda: exceeds(1, 0, 5, 1.0), r"margin=1.0 was given; allowed: -1 < margin < 1"),
        (lambda: items_to_decide(0, 0, 9, 0.1, 1.5), "confidence=-0.5 was given"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
