"""Likelihood beside the score: means and intervals from records, and what margins foretell."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

import basinscope as bs
from basinscope import stats
from basinscope.directions import Direction
from basinscope.errors import BasinscopeError
from basinscope.landscape.failures import failures
from basinscope.report.likelihood import plot_likelihood
from basinscope.report.text import notes, summary
from basinscope.tasks import Choices, Item, Outcome, Ranking

BEFORE = np.linspace(-1, 3, 21)  # margins at zero


class Moves:
    """Item i has a margin at zero of its own, which falls by 100 alpha and by chance besides.

    Its NLL is 5 minus its margin; with ``tokens`` item i holds i + 1 of them.
    """

    chance, scoring = 0.0, "moves/1"

    def __init__(self, name="moves", *, noise=0.0, tokens=False, lost=(), never=()):
        self.name, self.noise, self.tokens = name, noise, tokens
        self.lost, self.never = lost, never
        self.items = tuple(Item(f"{name}-{i}", (Choices("c", ("a",)),)) for i in range(21))

    def margins(self, alpha, draw):
        own = np.random.default_rng(draw).normal(0, 1, 21)
        return BEFORE - 100 * abs(alpha) + self.noise * own * (alpha != 0)

    def oracle(self, item, answers):
        (alpha, draw) = answers[0].loglik
        i = int(item.id.rpartition("-")[2])
        if i in self.never or (i in self.lost and alpha != 0):
            return Outcome(False, "too long", failed=True)
        margin = float(self.margins(alpha, int(draw))[i])
        return Outcome(margin > 0, "x", margin, 5 - margin, i + 1 if self.tokens else None)


class Axis(Direction):
    """The only weight goes from 0 to alpha; the bias is 1 + the draw."""

    label = "axis"

    def __init__(self, label="axis"):
        self.label = label

    def identity(self, engine, draw=0):
        return f"numbered {self.label}"

    def delta(self, engine, name, draw=0):
        shape = engine.shapes[name]
        return torch.ones(shape) if name == "weight" else torch.full(shape, 1.0 + draw)


class Echo(bs.Engine):
    """Answers with alpha and the draw that it can tell from the weights."""

    kind = "echo/2"

    def answer(self, requests):
        alpha = self.module.weight.item()
        draw = round(self.module.bias.item() / alpha) - 1 if alpha else 0
        return [Ranking((alpha, float(draw))) for _ in requests]


def measured(*tasks, steps=(0.0, 0.01, 0.02), draws=4, run=None, directions=None):
    module = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    return bs.landscape(
        Echo(module),
        list(tasks),
        directions=directions or [Axis()],
        steps=steps,
        draws=draws,
        run=run,
    )


def row_of(table, step):
    return table[np.isclose(table["step"], step)].iloc[0]


class TestLikelihood:
    def test_is_the_mean_with_an_interval_over_draws(self):
        task = Moves(noise=0.5)
        table = measured(task).likelihood()
        found = row_of(table, 0.01)
        alpha = np.float32(0.01)
        margins = np.array([task.margins(alpha, k) for k in range(4)])
        over_draws = stats.student(margins.mean(axis=1))
        assert (found.margin_low, found.margin, found.margin_high) == pytest.approx(
            (over_draws.low, over_draws.estimate, over_draws.high)
        )
        assert found.nll == pytest.approx(5 - found.margin)
        assert found.nll_low == pytest.approx(5 - found.margin_high)
        assert (found["unit"], found["items"], found.draws, found.missing) == ("answer", 21, 4, 0)
        assert found.score == pytest.approx((margins > 0).mean())

    def test_at_zero_is_known_exactly_where_there_are_several_draws(self):
        found = row_of(measured(Moves()).likelihood(), 0.0)
        assert found.margin_low == found.margin == found.margin_high == pytest.approx(1.0)
        assert found.nll_low == found.nll == found.nll_high == pytest.approx(4.0)

    def test_for_one_draw_has_an_interval_over_items(self):
        found = row_of(measured(Moves(), draws=1).likelihood(), 0.0)
        over_items = stats.student(BEFORE)
        assert (found.margin_low, found.margin_high) == pytest.approx(
            (over_items.low, over_items.high)
        )

    def test_of_tokens_is_a_mean_over_tokens(self):
        land = measured(Moves(tokens=True), draws=1)
        found = row_of(land.likelihood(), 0.0)
        assert found["unit"] == "token"
        assert found.nll == pytest.approx((5 - BEFORE).sum() / 231)
        items = land.items()
        own = items[items["step"] == 0]
        assert own["nll"].sum() / own["tokens"].sum() == pytest.approx(found.nll)
        assert found.margin == pytest.approx(1.0), "margins are of items"

    def test_of_an_item_that_never_has_one_leaves_it_out(self):
        found = measured(Moves(never=(0, 20))).likelihood()
        assert (found["items"] == 19).all()
        assert (found["missing"] == 0).all()
        assert row_of(found, 0.0).margin == pytest.approx(BEFORE[1:-1].mean())

    def test_of_an_item_that_loses_it_is_nan_and_counted(self):
        found = measured(Moves(lost=(20,))).likelihood()
        assert row_of(found, 0.0).nll == pytest.approx(4.0)
        lost = row_of(found, 0.01)
        assert math.isnan(lost.nll)
        assert math.isnan(lost.margin)
        assert lost.missing == 4, "one item in each of four draws"

    def test_of_tasks_without_likelihoods_has_no_row(self):
        land = bs.landscape(
            bs.load(torch.nn.Linear(1, 1)),
            bs.CallableTask("c", lambda module: [1, 0], n_items=2),
            steps=[0.0, 0.1],
        )
        assert land.likelihood().empty
        assert summary(land)["likelihood"] == []

    def test_of_a_run_without_step_zero_is_empty(self, tmp_path):
        land = measured(Moves(), run=tmp_path)
        without = bs.Landscape(land.spec, [t for t in land.trials if t.direction is not None])
        assert without.likelihood().empty


class TestThresholding:
    def test_margins_that_all_move_alike_foretell_everything(self):
        land = measured(Moves())
        table = land.thresholding("moves")
        assert table["step"].tolist() == [0.01, 0.02]
        assert (table["shift"] == table["score"]).all()
        assert (table["shift_error"] == 0).all()
        assert (table["auc"] == 1).all()
        assert table["margin_shift"].tolist() == pytest.approx([-1, -2], abs=1e-6)
        assert table["margin_sd"].tolist() == pytest.approx([0, 0], abs=1e-6)
        assert ((table["shift_low"] < 0) & (table["shift_high"] > 0)).all()

    def test_numbers_are_those_of_the_definition(self):
        task = Moves(noise=1.5)
        found = row_of(measured(task).thresholding("moves"), 0.02)
        alpha, right = np.float32(0.02), BEFORE > 0
        shifts, sds, by_shift, by_spread, areas, scores = [], [], [], [], [], []
        for draw in range(4):
            after = task.margins(alpha, draw)
            moved = after - BEFORE
            shifts.append(moved.mean())
            sds.append(moved.std())
            by_shift.append((BEFORE + moved.mean() > 0).mean())
            by_spread.append(norm.cdf((BEFORE + moved.mean()) / moved.std()).mean())
            areas.append(stats.auc(BEFORE[right], after[right] > 0))
            scores.append((after > 0).mean())
        for name, values in (
            ("margin_shift", shifts), ("margin_sd", sds), ("shift", by_shift),
            ("spread", by_spread), ("auc", areas), ("score", scores),
        ):  # fmt: skip
            assert found[name] == pytest.approx(np.mean(values)), name
        error = np.array(by_spread) - np.array(scores)
        bound = stats.mean_over_draws((error + 1) / 2)
        assert found.spread_error == pytest.approx(error.mean())
        assert found.spread_low == pytest.approx(2 * bound.low - 1)
        assert found.spread_high == pytest.approx(2 * bound.high - 1)
        assert (found.draws, found.auc_draws, found["items"]) == (4, 4, 21)

    def test_margins_that_say_nothing_have_an_auc_of_one_half(self):
        # null hypothesis: an AUC that follows the margins, 1 without noise. Chance alone gives a
        # mean of 40 draws within .12 of one half with 6 standard deviations to spare
        found = row_of(measured(Moves(noise=300.0), draws=40).thresholding("moves"), 0.01)
        assert found.auc == pytest.approx(0.5, abs=0.12)
        assert found.auc_low < 0.5 < found.auc_high

    def test_where_nothing_is_lost_the_auc_is_not_there(self):
        found = measured(Moves(), steps=(0.0, 1e-5)).thresholding("moves").iloc[0]
        assert math.isnan(found.auc)
        assert math.isnan(found.auc_low)
        assert found.auc_draws == 0

    def test_draws_without_an_answer_are_left_out_of_the_count(self):
        with pytest.raises(BasinscopeError, match=r"'moves' has no margins beside.* nll:FILE"):
            measured(Moves(lost=(3,))).thresholding("moves")
        assert (measured(Moves(never=(3,))).thresholding("moves")["items"] == 20).all()

    def test_of_an_unknown_task_is_refused(self):
        with pytest.raises(BasinscopeError, match=r"task 'x', not of this run; allowed: moves"):
            measured(Moves()).thresholding("x")


class TestFigure:
    def test_is_drawn_from_the_csv_beside_it(self, tmp_path):
        land = measured(Moves("a", noise=0.5), Moves("$b$", tokens=True))
        path = plot_likelihood(tmp_path / "f" / "likelihood.png", land)
        assert path.read_bytes().startswith(b"\x89PNG")
        table = pd.read_csv(path.with_suffix(".csv"))
        assert set(table["task"]) == {"a", "$b$"}
        assert {"nll", "nll_low", "margin_high", "score", "low"} <= set(table.columns)
        assert len(table) == 6
        assert table["nll"].tolist() == pytest.approx(land.likelihood()["nll"].tolist())

    @pytest.mark.parametrize("tasks", [("a",), ("a", "b")])
    def test_has_three_panels_a_task_in_which_no_two_directions_look_alike(
        self, tmp_path, monkeypatch, tasks
    ):
        saved, save = [], Figure.savefig
        monkeypatch.setattr(
            Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
        )
        land = measured(*map(Moves, tasks), directions=[Axis(str(n)) for n in range(6)])
        plot_likelihood(tmp_path / "likelihood.png", land)
        assert len(saved[0].axes) == 3 * len(tasks)
        for axis in saved[0].axes:
            seen = [(x.get_color(), x.get_marker()) for x in axis.lines if len(x.get_xdata()) > 2]
            assert len(seen) == 6
            assert len({colour for colour, _ in seen}) == len({mark for _, mark in seen}) == 6
        labels = [text.get_text() for text in saved[0].legends[0].get_texts()]
        assert labels == [*map(str, range(6)), "95% at each step"]

    def test_of_nothing_is_none(self, tmp_path):
        land = bs.landscape(
            bs.load(torch.nn.Linear(1, 1)),
            bs.CallableTask("c", lambda module: [1, 0], n_items=2),
            steps=[0.0],
        )
        assert plot_likelihood(tmp_path / "likelihood.png", land) is None
        assert not [*tmp_path.iterdir()]


class TestFailures:
    def test_are_named_with_their_number_and_reason(self):
        land = measured(Moves(never=(0, 1, 2, 3)), Moves("b", lost=(5,)), Moves("c"))
        assert failures(land) == [
            "moves: 4 of 21 items had no answer at step 0 and count as wrong "
            "(4 times: too long; items moves-0, moves-1, moves-2, ...)",
            "moves: 32 of 168 items had no answer at other steps and count as wrong "
            "(32 times: too long; items moves-0, moves-1, moves-2, ...)",
            "b: 8 of 168 items had no answer at other steps and count as wrong "
            "(8 times: too long; items b-5)",
        ]
        assert set(failures(land)) <= set(notes(land))
        assert summary(land)["failures"] == failures(land)

    def test_of_many_reasons_names_two(self):
        class Long(Moves):
            def oracle(self, item, answers):
                return Outcome(False, f"prompt of {len(item.id)} tokens", failed=True)

        land = measured(Long("t"), steps=(0.0,))
        (line,) = failures(land)
        assert "21 of 21 items" in line
        assert "11 times: prompt of 4 tokens; 10 times: prompt of 3 tokens; items" in line

    def test_are_none_where_all_have_answers(self):
        assert failures(measured(Moves())) == []
