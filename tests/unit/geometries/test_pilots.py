"""Subspaces found before the certificate: trajectories, gradients, chance."""

import math

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.directions import save_direction
from basinscope.geometries import random_subspace, subspace_from_gradients, subspace_from_trajectory

D = 8


def vector(*values):
    return np.array([*values, *[0.0] * (D - len(values))])


@pytest.fixture
def went(tmp_path):
    """Writes a checkpoint of the run as a direction with its displacement."""

    def write(name, v):
        tensor = torch.tensor(v[None], dtype=torch.float32)
        path = tmp_path / f"{name}.safetensors"
        save_direction(path, {"weight": tensor}, {}, displacement=float(tensor.norm()))
        return f"saved:{path}"

    return write


class TestTrajectory:
    def test_spans_where_the_checkpoints_went(self, engine, went, tmp_path):
        run = [went("a", vector(1.0, 2.0)), went("b", vector(2.0, 4.1)), went("c", vector(3, 6.0))]
        basis = subspace_from_trajectory(engine, run, 1, tmp_path / "u.safetensors")
        assert basis.k == 1
        assert basis.shares[0] > 0.999
        line = basis.noise(0).delta(engine, "weight")[0].double().numpy()
        assert abs(line @ vector(1.0, 2.0)) / np.linalg.norm(line) == pytest.approx(
            math.sqrt(5), rel=1e-3
        )

    def test_a_checkpoint_of_the_run_stays_inside_and_another_does_not(
        self, engine, task, went, tmp_path
    ):
        run = [went("a", vector(0.2, 0.1)), went("b", vector(0.0, 0.1))]
        basis = subspace_from_trajectory(engine, run, 2, tmp_path / "u.safetensors")
        cert = bs.certify(engine, task, sigma=0.2, draws=60, items_per_draw=12, geometry=basis)
        assert cert.verdict(run[0]).r == pytest.approx(math.hypot(0.2, 0.1), rel=1e-5)
        other = cert.verdict(went("c", vector(0.0, 0.0, 0.3)))
        assert math.isinf(other.r)
        assert other.bound == 0.0
        assert "leaves the geometry" in other.reason

    def test_wants_as_many_checkpoints_as_dimensions(self, engine, went, tmp_path):
        with pytest.raises(bs.BasinscopeError, match="k=2 of 1 displacements"):
            subspace_from_trajectory(engine, [went("a", vector(1))], 2, tmp_path / "u.safetensors")

    def test_the_certificate_refuses_a_basis_that_was_changed(self, engine, task, went, tmp_path):
        path = tmp_path / "u.safetensors"
        basis = subspace_from_trajectory(engine, [went("a", vector(1))], 1, path)
        bs.certify(engine, task, sigma=0.2, draws=60, geometry=basis, run=tmp_path / "x")
        loaded = bs.load_run(tmp_path / "x")
        assert loaded.verdict(went("b", vector(0.1)), engine).r == pytest.approx(0.1, rel=1e-5)
        subspace_from_trajectory(engine, [went("a", vector(0, 1))], 1, path)
        with pytest.raises(bs.BasinscopeError, match="not the one that the certificate was made"):
            loaded.verdict(went("b", vector(0.1)), engine)


class TestGradients:
    def test_spans_the_gradients(self, engine, tmp_path):
        losses = [lambda m: (m.weight[0, 0] + 2 * m.weight[0, 1]) * 3, lambda m: m.weight[0, 2]]
        before = engine.fingerprint()
        basis = subspace_from_gradients(engine, losses, 2, tmp_path / "g.safetensors")
        assert engine.fingerprint() == before
        assert engine.module.weight.grad is None
        found = basis.noise(0).delta(engine, "weight")[0]
        assert float(found[1]) == pytest.approx(2 * float(found[0]), rel=1e-5)
        assert not found[3:].any()
        assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"], "no scratch is left"

    @pytest.mark.parametrize(
        "loss", [lambda m: m.weight[0], lambda m: m.weight.sum() * math.nan], ids=["shape", "nan"]
    )
    def test_refuses_what_is_no_loss(self, engine, tmp_path, loss):
        with pytest.raises(bs.BasinscopeError, match="loss 0 has shape"):
            subspace_from_gradients(engine, [loss], 1, tmp_path / "g.safetensors")


def test_random_subspace_is_the_control(engine):
    basis = random_subspace(engine, 3, seed=1)
    assert (basis.k, basis.label) == (3, "random-subspace:3:1")
    assert bs.geometry(basis.label, engine).identity == basis.identity
