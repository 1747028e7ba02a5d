"""The kernel for cards: its bits in Triton's interpreter, and what it is compiled to."""

import json
import os
import subprocess
import sys

import numpy as np
import pretended
import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.geometries.base import PerTensor
from basinscope.weights import noise

triton = pytest.importorskip("triton", reason="Triton is made for Linux on x86-64 alone")
tl = pytest.importorskip("triton.language")
kernel = pytest.importorskip("basinscope.weights.triton_noise")

BIG = 1 << 16  # counters of one program: the interpreter takes as long for fewer
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
PAIRS = [(F32, F32), (BF16, BF16), (F16, F16), (F32, BF16), (F32, F16)]
CPU = torch.device("cpu")

# NumPy says so in the interpreter, where float16 ends
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")


def same_bits(a, b):
    words = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(words), b.view(words))


def by_numba(blocks, first, key):
    out = np.empty(4 * blocks, np.float32)
    noise._fill(out, first, *noise._words(key))
    return torch.from_numpy(out)


def by_torch(theta, dtype, step, std, key_of):
    normals = noise.normals("w", theta.numel(), **key_of)
    z = normals * torch.tensor(std, dtype=F32)
    return (theta.float() + z * torch.tensor(step, dtype=F32)).to(dtype)


# --- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 2, 3, 1021, 2**32 - 2, 2**34 - 5, 2**34 + 7, 2**62 + 1])
@pytest.mark.parametrize("n", [0, 1, 5, 4099])
def test_normals_of_any_length_from_anywhere(n, start):
    there = kernel.normals(n, noise.stream("w", 1, 2), start=start, device=CPU)
    assert same_bits(there, noise.normals("w", n, seed=1, draw=2, start=start))


def test_ten_million_normals():
    for draw, start in enumerate(k * 2**36 for k in range(10)):
        n = 1 << 20
        there = kernel.normals(n, noise.stream("w", 0, draw), start=start, device=CPU, block=BIG)
        assert same_bits(there, noise.normals("w", n, draw=draw, start=start))


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=str)
@pytest.mark.parametrize("n", [1, 4096, 5003])
@pytest.mark.parametrize(("step", "std"), [(0.01, 1.0), (-3.7, 0.3), (1e-42, 1.0), (1e5, 1e3)])
def test_sums_rounded_once(old, new, n, step, std):
    theta = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(old)
    live = torch.empty(n, dtype=new)
    kernel.perturb(theta, live, step, noise.stream("w", 3, 4), std=std)
    assert same_bits(live, by_torch(theta, new, step, std, {"seed": 3, "draw": 4}))


def test_sums_from_a_position_on_as_a_shard_has_them():
    theta = torch.randn(1003, generator=torch.Generator().manual_seed(0))
    live = theta.clone()
    kernel.perturb(live, live, 0.5, noise.stream("w", 0, 0), start=2**33 + 1)
    assert same_bits(live, by_torch(theta, F32, 0.5, 1.0, {"start": 2**33 + 1}))


# --- traps --------------------------------------------------------------------------------------


@triton.jit
def _transform(x, y, out, N: tl.constexpr):
    place = tl.arange(0, N)
    a = tl.load(x + place).to(tl.uint32, bitcast=True)
    b = tl.load(y + place).to(tl.uint32, bitcast=True)
    cos, sin = kernel._box_muller(a, b)
    tl.store(out + 2 * place, cos)
    tl.store(out + 2 * place + 1, sin)


def test_the_sign_of_zero():
    """The 128 highest words give u = 1 and a radius of -0; some angles a sine of 0."""
    highest = np.arange(2**32 - 256, 2**32, dtype=np.uint32)
    corners = np.array([0, 1, 2**31 - 1, 2**31], np.uint32)
    turns = np.array([q << 30 | a for q in range(4) for a in (0, 1, 2**29 - 1, 2**29, 2**30 - 1)])
    x, y = (g.ravel() for g in np.meshgrid(np.concatenate([highest, corners]), turns))
    n = 1 << int(np.ceil(np.log2(len(x))))
    x, y = (np.resize(words.astype(np.uint32), n) for words in (x, y))
    here, there = np.empty(2 * n, np.float32), torch.empty(2 * n)
    noise._normals_of(x, y, here, n)
    _transform[(1,)](*(torch.from_numpy(w.view(np.int32)) for w in (x, y)), there, N=n)
    assert same_bits(there, torch.from_numpy(here))
    assert (np.signbit(here) & (here == 0)).any()
    by_torch = noise._box_muller_torch(*(torch.from_numpy(w.astype(np.int64)) for w in (x, y)))
    assert same_bits(torch.stack(by_torch, dim=1).flatten(), torch.from_numpy(here))


@pytest.mark.parametrize("key", [(2**32 - 1,) * 4, (2**31,) * 4, (2**31 - 1,) * 4, (1,) * 4,
                                 (16, 1, 0, 2**31)])  # fmt: skip
def test_keys_of_any_size(key):
    """From 2^31 on they would be 64 bits wide; 1 and 16 would be taken for constants."""
    for first in (0, 1, 16):
        there = kernel.normals(64, key, start=4 * first, device=CPU)
        assert same_bits(there, by_numba(16, first, key))


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_ties_are_rounded_to_even(dtype):
    """Triton's interpreter truncates what it takes for bfloat16."""
    shift = {BF16: 16, F16: 13}[dtype]
    words = torch.arange(
        127 << 23, (127 << 23) + (64 << shift), 1 << (shift - 2), dtype=torch.int32
    )
    theta = words.view(F32)
    live = torch.empty(len(theta), dtype=dtype)
    kernel.perturb(theta, live, 0.0, noise.stream("w", 0, 0))
    assert same_bits(live, theta.to(dtype))


COMPILED = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from basinscope.weights import triton_noise as kernel

PTX = {}
for old, new, add, fusion in json.loads(input()):
    pointers = ("*fp32", "*i16", "*fp16")
    types = dict(theta=pointers[old], live=pointers[new], step="fp32", std="fp32", n="i64",
                 first="i64", k0="i32", k1="i32", c2="i32", c3="i32")
    constants = dict(SKIP=0, ADD=add, OLD=old, NEW=new, BLOCK=kernel._BLOCK)
    aligned = {(place,): [["tt.divisibility", 16]] for place in (0, 1, 4)}
    source = ASTSource(kernel._kernel, types | dict.fromkeys(constants, "constexpr"), constants,
                       aligned)
    target = GPUTarget("cuda", 90, 32)
    made = triton.compile(source, target=target, options={"enable_fp_fusion": fusion})
    PTX[f"{old}{new}{fusion}"] = made.asm["ptx"]
print(json.dumps([PTX, [p.name for p in kernel._kernel.params if p.do_not_specialize]]))
"""


def test_what_it_is_compiled_to_without_a_card(tmp_path):
    """For sm_90: nothing fused, no denormal flushed, no 64-bit division, memory in 128 bits."""
    kinds = [(0, 0, True), (1, 1, True), (0, 2, True)]
    orders = [(*kind, False) for kind in kinds] + [(0, 0, True, True)]
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], input=json.dumps(orders), check=True, text=True,
        capture_output=True, env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    texts, general = json.loads(done.stdout)
    assert "fma.rn.f32" in texts.pop("00True")  # so the search below would find one
    for text in texts.values():
        assert "sqrt.rn.f32" in text
        assert "st.global.v4.b32" in text
        for word in ("fma", ".ftz", "div.", "rem.", "mad.rn"):
            assert word not in text
    assert general == ["step", "std", "first", "k0", "k1", "c2", "c3"]


# --- where it is used ---------------------------------------------------------------------------


@pytest.fixture
def in_use(monkeypatch):
    """As if the CPU were a card, with the interpreter for its kernels."""

    def use(yes):
        monkeypatch.setattr(noise, "_on_card", lambda device: kernel if yes else None)

    yield use
    monkeypatch.undo()


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("scaled", [False, True])
def test_at_sets_the_same_weights(in_use, dtype, scaled):
    prints = []
    for yes in (False, True):
        in_use(yes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            engine = bs.load(nn.Linear(5, 3).to(dtype))
        line = PerTensor("s", {"weight": 0.7}).noise(1) if scaled else bs.Random(1)
        with engine.at(line, step=0.1, draw=2):
            prints.append(engine.fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize("cast", [None, BF16])
def test_go_computes_at_the_same_weights(in_use, cast):
    noisy = []
    for yes in (False, True):
        in_use(yes)
        weight = nn.Parameter(torch.linspace(-1, 1, 101))
        opt = bs.GaussianAugmented([("w", weight)], sigma=0.1, cast=cast)
        with opt.perturbed():
            noisy.append(weight.detach().clone())
        assert torch.equal(weight, torch.linspace(-1, 1, 101))
    assert same_bits(*noisy)
    assert noisy[0].dtype == (cast or F32)


class TestWithoutIt:
    """Torch takes its place: the same bits, and one line that says so."""

    @pytest.fixture(autouse=True)
    def a_card(self, monkeypatch):
        noise._triton.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        with pretended.card():
            yield
        noise._triton.cache_clear()

    def normals(self):
        return noise.normals("w", 9, start=3, device="cuda").cpu()

    def test_where_it_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "basinscope.weights.triton_noise", None)
        with pytest.warns(UserWarning, match="noise is made by torch .*the same bits") as said:
            first, second = self.normals(), self.normals()
        assert len(said) == 1
        assert same_bits(first, second)
        assert same_bits(first, noise.normals("w", 9, start=3))

    def test_where_it_gives_other_bits(self, monkeypatch):
        def normals(n, key, *, start, device):
            return noise.normals("w", n, start=start + shift).to(device)

        monkeypatch.setattr(kernel, "normals", normals)
        shift = 0
        assert noise._triton() is kernel
        noise._triton.cache_clear()
        shift = 1
        with pytest.warns(UserWarning, match="its bits are others"):
            assert noise._triton() is None
