"""Noise is a function of name and position: however a tensor is cut, it gets the same."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basinscope.weights import noise

names = st.text(max_size=20)
seeds = st.integers(0, 2**80)
starts = st.integers(0, 2**60)
steps = st.floats(-(2.0**100), 2.0**100, width=32)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def same_bits(a, b):
    return a.dtype == b.dtype and a.float().numpy().tobytes() == b.float().numpy().tobytes()


@quick
@given(names, seeds, seeds, starts, st.lists(st.integers(0, 70), min_size=1, max_size=5))
def test_cut_anywhere_the_pieces_join(name, seed, draw, start, sizes):
    whole = noise.normals(name, sum(sizes), seed=seed, draw=draw, start=start)
    pieces, at = [], start
    for n in sizes:
        pieces.append(noise.normals(name, n, seed=seed, draw=draw, start=at))
        at += n
    assert same_bits(torch.cat(pieces), whole)


@quick
@given(names, seeds, seeds, starts, st.integers(0, 300))
def test_kernel_and_reference_agree(name, seed, draw, start, n):
    fast = noise.normals(name, n, seed=seed, draw=draw, start=start)
    slow = noise.normals_torch(name, n, seed=seed, draw=draw, start=start)
    assert same_bits(fast, slow)
    assert bool((fast.abs() < 6.77).all())


@quick
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30),
    steps,
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_perturbed_weights_are_the_rounded_sum(values, step, dtype):
    theta = torch.tensor(values, dtype=torch.float32).to(dtype)
    theta = theta[torch.isfinite(theta)]
    live = torch.empty_like(theta)
    noise.perturb(theta, live, step, "w", seed=1, draw=2)
    normals = noise.normals("w", theta.numel(), seed=1, draw=2)
    expected = theta.float() + normals * torch.tensor(step, dtype=torch.float32)
    assert same_bits(live, expected.to(dtype))
