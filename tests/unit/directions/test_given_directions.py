"""Landscapes along given directions: one draw, where the other model sits, the same in workers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

import basinscope as bs
from basinscope.directions import Direction
from basinscope.report.text import notes, summary


@pytest.fixture
def engine():
    return bs.load(linear(0.0))


def linear(value):
    module = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.constant_(module.weight, value)
    return module


@pytest.fixture
def toward(tmp_path):
    """Toward the weights 1, 1, 1, 1: displacement 2, which is step 1."""
    save_file({"weight": linear(1.0).weight.detach()}, tmp_path / "ones.safetensors")
    return bs.Toward(tmp_path / "ones.safetensors")


def inside(edge):
    """All items right while the first weight is below the edge."""
    return bs.CallableTask("t", lambda m: [int(m.weight[0, 0] < edge)] * 12, n_items=12)


class TestDraws:
    def test_a_determined_direction_is_measured_once(self, engine, toward):
        land = bs.landscape(
            engine, inside(0.5), directions=[toward, bs.Random()], steps=[0.25, 1.0], draws=4
        )
        draws = {
            line: {t.draw for t in land.trials if t.direction == line} for line in land.directions()
        }
        assert draws == {toward.label: {0}, "random": {0, 1, 2, 3}}
        means = land.means().set_index(["direction", "step"])["draws"]
        assert means[toward.label, 1.0] == 1
        assert means["random", 1.0] == 4

    def test_its_items_are_the_unit_of_its_width(self, engine, toward):
        task = inside(0.5)
        many = bs.landscape(engine, task, directions=[toward], steps=[0.25, 1.0], draws=4)
        one = bs.landscape(engine, task, directions=[toward], steps=[0.25, 1.0], draws=1)
        assert many.width("t") == one.width("t")
        assert many.width("t").unit == "items"
        assert many.trials == one.trials

    def test_so_does_the_search(self, engine, toward):
        land = bs.landscape(engine, inside(0.5), directions=[toward], draws=3)
        assert {t.draw for t in land.trials} == {0}
        width = land.width("t")
        assert width.low <= 0.5 <= width.high
        assert not width.unresolved

    def test_the_plan_counts_it_once(self, engine, toward):
        told = []
        bs.landscape(
            engine, inside(0.5), directions=[toward, bs.Random()], steps=[0.5, 1.0], draws=4,
            progress=lambda done, planned, _: told.append((done, planned)),
        )  # fmt: skip
        assert told[-1] == (11, 11)  # zero, two of one, two of four

    def test_custom_directions_keep_their_draws(self, engine):
        class Ones(Direction):
            label = "ones"

            def delta(self, engine, name, draw=0):
                return torch.ones(engine.shapes[name])

        land = bs.landscape(engine, inside(0.5), directions=[Ones()], steps=[1.0], draws=2)
        assert {t.draw for t in land.trials if t.direction} == {0, 1}


class TestWhereTheOtherModelSits:
    @pytest.fixture
    def land(self, engine, toward, tmp_path):
        return bs.landscape(
            engine, inside(0.5), directions=[toward, bs.Random()], steps=[-0.5, 0.25, 1.0, 1.5],
            draws=2, run=tmp_path / "run",
        )  # fmt: skip

    def test_stands_in_the_spec_and_in_the_tables(self, land, toward, tmp_path):
        assert land.spec.displacements == {toward.label: pytest.approx(2.0)}
        assert land.sits_at(toward.label) == pytest.approx(1.0)
        assert land.sits_at("random") is None
        table = land.widths()
        marks = dict(zip(table["direction"], table["sits_at"], strict=True))
        assert marks[toward.label] == pytest.approx(1.0)
        assert math.isnan(marks["random"])
        again = bs.load_run(tmp_path / "run")
        assert again.spec == land.spec
        assert again.sits_at(toward.label) == land.sits_at(toward.label)

    def test_is_said_in_the_notes_and_in_the_summary(self, land, toward):
        (note,) = [n for n in notes(land) if "sits" in n]
        assert note == (
            f"{toward.label}: the other model itself sits at alpha = 1 (||theta' - theta0|| = 2)"
        )
        found = json.loads(json.dumps(summary(land), allow_nan=False))
        assert found["displacements"] == {toward.label: pytest.approx(2.0)}
        marks = {row["direction"]: row["sits_at"] for row in found["widths"]}
        assert marks == {toward.label: pytest.approx(1.0), "random": None}

    @pytest.mark.parametrize(("steps", "marks"), [([0.25, 1.5], [1.0]), ([0.1, 0.25], [])])
    def test_is_marked_in_the_figure_where_it_was_measured(
        self, steps, marks, engine, toward, tmp_path, monkeypatch
    ):
        saved, save = [], Figure.savefig
        monkeypatch.setattr(
            Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
        )
        land = bs.landscape(engine, inside(0.5), directions=[toward], steps=steps, draws=1)
        land.plot(tmp_path / "x.png")
        raw = saved[0].axes[0]
        drawn = [line.get_xdata()[0] for line in raw.lines if line.get_marker() == "D"]
        assert drawn == pytest.approx(marks)
        texts = [text.get_text() for text in saved[0].legends[0].get_texts()]
        assert ("the other model" in texts) == bool(marks)

    def test_runs_from_before_there_were_displacements_are_read(self, land, engine, tmp_path):
        bs.landscape(engine, inside(0.5), steps=[1.0], draws=1, run=tmp_path / "old")
        path = tmp_path / "old" / "run.json"
        header = json.loads(path.read_text())
        assert header["spec"].pop("displacements") == {}
        path.write_text(json.dumps(header))
        old = bs.load_run(tmp_path / "old")
        assert old.sits_at("random") is None
        bs.landscape(engine, inside(0.5), steps=[1.0], draws=2, run=tmp_path / "old")

    def test_another_model_under_the_same_name_needs_another_folder(
        self, land, engine, toward, tmp_path
    ):
        before = (tmp_path / "run" / "run.json").read_bytes()
        save_file({"weight": linear(2.0).weight.detach()}, tmp_path / "ones.safetensors")
        with pytest.raises(bs.BasinscopeError, match=r"displacement of 'to:.*' 2 -> 4"):
            bs.landscape(
                engine, inside(0.5), directions=[bs.Toward(toward.model)], steps=[1.0],
                run=tmp_path / "run",
            )  # fmt: skip
        assert (tmp_path / "run" / "run.json").read_bytes() == before

    def test_the_same_copy_elsewhere_is_the_same_direction(self, land, engine, toward, tmp_path):
        (tmp_path / "copy.safetensors").write_bytes((tmp_path / "ones.safetensors").read_bytes())
        copy = bs.Toward(tmp_path / "copy.safetensors")
        with pytest.raises(bs.BasinscopeError, match=r"are the same"):
            bs.landscape(engine, inside(0.5), directions=[toward, copy], steps=[1.0])
        with pytest.raises(bs.BasinscopeError, match=r"holds the direction .* as .*the old label"):
            bs.landscape(engine, inside(0.5), directions=[copy], steps=[1.0], run=tmp_path / "run")

    def test_a_finished_run_is_resumed_without_measuring(self, land, engine, toward, tmp_path):
        asked = []
        task = bs.CallableTask("t", lambda m: asked.append(1) or [1] * 12, n_items=12)
        again = bs.landscape(
            engine, task, directions=[bs.Toward(toward.model)], steps=[1.0],
            run=tmp_path / "run",
        )  # fmt: skip
        assert asked == []
        assert again.trials == land.trials


def test_a_direction_that_does_not_fit_leaves_no_run_folder(engine, tmp_path):
    save_file({"weight": torch.ones(1, 5)}, tmp_path / "wide.safetensors")
    with pytest.raises(bs.BasinscopeError, match=r"another shape \(weight \(1, 5\) instead of"):
        bs.landscape(
            engine, inside(0.5), directions=[bs.Toward(tmp_path / "wide.safetensors")],
            steps=[1.0], run=tmp_path / "run",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
