"""The noise, bit by bit: the published integers, and two implementations that must agree."""

import warnings

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.weights import kernels as sums
from basinscope.weights import noise

# (counter, key, output) of philox4x32-10, from Random123's kat_vectors
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
# first positions: lanes of one block, the counter's second word (from 2^34 on), the last counters
STARTS = [0, 1, 2, 3, 5, 1021, 2**31 - 2, 2**34 - 5, 2**34, 2**34 + 7, 2**40 + 3, 2**62 + 1]


def theta_of(n, dtype=torch.float32, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(dtype)


def moved(theta, step, name="w", **names):
    """theta + step * normals by torch: a float32 product, a float32 sum, rounded once."""
    normals = noise.normals(name, theta.numel(), **names)
    return (theta.float() + normals * torch.tensor(step, dtype=torch.float32)).to(theta.dtype)


def same_bits(a, b):
    words = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and bool((a.view(words) == b.view(words)).all())


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
class TestKnownAnswers:
    def test_of_the_numba_kernel(self, counter, key, words):
        out = np.zeros((1, 4), dtype=np.uint32)
        counters = np.array([counter], dtype=np.uint32)
        noise._philox_words(counters, np.uint32(key[0]), np.uint32(key[1]), out)
        assert tuple(map(int, out[0])) == words

    def test_of_the_torch_reference(self, counter, key, words):
        block = counter[0] | counter[1] << 32
        blocks = torch.tensor([block - (1 << 64) if block >= 1 << 63 else block])
        found = noise.philox_torch(blocks, (*key, counter[2], counter[3]))
        assert tuple(int(word) for word in found) == words


class TestStream:
    def test_differs_in_name_seed_and_draw(self):
        names = ["", "w", "w2", "layers.0.w", "layers.1.w"]
        streams = {noise.stream(n, s, d) for n in names for s in range(4) for d in range(4)}
        assert len(streams) == 5 * 4 * 4

    def test_separates_seed_from_draw(self):
        assert noise.stream("w", 1, 11) != noise.stream("w", 11, 1)

    def test_takes_numpy_integers_for_what_they_are(self):
        assert noise.stream("w", np.int64(3), np.uint8(2)) == noise.stream("w", 3, 2)

    def test_takes_integers_of_any_size(self):
        assert noise.stream("w", 2**200, 0) != noise.stream("w", 2**201, 0)

    @pytest.mark.parametrize("bad", [-1, 0.0, 1.5, True, "0", None])
    def test_refuses_what_is_no_seed(self, bad):
        with pytest.raises(BasinscopeError, match=r"seed=.*an integer of at least 0"):
            noise.normals("w", 4, seed=bad)
        with pytest.raises(BasinscopeError, match=r"draw=.*an integer of at least 0"):
            noise.normals("w", 4, draw=bad)
        with pytest.raises(BasinscopeError, match=r"seed=.*an integer of at least 0"):
            bs.Random(bad)

    def test_is_frozen(self):
        # every address of every record depends on these bits
        assert noise.SCHEME == "philox4x32-10/box-muller-f32/1"
        assert noise.stream("w", 0, 0) == (0x6AD7AE11, 0x2D4B160F, 0xF65B5EDB, 0x89E70D00)
        bits = noise.normals("w", 4).view(torch.int32).tolist()
        assert bits == [1025195757, -1098851101, 1069260648, -1092873562]


class TestNormals:
    @pytest.mark.parametrize("start", STARTS)
    def test_equal_the_torch_reference_bit_for_bit(self, start):
        for n in (0, 1, 2, 3, 4, 5, 7, 8, 1023):
            fast = noise.normals("a.weight", n, seed=7, draw=3, start=start)
            slow = noise.normals_torch("a.weight", n, seed=7, draw=3, start=start)
            assert fast.shape == (n,)
            assert same_bits(fast, slow)

    @pytest.mark.parametrize("name", ["", "w", "model.layers.0.mlp.up_proj.weight", "größe"])
    def test_equal_the_torch_reference_over_many_values(self, name):
        n = 200_003
        assert same_bits(noise.normals(name, n), noise.normals_torch(name, n, seed=0, draw=0))

    def test_equal_the_torch_reference_at_every_extreme_of_the_integers(self):
        edges = [0, 1, 2, 127, 128, 2**24 - 1, 2**24, 2**24 + 1, 2**29 - 1, 2**29, 2**30 - 1,
                 2**30, 2**30 + 2**29, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30 - 1, 3 * 2**30,
                 2**32 - 257, 2**32 - 129, 2**32 - 128, 2**32 - 2, 2**32 - 1]  # fmt: skip
        x, y = (t.flatten() for t in torch.meshgrid(2 * [torch.tensor(edges)], indexing="ij"))
        slow = noise._box_muller_torch(x, y)
        for i in range(len(x)):
            fast = noise._box_muller.py_func(np.uint32(x[i].item()), np.uint32(y[i].item()))
            assert [np.float32(f).tobytes() for f in fast] == [
                np.float32(s[i].item()).tobytes() for s in slow
            ]
        assert torch.isfinite(torch.stack(slow)).all()
        # largest magnitude as the docstring has it: u = 2^-33 at an angle of zero
        assert torch.stack(slow).abs().max() == pytest.approx(np.sqrt(66 * np.log(2)), abs=1e-5)

    def test_agree_with_box_muller_in_double_precision(self):
        n = 4096
        words = noise.philox_torch(torch.arange(n), noise.stream("w", 0, 0))
        x, y = (torch.stack(words[k::2], 1).double() for k in (0, 1))
        radius = torch.sqrt(-2 * torch.log((x + 0.5) / 2**32))
        angle = (y / 2**32 - 1 / 8) * 2 * np.pi
        exact = torch.stack([radius * angle.cos(), radius * angle.sin()], 2).flatten()
        # radii near zero feel the rounding of u near 1 (half a unit of 2^-24: 3.5e-4 at most)
        assert (noise.normals("w", 4 * n).double() - exact).abs().max() < 4e-4
        assert (noise.normals("w", 4 * n).double() - exact).abs().mean() < 1e-6

    @pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 9), (3, 4), (5, 5), (2, 1000)])
    def test_of_a_slice_are_the_slice_of_the_normals(self, a, b):
        whole = bs.normals("w", 1000, seed=1, draw=2)
        assert same_bits(bs.normals("w", b - a, seed=1, draw=2, start=a), whole[a:b])

    def test_of_slices_join_across_the_second_word_of_the_counter(self):
        start = 2**34 - 6
        whole = bs.normals("w", 13, start=start)
        parts = [bs.normals("w", n, start=start + a) for a, n in ((0, 5), (5, 2), (7, 6))]
        assert same_bits(torch.cat(parts), whole)
        # and the counter does not wrap round to the beginning
        assert not torch.equal(bs.normals("w", 8, start=2**34), bs.normals("w", 8))

    @pytest.mark.parametrize("numbers", [{"n": -1}, {"n": 3, "start": -1}])
    def test_refuse_negative_positions(self, numbers):
        with pytest.raises(BasinscopeError, match="positions of at least 0"):
            bs.normals("w", **numbers)

    def test_touch_no_global_generator(self):
        torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        bs.normals("w", 100)
        assert torch.equal(torch.random.get_rng_state(), torch_state)
        assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


class TestThreads:
    """Several chunks on two threads give the bits of one thread."""

    n = 3 * 4 * noise.CHUNK_BLOCKS + 5

    @pytest.fixture(autouse=True)
    def _restored(self):
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    @staticmethod
    def with_threads(threads, work):
        torch.set_num_threads(threads)
        return work()

    def test_do_not_change_normals(self):
        one, two = (
            self.with_threads(t, lambda: noise.normals("w", self.n, start=3)) for t in (1, 2)
        )
        assert same_bits(one, two)
        tail = noise.normals_torch("w", 7, seed=0, draw=0, start=3 + self.n - 7)
        assert same_bits(one[-7:], tail)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_do_not_change_perturbed_weights(self, dtype):
        theta = theta_of(self.n, dtype)

        def work():
            live = torch.empty_like(theta)
            noise.perturb(theta, live, 0.01, "w", seed=0, draw=0)
            return live

        one, two = (self.with_threads(t, work) for t in (1, 2))
        assert same_bits(one, two)
        assert same_bits(one, moved(theta, 0.01))

    def test_pass_on_the_error_of_a_chunk(self):
        torch.set_num_threads(2)

        def chunk(a, b):
            raise MemoryError(f"chunk {a}")

        with pytest.raises(MemoryError, match="chunk"):
            noise._in_chunks(3 * noise.CHUNK_BLOCKS, chunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestPerturb:
    @pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 7, 8, 1021])
    @pytest.mark.parametrize("step", [0.01, -0.01, 1.0, 1e-3])
    def test_is_the_rounded_sum_of_torch(self, dtype, n, step):
        theta = theta_of(n, dtype)
        live = torch.full_like(theta, 7.0)
        noise.perturb(theta, live, step, "w", seed=2, draw=5)
        assert same_bits(live, moved(theta, step, seed=2, draw=5))

    @pytest.mark.parametrize("std", [0.0, 0.3, 1e3])
    def test_scales_the_normals_before_the_step_does(self, dtype, std):
        theta, live = theta_of(1021, dtype), torch.empty(1021, dtype=dtype)
        noise.perturb(theta, live, 0.1, "w", seed=2, draw=5, std=std)
        scaled = noise.normals("w", 1021, seed=2, draw=5) * torch.tensor(std)
        expected = theta.float() + torch.tensor(0.1) * scaled
        assert same_bits(live, expected.to(dtype))

    def test_may_write_in_place(self, dtype):
        theta = theta_of(1021, dtype)
        expected = moved(theta, 0.1, seed=0, draw=0)
        noise.perturb(theta, theta, 0.1, "w", seed=0, draw=0)
        assert same_bits(theta, expected)

    def test_leaves_the_pristine_weights_alone(self, dtype):
        theta = theta_of(1021, dtype)
        before = theta.clone()
        noise.perturb(theta, torch.empty_like(theta), 0.1, "w", seed=0, draw=0)
        assert same_bits(theta, before)

    def test_keeps_every_bit_at_step_zero(self, dtype):
        # but for -0.0, which plus 0.0 is 0.0 in torch too
        theta = theta_of(1021, dtype)
        live = torch.empty_like(theta)
        noise.perturb(theta, live, 0.0, "w", seed=0, draw=0)
        assert same_bits(live, theta)

    @pytest.mark.parametrize("step", [3e38, -3e38, 1e38, 1e-38, 1e-45, 5e-46, -1e-40])
    def test_overflows_and_underflows_as_torch_does(self, dtype, step):
        theta = theta_of(1021, dtype)
        live = torch.empty_like(theta)
        noise.perturb(theta, live, step, "w", seed=0, draw=0)
        expected = moved(theta, step, seed=0, draw=0)
        assert same_bits(live, expected)
        assert bool(torch.isinf(live).any()) == (abs(step) > 1e37)

    def test_overflows_from_the_largest_weights(self, dtype):
        theta = torch.full((1021,), torch.finfo(dtype).max, dtype=dtype)
        theta[::2] *= -1
        live = torch.empty_like(theta)
        noise.perturb(theta, live, 1e37, "w", seed=0, draw=0)
        assert same_bits(live, moved(theta, 1e37, seed=0, draw=0))
        assert torch.isinf(live).any()
        assert not torch.isnan(live).any()

    def test_keeps_subnormal_weights(self, dtype):
        theta = (theta_of(1021) * 1e-39).to(dtype)
        live = torch.empty_like(theta)
        noise.perturb(theta, live, 1e-39, "w", seed=0, draw=0)
        assert same_bits(live, moved(theta, 1e-39, seed=0, draw=0))
        assert live.count_nonzero() > 500

    def test_raises_no_warning(self, dtype):
        theta = theta_of(9, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            noise.perturb(theta, torch.empty_like(theta), 3e38, "w", seed=0, draw=0)


class TestRounding:
    """bfloat16 keeps 8 bits of the float32 sum: to nearest, ties to even."""

    @pytest.mark.parametrize(
        ("word", "addend", "expected"),
        [
            (0x3F80, 2.0**-8, 0x3F80),  # 1 + half a unit: tie, 1 is even
            (0x3F81, 2.0**-8, 0x3F82),  # tie, up to even
            (0x3F80, 2.0**-8 + 2.0**-23, 0x3F81),  # just above the tie
            (0x3F81, 2.0**-8 - 2.0**-23, 0x3F81),  # just below
            (0xBF80, -(2.0**-8), 0xBF80),  # the same on the other side
            (0xBF81, -(2.0**-8), 0xBF82),
            (0x3FFF, 2.0**-8, 0x4000),  # carries into the exponent
            (0x7F7F, 2.0**127 * 2.0**-8, 0x7F80),  # carries into infinity
            (0x0001, 0.0, 0x0001),  # the least subnormal stays
            (0x8000, -0.0, 0x8000),  # -0
        ],
    )
    def test_of_ties_is_to_even(self, word, addend, expected):
        found = sums.bfloat16_sum.py_func(np.uint16(word), np.float32(addend))
        assert int(found) == expected
        theta = torch.tensor([word - (word & 0x8000) * 2], dtype=torch.int16).view(torch.bfloat16)
        by_torch = (theta.float() + torch.tensor(addend, dtype=torch.float32)).bfloat16()
        assert int(by_torch.view(torch.int16).item()) & 0xFFFF == expected

    def test_of_every_bfloat16_is_torchs(self):
        # all finite words, in one tensor: sums that tie are among them (step 1, subnormals to 3e38)
        words = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
        theta = words.view(torch.bfloat16)
        theta = theta[torch.isfinite(theta)]
        for step in (0.0, 1.0, 2.0**-30):
            live = torch.empty_like(theta)
            noise.perturb(theta, live, step, "w", seed=0, draw=0)
            assert same_bits(live, moved(theta, step, seed=0, draw=0))


class TestDefects:
    def test_defect_1_tensors_of_equal_shape_get_different_noise(self):
        """Reseeding for every tensor gave equal shapes equal noise."""
        module = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=False) for _ in range(4))
        engine = bs.load(module)
        before = [p.detach().clone() for p in module.parameters()]
        with engine.at(bs.Random(0), step=1.0):
            moves = [(p - b).flatten() for p, b in zip(module.parameters(), before, strict=True)]
        cosines = torch.corrcoef(torch.stack(moves).detach())
        assert (cosines - torch.eye(4)).abs().max() < 0.4  # 6 standard deviations of 1/16

    def test_defect_1_draws_and_seeds_get_different_noise(self):
        rows = [bs.normals("w", 256, seed=s, draw=d) for s in range(3) for d in range(3)]
        cosines = torch.corrcoef(torch.stack(rows))
        assert (cosines - torch.eye(9)).abs().max() < 0.4

    def test_defect_9_variance_is_1(self):
        """Fast-math made it 1.17: H0 var 1 at n = 10^6, 6 standard errors are 0.0085."""
        z = bs.normals("w", 1_000_000, seed=9).double()
        assert abs(float(z.var()) - 1) < 6 * np.sqrt(2 / 1_000_000)

    def test_defect_9_no_kernel_is_compiled_with_fast_math(self):
        kernels = [k for k in vars(noise).values() if hasattr(k, "targetoptions")]
        assert len(kernels) >= 4
        assert not any(k.targetoptions.get("fastmath") for k in kernels)
