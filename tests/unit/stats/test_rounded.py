"""Bounds in words: never more than was computed."""

from decimal import Decimal

import numpy as np
import pytest

from basinscope.stats.rounded import at_least, at_most, percent, radius_text


@pytest.mark.parametrize("seed", range(3))
def test_no_text_says_more_than_the_number(seed):
    for x in np.random.default_rng(seed).uniform(-1, 1, 300):
        assert Decimal(at_least(x)) <= Decimal(repr(float(x))) <= Decimal(at_most(x))
        assert float(at_most(x)) - float(at_least(x)) == pytest.approx(1e-4)
        radius = abs(float(x)) * 10.0 ** (seed - 1)
        assert radius * 0.999 < float(radius_text(radius)) <= radius


@pytest.mark.parametrize(
    ("x", "low", "high"), [(0.0, "0.0000", "0.0000"), (1.0, "1.0000", "1.0000"),
                           (1 - 1e-9, "0.9999", "1.0000"), (1e-9, "0.0000", "0.0001"),
                           (float("nan"), "nan", "nan"), (float("inf"), "inf", "inf")],
)  # fmt: skip
def test_edges(x, low, high):
    assert (at_least(x), at_most(x)) == (low, high)


def test_nearly_all_is_not_all():
    assert [percent(x) for x in (0.29, 0.999, 1 - 1e-12, 1.0)] == [
        "29%", "99.9%", "99.9999999999%", "100%",
    ]  # fmt: skip
    assert [radius_text(x) for x in (float("nan"), 0.99999)] == ["nan", "0.9999"]
