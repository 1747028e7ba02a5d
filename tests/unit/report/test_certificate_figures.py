"""Figures of certificates: drawn from what was certified and measured, with their CSV."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import basinscope as bs
from basinscope.directions import save_direction
from basinscope.report.certificates import plot_bounds, plot_measured


@pytest.fixture
def judged(tmp_path):
    layer = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    task = bs.CallableTask("half$space", lambda m: [float(m.weight[0, 0].detach()) > 0], 1)
    cert = bs.certify(bs.load(layer), task, sigma=0.4, draws=100, items_per_draw=1)
    path = save_direction(
        tmp_path / "v.safetensors", {"weight": torch.tensor([[-0.3, 0, 0]])}, {}, displacement=0.3
    )
    return cert, cert.verdict(f"saved:{path}", task=task, draws=40)


class TestBounds:
    def test_the_csv_holds_what_was_drawn(self, judged, tmp_path):
        cert, verdict = judged
        path = plot_bounds(tmp_path / "f" / "bounds.png", [cert], [verdict])
        assert path.stat().st_size > 10_000
        table = pd.read_csv(path.with_suffix(".csv"))
        curve = table[table.curve == "certified"]
        assert curve.iloc[0].value == pytest.approx(cert.p_lower)
        for row in curve.iloc[::50].itertuples():
            assert row.value == pytest.approx(cert.lower_bound(row.r))
        assert {"p = 0.7", "p = 0.99", "bound", "measured p(theta')"} <= set(table.curve)

    def test_several_sigma_and_a_model_outside_the_geometry(self, judged, tmp_path):
        cert, verdict = judged
        other = replace(cert, plan=cert.plan.model_copy(update={"sigma": 0.1}))
        outside = replace(verdict, r=float("inf"))
        path = plot_bounds(tmp_path / "bounds.pdf", [cert, other], [outside])
        assert path.exists()
        assert not (pd.read_csv(path.with_suffix(".csv")).curve == "bound").any()

    def test_refuses_none_and_several_geometries(self, judged, tmp_path):
        cert, _ = judged
        other = replace(cert, plan=cert.plan.model_copy(update={"covariance": "rms"}))
        for given in ([], [cert, other]):
            with pytest.raises(bs.BasinscopeError, match="allowed: one geometry"):
                plot_bounds(tmp_path / "x.png", given)
        with pytest.raises(bs.BasinscopeError, match=r"allowed: a \.png"):
            plot_bounds(tmp_path / "x.gif", [cert])


class TestMeasured:
    def test_certified_against_measured(self, judged, tmp_path):
        _, verdict = judged
        path = plot_measured(tmp_path / "measured.png", [verdict])
        table = pd.read_csv(path.with_suffix(".csv"))
        assert list(table.kind) == ["p(theta')", "S(theta')"]
        assert list(table.bound) == pytest.approx([verdict.bound] * 2)

    def test_refuses_what_was_not_measured(self, judged, tmp_path):
        _, verdict = judged
        with pytest.raises(bs.BasinscopeError, match="no verdict was measured"):
            plot_measured(tmp_path / "x.png", [replace(verdict, score=None, smoothed=None)])
