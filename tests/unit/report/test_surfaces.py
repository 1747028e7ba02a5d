"""Pictures of surfaces and cosines, with the CSV they were drawn from."""

from __future__ import annotations

import errno
import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import basinscope as bs
from basinscope.landscape import Surface
from basinscope.report import surfaces
from basinscope.report.cosines import plot_cosines
from basinscope.report.pages import surface_page

HOSTILE = "</script><img src=x onerror=alert(1)><b>$x^{$"


def task(name: str, threshold: float = 0.0) -> bs.CallableTask:
    return bs.CallableTask(name, lambda m: (m.weight[0] > threshold).int(), n_items=12)


@pytest.fixture
def found():
    module = torch.nn.Linear(12, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    engine = bs.load(module)

    def make(*names, xs=(-2, -1, 0, 1, 2), ys=(-2, 0, 2), **options):
        chosen = [task(name, 0.3 * n) for n, name in enumerate(names or ("t",))]
        plan = {"xs": xs, "ys": ys, **options}
        return bs.surface(engine, chosen, bs.Random(0), bs.Random(1), **plan)

    return make


@pytest.fixture
def drawn(monkeypatch):
    saved = []
    real = Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


PATH = pd.DataFrame(
    {
        "label": ["start", HOSTILE], "x": [0.0, 1.0], "y": [0.0, 0.5], "distance": [0.0, 2.0],
        "out": [0.0, 1.8], "residual": [0.0, 0.9],
    }
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_heat_map_and_its_csv(suffix, found, tmp_path):
    surface = found("a", "b")
    path = surface.plot(tmp_path / "new" / f"x{suffix}")
    assert path.stat().st_size > 1000
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), surface.to_pandas())


def test_cells_are_the_measured_points_without_smoothing(found, drawn, tmp_path):
    surface = found("t")
    surface.plot(tmp_path / "x.svg")
    (cells,) = [c for c in drawn[0].axes[0].collections if c.get_array() is not None and
                c.get_array().size == 15]  # fmt: skip
    table = surface.to_pandas()
    np.testing.assert_array_equal(np.asarray(cells.get_array()).ravel(), table["score"])
    assert cells.get_clim() == (0, 1)
    assert cells._coordinates[0, :, 0].tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    half = (table["high"] - table["low"]).max() / 2
    assert drawn[0].axes[0].get_title() == f"t: score, each cell ±{half:.2f} or less"
    assert "one plane" in drawn[0].axes[-1].get_ylabel()


def test_what_was_not_measured_stays_blank(found, drawn, tmp_path):
    whole = found("t")
    part = Surface(whole.spec, whole.trials[:11])
    part.plot(tmp_path / "x.svg")
    (cells,) = [c for c in drawn[0].axes[0].collections if np.size(c.get_array()) == 15]
    assert np.ma.count_masked(np.ma.masked_invalid(cells.get_array())) == 4
    with pytest.raises(bs.BasinscopeError, match="nothing to draw"):
        Surface(whole.spec, []).plot(tmp_path / "y.svg")


@pytest.mark.parametrize(("xs", "ys"), [((0,), (0,)), ((0,), (0, 1)), ((1, 3, 4), (2,))])
def test_grids_of_one_row_or_column(xs, ys, found, tmp_path):
    surface = found(xs=xs, ys=ys)
    surface.plot(tmp_path / "x.png")
    surface.plot_3d(tmp_path / "x.html")


def test_many_tasks_in_rows_of_panels(found, drawn, tmp_path):
    found("a", "b", "c", "d").plot(tmp_path / "x.svg")
    titles = [axis.get_title().partition(":")[0] for axis in drawn[0].axes]
    assert [t for t in titles if t] == ["a", "b", "c", "d"]


def test_a_path_says_how_much_of_it_the_plane_hides(found, drawn, tmp_path):
    found("a", "b").plot(tmp_path / "x.svg", trajectory=PATH)
    (legend,) = drawn[0].legends
    assert (
        legend.get_texts()[0].get_text()
        == "checkpoints; up to 90% of their distance out of the plane"
    )
    for axis in drawn[0].axes[:2]:
        line = axis.lines[-1]
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1], [0, 0.5])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "x.trajectory.csv"), PATH)


def test_names_are_drawn_as_they_are(found, drawn, tmp_path):
    found(HOSTILE, orthogonal=True).plot(tmp_path / "x.svg", trajectory=PATH)
    assert drawn[0].axes[0].get_title().startswith(HOSTILE)
    assert drawn[0].axes[0].get_ylabel() == "y along random:1 ⊥ random"


def test_the_page_needs_no_network_and_escapes_names(found, tmp_path):
    path = found(HOSTILE).plot_3d(tmp_path / "new" / "x.html", trajectory=PATH)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]+src=|<link|<iframe|@import", page[:20_000])
    assert not re.search(r"<script[^>]+src=", page)
    assert "onerror=alert(1)>" not in page
    assert page.count("</script>") == page.count("<script")
    assert "Plotly.newPlot" in page
    assert len(pd.read_csv(path.with_suffix(".csv"))) == 15


@pytest.mark.parametrize("name", ["x.png", "x", "x.htm"])
def test_other_kinds_of_pages_are_refused(name, found, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=r"allowed: a name in \.html"):
        found().plot_3d(tmp_path / name)
    with pytest.raises(bs.BasinscopeError, match=r"allowed: a \.png, \.pdf or \.svg"):
        found().plot(tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


def test_without_plotly_one_line_says_what_to_install(found, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(surfaces, "find_spec", lambda n: None if n == "plotly" else real(n))
    surface = found()
    with pytest.raises(
        bs.BasinscopeError, match=r'without plotly; .*; try: pip install "basinscope\[html\]"'
    ):
        surface.plot_3d(tmp_path / "x.html")
    assert not list(tmp_path.iterdir())
    page = surface_page(surface, tmp_path)
    assert [picture.figures for section in page.sections for picture in section.pictures] == [()]
    assert not page.missing


def test_a_disk_that_is_full(found, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    surface = found()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*x\.html \(No space left"):
        surface.plot_3d(tmp_path / "x.html")


def test_cosines_in_their_cells_with_the_reference(drawn, tmp_path):
    labels = ["_$x^{$", "to:b"]
    table = pd.DataFrame([[1.0, -0.25], [-0.25, 1.0]], index=labels, columns=labels)
    table.attrs["reference"] = 0.001
    path = plot_cosines(tmp_path / "new" / "c.svg", table)
    panel = drawn[0].axes[0]
    assert [text.get_text() for text in panel.texts] == ["1", "-0.25", "-0.25", "1"]
    assert panel.get_title() == "cosines; independent random: 0 ± 0.001"
    assert [t.get_text() for t in panel.get_xticklabels()] == labels
    read = pd.read_csv(path.with_suffix(".csv"), index_col="direction")
    pd.testing.assert_frame_equal(read, table, check_names=False)
    with pytest.raises(bs.BasinscopeError, match=r"allowed: a \.png"):
        plot_cosines(tmp_path / "c.txt", table)
