"""Half-widths of single draws as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import basinscope as bs
from basinscope.directions import Direction
from basinscope.report.spread import plot_spread


class Steeper(Direction):
    """Draw k moves the one weight, which is 0, by (1 + k) alpha."""

    label = "steeper"

    def identity(self, engine, draw=0):
        return "steeper"

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], 1.0 + draw)


@pytest.fixture
def land():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    inside = bs.CallableTask("$in", lambda m: [abs(m.weight.item()) < 1] * 40, n_items=40)
    steps = [-1.6, -0.8, -0.4, 0.2, 0.4, 0.6, 0.8]
    return bs.landscape(bs.load(module), inside, directions=[Steeper()], steps=steps, draws=6)


def test_every_draw_and_the_median_are_drawn(land, tmp_path, monkeypatch):
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
    )
    path = plot_spread(tmp_path / "new" / "spread.png", land)
    assert path.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(path.with_suffix(".csv"))
    each = land.draw_widths("$in")
    np.testing.assert_allclose(table["width"], each["width"])
    medians = land.spread().set_index("sign")["median"]
    np.testing.assert_allclose(table["median"], table["sign"].map(medians))
    (axis,) = saved[0].axes
    assert axis.get_title() == "$in"
    hollow = [x for x in axis.lines if x.get_markerfacecolor() == "none"]
    shown = np.concatenate([x.get_xdata() for x in hollow])
    np.testing.assert_allclose(shown, table["width"] * table["sign"])
    endless = [x for x in axis.lines if x.get_marker() == ">" and x.get_markersize() == 5]
    assert len(endless) == each.query("sign > 0")["width"].isna().sum() == 1
    assert endless[0].get_xdata()[0] == axis.get_xlim()[1]
    middle = [x.get_xdata()[0] for x in axis.lines if x.get_markersize() == 7]
    assert set(medians * medians.index) <= set(middle)


def test_nothing_to_compare_is_none(draw, tmp_path):
    assert plot_spread(tmp_path / "x.png", draw(draws=1)) is None
    assert plot_spread(tmp_path / "x.png", draw(steps=(0.0,))) is None
    assert plot_spread(tmp_path / "x.png", draw(("a", ("x", "y"), 0.0))) is None, "at chance"
    assert not [*tmp_path.iterdir()]
