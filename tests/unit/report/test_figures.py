"""Figures with the CSV they were drawn from."""

from __future__ import annotations

import errno

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

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
    means, widths = land.means(), land.widths().set_index(["task", "sign"])
    pd.testing.assert_frame_equal(table[list(means)], means, check_dtype=False)
    for task, rows in table.groupby("task"):
        assert rows["band_low"].tolist() == pytest.approx(land.bands(task)["band_low"].tolist())
        assert rows["threshold"].tolist() == pytest.approx([0.25 + 0.5 * 0.75] * len(rows))
        for sign, side in rows.groupby(np.sign(rows["step"])):
            ends = side[["width", "width_low", "width_high"]].drop_duplicates().to_numpy()
            wanted = [np.nan] * 3 if sign == 0 else widths.loc[(task, sign), "width":"high"]
            np.testing.assert_allclose(ends, [wanted])
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


def lines(axis):
    """Curves: what has a marker at every one of its points."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axis.lines
        if line.get_linewidth() in (1.6, 2.0) and line.get_marker() not in ("None", "D")
    ]


def bars(axis):
    """Half-width bars: their ends, height, and the marks on them."""
    marks = [
        (float(line.get_xdata()[0]), line.get_marker()) for line in axis.lines
        if line.get_zorder() == 5
    ]  # fmt: skip
    bodies = [line for line in axis.lines if line.get_zorder() == 2.5]
    return [(*map(float, b.get_xdata()), float(b.get_ydata()[0])) for b in bodies], marks


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_the_measured_points_and_nothing_else(draw, drawn, tmp_path):
    land = draw(("a", ("x", "y"), 0.5), steps=(-1.0, 0.25, 2.0), draws=3)
    land.plot(tmp_path / "x.svg")
    land.plot(tmp_path / "y.svg", draws=True, loss=True)
    (raw,), (both, loss) = drawn[0].axes, drawn[1].axes
    assert lines(raw) == lines(both) == [([-1.0, 0.0, 0.25, 2.0], [0.0, 1.0, 1.0, 0.0])]
    assert lines(loss) == [([-1.0, 0.0, 0.25, 2.0], [1.0, 0.0, 0.0, 1.0])]
    assert [sum(x.get_linewidth() == 0.6 and len(x.get_xdata()) == 4 for x in axis.lines)
            for axis in (raw, both)] == [0, 3], "single draws on request alone"  # fmt: skip
    assert "single draws" in texts(drawn[1])
    assert "single draws" not in texts(drawn[0])
    single = pd.read_csv(tmp_path / "y.draws.csv")
    assert single.groupby("draw")["score"].apply(list).tolist() == [[0.0, 1.0, 1.0, 0.0]] * 3
    assert not (tmp_path / "x.draws.csv").exists()


def test_chance_and_the_score_at_zero_are_lines_with_their_names(draw, drawn, tmp_path):
    draw().plot(tmp_path / "x.svg")
    (axis,) = drawn[0].axes
    across = {line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [0, 1]}
    assert across == {0.25, 1.0}
    assert [text.get_text() for text in axis.texts] == ["S(0)\n1.00", "chance\n0.25"]


def test_half_widths_are_bars_at_their_threshold(draw, drawn, tmp_path):
    steps = (-1.0, -0.6, -0.4, 0.4, 0.6, 1.0)
    land = draw(("a", ("x", "y"), 0.5), ("b", ("x", "y"), 9.0), steps=steps, draws=14)
    wide = land.widths(level=0.4).set_index(["task", "sign"])
    for name, per_rms in (("x.svg", False), ("y.svg", True)):
        land.plot(tmp_path / name, level=0.4, per_rms=per_rms)
        scale = land.spec.model.rms if per_rms else 1
        bodies, marks = bars(drawn[-1].axes[0])
        assert len(bodies) == 2
        for (near, far, height), sign in zip(sorted(bodies), (-1, 1), strict=True):
            row = wide.loc[("a", sign)]
            assert (near, far) == pytest.approx((sign * row.low / scale, sign * row.high / scale))
            assert height == pytest.approx(0.25 + 0.6 * 0.75)
            assert (pytest.approx(sign * row.width / scale), "o") in marks
        assert [mark for _, mark in marks].count("|") == 4
        bodies, marks = bars(drawn[-1].axes[1])
        ends = drawn[-1].axes[1].get_xlim()
        assert {(ends[0], "<"), (ends[1], ">")} <= set(marks), "no end within the panel"
        assert not [mark for mark in marks if mark[1] == "o"], "no estimate"
        assert texts(drawn[-1])[-1] == "half-width (level 0.4, 95%, → no end)"


def test_a_task_at_chance_has_no_half_width(draw, drawn, tmp_path):
    draw(("a", ("x", "y"), 0.0), ("b", ("x", "y"), 0.5)).plot(tmp_path / "x.svg")
    assert [axis.get_title() for axis in drawn[0].axes] == ["a\nno half-width", "b"]
    assert bars(drawn[0].axes[0]) == ([], [])


def test_a_task_measured_at_zero_alone_takes_no_line_of_its_own(draw, drawn, tmp_path):
    land = draw(("a", ("x", "y"), 0.5), ("b", ("x", "y"), 0.5))
    trials = [trial for trial in land.trials if trial.task == "a" or trial.direction is None]
    bs.Landscape(land.spec, trials).plot(tmp_path / "x.svg")
    assert [len(lines(axis)) for axis in drawn[0].axes] == [1, 1]
    assert texts(drawn[0])[:2] == ["axis: mean over draws", "95% at each step"]


@pytest.mark.parametrize("steps", [(0.1, 1.0), (-1.0, -0.1)])
def test_steps_of_one_side_fill_the_panel(draw, drawn, tmp_path, steps):
    draw(steps=steps).plot(tmp_path / "x.svg")
    low, high = drawn[0].axes[0].get_xlim()
    assert (low, high) == pytest.approx((min(0, *steps) - 0.04, max(0, *steps) + 0.04))
    assert len(bars(drawn[0].axes[0])[0]) == 1


def test_overlay_of_several_runs(draw, drawn, tmp_path):
    one, two = draw(("a", ("x", "y"), 0.5)), draw(("a", ("x", "y"), 0.1), weight=1.0)
    path = one.plot(tmp_path / "x.svg", two, names=["before", "after"])
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table.groupby("run", sort=False)["score"].apply(list).to_dict() == {
        "before": [0.0, 1.0, 1.0, 1.0, 0.0], "after": [0.0, 0.0, 1.0, 0.0, 0.0]
    }  # fmt: skip
    (axis,) = drawn[0].axes
    assert len(lines(axis)) == 2
    assert not [band for band in axis.collections if isinstance(band, PolyCollection)]
    whiskers = [next(iter(w.get_segments()))[0][0] for w in axis.collections]
    assert len(set(whiskers)) == 2, "side by side"
    assert texts(drawn[0])[:3] == ["before axis", "after axis", "95% at each step"]
    assert axis.get_title() == "a"
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
    assert pd.read_csv(tmp_path / "zero.csv")["width"].isna().all()


def test_many_tasks_and_runs_run_out_of_colours_gracefully(draw, drawn, tmp_path):
    many = len(figures.COLOURS) + 2
    tasks = [(f"t{i}", ("x", "y"), 0.5) for i in range(many)]
    draw(*tasks, steps=(1.0,), draws=1).plot(tmp_path / "x.svg")
    assert [len(lines(axis)) for axis in drawn[0].axes] == [1] * many
    land = draw(*tasks[:2], steps=(1.0,), draws=1)
    plot_landscapes(tmp_path / "y.svg", [land] * many)
    assert [len(lines(axis)) for axis in drawn[1].axes] == [many] * 2


@pytest.mark.parametrize(("n", "rows", "across"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (8, 2, 4)])
def test_panels_stand_four_abreast_at_most(draw, drawn, tmp_path, n, rows, across):
    tasks = [(f"a_rather_long_name_of_a_task_that_goes_on_and_on_{i}", ("x", "y"), 0.5)
             for i in range(n)]  # fmt: skip
    draw(*tasks).plot(tmp_path / "x.svg", loss=True)
    figure = drawn[0]
    assert figure.get_figwidth() <= 11
    assert len(figure.axes) == 2 * n
    figure.canvas.draw()
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert not [
        (one, two) for i, one in enumerate(boxes) for two in boxes[:i]
        if one.x0 < two.x1 - 1 and two.x0 < one.x1 - 1 and one.y0 < two.y1 - 1
        and two.y0 < one.y1 - 1
    ], "no label lies on another panel"  # fmt: skip
    places = [axis.get_position() for axis in figure.axes]
    assert len({round(place.x0, 2) for place in places}) == across
    assert len({round(place.y0, 2) for place in places}) == 2 * rows
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= 8


def test_lines_of_one_panel_differ_in_colour_or_style_and_in_marker():
    looks = [tuple(look.values()) for look in figures.looks(range(32)).values()]
    assert len({(colour, style) for colour, _, style in looks}) == 32
    assert len({marker for _, marker, _ in looks[:8]}) == 8, "for those who see no colours"


def test_both_bands_and_only_the_pointwise_one_after_a_search(draw, drawn, tmp_path):
    fixed, searched = draw(draws=3), draw(steps=None, draws=3)
    fixed.plot(tmp_path / "x.svg")
    searched.plot(tmp_path / "y.svg")
    both, one = ([set(map(tuple, band.get_paths()[0].vertices)) for band in
                  figure.axes[0].collections] for figure in drawn)  # fmt: skip
    band = fixed.bands("t")

    def ends(*names):
        return {
            (step, y) for name in names for step, y in zip(band["step"], band[name], strict=True)
        }

    assert ends("band_low", "band_high") <= both[0]
    assert ends("low", "high") <= both[1]
    assert [len(both), len(one)] == [2, 1]
    assert ["95% at all steps" in texts(figure) for figure in drawn] == [True, False]
    assert pd.read_csv(tmp_path / "y.csv")["band_low"].isna().all()


def test_axis_in_units_of_each_models_scale(draw, drawn, tmp_path):
    one, two = draw(weight=1.0, draws=1), draw(weight=2.0, draws=1)
    one.plot(tmp_path / "x.svg", two, per_rms=True)
    small, large = (x for x, _ in lines(drawn[0].axes[0]))
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
    words = texts(drawn[0])
    assert [text[-11:] for text in words[:2]] == ["/models/one", "/models/two"]
    assert max(map(len, words)) < 80
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
        assert texts(drawn[-1])[-1] == "the other model"
    far = land.spec.model_copy(update={"displacements": {"axis": 7.0}})
    bs.Landscape(far, land.trials).plot(tmp_path / "y.svg")
    assert not [x for x in drawn[-1].axes[0].lines if x.get_marker() == "D"], "not in the picture"


def test_names_are_drawn_as_they_are(draw, drawn, tmp_path):
    land = draw(("_$x^{2$", ("x", "y"), 0.5), label="to:$HOME_{$")
    land.plot(tmp_path / "x.svg", land, names=["_$a_{$", "b"])
    assert texts(drawn[0])[:2] == ["_$a_{$ to:$HOME_{$", "b to:$HOME_{$"]
    assert drawn[0].axes[0].get_title() == "_$x^{2$"
    land.plot(tmp_path / "z.svg")
    assert texts(drawn[1])[0] == "to:$HOME_{$: mean over draws"


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
