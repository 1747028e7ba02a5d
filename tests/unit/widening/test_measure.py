"""Scores, NLL and widths of both basins."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

import basinscope as bs
from basinscope.engines.base import Engine
from basinscope.widening import measure
from basinscope.widening.measure import RATIO, Windows, _alpha, _crossing
from basinscope.widening.recipe import Measure
from basinscope.widening.tokens import Stream


class Copier(nn.Module):
    """Says that the next token is the present one, with some margin; wrong where weights say so."""

    def __init__(self, vocabulary: int = 8, margin: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.eye(vocabulary) * margin)
        self.config = SimpleNamespace(vocab_size=vocabulary)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table[input_ids])


def rows_of(tokens) -> Windows:
    rows = torch.tensor(tokens)
    return measure.Windows(rows, 0.25, math.log(8))


def test_score_and_nll_are_those_of_the_targets():
    seen = rows_of([[0, 0, 1, 1], [2, 3, 3, 3]])  # targets 0 1 1 and 3 3 3
    nll, score = measure.evaluate(Copier(), seen, nullcontext)
    assert score == pytest.approx(4 / 6)
    z = math.log(math.e + 7)
    assert nll == pytest.approx((4 * (z - 1) + 2 * z) / 6, rel=1e-6)


def test_small_batches_give_the_same(monkeypatch):
    module = Copier()
    seen = rows_of(torch.randint(8, (20, 9), generator=torch.Generator().manual_seed(0)).tolist())
    whole = measure.evaluate(module, seen, nullcontext)
    monkeypatch.setattr(measure, "LOGITS", 1)
    assert measure.evaluate(module, seen, nullcontext) == pytest.approx(whole, rel=1e-12)


def test_what_is_not_finite_is_wrong():
    module = Copier()
    with torch.no_grad():
        module.table[3] = math.nan
    nll, score = measure.evaluate(module, rows_of([[0, 0, 0], [3, 3, 3]]), nullcontext)
    assert math.isnan(nll)
    assert score == 0.5


def test_the_module_keeps_its_mode():
    module = Copier()
    for training in (True, False):
        module.train(training)
        measure.evaluate(module, rows_of([[0, 0]]), nullcontext)
        assert module.training is training


def test_floors_are_those_of_the_best_constant_answer():
    tokens = torch.tensor([5, 1, 1, 1, 2, 1, 1, 2, 3], dtype=torch.int32)
    seen = measure.windows(Stream(tokens, tokens, ""), 4, 9)
    assert seen.rows.tolist() == [[5, 1, 1, 1, 2], [2, 1, 1, 2, 3]]
    assert seen.score_floor == 5 / 9
    shares = [5 / 9, 2 / 9, 1 / 9, 1 / 9]
    assert seen.nll_floor == pytest.approx(-sum(p * math.log(p) for p in shares))


@pytest.mark.parametrize("start", [-5, 0, 3, 9])
@pytest.mark.parametrize("width", [0.02, 0.1, 0.7, 3.0])
def test_the_crossing_of_a_line_is_found_exactly_from_anywhere(start, width):
    asked = []

    def loss(place):
        asked.append(place)
        return 0.5 * _alpha(1.0, place) / width

    place, found = _crossing(loss, 0.5, start, 1.0)
    assert found == pytest.approx(width, rel=1e-9)
    assert _alpha(1.0, place - 1) <= width <= _alpha(1.0, place) * (1 + 1e-9)
    assert place + 1 in asked, "the curve is followed beyond the crossing"


def test_a_curve_that_never_crosses_has_no_width():
    assert _crossing(lambda place: 0.1, 0.5, 0, 1.0)[1] is None


def test_a_loss_that_is_nan_has_crossed():
    def loss(place):
        return 0.0 if _alpha(1.0, place) < 1.0 else math.nan

    _, found = _crossing(loss, 0.5, 0, 1.0)
    assert 1 / RATIO <= found <= 1.0


def measured(module, seen, draws=8, **settings):
    return measure.measure(module, seen, Measure(**settings), draws, nullcontext)


def test_the_width_of_a_known_basin():
    """A logit 1 above seven others, noise of scale a on each: the law of the score is known.

    S(a) = E Phi(Z + 1/a)^7. Null: the median over directions of the crossing, which is that of
    the fourth of eight independent thresholds, is the root of S(a) = 1/8 + 7/16 up to a bias of
    the order statistic below 3%. Its standard error over 64 directions is about 3%; the gate is
    10%. The wrong level S(a) = 1/2, with the floor forgotten, lies 14% above.
    """

    def score(a):
        return quad(lambda z: norm.pdf(z) * norm.cdf(z + 1 / a) ** 7, -8, 8)[0]

    expected = brentq(lambda a: score(a) - 9 / 16, 0.2, 3)
    rows = torch.arange(8)[:, None].expand(8, 5)
    found = measured(Copier(), Windows(rows, 1 / 8, math.log(8)), draws=64)
    assert found.score == 1.0
    assert found.width["score"].estimate == pytest.approx(expected, rel=0.1)
    assert found.width["score"].low < expected < found.width["score"].high


def test_a_scaled_model_is_as_wide_in_units_of_its_rms():
    seen = rows_of(torch.arange(8).repeat_interleave(4).reshape(-1, 4).tolist())
    one, ten = (measured(Copier(margin=m), seen) for m in (1.0, 10.0))
    ratio = [found.width["score"].estimate / found.rms for found in (one, ten)]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-6)
    assert ten.rms == pytest.approx(10 * one.rms, rel=1e-6)


def test_points_are_those_of_the_public_noise_and_the_weights_come_back():
    module, seen = Copier(), rows_of([[0, 0, 1, 1], [2, 3, 3, 3], [4, 4, 4, 4]])
    before = module.table.detach().clone()
    found = measured(module, seen, draws=3, seed=5)
    assert torch.equal(module.table, before)
    alpha, draw, score, nll = found.curves[-1]
    assert draw == 2
    with torch.no_grad():
        noise = bs.normals("table", 64, seed=5, draw=2).view(8, 8)
        module.table.copy_(before + alpha * noise)
    assert measure.evaluate(module, seen, nullcontext) == (pytest.approx(nll), score)


def test_a_model_no_better_than_a_constant_has_no_basin():
    module = Copier()
    with torch.no_grad():
        module.table.zero_()
        module.table[:, 0] = 1.0
    seen = Windows(torch.tensor([[1, 2, 0, 3, 1, 2]]), 0.4, 1.5)
    found = measured(module, seen)
    assert found.width["score"].estimate is None
    assert "no better than the best answer without context" in found.width["score"].reason
    assert found.widths == {"score": (), "nll": ()}


def test_rms_is_told_by_group(tiny):
    from basinscope.widening import recipe, study

    engine = Engine(study.gpt2(recipe.read(tiny())[0], vocabulary=20, end=0), source="x")
    found = measure.rms_by_group(engine)
    assert found.keys() == {"attention", "biases", "embeddings", "mlp", "norms", "positions"}
    wte = engine.pristine("transformer.wte.weight").double()
    assert found["embeddings"] == pytest.approx(float(wte.square().mean().sqrt()))
    assert found["norms"] == 1.0
    assert found["biases"] == 0.0
