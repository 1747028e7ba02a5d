"""Bands, variances and widths of single draws, from the records of a landscape."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction

STEPS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


class Slopes(Direction):
    """Draw k moves the only weight by slope k: every draw has a width of its own."""

    label = "slopes"

    def __init__(self, *slopes: float) -> None:
        self.slopes = slopes

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.slopes[draw])


def linear(n: int = 1) -> bs.Engine:
    module = torch.nn.Linear(n, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    return bs.load(module)


def inside(edge: float, n_items: int = 20) -> bs.CallableTask:
    """All items right while the weight has moved by less than the edge."""
    return bs.CallableTask(
        "inside", lambda m: [int(abs(m.weight.item() - 1) < edge)] * n_items, n_items=n_items
    )


@pytest.fixture(scope="module")
def signs() -> bs.Landscape:
    """Forty weights under noise, item i right while weight i is positive: known variances."""
    task = bs.CallableTask("signs", lambda m: (m.weight[0] > 0).int(), n_items=40)
    return bs.landscape(linear(40), task, steps=STEPS, draws=9)


def test_a_band_is_wider_than_the_intervals_and_zero_is_known(signs):
    table = signs.bands("signs")
    assert table.columns.tolist() == [
        "step", "draws", "score", "low", "high", "band_low", "band_high"
    ]  # fmt: skip
    assert table["step"].tolist() == sorted((*STEPS, 0.0))
    means = signs.means().drop(columns=["task", "direction", "T"])
    pd.testing.assert_frame_equal(table[means.columns.tolist()], means)
    zero, rest = table[table["step"] == 0], table[table["step"] != 0]
    assert (zero[["low", "high", "band_low", "band_high"]] == 1.0).all(axis=None)
    assert (rest["band_low"] < rest["low"]).all()
    assert (rest["band_high"] >= rest["high"]).all()
    band = stats.band_over_draws([signs.curve("signs", "random")[s] for s in STEPS])
    assert rest["band_low"].tolist() == [i.low for i in band], "six steps share the error"
    wide = signs.bands("signs", "random", confidence=0.999)
    assert (wide["band_low"] <= table["band_low"]).all()


def test_the_band_of_a_single_draw_is_over_items():
    land = bs.landscape(linear(), inside(0.7), directions=[Slopes(1.0)], steps=[0.5, 1], draws=1)
    table = land.bands("inside")
    band = stats.band_over_items([20, 20, 0], [20] * 3)
    assert table["band_low"].tolist() == [i.low for i in band]
    assert table["band_high"].tolist() == [i.high for i in band]
    assert (table["band_low"] <= table["low"]).all()


def test_variance_is_that_of_the_records(signs):
    table = signs.variance("signs").set_index("step")
    assert table.index.tolist() == sorted(STEPS)
    assert table.columns.tolist() == [
        "draws", "items", "score", "total", "between_directions", "between_items", "residual", "se",
        "draws_needed", "items_needed",
    ]  # fmt: skip
    items = signs.items()
    y = items[items["step"] == 1.0].pivot(index="draw", columns="item", values="outcome")
    split = stats.split_variance(y.to_numpy())
    row = table.loc[1.0]
    assert row["between_directions"] == pytest.approx(split.direction)
    assert row["total"] == pytest.approx(
        row["between_directions"] + row["between_items"] + row["residual"]
    )
    assert row["se"] == pytest.approx(split.standard_error())
    assert row["draws_needed"] == split.draws_needed(0.05)
    # the weights of a draw move independently: neither draws nor items differ
    assert table["residual"].max() > 10 * table["between_directions"].abs().max()
    fewer = signs.variance("signs", half_width=0.1).set_index("step")
    assert (fewer["draws_needed"] <= table["draws_needed"]).all()
    assert fewer.loc[1.0, "draws_needed"] < table.loc[1.0, "draws_needed"]


def test_variance_needs_two_draws(signs):
    land = bs.landscape(linear(), inside(1), directions=[Slopes(1.0)], steps=[0.5], draws=1)
    with pytest.raises(bs.BasinscopeError, match=r"in two draws.*more --draws"):
        land.variance("inside")
    with pytest.raises(bs.BasinscopeError, match="half_width=0"):
        signs.variance("signs", half_width=0)


SLOPES = (0.5, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5)


@pytest.fixture(scope="module")
def slopes() -> bs.Landscape:
    """The draw of slope s leaves the inside at 1 / s, the least only beyond what is measured."""
    steps = [round(0.05 * k, 2) for k in range(1, 37)]
    return bs.landscape(
        linear(), inside(1.0), directions=[Slopes(*SLOPES)], steps=[-0.3, *steps], draws=7
    )


def test_widths_of_single_draws(slopes):
    table = slopes.draw_widths("inside")
    assert table["sign"].tolist() == [1] * 7 + [-1] * 7
    assert table["draw"].tolist() == [*range(7)] * 2
    for row in table.itertuples():
        own = slopes.width("inside", draw=row.draw, sign=row.sign)
        assert (row.low, row.high, row.reason) == (own.low, own.high, own.reason)
    outward = table[table["sign"] == 1]["width"].to_numpy()
    assert math.isnan(outward[0]), "1 / 0.5 was not reached"
    # half a step of the grid, since the score falls at once
    np.testing.assert_allclose(outward[1:], 1 / np.array(SLOPES[1:]), atol=0.05)


def test_spread_counts_what_did_not_cross_as_infinite(slopes):
    table = slopes.spread("inside").set_index("sign")
    row = table.loc[1]
    assert (row["task"], row["direction"], row["draws"], row["crossed"]) == (
        "inside",
        "slopes",
        7,
        6,
    )
    assert row["least"] == pytest.approx(0.4, abs=0.05)
    assert row["median"] == pytest.approx(0.8, abs=0.05)
    assert row["greatest"] == row["median_high"] == math.inf
    assert row["median_low"] == row["least"], "of seven draws the extremes bound the median"
    assert row["share"] == stats.share_between_extremes(7)
    assert math.isnan(row["relative"])
    assert (
        row["reason"]
        == "1 of 7 draws stay above the threshold to the outermost step: measure further out"
    )
    assert table.loc[-1, "crossed"] == 0
    pd.testing.assert_frame_equal(slopes.spread(), slopes.spread("inside"))


def test_relative_spread_where_all_draws_cross():
    steps = [round(0.02 * k, 2) for k in range(1, 70)]
    land = bs.landscape(
        linear(), inside(1.0), directions=[Slopes(*SLOPES[1:])], steps=steps, draws=6
    )
    (row,) = land.spread().itertuples()
    assert row.relative == pytest.approx(np.std(np.log(SLOPES[1:]), ddof=1), rel=0.05)
    assert row.relative_low < row.relative < row.relative_high
    assert row.reason == ""


def test_no_basin_has_no_spread():
    task = bs.CallableTask("chance", lambda m: [1, 0] * 10, n_items=20, chance=0.5)
    land = bs.landscape(linear(), task, directions=[Slopes(1.0, 2.0)], steps=[1], draws=2)
    (row,) = land.spread().itertuples()
    assert (row.draws, row.crossed) == (2, 0)
    assert math.isnan(row.least)
    assert "no basin" in row.reason


def test_step_zero_alone_has_no_rows():
    land = bs.landscape(linear(), inside(1), steps=[0], draws=2)
    assert land.spread().empty
    with pytest.raises(
        bs.BasinscopeError, match="of task 'inside'; allowed: one that was measured"
    ):
        land.bands("inside")


@pytest.mark.parametrize("method", ["bands", "variance", "draw_widths"])
def test_unknown_names(method, signs):
    with pytest.raises(bs.BasinscopeError, match="not of this run; allowed: signs"):
        getattr(signs, method)("nothing")
    with pytest.raises(bs.BasinscopeError, match="of task 'signs'; allowed: random"):
        getattr(signs, method)("signs", direction="other")
    with pytest.raises(bs.BasinscopeError, match="not of this run; allowed: signs"):
        signs.spread("nothing")
