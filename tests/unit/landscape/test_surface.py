"""Surfaces: what is measured over a plane, where checkpoints lie on it, and angles."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction
from basinscope.directions.planes import Drawn
from basinscope.landscape import cosines, interpolation_steps, trajectory
from basinscope.landscape.record import read_landscape
from basinscope.landscape.surface import read_surface
from basinscope.runs.store import Store

XS, YS = (-1.0, 0.0, 0.5), (0.0, 2.0)


class Axis(Direction):
    """Moves one of the two weights."""

    label = "axis"

    def __init__(self, n: int, label: str = "", scale: float = 1.0) -> None:
        self.n, self.label, self.scale = n, label or f"axis{n}", scale

    def identity(self, engine, draw=0):
        return f"axis {self.n} {self.scale}"

    def delta(self, engine, name, draw=0):
        delta = torch.zeros(engine.shapes[name])
        delta[0, self.n] = math.sqrt(2) * self.scale
        return delta


A, B = Axis(0), Axis(1)


class Both(Direction):
    """Along both weights: at 45 degrees to either axis."""

    label = "both"

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


def linear(*weights: float) -> bs.Engine:
    module = torch.nn.Linear(len(weights), 1, bias=False)
    module.weight.data[:] = torch.tensor(weights)
    return bs.load(module)


def near(limit: float = 1.0, name: str = "near") -> bs.CallableTask:
    """The first n items are right: n falls with the distance from (0, 0)."""

    def fn(module):
        x, y = (module.weight[0] / math.sqrt(2)).tolist()
        return [int(i < 10 * (limit - 0.3 * math.hypot(x, y))) for i in range(10)]

    return bs.CallableTask(name, fn, n_items=10)


def test_every_point_of_the_grid_is_measured_where_it_lies():
    found = bs.surface(linear(0.0, 0.0), [near(), near(0.5, "half")], A, B, xs=XS, ys=YS)
    table = found.to_pandas()
    assert table.columns.tolist() == ["task", "x", "y", "n", "correct", "score", "low", "high"]
    assert table["task"].tolist() == ["near"] * 6 + ["half"] * 6
    places = [(x, y) for y in YS for x in XS] * 2
    assert list(zip(table["x"], table["y"], strict=True)) == places
    for row in table.itertuples():
        limit = 1.0 if row.task == "near" else 0.5
        expected = math.ceil(10 * (limit - 0.3 * math.hypot(row.x, row.y)) - 1e-6)
        assert row.correct == max(expected, 0)
        exact = stats.clopper_pearson(row.correct, 10)
        assert (row.low, row.high) == (exact.low, exact.high)
    assert found.plane.cosine == 0.0
    assert (found.plane.x, found.plane.y) == ("axis0", "axis1")
    assert found.spec.kind == "surface"


def test_orthogonal_takes_of_y_what_is_orthogonal_to_x():
    engine = linear(0.0, 0.0)
    skew = bs.surface(engine, near(), A, Both(), xs=[0, 1], ys=[0, 1])
    right = bs.surface(engine, near(), A, Both(), xs=[0, 1], ys=[0, 1], orthogonal=True)
    axes = bs.surface(engine, near(), A, B, xs=[0, 1], ys=[0, 1])
    assert skew.plane.cosine == pytest.approx(math.sqrt(0.5))
    assert right.plane.cosine == pytest.approx(0.0, abs=1e-7)
    assert right.plane.y == "both_|_axis0"
    scores = [s.to_pandas()["score"].tolist() for s in (skew, right, axes)]
    assert scores[1] == scores[2]
    assert scores[0] != scores[2]


def test_positions_are_sorted_once_each_and_zero_has_no_sign():
    found = bs.surface(linear(0.0, 0.0), near(), A, B, xs=[0.5, -0.0, 0.5], ys=[0.0])
    assert found.plane.xs == (0.0, 0.5)
    assert len(found.trials) == 2
    alone = bs.surface(linear(0.0, 0.0), near(), A, B, xs=[0], ys=[0])
    assert [t.direction for t in alone.trials] == [None]
    assert alone.to_pandas()["score"].tolist() == [1.0]


def test_progress_names_the_point():
    said = []
    bs.surface(
        linear(0.0, 0.0), near(), A, B, xs=[0, 0.25], ys=[-2],
        progress=lambda done, planned, what: said.append((done, planned, what)),
    )  # fmt: skip
    assert said == [(0, 2, ""), (1, 2, "near at 0, -2"), (2, 2, "near at 0.25, -2")]


def test_resumed_it_measures_what_is_missing_and_may_grow(tmp_path):
    asked = []

    def fn(module):
        asked.append(module.weight[0].tolist())
        return [1]

    task = bs.CallableTask("t", fn, n_items=1)
    engine = linear(0.0, 0.0)
    bs.surface(engine, task, A, B, xs=XS, ys=YS, run=tmp_path / "run")
    assert len(asked) == 6
    again = bs.surface(engine, task, A, B, xs=XS, ys=YS, run=tmp_path / "run")
    assert len(asked) == 6
    wider = bs.surface(engine, task, A, B, xs=[*XS, 1], ys=YS, run=tmp_path / "run")
    assert len(asked) == 8
    assert len(wider.trials) == 8
    loaded = bs.load_run(tmp_path / "run")
    assert loaded.trials == wider.trials
    assert loaded.spec == wider.spec
    assert again.spec.hash != wider.spec.hash
    bad = next((tmp_path / "run" / "trials").glob("*.json"))
    bad.write_text(bad.read_text().replace(":", ";", 1))
    mended = bs.surface(engine, task, A, B, xs=XS, ys=YS, run=tmp_path / "run")
    assert len(asked) == 9
    assert len(mended.set_aside) == 1
    assert mended.trials == wider.trials


def test_addresses_tell_planes_and_points_apart(tmp_path):
    """Both directions, x and y stand in the address: no record is taken for another's."""
    engine = linear(0.0, 0.0)
    runs = [
        bs.surface(engine, near(), a, b, xs=[0.1, 0.2], ys=[0.3, 0.1], orthogonal=o)
        for a, b, o in ((A, B, False), (B, A, False), (A, Both(), False), (A, Both(), True))
    ]
    addresses = [t.address for run in runs for t in run.trials]
    assert len(set(addresses)) == 16
    fine = bs.surface(engine, near(), A, B, xs=[0.1, 0.1 + 1e-12], ys=[0.3])
    assert len({t.address for t in fine.trials}) == 2, "coordinates are not rounded"


def test_a_folder_holds_one_plane(tmp_path):
    engine, run = linear(0.0, 0.0), tmp_path / "run"
    bs.surface(engine, near(), A, B, xs=[1], ys=[1], run=run)
    with pytest.raises(bs.BasinscopeError, match="plane of axis0 and axis1 -> axis1 and axis0"):
        bs.surface(engine, near(), B, A, xs=[1], ys=[1], run=run)
    with pytest.raises(bs.BasinscopeError, match=r"plane of .* -> axis0 and both_"):
        bs.surface(engine, near(), A, Both(), xs=[1], ys=[1], run=run, orthogonal=True)
    with pytest.raises(bs.BasinscopeError, match="holds a surface, not a landscape"):
        bs.landscape(engine, near(), directions=[A], steps=[1], run=run)
    with pytest.raises(bs.BasinscopeError, match=r"holds another direction called"):
        bs.surface(engine, near(), A, Axis(1, scale=2.0), xs=[1], ys=[1], run=run)
    with pytest.raises(bs.BasinscopeError, match=r"holds a surface, not a landscape; allowed"):
        read_landscape(run)
    bs.landscape(engine, near(), directions=[A], steps=[1], run=tmp_path / "line")
    with pytest.raises(bs.BasinscopeError, match=r"holds a landscape, not a surface; allowed"):
        read_surface(tmp_path / "line")
    header = json.loads((run / "run.json").read_text())
    assert header["spec"]["plane"]["xs"] == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xs": []}, r"xs=\[\]; allowed: finite numbers"),
        ({"ys": []}, r"ys=\[\]; allowed"),
        ({"ys": [0.0, math.nan]}, r"ys=\[0.0, nan\]"),
        ({"xs": [math.inf]}, r"xs=\[inf\]"),
        ({"b": A}, r"directions: \['axis0', 'axis0'\]"),
        ({"b": Axis(0, "again")}, "axis0 and again are parallel; allowed: two"),
        ({"b": Axis(0, "back", -3.0)}, "axis0 and back are parallel"),
        ({"b": Axis(0, "back", -3.0), "orthogonal": True}, "axis0 and back are parallel"),
        ({"b": Axis(1, "null", 0.0)}, "null is zero"),
        ({"tasks": []}, r"tasks: \[\]"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_senseless_planes_are_refused_before_anything_is_written(change, message, tmp_path):
    plan = {"tasks": near(), "a": A, "b": B, "xs": [1], "ys": [1], "run": tmp_path / "run"}
    plan |= change
    tasks, a, b = (plan.pop(k) for k in ("tasks", "a", "b"))
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.surface(linear(0.0, 0.0), tasks, a, b, **plan)
    assert not (tmp_path / "run").exists()


def test_weights_are_restored_and_draws_may_be_axes():
    engine = linear(1.0, 2.0, 3.0)
    before = engine.fingerprint()
    found = bs.surface(
        engine, bs.CallableTask("t", lambda m: [1], n_items=1), bs.Random(0),
        Drawn(bs.Random(0), 1), xs=[0.5], ys=[0.5],
    )  # fmt: skip
    assert engine.fingerprint() == before
    assert found.plane.y == "random#1"


# --- checkpoints on the plane -------------------------------------------------------------------


def checkpoint(folder, *weights: float) -> str:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"weight": torch.tensor([weights])}, folder / "model.safetensors")
    return str(folder)


def test_a_path_of_checkpoints_with_what_the_plane_hides(tmp_path):
    engine = linear(1.0, 1.0, 1.0, 1.0)

    class Unit4(Axis):
        def delta(self, engine, name, draw=0):
            delta = torch.zeros(engine.shapes[name])
            delta[0, self.n] = 2.0  # norm sqrt(d)
            return delta

    run = tmp_path / "run"
    checkpoint(run / "checkpoint-9", 3.0, 1.0, 1.0, 1.0)
    checkpoint(run / "checkpoint-10", 3.0, 5.0, 1.0, 1.0)
    (run / "checkpoint-best").mkdir()
    last = checkpoint(tmp_path / "last", 3.0, 1.0, 1.0, 3.0)
    found = trajectory(engine, Unit4(0), Unit4(1), [run, last])
    assert found["label"].tolist() == ["start", "checkpoint-9", "checkpoint-10", "last"]
    np.testing.assert_allclose(found["x"], [0, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found["y"], [0, 0, 2, 0], atol=1e-6)
    np.testing.assert_allclose(found["distance"], [0, 2, math.sqrt(20), math.sqrt(8)], rtol=1e-6)
    np.testing.assert_allclose(found["out"], [0, 0, 0, 2], atol=1e-6)
    np.testing.assert_allclose(found["residual"], [0, 0, 0, math.sqrt(0.5)], atol=1e-6)
    for step, y in ((2, 1.0), (10, 2.0)):  # as bs.finetune leaves them, in a folder of their own
        checkpoint(Path(last) / "checkpoints" / f"step-{step:06d}", 3.0, y, 1.0, 1.0)
    tuned = trajectory(engine, Unit4(0), Unit4(1), last)
    assert tuned["label"].tolist() == ["start", "step-000002", "step-000010", "last"]
    shutil.rmtree(Path(last) / "checkpoints")
    one = trajectory(engine, Unit4(0), Unit4(1), [bs.Toward(last)])
    assert one["label"].tolist() == ["start", f"to:{last}"]
    pd.testing.assert_frame_equal(
        trajectory(engine, Unit4(0), Unit4(1), last).drop(columns="label"),
        one.drop(columns="label"),
    )


def test_adapters_on_the_path(tmp_path):
    """A LoRA of rank 1 on a linear layer: scale BA = (2, 0)."""
    from safetensors.torch import save_file

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.Linear(2, 1, bias=False)

    engine = bs.load(Layer())
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["up"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    ab = {"lora_A": torch.tensor([[1.0, 0.0]]), "lora_B": torch.tensor([[1.0]])}
    save_file(
        {f"base_model.model.up.{k}.weight": v for k, v in ab.items()},
        folder / "adapter_model.safetensors",
    )
    found = trajectory(engine, A, B, tmp_path / "run")
    assert found["label"].tolist() == ["start", "checkpoint-1"]
    np.testing.assert_allclose(found["x"], [0, math.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(found["residual"], [0, 0], atol=1e-6)


def test_the_model_at_its_projection_is_the_checkpoint_if_nothing_is_out(tmp_path):
    engine = linear(1.0, -2.0)
    end = checkpoint(tmp_path / "end", 0.25, 3.0)
    (_, row) = trajectory(engine, A, Both(), [end], orthogonal=True).itertuples()
    seen = []

    def look(module):
        seen.append(module.weight[0].tolist())
        return [1]

    task = bs.CallableTask("t", look, n_items=1)
    bs.surface(engine, task, A, Both(), xs=[row.x], ys=[row.y], orthogonal=True)
    assert row.residual == pytest.approx(0.0, abs=1e-6)
    assert seen == [pytest.approx([0.25, 3.0], abs=1e-5)]


def test_checkpoints_that_do_not_fit(tmp_path):
    engine = linear(1.0, 1.0)
    with pytest.raises(bs.BasinscopeError, match="nosuch"):
        trajectory(engine, A, B, [tmp_path / "nosuch"])
    other = checkpoint(tmp_path / "other", 1.0, 1.0, 1.0)
    with pytest.raises(bs.BasinscopeError, match="weight"):
        trajectory(engine, A, B, [other])
    fits = checkpoint(tmp_path / "fits", 1.0, 2.0)
    with pytest.raises(bs.BasinscopeError, match="parallel"):
        trajectory(engine, A, Axis(0, "again"), [fits])
    with pytest.raises(bs.BasinscopeError, match="no model is behind random"):
        trajectory(engine, A, B, [bs.Random(0)])


def test_interpolation_ends_at_the_other_model(tmp_path):
    engine = linear(1.0, 1.0)
    end = bs.Toward(checkpoint(tmp_path / "end", 4.0, 5.0))
    steps = interpolation_steps(engine, end, 5)
    last = 5 / math.sqrt(2)
    assert steps == pytest.approx([last * k / 4 for k in range(6)])
    assert interpolation_steps(engine, end, 2, beyond=0) == [0.0, pytest.approx(last)]
    seen = []
    task = bs.CallableTask("t", lambda m: seen.append(m.weight[0].tolist()) or [1], n_items=1)
    land = bs.landscape(engine, task, directions=[end], steps=steps[:5])
    assert max(seen) == pytest.approx([4.0, 5.0], abs=1e-5)
    assert land.sits_at(end.label) == pytest.approx(last)
    with pytest.raises(bs.BasinscopeError, match="points=1"):
        interpolation_steps(engine, end, 1)
    with pytest.raises(bs.BasinscopeError, match="beyond=-1"):
        interpolation_steps(engine, end, 3, beyond=-1)
    with pytest.raises(bs.BasinscopeError, match="no model is behind random"):
        interpolation_steps(engine, bs.Random(0), 3)


# --- angles -------------------------------------------------------------------------------------


def test_cosines_by_label_with_the_reference_of_chance():
    engine = linear(0.0, 0.0)
    table = cosines(engine, [A, B, Both()])
    assert table.index.tolist() == table.columns.tolist() == ["axis0", "axis1", "both"]
    half = math.sqrt(0.5)
    np.testing.assert_allclose(table, [[1, 0, half], [0, 1, half], [half, half, 1]], atol=1e-7)
    assert table.attrs["reference"] == pytest.approx(half)
    for wrong in ([], [A], [A, A]):
        with pytest.raises(bs.BasinscopeError, match="two or more, each once"):
            cosines(engine, wrong)


def test_random_directions_are_orthogonal_up_to_chance():
    """Null: cosines of 6 seeds at d = 10,000 are within 6 / sqrt(d); chance of an alarm < 1e-7."""
    engine = linear(*[1.0] * 10_000)
    table = cosines(engine, [bs.Random(s) for s in range(6)]).to_numpy()
    assert np.abs(table[~np.eye(6, dtype=bool)]).max() < 6 / 100


def test_a_surface_is_read_without_its_model(tmp_path):
    bs.surface(linear(0.0, 0.0), near(), A, B, xs=[1], ys=[1], run=tmp_path / "run")
    (tmp_path / "run" / "trials" / "x.json").write_text("{}")
    found = bs.load_run(tmp_path / "run")
    assert len(found.trials) == 1
    assert len(found.set_aside) == 1
    assert Store(tmp_path / "run").spec.plane == found.plane
