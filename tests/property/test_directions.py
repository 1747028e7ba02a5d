"""Given directions: whatever the two models are, the slice passes through both."""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

import basinscope as bs
from basinscope.directions.planes import Plane, project
from basinscope.weights import kernels as sums
from basinscope.weights.parts import CHUNK

quick = settings(max_examples=60, deadline=None, derandomize=True)
# weights of a few magnitudes; zeros, of either sign, among them
weights = hnp.arrays(
    np.float32,
    12,
    elements=st.floats(-8, 8, width=16, allow_subnormal=False) | st.sampled_from([0.0, -0.0]),
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
grids = st.builds(
    bs.Quantised, st.integers(2, 16), st.none() | st.integers(1, 9), symmetric=st.booleans()
)


def linear(values, dtype=torch.float32):
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data = torch.tensor(values).reshape(3, 4).to(dtype)
    return module


def toward(folder, values, dtype):
    path = Path(folder) / "other.safetensors"
    save_file({"weight": linear(values, dtype).weight.detach()}, path)
    return bs.Toward(path)


@quick
@given(weights, weights, dtypes, dtypes)
def test_at_where_the_other_model_sits_the_weights_are_its(values, others, live, stored):
    engine, other = bs.load(linear(values, live)), linear(others, stored).weight.detach().double()
    theta = engine.pristine("weight").double()
    if bool((theta == other).all()):
        return
    with tempfile.TemporaryDirectory() as folder:
        line = toward(folder, others, stored)
        assert math.isclose(
            line.sits_at(engine) * math.sqrt(12), float((other - theta).norm()), rel_tol=1e-6
        )
        with engine.at(line, step=line.sits_at(engine)):
            there = engine.module.weight.detach().double()
        rounding = 2.0**-20 * torch.maximum(theta.abs(), other.abs())
        half = torch.finfo(live).eps / 2 * (other.abs() + rounding) + torch.finfo(live).tiny
        assert bool(((there - other).abs() <= rounding + half).all())
        if live == stored == torch.bfloat16:
            near = other.abs() > 2.0**-10 * theta.abs()
            assert torch.equal(there[near], other[near])
        assert project(engine, Plane(line, bs.Random(), True), line).residual < 1e-4


@quick
@given(weights, grids)
def test_quantised_lies_within_a_level_and_is_on_its_own_grid(values, grid):
    theta = torch.tensor(values).reshape(3, 4)
    rounded = grid.round(theta)
    size = grid.group or 4
    for row, own in zip(theta, rounded, strict=True):
        for start in range(0, 4, size):
            group, levels = row[start : start + size], own[start : start + size]
            if grid.symmetric:
                span, n, most = group.abs().max(), 2 ** (grid.bits - 1) - 1, 0.5
            else:  # the zero point is rounded too, so that an end may be half a level further off
                low, high = group.clamp(max=0).min(), group.clamp(min=0).max()
                span, n, most = high - low, 2**grid.bits - 1, 1.0
            assert bool(((levels - group).abs() <= span / n * most * (1 + 1e-4)).all())
            assert not levels[group == 0].any()
    assert torch.allclose(grid.round(rounded), rounded, atol=1e-4)


@quick
@given(
    hnp.arrays(np.uint32, 9, elements=st.integers(0, 2**32 - 1)),
    hnp.arrays(np.uint32, 9, elements=st.integers(0, 2**32 - 1)),
    st.floats(-4, 4, width=32),
    dtypes,
)
def test_compiled_sum_is_torchs(old, move, step, dtype):
    words = torch.from_numpy(old.view(np.int32)).view(torch.float32)
    theta = torch.where(words.isfinite(), words, 1.0).to(dtype)
    theta = torch.where(theta.isfinite(), theta, torch.ones_like(theta))
    delta = torch.from_numpy(move.view(np.int32)).view(torch.float32)
    live = torch.empty_like(theta)
    finite = sums.add(theta, live, step, delta)
    assert finite == bool(delta.isfinite().all())
    expected = (theta.float() + delta * torch.tensor(step)).to(dtype)
    same = live.float().nan_to_num(1.5) == expected.float().nan_to_num(1.5)
    assert not finite or bool(same.all())


def test_parts_join_whatever_their_number(tmp_path):
    n = 2 * CHUNK + 7
    module = torch.nn.Linear(n, 1, bias=False)
    save_file({"weight": torch.arange(n).reshape(1, n).float()}, tmp_path / "x.safetensors")
    engine, line = bs.load(module), bs.Toward(tmp_path / "x.safetensors")
    moved = torch.arange(n) - module.weight.detach()[0]
    delta = line.delta(engine, "weight")[0] * line.sits_at(engine)
    assert torch.allclose(delta, moved, rtol=1e-5)
    parts = line.parts(engine, "weight", 0, "cpu")
    for a, b in ((0, 1), (CHUNK - 1, CHUNK + 1), (5, n), (n - 1, n)):
        assert torch.equal(parts(a, b) * line.sits_at(engine), delta[a:b])
