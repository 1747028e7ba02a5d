"""Angles, planes and projections, against the same thing computed on flat vectors."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import basinscope as bs
from basinscope.directions import Direction
from basinscope.directions.planes import (
    Drawn,
    Orthogonal,
    Plane,
    cosine,
    cosines,
    project,
)
from basinscope.errors import BasinscopeError


def net(seed=0, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 10)).to(dtype)


def flat(direction, engine, draw=0):
    parts = [direction.delta(engine, name, draw).flatten() for name in engine.shapes]
    return torch.cat(parts).double().numpy()


def live(engine):
    return torch.cat([p.detach().flatten() for p in engine.module.parameters()]).double().numpy()


class Axis(Direction):
    """Ones on one parameter, or whatever is given."""

    label = "axis"

    def __init__(self, name, value=1.0):
        self.label, self.name, self.value = f"axis:{name}", name, value

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.value * (name == self.name))


@pytest.fixture
def engine():
    return bs.load(net())


@pytest.fixture
def checkpoint_of(tmp_path):
    """Write a net's weights; give the path."""

    def write(module, name="model"):
        path = tmp_path / f"{name}.safetensors"
        save_file({n: p.detach() for n, p in module.named_parameters()}, path)
        return str(path)

    return write


class TestCosines:
    def test_are_those_of_the_flat_vectors(self, engine, checkpoint_of):
        lines = [
            bs.Random(), bs.Random(1), bs.Toward(checkpoint_of(net(1))), bs.Quantised(3),
            Axis("0.bias"),
        ]  # fmt: skip
        vectors = np.stack([flat(line, engine) for line in lines])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found = cosines(engine, lines)
        assert found.dtype == np.float64
        assert found == pytest.approx(vectors @ vectors.T, abs=1e-7)
        assert (np.diagonal(found) == 1.0).all()
        assert (found == found.T).all()

    def test_of_opposites_and_strangers(self, engine):
        assert cosine(Axis("0.bias"), Axis("0.bias", -3.0), engine) == -1.0
        assert cosine(Axis("0.bias"), Axis("1.bias"), engine) == 0.0
        # |cosine| of independent normals exceeds 6 / sqrt(d) with probability 2e-9
        assert abs(cosine(bs.Random(), bs.Random(1), engine)) < 6 / math.sqrt(engine.d)

    def test_of_draws(self, engine):
        a, b = Drawn(bs.Random(), 3), Drawn(bs.Random(), 4)
        assert (flat(a, engine) == flat(bs.Random(), engine, 3)).all()
        vectors = [flat(bs.Random(), engine, draw) for draw in (3, 4)]
        expected = np.dot(*vectors) / np.prod([np.linalg.norm(v) for v in vectors])
        assert cosine(a, b, engine) == pytest.approx(expected, abs=1e-9)
        assert (a.label, Drawn(bs.Random(2)).label) == ("random#3", "random:2")
        assert a.identity(engine) != b.identity(engine)

    def test_refuse_what_has_no_angle(self, engine):
        with pytest.raises(BasinscopeError, match="cosines of no direction"):
            cosines(engine, [])
        with pytest.raises(BasinscopeError, match=r"axis:0.bias is zero or not finite"):
            cosines(engine, [bs.Random(), Axis("0.bias", 0.0)])
        with pytest.raises(BasinscopeError, match=r"axis:0.bias is zero or not finite"):
            cosines(engine, [Axis("0.bias", math.nan)])


class TestOrthogonal:
    def test_is_what_is_left_of_b_at_norm_sqrt_d(self, engine, checkpoint_of):
        a, b = bs.Toward(checkpoint_of(net(1))), bs.Toward(checkpoint_of(net(2), "b"))
        assert cosine(a, b, engine) > 0.3  # both lead away from the same theta0
        line = Orthogonal(b, a)
        u, v, w = (flat(d, engine) for d in (a, b, line))
        left = v - (v @ u) / (u @ u) * u
        assert w == pytest.approx(left * math.sqrt(engine.d) / np.linalg.norm(left), abs=1e-5)
        assert abs(cosine(line, a, engine)) < 1e-7
        assert line.sits_at(engine) is None

    def test_refuses_what_is_parallel(self, engine):
        with pytest.raises(BasinscopeError, match="are parallel"):
            Orthogonal(bs.Random(), bs.Random()).fit(engine)
        with pytest.raises(BasinscopeError, match="are parallel"):
            Orthogonal(Axis("0.bias", -2.0), Axis("0.bias")).fit(engine)


class TestPlane:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("orthogonal", [True, False])
    def test_points_lie_at_x_a_plus_y_b(self, dtype, orthogonal, checkpoint_of):
        engine = bs.load(net(dtype=dtype))
        plane = Plane(bs.Random(), bs.Toward(checkpoint_of(net(1))), orthogonal)
        a, b = (flat(axis, engine) for axis in plane.axes)
        before, theta = engine.fingerprint(), live(engine)
        for x, y in ((0.03, -0.2), (0.0, 0.1), (0.1, 0.0), (0.0, 0.0)):
            point = plane.at(x, y)
            assert flat(point, engine) == pytest.approx(x * a + y * b, abs=1e-6)
            with engine.at(point, step=1.0):
                wide = torch.tensor(theta + x * a + y * b)
                expected = wide.to(dtype).double().numpy()
                assert live(engine) == pytest.approx(expected, rel=1e-2, abs=1e-6)
            assert engine.fingerprint() == before

    def test_its_axes_are_the_slices(self, engine):
        plane = Plane(bs.Random(), bs.Random(1))
        for point, line, step in ((plane.at(0.1, 0), 0, 0.1), (plane.at(0, -0.2), 1, -0.2)):
            with engine.at(point, step=1.0):
                there = engine.fingerprint()
            with engine.at(bs.Random(line), step=step):
                assert engine.fingerprint() == there

    def test_points_have_names_and_identities_of_their_own(self, engine):
        plane = Plane(bs.Random(), bs.Random(1))
        points = [
            plane.at(0.1, 0.2), plane.at(0.2, 0.1), Plane(bs.Random(), bs.Random(2)).at(0.1, 0.2),
            Plane(bs.Random(), bs.Random(1), True).at(0.1, 0.2),
        ]  # fmt: skip
        assert len({point.label for point in points}) == 4
        assert len({point.identity(engine) for point in points}) == 4
        assert points[0].identity(engine) == plane.at(0.1, 0.2).identity(engine)
        assert plane.at(0.1, 0.2) == points[0]

    @pytest.mark.parametrize("point", [(math.nan, 0.0), (0.0, math.inf)])
    def test_refuses_points_that_are_nowhere(self, point):
        with pytest.raises(BasinscopeError, match=r"point .*finite coordinates"):
            Plane(bs.Random(), bs.Random(1)).at(*point)

    def test_points_have_one_draw(self, engine):
        for line in (Plane(bs.Random(), bs.Random(1)).at(1, 1), Drawn(bs.Random(), 2)):
            with pytest.raises(BasinscopeError, match=r"draw=1 of .*; allowed: 0, its only draw"):
                line.delta(engine, "0.bias", 1)


class TestProject:
    @pytest.mark.parametrize("orthogonal", [True, False])
    def test_finds_the_nearest_point(self, engine, orthogonal, checkpoint_of):
        first, second, third = (checkpoint_of(net(s), str(s)) for s in (1, 2, 3))
        plane = Plane(bs.Toward(first), bs.Toward(second), orthogonal)
        axes = np.stack([flat(axis, engine) for axis in plane.axes], axis=1)
        with torch.no_grad():
            there = torch.cat([p.flatten() for p in net(3).parameters()]).double().numpy()
        moved = there - live(engine)
        (x, y), *_ = np.linalg.lstsq(axes, moved, rcond=None)
        found = project(engine, plane, third)
        assert (found.x, found.y) == pytest.approx((x, y), rel=1e-5)
        left = np.linalg.norm(moved - axes @ [x, y])
        assert found.residual == pytest.approx(left, rel=1e-5)
        assert found == project(engine, plane, bs.Toward(third))

    def test_of_the_models_behind_the_axes(self, engine, checkpoint_of):
        a, b = (bs.Toward(checkpoint_of(net(s), str(s))) for s in (1, 2))
        plane = Plane(a, b)
        on_a, on_b = project(engine, plane, a), project(engine, plane, b)
        assert on_a == pytest.approx((a.sits_at(engine), 0.0, 0.0), abs=1e-6)
        assert on_b == pytest.approx((0.0, b.sits_at(engine), 0.0), abs=1e-6)

    def test_refuses(self, engine, checkpoint_of):
        model = bs.Toward(checkpoint_of(net(1)))
        with pytest.raises(BasinscopeError, match="no model is behind random"):
            project(engine, Plane(model, bs.Random(1)), bs.Random())
        with pytest.raises(BasinscopeError, match="are parallel"):
            project(engine, Plane(model, model), model)
