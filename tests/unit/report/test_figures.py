"""Figures with the CSV they were drawn from."""

from __future__ import annotations

import errno

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import basinscope as bs
from basinscope.report import figures
from basinscope.report.figures import plot_landscapes

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.mark.parametrize("suffix", STARTS)
def test_figure_and_its_csv(suffix, draw, tmp_path):
    land = draw(("a", ("x", "y"), 0.5), ("b", ("x", "y"), 0.1))
    path = land.plot(tmp_path / "new" / f"x{suffix}")
    assert path == tmp_path / "new" / f"x{suffix}"
    assert path.read_bytes().startswith(STARTS[suffix])
    table = pd.read_csv(path.with_suffix(".csv"), keep_default_na=True)
    added = ["run", "band_low", "band_high", "step_rms"]
    means = land.means()
    pd.testing.assert_frame_equal(table.drop(columns=added), means, check_dtype=False)
    for task, own in table.groupby("task"):
        assert own["band_low"].tolist() == pytest.approx(land.bands(task)["band_low"].tolist())
    np.testing.assert_allclose(table["step_rms"], means["step"] / land.spec.model.rms)


@pytest.fixture
def drawn(monkeypatch):
    """Figures in the order in which they were saved."""
    saved = []
    real = Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def lines(figure, axis=0, thicker_than=1.5):
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in figure.axes[axis].lines
        if line.get_linewidth() > thicker_than
    ]


def test_curves_are_the_measured_points_and_nothing_else(draw, drawn, tmp_path):
    land = draw(("a", ("x", "y"), 0.5), steps=(-1.0, 0.25, 2.0), draws=3)
    land.plot(tmp_path / "x.svg")
    assert lines(drawn[0]) == [([-1.0, 0.0, 0.25, 2.0], [0.0, 1.0, 1.0, 0.0])]
    assert lines(drawn[0], axis=1) == [([-1.0, 0.0, 0.25, 2.0], [1.0, 0.0, 0.0, 1.0])]
    thin = [line for line in drawn[0].axes[0].lines if line.get_linewidth() == 0.5]
    assert len(thin) == 3 + 0, "one thin line for each draw (zero's line is thicker)"
    chance = [line for line in drawn[0].axes[0].lines if list(line.get_ydata()) == [0.25, 0.25]]
    assert len(chance) == 1


def test_overlay_of_several_runs(draw, drawn, tmp_path):
    one, two = draw(("a", ("x", "y"), 0.5)), draw(("a", ("x", "y"), 0.1), weight=1.0)
    path = one.plot(tmp_path / "x.svg", two, names=["before", "after"])
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table.groupby("run", sort=False)["score"].apply(list).to_dict() == {
        "before": [0.0, 1.0, 1.0, 1.0, 0.0], "after": [0.0, 0.0, 1.0, 0.0, 0.0]
    }  # fmt: skip
    assert len(lines(drawn[0])) == 2
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["before axis", "after axis", "single draws (2)"]
    assert drawn[0].axes[0].get_title().startswith("a: score")
    one.plot(tmp_path / "y.svg", two)
    assert set(pd.read_csv(tmp_path / "y.csv")["run"]) == {"run 1", "run 2"}


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["same", "same"]])
def test_every_run_needs_its_own_name(names, draw, tmp_path):
    land = draw()
    with pytest.raises(bs.BasinscopeError, match="a name for each, all different"):
        land.plot(tmp_path / "x.png", land, names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.csv", "x.png.gz"])
def test_other_kinds_of_figures_are_refused(name, draw, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=r"allowed: a \.png, \.pdf or \.svg"):
        draw().plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw(draw, tmp_path):
    land = draw()
    empty = bs.Landscape(land.spec, [])
    with pytest.raises(bs.BasinscopeError, match="nothing to draw: no point was measured"):
        empty.plot(tmp_path / "x.png")


def test_one_point_and_flat_curves_and_weights_of_zero(draw, tmp_path):
    draw(steps=(0.0,)).plot(tmp_path / "zero.png")
    draw(("a", ("x", "y"), 9.0), steps=(0.1,), draws=1).plot(tmp_path / "flat.png")
    draw(weight=0.0).plot(tmp_path / "no-rms.png")
    assert len(pd.read_csv(tmp_path / "zero.csv")) == 1
    assert pd.read_csv(tmp_path / "flat.csv")["T"].isna().all()


def test_many_tasks_and_runs_run_out_of_colours_gracefully(draw, drawn, tmp_path):
    many = len(figures.COLOURS) + 2
    tasks = [(f"t{i}", ("x", "y"), 0.5) for i in range(many)]
    draw(*tasks, steps=(1.0,), draws=1).plot(tmp_path / "x.svg")
    assert len(lines(drawn[0])) == many
    land = draw(*tasks[:2], steps=(1.0,), draws=1)
    plot_landscapes(tmp_path / "y.svg", [land] * many)
    assert len(drawn[1].axes) == 4, "a pair of panels for each task"
    assert [len(lines(drawn[1], axis)) for axis in (0, 2)] == [many] * 2


def test_lines_of_one_panel_differ_in_colour_or_style():
    looks = [(figures.COLOURS[i % len(figures.COLOURS)], figures._style(i)) for i in range(32)]
    assert len(set(looks)) == 32


def test_both_bands_and_only_the_pointwise_one_after_a_search(draw, drawn, tmp_path):
    fixed, searched = draw(draws=3), draw(steps=None, draws=3)
    fixed.plot(tmp_path / "x.svg")
    searched.plot(tmp_path / "y.svg")
    dashed = [
        [line.get_ydata().tolist() for line in figure.axes[0].lines if line.get_linewidth() == 0.9]
        for figure in drawn
    ]
    band = fixed.bands("t")
    assert dashed == [[band["band_low"].tolist(), band["band_high"].tolist()], []]
    assert [len(figure.axes[0].collections) for figure in drawn] == [1, 1]


def test_axis_in_units_of_each_models_scale(draw, drawn, tmp_path):
    one, two = draw(weight=1.0, draws=1), draw(weight=2.0, draws=1)
    one.plot(tmp_path / "x.svg", two, per_rms=True)
    small, large = (x for x, _ in lines(drawn[0]))
    assert small == [-1.0, -0.2, 0.0, 0.2, 1.0]
    assert large == [x / 2 for x in small]
    assert "RMS" in drawn[0].axes[0].get_xlabel()
    assert not drawn[0].axes[0].child_axes, "two scales have no upper axis in common"
    with pytest.raises(bs.BasinscopeError, match=r"RMS\(theta0\) = 0; allowed: alpha"):
        draw(weight=0.0).plot(tmp_path / "y.svg", per_rms=True)


def test_long_labels_keep_their_end_and_stay_within_the_figure(draw, drawn, tmp_path):
    labels = [f"to:/{'models/' * 20}{end}" for end in ("one", "two")]
    lands = [draw(("a", ("x", "y"), 0.5), label=label, draws=1) for label in labels]
    lands[0].plot(tmp_path / "x.png", lands[1])
    (legend,) = drawn[0].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert [text[-11:] for text in texts] == ["/models/one", "/models/two"]
    assert max(map(len, texts)) < 80
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= drawn[0].bbox.width
    assert set(pd.read_csv(tmp_path / "x.csv")["direction"]) == set(labels)


def test_a_diamond_where_the_other_model_sits(draw, drawn, tmp_path):
    land = draw(("a", ("x", "y"), 0.5), draws=1)
    spec = land.spec.model_copy(update={"displacements": {"axis": 0.5}})
    marked = bs.Landscape(spec, land.trials)
    for per_rms in (False, True):
        marked.plot(tmp_path / "x.svg", per_rms=per_rms)
        (diamond,) = [x for x in drawn[-1].axes[0].lines if x.get_marker() == "D"]
        assert list(diamond.get_xdata()) == [0.5]
        legend = [t.get_text() for t in drawn[-1].legends[0].get_texts()]
        assert legend == ["a", "the other model"]
    far = land.spec.model_copy(update={"displacements": {"axis": 7.0}})
    bs.Landscape(far, land.trials).plot(tmp_path / "y.svg")
    assert not [x for x in drawn[-1].axes[0].lines if x.get_marker() == "D"], "not in the picture"


def test_names_are_drawn_as_they_are(draw, drawn, tmp_path):
    land = draw(("_$x^{2$", ("x", "y"), 0.5), label="to:$HOME_{$")
    land.plot(tmp_path / "x.svg", land, names=["_$a_{$", "b"])
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["_$a_{$ to:$HOME_{$", "b to:$HOME_{$", "single draws (2)"]
    assert drawn[0].axes[0].get_title().startswith("_$x^{2$: score")
    land.plot(tmp_path / "z.svg")
    assert drawn[1].legends[0].get_texts()[0].get_text() == "_$x^{2$"


def test_a_disk_that_is_full(draw, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    land = draw()
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*x\.png \(No space left"):
        land.plot(tmp_path / "x.png")
    (tmp_path / "file").touch()
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*x\.png"):
        land.plot(tmp_path / "file" / "x.png")
