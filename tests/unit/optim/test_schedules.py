"""Words for schedules of sigma."""

from __future__ import annotations

import pytest

import basinscope as bs
from basinscope.optim.schedules import schedule

VALUES = {
    "constant": [1, 1, 1, 1, 1],
    "linear": [1, 0.75, 0.5, 0.25, 0],
    "rise": [0, 0.25, 0.5, 0.75, 1],
    "last:0.5": [0, 0, 1, 1, 1],
    "last:1": [1, 1, 1, 1, 1],
    "first:0.75": [1, 1, 1, 0, 0],
    "warm:0.5": [0, 0.5, 1, 1, 1],
}


@pytest.mark.parametrize("word", VALUES)
def test_factors_over_four_steps(word):
    factor = schedule(word, 4)
    assert [factor(step) for step in range(5)] == VALUES[word]


@pytest.mark.parametrize(
    "word",
    ["", "cosine", "constant:1", "last", "last:", "last:x", "warm:0", "first:1.1", "last:nan"],
)
def test_other_words(word):
    with pytest.raises(bs.BasinscopeError, match=r"schedule=.*allowed: constant, linear, rise"):
        schedule(word, 4)
