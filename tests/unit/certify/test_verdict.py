"""Verdicts: the norm, the bound, the word; certificates that were made for something else."""

import json
import math

import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.directions import save_direction

OPTIONS = {"sigma": 0.5, "draws": 60, "items_per_draw": 12}


@pytest.fixture
def cert(engine, task):
    return bs.certify(engine, task, **OPTIONS, target=0.6)


@pytest.fixture
def displaced(tmp_path):
    """Writes a saved direction with a displacement of a given vector."""

    def write(vector, name="v"):
        tensor = torch.tensor([vector], dtype=torch.float32)
        path = tmp_path / f"{name}.safetensors"
        save_direction(path, {"weight": tensor}, {}, displacement=float(tensor.norm()))
        return f"saved:{path}"

    return write


class TestWord:
    def test_certified_up_to_the_radius_and_no_further(self, cert):
        radius = cert.radius()
        assert cert.verdict(radius).word == "certified"
        assert cert.verdict(radius).ratio == pytest.approx(1.0)
        assert cert.verdict(radius * 1.001).word == "outside the certificate"
        assert cert.verdict(0.0).word == "certified"

    def test_vacuous_where_the_bound_is_no_better_than_chance(self, engine, make_task):
        cert = bs.certify(engine, make_task(chance=0.4), **OPTIONS, target=0.6)
        edge = cert.radius(0.4)
        assert cert.verdict(edge * 0.999).word == "outside the certificate"
        assert cert.verdict(edge * 1.001).word == "vacuous"
        assert "chance 0.400" in cert.verdict(edge * 1.001).reason

    def test_of_a_chance_of_zero_vacuous_means_a_bound_of_zero(self, cert):
        assert cert.verdict(1e9).word == "vacuous"
        assert cert.verdict(1e9).bound == 0.0

    def test_a_target_out_of_reach_is_certified_nowhere(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS)
        found = cert.verdict(0.0, target=0.999)
        assert found.word == "outside the certificate"
        assert math.isnan(found.ratio)
        assert "none, p is not certified" in found.reason

    def test_another_target(self, cert):
        assert cert.verdict(cert.radius(0.3), target=0.3).word == "certified"
        assert cert.verdict(cert.radius(0.3)).word == "outside the certificate"

    @pytest.mark.parametrize("r", [-1.0, math.nan])
    def test_refuses_what_is_no_distance(self, cert, r):
        with pytest.raises(bs.BasinscopeError, match=r"r=.*; allowed: a distance of at least 0"):
            cert.verdict(r)


class TestDisplacement:
    def test_norm_bound_and_measured_score(self, cert, task, displaced):
        word = displaced([0.1, 0, 0.2, 0, 0, 0, 0, -0.2])
        found = cert.verdict(word, task=task, draws=20)
        assert found.r == pytest.approx(0.3, rel=1e-6)
        assert found.bound == pytest.approx(cert.lower_bound(0.3), rel=1e-5)
        assert found.score.estimate in [n / 12 for n in range(13)]
        assert found.smoothed.low <= found.smoothed.estimate <= found.smoothed.high
        assert found.smoothed.high >= found.bound
        json.dumps(found.to_json(), allow_nan=False)
        assert "measured, not what is bounded" in str(found)

    def test_scores_the_displaced_model_itself(self, engine, cert, task, displaced):
        vector = [-2.0, 0.5, 0, 0, 0, 0, 0, 0]
        layer = nn.Linear(8, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(engine.module.weight + torch.tensor([vector]))
        expected = sum(o.correct for o in task.outcomes(layer)) / 12
        found = cert.verdict(displaced(vector), task=task)
        assert found.score.estimate == pytest.approx(expected)
        assert found.smoothed is None

    def test_toward_a_checkpoint(self, speaker, tmp_path):
        engine, task = speaker
        other = tmp_path / "other"
        copied = type(engine.module)(engine.module.config)
        copied.load_state_dict(engine.module.state_dict())
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.add_(1e-3)
        copied.save_pretrained(other)
        cert = bs.certify(engine, task, sigma=0.01, draws=12, confidence=0.8)
        found = cert.verdict(other, task=task)
        assert found.r == pytest.approx(1e-3 * math.sqrt(engine.d), rel=1e-3)
        assert found.label == f"to:{other}"

    def test_what_no_model_is_behind_is_refused(self, cert):
        with pytest.raises(bs.BasinscopeError, match="has no displacement"):
            cert.verdict(bs.Random(3))


class TestGeometries:
    def test_what_leaves_the_selection_is_outside(self, engine, task, displaced):
        # all noise on the one tensor that there is; then on a second one only
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1, 2))
                self.other = nn.Parameter(torch.ones(3))

        two = bs.load(Two())
        one = bs.CallableTask("x", lambda m: [float(m.other.detach().sum()) > 0], 1)
        cert = bs.certify(two, one, sigma=0.5, draws=60, items_per_draw=1, geometry="params:other")
        path = displaced([0.3, 0.4])
        with pytest.raises(bs.BasinscopeError, match="lacks 1 of 2 parameters"):
            cert.verdict(path)

    def test_loaded_from_its_folder_it_judges_the_same(self, engine, task, displaced, tmp_path):
        made = bs.certify(engine, task, **OPTIONS, geometry="rms", run=tmp_path / "x")
        word = displaced([0.1] * 8)
        loaded = bs.load_run(tmp_path / "x")
        assert loaded.verdict(word, engine) == made.verdict(word)
        with pytest.raises(bs.BasinscopeError, match="a certificate without its model"):
            loaded.verdict(word)

    def test_another_geometry_is_refused(self, engine, cert, displaced):
        with pytest.raises(bs.BasinscopeError, match="not the one that the certificate was made"):
            cert.verdict(displaced([0.1] * 8), geometry=bs.geometry("params:weight", engine))

    def test_other_weights_are_refused(self, cert, make_layer, displaced):
        with pytest.raises(bs.BasinscopeError, match="made for other weights: fingerprint"):
            cert.verdict(displaced([0.1] * 8), bs.load(make_layer(1)))

    def test_another_task_is_refused(self, cert, make_task, displaced):
        with pytest.raises(bs.BasinscopeError, match="is not the certificate's"):
            cert.verdict(displaced([0.1] * 8), task=make_task(11))

    def test_a_checkpoint_against_part_of_the_weights_is_refused(
        self, checkpoint, speaker, tmp_path
    ):
        _, task = speaker
        engine = bs.load(checkpoint, dtype="float32", params="mlp")
        cert = bs.certify(engine, task, sigma=0.01, draws=12, confidence=0.5)
        with pytest.raises(bs.BasinscopeError, match="certificate that compares every parameter"):
            cert.verdict(bs.Toward(str(checkpoint)))


def test_refuses_fewer_than_no_draws(cert, task):
    with pytest.raises(bs.BasinscopeError, match=r"draws=-1 of a verdict; allowed: at least 0"):
        cert.verdict("quantised:8", task=task, draws=-1)


class TestProject:
    def test_into_the_certified_ball(self, cert):
        move = {"weight": torch.full((1, 8), 0.5)}
        r = cert.project(move)
        assert r == pytest.approx(cert.radius(), rel=1e-5)
        assert float(move["weight"].norm()) <= cert.radius()
        assert cert.verdict(float(move["weight"].norm())).word == "certified"

    @pytest.mark.parametrize(
        ("move", "words"),
        [
            ({}, r"not of the perturbed parameters \(weight\)"),
            ({"weight": torch.ones(1, 8), "w": torch.ones(1)}, r"parameters \(w\); allowed: one"),
            ({"weight": torch.ones(8)}, r"'weight': \(8,\), .*allowed: shape \(1, 8\)"),
            ({"weight": torch.full((1, 8), torch.nan)}, "or not finite; allowed"),
            ({"weight": torch.ones(1, 8, dtype=torch.bfloat16)}, r"torch\.bfloat16, or not"),
        ],
        ids=["none", "more", "shape", "nan", "bfloat16"],
    )
    def test_refuses_what_has_no_norm_there(self, cert, move, words):
        with pytest.raises(bs.BasinscopeError, match=words):
            cert.project(move)

    def test_a_target_that_is_certified_nowhere_has_no_ball(self, cert):
        with pytest.raises(bs.BasinscopeError, match="radius nan; allowed: at least 0"):
            cert.project({"weight": torch.ones(1, 8)}, target=0.999)

    def test_needs_the_model(self, engine, task, tmp_path):
        bs.certify(engine, task, **OPTIONS, run=tmp_path / "x")
        with pytest.raises(bs.BasinscopeError, match="a certificate without its model"):
            bs.load_run(tmp_path / "x").project({})
