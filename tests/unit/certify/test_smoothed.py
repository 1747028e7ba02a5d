"""The smoothed model: noise of its own for each query, none left behind."""

import math

import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn

import basinscope as bs
from basinscope.tasks import Choices


def layer(theta=1.0):
    found = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        found.weight.fill_(theta)
    return bs.load(found)


def test_its_score_is_the_smoothed_score_of_the_certificate():
    # null: each item is right with probability Phi(2) under a draw of its own; 1e-6 by chance
    task = bs.CallableTask("positive", lambda m: [float(m.weight.detach()) > 0] * 600, 600)
    model = bs.smoothed(layer(), 0.5)
    found = model.score(task, confidence=0.9)
    assert scipy_stats.binomtest(found.correct, 600, scipy_stats.norm.cdf(2.0)).pvalue > 1e-6
    assert found.interval.low <= found.correct / 600 <= found.interval.high
    assert model.queries == 600
    assert "queries with noise of their own" in str(found)
    assert 0 < found.plain_seconds < found.seconds


def test_each_query_has_noise_of_its_own(checkpoint):
    engine = bs.load(checkpoint, dtype="float32")
    request = Choices("The Cat ", ("a", "b"))
    before = engine.fingerprint()
    model = bs.smoothed(engine, 0.01, seed=4)
    answers = model.answer([request, request, request])
    assert len({answer.loglik for answer in answers}) == 3
    with engine.at(bs.Random(4), step=0.01, draw=1):
        assert engine.answer([request])[0].loglik == pytest.approx(answers[1].loglik, abs=1e-4)
    assert engine.fingerprint() == before
    assert model.queries == 3
    assert bs.smoothed(engine, 0.01, seed=4).answer([request]) == answers[:1], "repeatable"


def test_in_the_certificates_geometry():
    model = bs.smoothed(layer(), 0.5, geometry="params:weight")
    assert model.noise.label == "noise:params:weight:0"


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_out_of_range(sigma):
    with pytest.raises(bs.BasinscopeError, match=r"sigma=.*; allowed: above 0 and finite"):
        bs.smoothed(layer(), sigma)
