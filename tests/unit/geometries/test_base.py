"""Geometries: their noise has the covariance that they say, their norm is its inverse root."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats as scipy_stats
from torch import nn

import basinscope as bs
from basinscope.directions.base import held
from basinscope.geometries.base import Isotropic, PerTensor
from basinscope.geometries.factors import Factors, Pair, lora_xs
from basinscope.geometries.subspaces import RandomSubspace, Subspace, save_basis


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.up = nn.Linear(4, 6, bias=True)
        self.norm = nn.Parameter(torch.ones(5))
        with torch.no_grad():
            self.up.weight.copy_(torch.randn(6, 4, generator=g) * 3)
            self.up.bias.zero_()

    def forward(self, x):
        return self.up(x)


@pytest.fixture
def engine():
    return bs.load(Net())


def moved(engine, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=g) for n, s in engine.shapes.items()}


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors.values()]).double()


def make_basis(engine, path, k=3, seed=5):
    rows = [held(moved(engine, seed + i)) for i in range(k)]
    save_basis(path, rows, engine, k, {"made": "test"})
    return Subspace(str(path), engine)


def geometries(engine, tmp_path):
    g = torch.Generator().manual_seed(9)
    pair = Pair(None, torch.randn(2, 4, generator=g), 0.5)
    return {
        "isotropic": Isotropic(),
        "scaled": PerTensor("scaled", {"up.weight": 2.0, "norm": 0.5}),
        "subspace": make_basis(engine, tmp_path / "u.safetensors"),
        "random": RandomSubspace(engine, 4, seed=2),
        "lora": Factors("lora:x", {"up.weight": pair}),
        "lora-xs": lora_xs(engine, 2),
    }


NAMES = ("isotropic", "scaled", "subspace", "random", "lora", "lora-xs")


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    def test_squared_norm_of_its_noise_is_chi_square(self, engine, tmp_path, name):
        # null: r^2 of the noise at sigma = 1 is chi-square of the geometry's dimension; a wrong
        # scale, or noise outside the range, fails. 1e-6 by chance (Kolmogorov-Smirnov, 300 draws)
        shape = geometries(engine, tmp_path)[name]
        dimension = {"isotropic": 35, "scaled": 29, "subspace": 3, "random": 4, "lora": 12,
                     "lora-xs": 4}[name]  # fmt: skip
        noise = shape.noise(seed=3)
        found = []
        for draw in range(300):
            delta = {n: noise.delta(engine, n, draw) for n in engine.shapes}
            distance = shape.distance(engine, held(delta))
            assert math.isfinite(distance.r)
            found.append(distance.r**2)
        assert scipy_stats.kstest(found, scipy_stats.chi2(dimension).cdf).pvalue > 1e-6

    def test_noise_is_its_own_for_each_seed_and_draw(self, engine, tmp_path, name):
        shape = geometries(engine, tmp_path)[name]
        every = [
            flat({n: shape.noise(seed).delta(engine, n, draw) for n in engine.shapes})
            for seed in (0, 1)
            for draw in (0, 1)
        ]
        assert len({tuple(one.tolist()) for one in every}) == 4
        again = shape.noise(0).delta(engine, "up.weight", 1)
        assert torch.equal(again, shape.noise(0).delta(engine, "up.weight", 1))

    def test_projection_is_inside_and_nearest(self, engine, tmp_path, name):
        shape = geometries(engine, tmp_path)[name]
        given = {n: 3.0 * t for n, t in moved(engine, 4).items()}
        found = {n: t.clone() for n, t in given.items()}
        r = shape.project(engine, found, 0.7)
        distance = shape.distance(engine, held(found))
        assert distance.r == pytest.approx(r, rel=1e-4)
        assert distance.r <= 0.7
        assert r == pytest.approx(0.7, rel=1e-4), "it was outside"
        # once more changes nothing
        again = {n: t.clone() for n, t in found.items()}
        assert shape.project(engine, again, 0.7) == pytest.approx(r, rel=1e-4)
        assert torch.allclose(flat(again), flat(found), atol=1e-5)

    def test_projection_does_not_depend_on_the_layout_in_memory(self, engine, tmp_path, name):
        shape = geometries(engine, tmp_path)[name]
        moves = {n: 3.0 * t for n, t in moved(engine, 4).items()}
        turned = {n: t.mT.contiguous().mT if t.ndim > 1 else t * 1 for n, t in moves.items()}
        assert not all(t.is_contiguous() for t in turned.values())
        r = shape.project(engine, moves, 0.7)
        assert shape.project(engine, turned, 0.7) == pytest.approx(r, rel=1e-6)
        assert torch.allclose(flat(turned), flat(moves), atol=1e-6)

    def test_projection_from_just_inside_does_not_round_out_of_the_ball(
        self, engine, tmp_path, name
    ):
        shape = geometries(engine, tmp_path)[name]
        for seed in range(20):
            found = moved(engine, seed)
            radius = shape.project(engine, moved(engine, seed), 1e6) * (1 + 1e-10)
            assert shape.project(engine, found, radius) <= radius
            assert shape.distance(engine, held(found)).r <= radius

    def test_what_is_inside_stays(self, engine, tmp_path, name):
        shape = geometries(engine, tmp_path)[name]
        noise = shape.noise(0)
        given = {n: noise.delta(engine, n, 0) for n in engine.shapes}
        found = {n: t.clone() for n, t in given.items()}
        shape.project(engine, found, 1e6)
        assert torch.allclose(flat(found), flat(given), atol=1e-5)

    @pytest.mark.parametrize("radius", [-1.0, math.nan])
    def test_refuses_what_is_no_radius(self, engine, tmp_path, name, radius):
        with pytest.raises(bs.BasinscopeError, match=r"radius .*; allowed: at least 0"):
            geometries(engine, tmp_path)[name].project(engine, moved(engine), radius)

    def test_identity_tells_geometries_apart(self, engine, tmp_path, name):
        every = geometries(engine, tmp_path)
        assert len({g.identity for g in every.values()}) == len(every)
        assert geometries(engine, tmp_path)[name].identity == every[name].identity
        noise = every[name].noise(1)
        assert noise.identity(engine) != every[name].noise(2).identity(engine)

    def test_engine_sets_the_noise_at_sigma(self, engine, tmp_path, name):
        noise = geometries(engine, tmp_path)[name].noise(0)
        before = {n: engine.pristine(n).clone() for n in engine.shapes}
        with engine.at(noise, step=0.25, draw=7):
            for n, parameter in engine.module.named_parameters():
                expected = before[n] + 0.25 * noise.delta(engine, n, 7)
                assert torch.allclose(parameter.detach(), expected, atol=1e-6)


class TestOutside:
    @pytest.mark.parametrize("name", ["subspace", "random", "lora", "lora-xs"])
    def test_a_small_part_outside_is_not_taken_for_rounding(self, engine, tmp_path, name):
        # 0.02% of the norm, a hundred times float32 rounding: no noise guards that direction
        shape = geometries(engine, tmp_path)[name]
        inside, beside = moved(engine, 1), moved(engine, 2)
        shape.project(engine, inside, 1e6)
        assert math.isfinite(shape.distance(engine, held(inside)).r)
        scale = 1e3 * flat(inside).norm() / flat(beside).norm()
        both = {n: 1e3 * t + 2e-4 * scale * beside[n] for n, t in inside.items()}
        found = shape.distance(engine, held(both))
        assert 1e-5 < found.outside / found.inside < 1e-3
        assert found.r == math.inf

    def test_a_part_outside_the_range_is_named(self, engine, tmp_path):
        every = geometries(engine, tmp_path)
        for name in ("scaled", "subspace", "random", "lora", "lora-xs"):
            noise = every[name].noise(0)
            inside = {n: noise.delta(engine, n, 0) for n in engine.shapes}
            aside = {n: t.clone() for n, t in inside.items()}
            aside["up.bias"] += 1.0
            distance = every[name].distance(engine, held(aside))
            assert math.isinf(distance.r), name
            assert distance.outside == pytest.approx(
                math.sqrt(6), rel=0.35 if name in ("subspace", "random") else 1e-5
            )

    def test_float32_rounding_is_not_outside(self, engine, tmp_path):
        basis = make_basis(engine, tmp_path / "u.safetensors")
        noise = basis.noise(0)
        theta = {n: engine.pristine(n) for n in engine.shapes}
        other = {n: theta[n] + noise.delta(engine, n, 0) for n in engine.shapes}
        back = {n: other[n] - theta[n] for n in engine.shapes}
        distance = basis.distance(engine, held(back))
        assert math.isfinite(distance.r)
        assert 0 < distance.outside < 1e-4

    def test_bfloat16_rounding_is(self, engine, tmp_path):
        basis = make_basis(engine, tmp_path / "u.safetensors")
        back = {n: basis.noise(0).delta(engine, n, 0).bfloat16().float() for n in engine.shapes}
        assert math.isinf(basis.distance(engine, held(back)).r)


class TestPerTensor:
    def test_rms_scales_leave_the_expected_norm(self, engine):
        shape = bs.geometry("rms", engine)
        d = sum(s.numel() for s in engine.shapes.values())
        total = sum(shape.scales[n] ** 2 * s.numel() for n, s in engine.shapes.items())
        assert total == pytest.approx(d)
        assert shape.scales["up.bias"] == 0.0, "a tensor of zeros gets no noise"
        assert shape.scales["up.weight"] / shape.scales["norm"] == pytest.approx(
            float(engine.pristine("up.weight").square().mean().sqrt())
        )

    def test_selection(self, engine):
        shape = bs.geometry("params:norm|bias", engine)
        assert shape.scales == {"norm": 1.0, "up.bias": 1.0}
        assert not shape.noise(0).delta(engine, "up.weight").any()

    @pytest.mark.parametrize(
        "scales",
        [{}, {"a": 0.0}, {"a": -1.0}, {"a": math.nan}, {"a": math.inf}, {"a": 1e38, "b": 1.0}],
    )
    def test_refuses_what_are_no_scales(self, scales):
        with pytest.raises(bs.BasinscopeError, match=r"allowed: 0 to 1e\+37, one of them positive"):
            PerTensor("x", scales)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_the_fused_kernel_rounds_as_scaled_normals_do(self, dtype):
        engine = bs.load(Net().to(dtype))
        noise = PerTensor("x", {"up.weight": 0.3, "norm": 1.7}).noise(3)
        before = {n: engine.pristine(n).clone() for n in engine.shapes}
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        with engine.at(noise, step=0.1, draw=2):
            for n, parameter in engine.module.named_parameters():
                delta = noise.delta(engine, n, 2).to(wide) * torch.tensor(0.1, dtype=wide)
                assert torch.equal(parameter, (before[n].to(wide) + delta).to(dtype)), n
                assert torch.equal(parameter, before[n]) == (n == "up.bias")


def test_a_scale_whose_square_is_zero_has_a_norm(engine):
    found = PerTensor("tiny", {"norm": 1e-200}).distance(engine, held({"norm": torch.ones(5)}))
    assert found.r == pytest.approx(5**0.5 * 1e200)


class TestBasis:
    def test_leading_directions_are_the_singular_vectors(self, engine, tmp_path):
        rows = [moved(engine, i) for i in range(5)]
        a = torch.stack([flat(r) for r in rows])
        shares = save_basis(
            tmp_path / "u.safetensors", [held(r) for r in rows], engine, 2, {"made": "test"}
        )
        basis = Subspace(str(tmp_path / "u.safetensors"), engine)
        _, s, v = torch.linalg.svd(a, full_matrices=False)
        assert shares == pytest.approx((s[:2] ** 2 / (s**2).sum()).tolist(), rel=1e-5)
        for j in range(2):
            direction = v[j]
            tensors, start = {}, 0
            for n, shape in engine.shapes.items():
                tensors[n] = direction[start : start + shape.numel()].reshape(shape).float()
                start += shape.numel()
            found = basis.distance(engine, held(tensors))
            assert found.r == pytest.approx(1.0, rel=1e-4)

    def test_rows_that_are_not_orthonormal_span_the_same(self, engine, tmp_path):
        basis = make_basis(engine, tmp_path / "u.safetensors", k=2)
        a, b = (
            {n: basis.rows(n, 0, s.numel())[j].reshape(s) for n, s in engine.shapes.items()}
            for j in range(2)
        )
        crooked = {n: torch.stack([3 * a[n] + b[n], b[n]]) for n in engine.shapes}
        save_file(crooked, tmp_path / "c.safetensors")
        other = Subspace(str(tmp_path / "c.safetensors"), engine)
        for tensors in (a, b, {n: 0.3 * a[n] - 2 * b[n] for n in engine.shapes}):
            assert other.distance(engine, held(tensors)).r == pytest.approx(
                basis.distance(engine, held(tensors)).r, rel=1e-5
            )

    def test_a_random_subspace_is_orthonormal_and_holds_its_share(self, engine):
        shape = RandomSubspace(engine, 4, seed=1)
        e = [
            torch.cat([shape._combined(row, n, 0, s.numel()) for n, s in engine.shapes.items()])
            for row in torch.eye(4, dtype=torch.float64)
        ]
        gram = torch.stack(e) @ torch.stack(e).T
        assert torch.allclose(gram, torch.eye(4), atol=1e-5)

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({"nosuch": torch.ones(2, 3)}, "is not a basis for this model"),
            ({"norm": torch.ones(2, 4)}, "is not a basis for this model"),
            ({"norm": torch.ones(2, 5)}, "are not independent"),
            ({"norm": torch.eye(5)[:2], "up.bias": torch.ones(3, 6)}, "is not a basis"),
        ],
        ids=["name", "shape", "rank", "sizes"],
    )
    def test_refuses_what_is_no_basis(self, engine, tmp_path, tensors, words):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(bs.BasinscopeError, match=words):
            Subspace(str(tmp_path / "x.safetensors"), engine)

    def test_refuses_more_directions_than_there_are(self, engine, tmp_path):
        one = held(moved(engine))
        with pytest.raises(bs.BasinscopeError, match="span 1 dimensions"):
            save_basis(tmp_path / "u.safetensors", [one, one], engine, 2, {})
        with pytest.raises(bs.BasinscopeError, match="k=3 of 2 displacements"):
            save_basis(tmp_path / "u.safetensors", [one, one], engine, 3, {})
        assert not list(tmp_path.iterdir()), "no draft is left behind"

    def test_missing_file_and_other_suffix(self, engine, tmp_path):
        with pytest.raises(bs.BasinscopeError, match="no file at"):
            Subspace(str(tmp_path / "u.safetensors"), engine)
        with pytest.raises(bs.BasinscopeError, match=r"allowed: a name in \.safetensors"):
            save_basis(tmp_path / "u.bin", [held(moved(engine))], engine, 1, {})


class TestFactors:
    def test_lora_xs_lives_between_singular_vectors(self, engine):
        shape = lora_xs(engine, 2)
        theta = engine.pristine("up.weight").double()
        u, _, v = torch.linalg.svd(theta, full_matrices=False)
        inside = (u[:, :2] @ torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double() @ v[:2]).float()
        tensors = {**{n: torch.zeros(s) for n, s in engine.shapes.items()}, "up.weight": inside}
        assert shape.distance(engine, held(tensors)).r == pytest.approx(math.sqrt(30), rel=1e-4)

    def test_words(self, engine):
        assert bs.geometry("lora-xs:2:up", engine).label == "lora-xs:2:up"
        with pytest.raises(bs.BasinscopeError, match="lora-xs of rank 9"):
            bs.geometry("lora-xs:9", engine)
        with pytest.raises(bs.BasinscopeError, match="0 weights that match 'none'"):
            bs.geometry("lora-xs:1:none", engine)

    # transformers deprecates what peft asks of it
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
    def test_lora_of_an_adapter_whose_a_is_fixed(self, tmp_path, checkpoint):
        peft = pytest.importorskip("peft")
        engine = bs.load(checkpoint, dtype="float32")
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = peft.get_peft_model(base, config)
        size = 0.0
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if "lora_B" in n:
                    p.copy_(torch.randn(p.shape, generator=g) * 0.01)
                    size += float(p.square().sum())
        model.save_pretrained(tmp_path / "adapter")
        shape = bs.geometry(f"lora:{tmp_path / 'adapter'}", engine)
        direction = bs.Adapter(str(tmp_path / "adapter"))
        found = shape.distance(engine, direction.as_displacement(engine))
        assert found.r == pytest.approx(math.sqrt(size), rel=1e-4)
        whole = sum(
            float(np.square(direction.delta(engine, n).numpy()).sum()) for n in engine.shapes
        )
        assert whole == pytest.approx(engine.d, rel=1e-4)


@pytest.mark.parametrize(
    "word",
    ["", "sphere", "params:", "subspace:", "random-subspace:", "random-subspace:x", "lora-xs:",
     "lora-xs:x", "rms:2", "random-subspace:2:x", "lora:"],
)  # fmt: skip
def test_malformed_words(engine, word):
    with pytest.raises(bs.BasinscopeError, match="allowed: isotropic, rms, params:REGEX"):
        bs.geometry(word, engine)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("params:(", "is not a regular expression"),
        ("params:nosuch", "matches no perturbed parameter"),
        ("random-subspace:0", "k=0; allowed"),
        ("random-subspace:99999", "allowed: 1 to d=35"),
        ("subspace:nosuch.safetensors", "no file at"),
    ],
)
def test_words_that_do_not_fit(engine, word, words):
    with pytest.raises(bs.BasinscopeError, match=words):
        bs.geometry(word, engine)
