"""Set and restore: exact sums in every dtype and layout, and not a bit lost."""

import pytest
import torch
from torch import nn

from basinscope.directions.base import Direction, Random
from basinscope.engines.pristine import Pristine
from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.parts import CHUNK

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Shapes:
    """What a direction asks of an engine, made while the weights are pristine."""

    def __init__(self, live):
        self.shapes = {name: tensor.shape for name, tensor in live.items()}
        self.pristine = {name: tensor.clone().contiguous() for name, tensor in live.items()}.get


class Given(Direction):
    """A direction with nothing but a label and a delta."""

    label = "given"

    def __init__(self, **delta):
        self.by_name = delta

    def delta(self, engine, name, draw=0):
        return self.by_name[name]


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (5, 7), "vector": (9,), "scalar": (), "cube": (2, 3, 4)}
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def rounded(theta, delta, step):
    """theta + step * delta in float32 (float64 where theta is), rounded once."""
    wide = torch.float64 if theta.dtype == torch.float64 else torch.float32
    return (theta.to(wide) + delta.to(wide) * torch.tensor(step, dtype=wide)).to(theta.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
class TestSet:
    def test_writes_the_rounded_sum_along_random_directions(self, dtype):
        live = tensors(dtype)
        before = {name: tensor.clone() for name, tensor in live.items()}
        Pristine(live).set(Shapes(live), Random(4), -0.03, 2)
        for name, tensor in live.items():
            normals = noise.normals(name, tensor.numel(), seed=4, draw=2).reshape(tensor.shape)
            assert torch.equal(tensor, rounded(before[name], normals, -0.03)), name
            assert not torch.equal(tensor, before[name])

    def test_writes_the_rounded_sum_along_given_directions(self, dtype):
        live = tensors(dtype)
        before = {name: tensor.clone() for name, tensor in live.items()}
        delta = {name: torch.randn_like(tensor.float()) for name, tensor in live.items()}
        Pristine(live).set(Shapes(live), Given(**delta), 0.3, 0)
        for name, tensor in live.items():
            assert torch.equal(tensor, rounded(before[name], delta[name], 0.3)), name

    def test_starts_from_the_pristine_copy_each_time(self, dtype):
        live = tensors(dtype)
        pristine = Pristine(live)
        pristine.set(Shapes(live), Random(), 0.1, 0)
        once = {name: tensor.clone() for name, tensor in live.items()}
        pristine.restore()
        for step in (0.5, -0.2, 0.1):
            pristine.set(Shapes(live), Random(), step, 0)
            pristine.restore()
        pristine.set(Shapes(live), Random(), 0.1, 0)
        assert all(torch.equal(live[name], once[name]) for name in live)

    def test_handles_tensors_that_are_not_contiguous(self, dtype):
        whole = tensors(dtype)["matrix"]
        plain, turned = {"w": whole.T.contiguous()}, {"w": whole.clone().T}
        assert not turned["w"].is_contiguous()
        for live in (plain, turned):
            Pristine(live).set(Shapes(live), Random(), 0.1, 0)
        assert torch.equal(plain["w"], turned["w"])

    def test_handles_strided_tensors_without_touching_their_neighbours(self, dtype):
        memory = torch.ones(40, dtype=dtype)
        live = {"w": memory[::2]}
        pristine = Pristine(live)
        pristine.set(Shapes(live), Random(), 0.5, 0)
        assert torch.equal(memory[1::2], torch.ones(20, dtype=dtype))
        normals = noise.normals("w", 20)
        assert torch.equal(memory[::2], rounded(torch.ones(20, dtype=dtype), normals, 0.5))
        pristine.restore()
        assert torch.equal(memory, torch.ones(40, dtype=dtype))


class TestGeneric:
    def test_path_gives_the_kernels_bits(self):
        live, other = tensors(), tensors()
        delta = {n: noise.normals(n, t.numel()).reshape(t.shape) for n, t in live.items()}
        Pristine(live).set(Shapes(live), Random(), 0.01, 0)
        Pristine(other).set(Shapes(other), Given(**delta), 0.01, 0)
        assert all(torch.equal(live[name], other[name]) for name in live)

    def test_path_is_the_same_in_chunks(self):
        n = CHUNK + 3
        live = {"w": torch.ones(n, dtype=torch.float16)}
        Pristine(live).set(Shapes(live), Random(), 0.1, 0)
        expected = rounded(torch.ones(n, dtype=torch.float16), noise.normals("w", n), 0.1)
        assert torch.equal(live["w"], expected)

    def test_float64_keeps_its_own_precision(self):
        live = {"w": torch.full((3,), 1 + 2.0**-50, dtype=torch.float64)}
        Pristine(live).set(Shapes(live), Given(w=torch.ones(3)), 2.0**-45, 0)
        assert live["w"].tolist() == [1 + 2.0**-45 + 2.0**-50] * 3

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
    def test_directions_are_taken_as_float32(self, dtype):
        live = {"w": torch.zeros(3)}
        delta = torch.tensor([1.0, -2.0, 3.0]).to(dtype)
        Pristine(live).set(Shapes(live), Given(w=delta), 0.5, 0)
        assert live["w"].tolist() == [0.5, -1.0, 1.5]

    def test_directions_may_be_views_and_parameters(self):
        live = {"w": torch.zeros(2, 3)}
        delta = nn.Parameter(torch.arange(6.0).reshape(3, 2))
        pristine = Pristine(live)
        pristine.set(Shapes(live), Given(w=delta.T), 1.0, 0)
        assert torch.equal(live["w"], delta.detach().T)
        assert not any(t.requires_grad for t in pristine.live.values())


class TestRefusals:
    @pytest.mark.parametrize("step", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_of_steps_that_float32_cannot_hold(self, step, dtype):
        live = tensors(dtype)
        with pytest.raises(BasinscopeError, match=r"step=.*a finite number"):
            Pristine(live).set(Shapes(live), Random(), step, 0)

    @pytest.mark.parametrize("shape", [(3,), (1,), (3, 2), (6,), ()])
    def test_of_directions_of_another_shape(self, shape):
        live = {"w": torch.zeros(2, 3)}
        with pytest.raises(BasinscopeError, match=r"'given' gives w the shape .*own, \(2, 3\)"):
            Pristine(live).set(Shapes(live), Given(w=torch.ones(shape)), 1.0, 0)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_of_directions_that_are_not_finite(self, bad, dtype):
        live = {"w": torch.zeros(3, dtype=dtype)}
        with pytest.raises(BasinscopeError, match=r"the direction of w is not finite"):
            Pristine(live).set(Shapes(live), Given(w=torch.tensor([1, bad, 1])), 0.1, 0)

    def test_of_directions_that_float32_cannot_hold(self):
        live = {"w": torch.zeros(2, dtype=torch.float64)}
        delta = torch.tensor([1.0, 1e200], dtype=torch.float64)
        with pytest.raises(BasinscopeError, match="the direction of w is not finite"):
            Pristine(live).set(Shapes(live), Given(w=delta), 0.1, 0)


class TestRestore:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gives_every_bit_back(self, dtype):
        live = tensors(dtype)
        live["vector"][:3] = torch.tensor([-0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max])
        before = {n: t.view(-1).view(torch.uint8).clone() for n, t in live.items()}
        pristine = Pristine(live)
        for step in (0.1, -1e30, 1e-30):
            pristine.set(Shapes(live), Random(), step, 0)
            pristine.restore()
        for name, tensor in live.items():
            assert torch.equal(tensor.view(-1).view(torch.uint8), before[name])

    def test_uses_the_given_copies_without_writing_to_them(self):
        live = tensors()
        given = {name: tensor.clone() for name, tensor in live.items() if name != "vector"}
        pristine = Pristine(live, given)
        assert all(pristine.values[n].data_ptr() == t.data_ptr() for n, t in given.items())
        versions = [t._version for t in given.values()]
        pristine.set(Shapes(live), Random(), 0.1, 0)
        pristine.restore()
        assert [t._version for t in given.values()] == versions
        assert all(torch.equal(live[n], given[n]) for n in given)

    def test_copies_are_apart_from_the_live_tensors(self):
        live = tensors()
        pristine = Pristine(live)
        assert not {t.data_ptr() for t in pristine.values.values()} & {
            t.data_ptr() for t in live.values()
        }

    def test_advances_the_epoch_and_so_does_set(self):
        live = tensors()
        pristine = Pristine(live)
        seen = [pristine.epoch]
        for step in (0.1, 0.0):
            pristine.set(Shapes(live), Random(), step, 0)
            seen.append(pristine.epoch)
            pristine.restore()
            seen.append(pristine.epoch)
        assert len(set(seen)) == 5

    def test_advances_torchs_own_count_of_versions(self):
        # autograd tells by it that a saved weight is no longer what it was
        for dtype in DTYPES:
            live = tensors(dtype)
            pristine = Pristine(live)
            start = {n: t._version for n, t in live.items()}
            pristine.set(Shapes(live), Random(), 0.1, 0)
            middle = {n: t._version for n, t in live.items()}
            pristine.restore()
            assert all(start[n] < middle[n] < live[n]._version for n in live)


class TestCheckUntouched:
    def test_is_silent_after_set_and_restore(self):
        live = tensors()
        pristine = Pristine(live)
        for step in (0.1, 0.0):
            pristine.check_untouched()
            pristine.set(Shapes(live), Random(), step, 0)
            pristine.restore()
        pristine.check_untouched()

    def test_notices_a_write_in_place(self):
        live = tensors()
        pristine = Pristine(live)
        live["vector"].add_(1.0)
        with pytest.raises(BasinscopeError, match=r"changed or moved .*\(vector\)"):
            pristine.check_untouched()

    def test_notices_tensors_that_come_and_go(self):
        held = {"w": nn.Parameter(torch.ones(3))}
        pristine = Pristine(dict(held), walk=lambda: held)
        held["v"] = nn.Parameter(torch.ones(2))
        with pytest.raises(BasinscopeError, match=r"changed or moved .*\(v\)"):
            pristine.check_untouched()
        del held["v"], held["w"]
        with pytest.raises(BasinscopeError, match=r"changed or moved .*\(w\)"):
            pristine.check_untouched()
