"""Landscapes: what is planned, measured, resumed and computed from the records."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction

# --- toys with known landscapes -----------------------------------------------------------------


class Axis(Direction):
    """All ones (times a slope): a linear module's weights go from theta0 to theta0 + alpha."""

    label = "axis"

    def __init__(self, label: str = "axis", slope: float = 1.0) -> None:
        self.label, self.slope = label, slope

    def identity(self, engine, draw=0):
        return f"ones times {self.slope}"

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.slope)


def linear(weight: float = 1.0, n: int = 1) -> bs.Engine:
    module = torch.nn.Linear(n, 1, bias=False)
    torch.nn.init.constant_(module.weight, weight)
    return bs.load(module)


def box(name: str, low: float, high: float, *, n_items: int = 20, chance: float = 0.0, at=1.0):
    """All items right while low < alpha < high along `Axis`, none beyond."""

    def fn(module):
        alpha = module.weight.item() - at
        return [int(low < alpha < high)] * n_items

    return bs.CallableTask(name, fn, n_items=n_items, chance=chance)


class Counted:
    """A function of the module that notes at which first weight it was asked."""

    def __init__(self, fn) -> None:
        self.fn, self.at = fn, []

    def __call__(self, module):
        self.at.append(module.weight.flatten()[0].item())
        return self.fn(module)


def half_spaces(n: int) -> bs.CallableTask:
    """Item i is right while weight i is positive."""
    return bs.CallableTask("signs", lambda m: (m.weight[0] > 0).int(), n_items=n)


# --- explicit steps -----------------------------------------------------------------------------


def test_explicit_steps_are_sorted_and_zero_is_added():
    asked = Counted(lambda m: [1])
    task = bs.CallableTask("t", asked, n_items=1)
    land = bs.landscape(linear(), task, directions=[Axis()], steps=[0.5, -0.25, 0.5], draws=1)
    assert land.to_pandas()["step"].tolist() == [-0.25, 0.0, 0.5]
    assert land.spec.steps == (-0.25, 0.0, 0.5)
    assert sorted(asked.at) == [0.75, 1.0, 1.5]


def test_minus_zero_is_zero():
    task = box("t", -1, 1)
    one, two = (bs.landscape(linear(), task, steps=[z, 0.1], draws=1) for z in (0.0, -0.0))
    assert one.spec.hash == two.spec.hash
    assert one.trials == two.trials


def test_rows_of_every_table():
    n, draws, steps = 50, 3, [-1.0, 0.5, 2.0]
    land = bs.landscape(
        linear(n=n), half_spaces(n), directions=[bs.Random(3), Axis()], steps=steps, draws=draws
    )
    table = land.to_pandas()
    assert table.columns.tolist() == [
        "task", "direction", "draw", "step", "n", "correct", "score", "low", "high"
    ]  # fmt: skip
    assert len(table) == 2 * draws * 4
    assert (table["n"] == n).all()
    assert (table["score"] == table["correct"] / n).all()
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    one = table[(table["direction"] == "random:3") & (table["draw"] == 1)]
    assert one["step"].tolist() == [-1.0, 0.0, 0.5, 2.0]
    for row in table.itertuples():
        direction = bs.Random(3) if row.direction == "random:3" else Axis()
        delta = direction.delta(linear(n=n), "weight", row.draw)
        assert row.correct == int((1 + np.float32(row.step) * delta > 0).sum())

    items = land.items()
    assert items.columns.tolist() == [
        "task", "direction", "draw", "step", "item", "outcome", "label", "margin", "nll",
        "tokens",
    ]  # fmt: skip
    assert len(items) == len(table) * n
    assert set(items["outcome"]) == {0, 1}
    sums = items.groupby(["direction", "draw", "step"])["outcome"].sum()
    assert sums.to_dict() == table.set_index(["direction", "draw", "step"])["correct"].to_dict()
    assert items["margin"].isna().all()
    assert items["item"].tolist()[:3] == ["0", "1", "2"]

    means = land.means()
    assert means.columns.tolist() == [
        "task", "direction", "step", "draws", "score", "low", "high", "T"
    ]  # fmt: skip
    assert len(means) == 2 * 4
    assert (means["draws"] == np.where(means["step"] == 0, 1, draws)).all()
    expected = table.groupby(["direction", "step"])["score"].mean()
    got = means.set_index(["direction", "step"])["score"]
    assert got.to_dict() == pytest.approx(expected.to_dict())


def test_loss_is_normalised_over_each_curve():
    land = bs.landscape(
        linear(), [box("a", -1, 1), box("b", -9, 9)], directions=[Axis()], steps=[-2, -0.5, 2]
    )
    means = land.means().set_index(["task", "step"])
    assert means.loc["a", "T"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert means.loc["b", "T"].isna().all(), "a flat curve has no T, not T = 0"
    assert means.loc["a", "score"].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_intervals_over_items_for_one_draw_and_over_draws_for_several():
    one = bs.landscape(linear(), box("t", -1, 1), directions=[Axis()], steps=[0.5, 2], draws=1)
    for row in one.means().itertuples():
        exact = stats.clopper_pearson(int(row.score * 20), 20, 0.95)
        assert (row.low, row.high) == (exact.low, exact.high)
    land = bs.landscape(linear(), box("t", -1, 1), directions=[Axis()], steps=[0.5, 2], draws=12)
    several = land.means().set_index("step")
    assert several.loc[0.5, "low"] > several.loc[2.0, "high"]
    assert several.loc[0.5, "high"] == 1.0
    assert several.loc[2.0, "low"] == 0.0
    assert several.loc[0.0, "low"] == several.loc[0.0, "high"] == 1.0, "known on these items"
    more, less = land.means(confidence=0.99), land.means(confidence=0.5)
    assert (more["low"] <= less["low"]).all()


def test_compare_is_paired_by_item():
    def fn(module):  # alpha 1 loses items 0-9 and gains items 18, 19
        alpha = module.weight.item() - 1
        return [int(i >= 10) if alpha > 0.5 else int(i < 18) for i in range(20)]

    task = bs.CallableTask("t", fn, n_items=20)
    row = bs.landscape(linear(), task, directions=[Axis()], steps=[1], draws=1).compare()
    assert len(row) == 1, "zero is not compared with itself"
    row = row.iloc[0]
    assert (row["step"], row["draws"], row["gained"], row["lost"]) == (1.0, 1, 2, 10)
    assert row["difference"] == pytest.approx(-0.4)
    assert row["low"] <= -0.4 <= row["high"]
    assert row["p_value"] == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    over = bs.landscape(linear(), task, directions=[Axis()], steps=[1], draws=3).compare().iloc[0]
    assert over["draws"] == 3
    assert over["difference"] == pytest.approx(-0.4)
    assert math.isnan(over["p_value"])
    assert math.isnan(over["gained"])


# --- widths -------------------------------------------------------------------------------------


def test_width_on_both_sides():
    steps = np.linspace(-2, 2, 41)
    land = bs.landscape(linear(), box("t", -1.25, 0.55), directions=[Axis()], steps=steps, draws=1)
    right, left = land.width("t"), land.width("t", sign=-1)
    assert right.estimate == pytest.approx(0.55, abs=0.051)
    assert left.estimate == pytest.approx(1.25, abs=0.051)
    for width in (right, left):
        assert width.low <= width.estimate <= width.high < math.inf
        assert not width.unresolved
        assert width.unit == "items"
    assert land.width("t", draw=0) == right
    several = bs.landscape(
        linear(), box("t", -1.25, 0.55), directions=[Axis()], steps=steps, draws=10
    )
    assert several.width("t").unit == "draws"
    assert several.width("t").n_units == 10
    assert several.width("t").estimate == pytest.approx(0.55, abs=0.051)
    assert several.width("t", draw=7) == right


def test_width_at_other_levels_of_a_slope():
    def fn(module):  # the score falls in a straight line from 1 at alpha 0 to 0 at alpha 1
        alpha = abs(module.weight.item() - 1)
        return [int(i / 40 >= alpha - 1e-6) for i in range(40)][::-1]

    task = bs.CallableTask("t", fn, n_items=40)
    land = bs.landscape(linear(), task, directions=[Axis()], steps=np.linspace(0, 2, 41), draws=1)
    for level in (0.25, 0.5, 0.75):
        assert land.width("t", level).estimate == pytest.approx(level, abs=0.03)


def test_unresolved_width_says_why():
    land = bs.landscape(linear(), box("t", -1, 1), directions=[Axis()], steps=[0.5, -2], draws=1)
    width = land.width("t")
    assert width.unresolved
    assert math.isnan(width.estimate)
    assert math.isinf(width.high)
    assert "measure further out" in width.reason
    none = bs.landscape(
        linear(), box("t", -1, 1, chance=0.99), directions=[Axis()], steps=[2], draws=1
    )
    assert "not above chance" in none.width("t").reason


def test_widths_is_one_row_for_each_measured_side():
    tasks = [box("a", -1, 1), box("b", -1, 0.3)]
    land = bs.landscape(
        linear(2.0), [bs.CallableTask(t.name, shifted(t.fn), n_items=20) for t in tasks],
        directions=[Axis(), Axis("steep", 2.0)], steps=[-2, -0.5, 0.5, 2], draws=1,
    )  # fmt: skip
    table = land.widths()
    assert list(zip(table["task"], table["direction"], table["sign"], strict=True)) == [
        (task, line, sign) for task in "ab" for line in ("axis", "steep") for sign in (1, -1)
    ]
    assert (table["width_rms"] == table["width"] / 2).all()
    assert (table["high_rms"] == table["high"] / 2).all()
    one_side = bs.landscape(linear(), tasks, directions=[Axis()], steps=[2], draws=1).widths()
    assert one_side["sign"].tolist() == [1, 1]


def shifted(fn):
    """The same function of alpha for theta0 = 2."""

    def moved(module):
        copy = torch.nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            copy.weight.copy_(module.weight - 1)
        return fn(copy)

    return moved


def test_only_step_zero():
    land = bs.landscape(linear(), box("t", -1, 1), steps=[0.0], draws=4)
    assert len(land.to_pandas()) == len(land.means()) == len(land.widths()) == 1
    assert land.means()["score"].tolist() == [1.0]
    assert land.widths()["reason"].tolist() == ["nothing but step 0 was measured"]
    assert land.compare().empty
    with pytest.raises(
        bs.BasinscopeError, match=r"direction None of task 't'; allowed: one that was"
    ):
        land.width("t")


def test_weights_that_are_all_zero_have_no_rms():
    land = bs.landscape(
        linear(0.0), box("t", -1, 1, at=0.0), directions=[Axis()], steps=[2, -2], draws=1
    )
    assert land.spec.model.rms == 0
    assert land.widths()["width_rms"].isna().all()
    assert land.widths()["width"].tolist() == [1.0, 1.0]


def test_unknown_names_list_the_known_ones():
    land = bs.landscape(
        linear(), box("t", -1, 1), directions=[Axis(), bs.Random(0)], steps=[2], draws=2
    )
    with pytest.raises(bs.BasinscopeError, match="task 'x', not of this run; allowed: t"):
        land.width("x")
    with pytest.raises(bs.BasinscopeError, match="direction 'x' of task 't'; allowed: axis"):
        land.width("t", direction="x")
    with pytest.raises(bs.BasinscopeError, match="direction None of task 't'; allowed: axis"):
        land.width("t")
    with pytest.raises(bs.BasinscopeError, match=r"nothing of 't' .* draw 7"):
        land.width("t", direction="axis", draw=7)
    with pytest.raises(bs.BasinscopeError, match=r"sign -1; allowed: steps of that draw and sign"):
        land.width("t", direction="axis", sign=-1)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(bs.BasinscopeError, match="level="):
            land.width("t", level, direction="axis")


# --- automatic steps ----------------------------------------------------------------------------


def test_search_finds_edges_on_both_sides_at_several_scales():
    edges = {"wide": (-7.0, 3.0), "middle": (-0.3, 0.42), "narrow": (-0.0021, 0.0013)}
    tasks = [box(name, low, high) for name, (low, high) in edges.items()]
    land = bs.landscape(linear(), tasks, directions=[Axis()], draws=1)
    for name, (low, high) in edges.items():
        for sign, edge in ((1, high), (-1, -low)):
            width = land.width(name, sign=sign)
            assert width.estimate == pytest.approx(edge, rel=0.15)
            assert width.low < edge <= width.high <= 1.2 * width.low
    steps = {abs(t.step) for t in land.trials}
    assert len(steps) < 60
    assert all(float(f"{s:.3g}") == s for s in steps), "steps can be read and typed again"


def test_search_scales_with_the_weights():
    found = []
    for scale in (1e-3, 1.0, 100.0):

        def fn(module, scale=scale):
            return [int(abs(module.weight.item() / scale - 1) < 0.2)] * 20

        task = bs.CallableTask("t", fn, n_items=20)
        asked = bs.landscape(linear(scale), task, directions=[Axis()], draws=1)
        found.append(asked.width("t").estimate / scale)
    assert found == pytest.approx([0.2] * 3, rel=0.15)


def test_search_follows_the_mean_over_random_draws():
    n = 400
    land = bs.landscape(
        linear(n=n), half_spaces(n), directions=[bs.Random(5)], draws=4, level=0.25, outcomes=1600
    )
    # score Phi(1/alpha), so 0.75 at alpha = 1/0.6745
    for sign in (1, -1):
        width = land.width("signs", 0.25, sign=sign)
        assert width.estimate == pytest.approx(1 / 0.67449, rel=0.15)
    assert {len(s) for step, s in land.curve("signs", "random:5").items() if step} == {4}


def test_search_skips_a_task_at_chance_and_ends_where_nothing_falls():
    asked = Counted(lambda m: [1, 0] * 10)
    lucky = bs.CallableTask("lucky", asked, n_items=20, chance=0.5)
    never = bs.CallableTask("never", lambda m: [1] * 20, n_items=20)
    land = bs.landscape(linear(), lucky, directions=[Axis()], draws=1)
    assert sorted({t.step for t in land.trials}) == [-0.05, 0.0, 0.05]
    assert "not above chance" in land.width("lucky").reason
    land = bs.landscape(linear(), never, directions=[Axis()], draws=1)
    assert max(t.step for t in land.trials) >= 16
    assert len(land.trials) < 30
    assert land.width("never").unresolved


def test_search_ends_where_everything_falls_at_once():
    task = bs.CallableTask("t", lambda m: [int(m.weight[0, 0].item() == 1.0)] * 20, n_items=20)
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(module.weight)
    land = bs.landscape(bs.load(module), task, directions=[Axis()], draws=1)
    assert len(land.trials) < 60
    assert land.width("t").low == 0.0
    assert land.width("t").high <= 1e-6


def test_search_resumes_without_measuring_anything_anew(tmp_path):
    asked = Counted(box("t", -0.3, 0.1).fn)
    task = bs.CallableTask("t", asked, n_items=20)
    first = bs.landscape(linear(), task, directions=[Axis()], draws=2, run=tmp_path)
    n = len(asked.at)
    assert n == first.records > len(first.trials), "points that took more than one look"
    again = bs.landscape(linear(), task, directions=[Axis()], draws=2, run=tmp_path)
    assert len(asked.at) == n
    assert again.trials == first.trials
    assert again.spec == first.spec


# --- resuming and growing -----------------------------------------------------------------------


def test_resume_measures_only_what_is_missing(tmp_path):
    asked = Counted(lambda m: [1])
    task = bs.CallableTask("t", asked, n_items=1)
    plan = {"steps": [-1, 1], "draws": 3, "run": tmp_path}
    first = bs.landscape(linear(), task, **plan)
    assert len(asked.at) == 7
    lost = sorted((tmp_path / "trials").glob("*.json"))[3]
    lost.unlink()
    again = bs.landscape(linear(), task, **plan)
    assert len(asked.at) == 8
    assert again.trials == first.trials == bs.load_run(tmp_path).trials
    assert lost.exists()


def test_a_plan_may_grow_in_its_folder(tmp_path):
    calls = {"a": 0, "b": 0}

    def task(name):
        def fn(module):
            calls[name] += 1
            return [1, 0]

        return bs.CallableTask(name, fn, n_items=2)

    def grow(names="a", steps=(1,), draws=1, directions=("random",)):
        before = sum(calls.values())
        lines = [bs.Random(int(word.partition(":")[2] or 0)) for word in directions]
        land = bs.landscape(
            linear(), [task(n) for n in names], directions=lines, steps=steps, draws=draws,
            run=tmp_path,
        )  # fmt: skip
        return land, sum(calls.values()) - before

    assert grow()[1] == 2
    assert grow(draws=3)[1] == 2
    assert grow(draws=3, steps=(1, -1))[1] == 3
    assert grow(draws=3, steps=(1, -1), names="ab")[1] == 7
    land, new = grow(draws=3, steps=(1, -1), names="ab", directions=("random", "random:1"))
    assert new == 12
    assert land.directions() == ["random", "random:1"]
    assert len(land.trials) == 2 * (1 + 2 * 3 * 2)
    smaller, new = grow()
    assert new == 0
    assert smaller.trials == land.trials, "a smaller plan forgets nothing"
    assert smaller.spec.draws == 1
    assert [t.name for t in smaller.spec.tasks] == ["a", "b"]
    assert bs.load_run(tmp_path).to_pandas().equals(land.to_pandas())


def test_two_seeds_are_two_directions():
    n = 60
    land = bs.landscape(
        linear(n=n), half_spaces(n), directions=[bs.Random(0), bs.Random(1)], steps=[1], draws=2
    )
    outcomes = {(t.direction, t.draw): t.correct for t in land.trials if t.direction is not None}
    assert len(outcomes) == len(set(outcomes.values())) == 4


class Anonymous(Direction):
    """A direction without an identity, of which only the bytes are known."""

    label = "mine"

    def __init__(self, value: float) -> None:
        self.value = value

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.value)


def test_a_custom_direction_is_addressed_by_its_bytes(tmp_path):
    task = box("t", -1, 1)

    def measure(value, run):
        return bs.landscape(
            linear(), task, directions=[Anonymous(value)], steps=[2], draws=2, run=run
        )

    land = measure(1.0, tmp_path)
    assert land.directions() == ["mine"]
    assert measure(1.0, tmp_path).trials == land.trials
    keys = {t.key["direction"] for t in land.trials if t.direction}
    assert all(key.startswith("sha256:") for key in keys)
    with pytest.raises(
        bs.BasinscopeError, match=r"holds another direction called 'mine'.*another label"
    ):
        measure(0.5, tmp_path)
    assert bs.load_run(tmp_path).trials == land.trials


def test_one_direction_under_two_labels_is_refused(tmp_path):
    task = box("t", -1, 1)
    with pytest.raises(bs.BasinscopeError, match="directions 'axis' and 'also' are the same"):
        bs.landscape(linear(), task, directions=[Axis(), Axis("also")], steps=[2])
    land = bs.landscape(linear(), task, directions=[Axis()], steps=[2], run=tmp_path)
    with pytest.raises(
        bs.BasinscopeError, match=r"holds the direction 'also' as 'axis'.*the old label"
    ):
        bs.landscape(linear(), task, directions=[Axis("also")], steps=[2], run=tmp_path)
    assert bs.load_run(tmp_path).trials == land.trials


# --- what is kept when something goes wrong -----------------------------------------------------


class Stop(Exception):
    pass


ERRORS = [Stop("in the middle"), KeyboardInterrupt("in the middle"),
          bs.BasinscopeError("in the middle", "a", "b")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_defect_3_what_was_measured_before_an_exception_is_in_the_folder(error, tmp_path):
    """Saving only at the end of a run loses it all."""
    asked = Counted(lambda m: [1])

    def fn(module):
        if len(asked.at) == 4:
            raise error
        return asked(module)

    engine = linear(n=3)
    theta0 = engine.module.weight.detach().clone()
    task = bs.CallableTask("t", fn, n_items=1)
    with pytest.raises(type(error), match="in the middle"):
        bs.landscape(engine, task, steps=[1, 2], draws=4, run=tmp_path)
    assert torch.equal(engine.module.weight, theta0)
    assert len(bs.load_run(tmp_path).trials) == 4
    assert len(list((tmp_path / "trials").iterdir())) == 4
    task = bs.CallableTask("t", asked, n_items=1)
    land = bs.landscape(engine, task, steps=[1, 2], draws=4, run=tmp_path)
    assert len(asked.at) == len(land.trials) == 9


def test_an_exception_of_the_progress_keeps_the_trial_and_the_weights(tmp_path):
    def progress(done, planned, what):
        if done == 3:
            raise Stop("enough")

    engine = linear()
    theta0 = engine.fingerprint()
    with pytest.raises(Stop, match="enough"):
        bs.landscape(
            engine, box("t", -1, 1), steps=[1, 2], draws=2, run=tmp_path, progress=progress
        )
    assert engine.fingerprint() == theta0
    assert len(bs.load_run(tmp_path).trials) == 3


def test_progress_counts_up_to_the_plan(tmp_path):
    told = []
    plan = {"steps": [1, 2], "draws": 2, "run": tmp_path}
    bs.landscape(linear(), box("t", -1, 1), **plan, progress=lambda *a: told.append(a))
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4, 5]
    assert {planned for _, planned, _ in told} == {5}
    assert told[-1][2] == "t at 2"
    told.clear()
    bs.landscape(linear(), box("t", -1, 1), **plan, progress=lambda *a: told.append(a))
    assert told == [(5, 5, "")]


def test_weights_are_restored():
    engine = linear(n=5)
    theta0, version = engine.fingerprint(), engine.epoch
    bs.landscape(engine, half_spaces(5), steps=[-3, 3], draws=2)
    assert engine.fingerprint() == theta0
    assert engine.epoch > version


def test_what_a_task_does_to_the_weights_is_undone_before_the_next():
    seen = []

    def fn(module):
        seen.append(module.weight.item())
        with torch.no_grad():
            module.weight.add_(1)
        return [1]

    engine = linear()
    before = engine.fingerprint()
    tasks = [bs.CallableTask(name, fn, n_items=1) for name in ("first", "second")]
    bs.landscape(engine, tasks, directions=[Axis()], steps=[1], draws=1)
    assert seen == [1.0, 1.0, 2.0, 2.0]
    assert engine.fingerprint() == before


def test_defect_7_no_mirrored_or_padded_curves(tmp_path):
    """The picture's CSV holds exactly the measured steps, each side its own."""
    land = bs.landscape(
        linear(), box("t", -1, 1), directions=[Axis()], steps=[0.5, 1.5, 3], draws=2
    )
    land.plot(tmp_path / "x.png")
    table = pd.read_csv(tmp_path / "x.csv")
    assert table["step"].tolist() == [0.0, 0.5, 1.5, 3.0]
    with pytest.raises(bs.BasinscopeError, match="sign -1"):
        land.width("t", sign=-1)
    sides = bs.landscape(
        linear(), box("t", -0.3, 2), directions=[Axis()], steps=[-1, -0.5, 0.5, 1], draws=1
    )
    sides.plot(tmp_path / "y.png")
    table = pd.read_csv(tmp_path / "y.csv")
    assert table["step"].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert table["score"].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws=0; allowed: at least 1"),
        ({"draws": -3}, "draws=-3"),
        ({"level": 0}, "level=0; allowed: between 0 and 1"),
        ({"level": 1}, "level=1"),
        ({"level": math.nan}, "level=nan"),
        ({"steps": []}, r"steps=\[\]; allowed: at least one, all finite"),
        ({"steps": [0.1, math.nan]}, "steps="),
        ({"steps": [math.inf]}, "steps="),
        ({"workers": 0}, "workers=0; allowed: at least 1"),
        ({"workers": -1}, "workers=-1"),
        ({"directions": []}, r"directions: \[\]; allowed: one or more"),
        ({"directions": [Axis(), Axis()]}, r"directions: \['axis', 'axis'\].*each once"),
        ({"directions": [bs.Random(0), Axis("random", 2.0)]}, "each once"),
    ],
)
def test_senseless_plans_are_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.landscape(linear(), box("t", -1, 1), run=tmp_path / "run", **{"steps": [1.0], **options})
    assert not (tmp_path / "run").exists()


def test_senseless_tasks_are_refused(tmp_path):
    class Empty:
        name, chance, scoring, items = "empty", 0.0, "none/1", ()

        def oracle(self, item, answers):
            raise AssertionError

    with pytest.raises(bs.BasinscopeError, match=r"tasks: \[\]; allowed: one or more"):
        bs.landscape(linear(), [], steps=[1])
    with pytest.raises(bs.BasinscopeError, match=r"tasks: \['t', 't'\].*each once"):
        bs.landscape(linear(), [box("t", -1, 1), box("t", -2, 2)], steps=[1])
    with pytest.raises(bs.BasinscopeError, match="task 'empty' has no items"):
        bs.landscape(linear(), Empty(), steps=[1])
    with pytest.raises(bs.BasinscopeError, match="no tokenizer"):
        bs.landscape(linear(), bs.tasks("basic", limit=1), steps=[1])


def test_load_run_equals_what_was_returned(tmp_path):
    n = 30
    land = bs.landscape(
        linear(n=n), half_spaces(n), directions=[bs.Random(0), Axis()], steps=[-1, 0.5], draws=2,
        run=tmp_path,
    )  # fmt: skip
    read = bs.load_run(tmp_path)
    assert read.spec == land.spec
    assert read.trials == land.trials
    assert read.set_aside == ()
    for table in ("to_pandas", "items", "means", "compare", "widths"):
        pd.testing.assert_frame_equal(getattr(read, table)(), getattr(land, table)())
