"""Directions in files: what comes back is what was saved, and nothing else is taken."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import basinscope as bs
from basinscope.directions import Direction, save_direction
from basinscope.directions.saved import FORMAT
from basinscope.errors import BasinscopeError


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))


@pytest.fixture
def engine():
    return bs.load(net())


@pytest.fixture
def tensors(engine):
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(s, generator=generator) for n, s in engine.shapes.items()}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "kept" / "worst.safetensors"


def norm(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors.values()))


class TestRoundTrip:
    def test_gives_the_tensors_at_norm_sqrt_d(self, engine, tensors, file):
        assert save_direction(file, tensors, {}) == file
        saved = bs.Saved(file)
        scale = math.sqrt(engine.d) / norm(tensors)
        for name, tensor in tensors.items():
            delta = saved.delta(engine, name)
            assert delta.dtype == torch.float32
            assert torch.equal(delta, tensor * scale)
        deltas = {name: saved.delta(engine, name) for name in engine.shapes}
        assert norm(deltas) == pytest.approx(math.sqrt(engine.d), rel=1e-6)

    def test_sets_the_rounded_sum(self, engine, tensors, file):
        save_direction(file, tensors, {})
        saved = bs.Saved(file)
        before = engine.fingerprint()
        with engine.at(saved, step=-0.3):
            for name, live in engine.module.named_parameters():
                assert torch.equal(live, engine.pristine(name) + saved.delta(engine, name) * -0.3)
        assert engine.fingerprint() == before

    def test_equal_directions_are_equal_files(self, tensors, file):
        """With several keys in the file's metadata, one of these would differ: their order."""
        told = {key: 1 for key in "abcdef"}
        found = set()
        for turn in (1, -1) * 8:
            save_direction(file, tensors, dict(list(told.items())[::turn]), displacement=2.0)
            found.add(file.read_bytes())
        assert len(found) == 1

    def test_keeps_provenance(self, tensors, file):
        told = {"seed": 3, "losses": [1.5, None], "model": "äö", "nested": {"a": True}}
        save_direction(file, tensors, told)
        assert bs.Saved(file).metadata == told

    def test_keeps_the_displacement_that_it_was_made_from(self, engine, tensors, file):
        for displacement in (None, 4.25):
            save_direction(file, tensors, {}, displacement=displacement)
            saved = bs.Saved(file)
            assert saved.displacement is None
            saved.fit(engine)
            assert saved.displacement == displacement

    def test_file_of_others_is_taken_as_the_displacement_itself(self, engine, tensors, file):
        file.parent.mkdir()
        save_file(tensors, file)
        saved = bs.Saved(file)
        saved.fit(engine)
        assert saved.displacement == pytest.approx(norm(tensors), rel=1e-12)

    def test_parameters_without_a_tensor_are_zero_if_they_are_listed(self, engine, tensors, file):
        bias = tensors.pop("1.bias")
        save_direction(file, tensors, {}, zero=["1.bias"])
        saved = bs.Saved(file)
        assert torch.equal(saved.delta(engine, "1.bias"), torch.zeros_like(bias))
        with engine.at(saved, step=0.5):
            assert torch.equal(engine.module[1].bias, engine.pristine("1.bias"))
            assert not torch.equal(engine.module[0].bias, engine.pristine("0.bias"))

    def test_a_file_replaced_by_another_is_read_anew_by_another_engine(self, tensors, file):
        saved = bs.Saved(file)
        save_direction(file, tensors, {})
        first, second = bs.load(net()), bs.load(net())
        before = saved.delta(first, "0.bias")
        save_direction(file, {n: -t for n, t in tensors.items()}, {})
        assert torch.equal(saved.delta(first, "0.bias"), before)
        assert torch.equal(saved.delta(second, "0.bias"), -before)


class TestIdentity:
    def test_is_that_of_the_content_and_not_of_the_path(self, engine, tensors, tmp_path):
        identities = []
        for name, factor in (("a", 1.0), ("b", 1.0), ("c", 1.5)):
            file = tmp_path / f"{name}.safetensors"
            save_direction(file, {n: t * factor for n, t in tensors.items()}, {"name": name})
            identities.append(bs.Saved(file).identity(engine))
        assert identities[0] == identities[1] != identities[2]

    def test_label_is_the_word(self, file):
        assert bs.Saved(file).label == f"saved:{file}"
        assert bs.Saved(file) == bs.Saved(str(file))
        assert isinstance(bs.Saved(file), Direction)


class TestRefusals:
    def test_of_other_names_and_shapes_list_the_differences(self, engine, tensors, file):
        tensors["other"] = tensors.pop("0.weight")
        tensors["1.bias"] = torch.ones(3)
        save_direction(file, tensors, {})
        with pytest.raises(
            BasinscopeError,
            match=r"lacks 1 of 4 parameters \(0.weight\); it has 1 that the model lacks \(other\); "
            r"it has 1 of another shape \(1.bias \(3,\) instead of \(2,\)\)",
        ):
            bs.Saved(file).fit(engine)

    def test_of_a_tensor_that_is_neither_there_nor_zero(self, engine, tensors, file):
        del tensors["1.bias"]
        save_direction(file, tensors, {})
        with pytest.raises(BasinscopeError, match=r"lacks 1 of 4 parameters \(1.bias\)"):
            bs.Saved(file).fit(engine)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_of_values_that_are_not_finite(self, engine, tensors, file, bad):
        tensors["0.bias"][2] = bad
        with pytest.raises(BasinscopeError, match=r"direction of 0.bias is not finite"):
            save_direction(file, tensors, {})
        file.parent.mkdir()
        save_file(tensors, file)
        before = engine.fingerprint()
        with (
            pytest.raises(BasinscopeError, match=r"0.bias is not finite"),
            engine.at(bs.Saved(file), step=0.1),
        ):
            raise AssertionError("the body must not run")
        assert engine.fingerprint() == before

    def test_of_a_direction_that_is_zero(self, engine, tensors, file):
        save_direction(file, {n: torch.zeros_like(t) for n, t in tensors.items()}, {})
        with pytest.raises(BasinscopeError, match="same weights as the model"):
            bs.Saved(file).fit(engine)

    def test_of_further_draws(self, engine, tensors, file):
        save_direction(file, tensors, {})
        with pytest.raises(BasinscopeError, match=r"draw=1 .*; allowed: 0, its only draw"):
            bs.Saved(file).delta(engine, "0.bias", 1)

    @pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04.", b"\x00" * 64])
    def test_of_files_that_are_none(self, engine, file, content):
        file.parent.mkdir()
        file.write_bytes(content)
        with pytest.raises(BasinscopeError, match=r"cannot read .*worst.safetensors"):
            bs.Saved(file).fit(engine)

    def test_of_a_file_that_is_cut(self, engine, tensors, file):
        save_direction(file, tensors, {})
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(BasinscopeError, match=r"cannot read .*worst.safetensors"):
            bs.Saved(file).fit(engine)

    def test_of_a_file_written_to_between(self, engine, tensors, file):
        save_direction(file, tensors, {})
        saved = bs.Saved(file)
        saved.fit(engine)
        with file.open("ab") as more:
            more.write(b"x")
        with (
            pytest.raises(BasinscopeError, match="written to since"),
            engine.at(saved, step=0.1),
        ):
            raise AssertionError("the body must not run")

    def test_of_no_file(self, engine, file):
        with pytest.raises(BasinscopeError, match=r"no file at .*worst.safetensors"):
            bs.Saved(file).fit(engine)

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            ("zero", '{"zero": null}'),
            ("zero", '{"zero": "0.bias"}'),
            ("zero", "["),
            ("zero", "[]"),
            ("displacement", '{"displacement": "x"}'),
        ],
    )
    def test_of_metadata_that_means_nothing(self, engine, tensors, file, key, text):
        file.parent.mkdir()
        save_file(tensors, file, metadata={FORMAT: text})
        with pytest.raises(BasinscopeError, match=rf"metadata of .* malformed \({key}: "):
            bs.Saved(file).fit(engine)
        save_file(tensors, file, metadata={FORMAT: '{"provenance": []}'})
        with pytest.raises(BasinscopeError, match=r"malformed \(provenance: "):
            bs.Saved(file).metadata  # noqa: B018

    def test_of_integers(self, engine, tensors, file):
        file.parent.mkdir()
        save_file({n: t.to(torch.int8) for n, t in tensors.items()}, file)
        with pytest.raises(BasinscopeError, match=r"as I8.*allowed: F64, F32"):
            bs.Saved(file).fit(engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "x.pt"}, r"allowed: a name in .safetensors"),
        ({"tensors": {}}, "at least one tensor"),
        ({"zero": ["w"]}, "and none for what is zero"),
        ({"metadata": {"a": math.nan}}, "without NaN"),
        ({"metadata": {"a": object()}}, "JSON's types"),
        ({"displacement": 0.0}, "above 0, or None"),
        ({"displacement": math.nan}, "above 0, or None"),
    ],
)
def test_save_refuses(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    plan = {"path": "x.safetensors", "tensors": {"w": torch.ones(2)}, "metadata": {}}
    with pytest.raises(BasinscopeError, match=message):
        save_direction(**(plan | options))
    assert list(tmp_path.iterdir()) == []


def test_save_to_where_nothing_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BasinscopeError, match=r"cannot write .*w.safetensors"):
        save_direction(tmp_path / "file" / "w.safetensors", {"w": torch.ones(2)}, {})
