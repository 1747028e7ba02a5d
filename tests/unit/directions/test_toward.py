"""Toward other checkpoints: as they are stored, by name and shape, exactly where they sit."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toys import write_checkpoint

import basinscope as bs
from basinscope.errors import BasinscopeError


def net(seed=0, dtype=torch.float32, width=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), nn.Linear(width, 2)).to(
            dtype
        )


def state(module):
    return {name: tensor.detach().contiguous() for name, tensor in module.named_parameters()}


def norm(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


@pytest.fixture
def engine():
    return bs.load(net())


@pytest.fixture
def folder(tmp_path):
    """Checkpoint of another net of the same shapes."""
    tmp_path = tmp_path / "other"
    tmp_path.mkdir()
    save_file(state(net(1)), tmp_path / "model.safetensors")
    return tmp_path


class TestToward:
    def test_delta_is_the_difference_at_norm_sqrt_d(self, engine, folder):
        toward = bs.Toward(folder)
        theta, other = state(net()), state(net(1))
        moved = {n: other[n] - theta[n] for n in theta}
        scale = math.sqrt(engine.d) / norm(moved.values())
        for name in engine.shapes:
            delta = toward.delta(engine, name)
            assert delta.dtype == torch.float32
            assert torch.allclose(delta, moved[name] * scale, rtol=1e-6, atol=0)
        deltas = [toward.delta(engine, name) for name in engine.shapes]
        assert norm(deltas) == pytest.approx(math.sqrt(engine.d), rel=1e-6)

    def test_displacement_is_the_norm_of_the_difference(self, engine, folder):
        toward = bs.Toward(folder)
        assert toward.displacement is None
        toward.fit(engine)
        theta, other = state(net()), state(net(1))
        expected = norm(other[n].double() - theta[n].double() for n in theta)
        assert toward.displacement == pytest.approx(expected, rel=1e-6)
        assert toward.sits_at(engine) == pytest.approx(expected / math.sqrt(engine.d), rel=1e-6)

    def test_only_the_selection_counts(self, folder):
        engine = bs.load(net(), params="^2")
        toward = bs.Toward(folder)
        toward.fit(engine)
        theta, other = state(net()), state(net(1))
        expected = norm(other[n] - theta[n] for n in ("2.weight", "2.bias"))
        assert toward.displacement == pytest.approx(expected, rel=1e-6)
        assert norm(toward.delta(engine, n) for n in engine.shapes) == pytest.approx(12**0.5)

    def test_is_fitted_anew_for_another_engine(self, engine, folder):
        toward = bs.Toward(folder)
        first = toward.sits_at(engine)
        second = toward.sits_at(bs.load(net(2)))
        assert second != first
        assert toward.sits_at(engine) == first

    def test_one_file_does_as_well(self, engine, folder):
        file = bs.Toward(folder / "model.safetensors")
        assert torch.equal(file.delta(engine, "0.bias"), bs.Toward(folder).delta(engine, "0.bias"))

    def test_identity_is_that_of_the_content(self, engine, folder, tmp_path):
        found = []
        for name, module in (("copy", net(1)), ("third", net(2))):
            (tmp_path / name).mkdir()
            save_file(state(module), tmp_path / name / "weights.safetensors")
            found.append(bs.Toward(tmp_path / name))
        first, copy, third = bs.Toward(folder), *found
        assert first.identity(engine) == copy.identity(engine) != third.identity(engine)
        assert first != copy

    def test_shards_are_one_checkpoint(self, engine, folder, tmp_path):
        shards = tmp_path / "shards"
        shards.mkdir()
        whole = state(net(1))
        where = {name: f"model-0000{i % 2 + 1}-of-2.safetensors" for i, name in enumerate(whole)}
        for file in set(where.values()):
            save_file({n: t for n, t in whole.items() if where[n] == file}, shards / file)
        save_file({"0.weight": torch.zeros(1)}, shards / "another.safetensors")
        index = shards / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": where}))
        toward, own = bs.Toward(shards), bs.Toward(folder)
        assert torch.equal(toward.delta(engine, "2.weight"), own.delta(engine, "2.weight"))
        assert toward.identity(engine) == own.identity(engine)
        (shards / "model-00002-of-2.safetensors").unlink()
        with pytest.raises(BasinscopeError, match=r"lacks 1 of 2 shards \(model-00002"):
            bs.Toward(shards).fit(engine)
        index.write_text("{}")
        with pytest.raises(BasinscopeError, match=r"index.json is malformed"):
            bs.Toward(shards).fit(engine)

    @pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("live", [torch.float32, torch.bfloat16, torch.float64])
    def test_at_where_it_sits_the_weights_are_the_others(self, tmp_path, stored, live):
        other = {n: t.to(stored) for n, t in state(net(1)).items()}
        save_file(other, tmp_path / "model.safetensors")
        engine = bs.load(net(dtype=live))
        toward = bs.Toward(tmp_path)
        before = engine.fingerprint()
        with engine.at(toward, step=toward.sits_at(engine)):
            for name, tensor in engine.module.named_parameters():
                theta, there = engine.pristine(name).double(), other[name].double()
                error = 2.0**-20 * torch.maximum(theta.abs(), there.abs())
                error += torch.finfo(live).eps / 2 * there.abs()
                assert ((tensor.double() - there).abs() <= error).all()
                if live == stored == torch.bfloat16:
                    near = there.abs() > 2.0**-10 * theta.abs()
                    assert near.any() == there.any()
                    assert torch.equal(tensor[near], other[name][near])
        assert engine.fingerprint() == before


class TestNames:
    """Checkpoints of language models, as transformers writes and wrappers rename them."""

    @staticmethod
    def toward(folder, model, rename=lambda n: n, more=None):
        tensors = {rename(n): t for n, t in state(model).items()}
        save_file(tensors | (more or {}), folder / "model.safetensors")
        return bs.Toward(folder)

    def test_of_save_pretrained(self, language_model, tmp_path):
        engine = bs.load(language_model)
        other = type(language_model)(language_model.config)
        other.save_pretrained(tmp_path)
        assert bs.Toward(tmp_path).fit(engine) is None

    @pytest.mark.parametrize(
        "rename",
        [
            lambda n: n,
            lambda n: f"_orig_mod.{n}",
            lambda n: n.replace("transformer.", "").replace("model.", ""),
            lambda n: f"module.{n}",
            lambda n: n.replace("transformer.wte", "lm_head").replace(
                "model.embed_tokens", "lm_head"
            ),
        ],
        ids=["plain", "compiled", "bare", "wrapped", "head"],
    )
    def test_that_say_the_same(self, language_model, tmp_path, rename):
        engine = bs.load(language_model)
        other = type(language_model)(language_model.config)
        toward = self.toward(tmp_path, other, rename)
        toward.fit(engine)
        for name, tensor in other.named_parameters():
            scale = toward.displacement / math.sqrt(engine.d)
            moved = toward.delta(engine, name) * scale
            there = engine.pristine(name) + moved
            assert torch.allclose(there, tensor, rtol=1e-5, atol=1e-6), name

    def test_tied_tensors_may_stand_twice_if_they_agree(self, language_model, tmp_path):
        engine = bs.load(language_model)
        other = type(language_model)(language_model.config)
        table = other.get_input_embeddings().weight.detach()
        self.toward(tmp_path, other, more={"lm_head.weight": table.clone()}).fit(engine)
        with pytest.raises(BasinscopeError, match=r"different values for .* and .*the model ties"):
            self.toward(tmp_path, other, more={"lm_head.weight": table + 1}).fit(engine)

    def test_buffers_that_are_computed_are_passed_over(self, language_model, tmp_path):
        engine = bs.load(language_model)
        other = type(language_model)(language_model.config)
        more = {
            "transformer.h.0.attn.masked_bias": torch.ones(1),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        }
        self.toward(tmp_path, other, more=more).fit(engine)


class TestFolders:
    """A folder is the same model as a direction as it is to `bs.load`."""

    def test_a_whole_file_goes_before_shards(self, engine, folder):
        shard = "model-00001-of-1.safetensors"
        save_file(state(net(2)), folder / shard)
        index = {"weight_map": dict.fromkeys(state(net()), shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        toward = bs.Toward(folder)
        scale = toward.sits_at(engine)
        there = engine.pristine("0.bias") + toward.delta(engine, "0.bias") * scale
        assert torch.allclose(there, state(net(1))["0.bias"], atol=1e-6)

    @pytest.mark.parametrize(
        ("kind", "masks"),
        [
            ("GPTNeoX", {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8).bool()}),
            ("GPT2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}),
        ],
    )
    def test_masks_are_no_quantised_weights(self, tmp_path, kind, masks):
        base, other = causal(kind, 0), causal(kind, 1)
        other.save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors") | masks
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
        arrives(bs.Toward(tmp_path), bs.load(base), other)

    @pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
    def test_names_that_loading_changes(self, tmp_path, monkeypatch, kind):
        monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "cache"))
        base, other = causal(kind, 0), causal(kind, 1)
        other.save_pretrained(tmp_path / "other")
        arrives(bs.Toward(tmp_path / "other"), bs.load(base), other)


class TestRounding:
    """A bfloat16 engine of wider weights does not take its own rounding for a displacement."""

    @pytest.fixture(params=[torch.float32, torch.float16])
    def base(self, request, tmp_path):
        return write_checkpoint(tmp_path / "base", dtype=request.param)

    @staticmethod
    def moved(base, to, by):
        shutil.copytree(base, to)
        stored = load_file(to / "model.safetensors")
        generator = torch.Generator().manual_seed(0)
        tuned = {n: t + by * torch.randn(t.shape, generator=generator) for n, t in stored.items()}
        save_file(tuned, to / "model.safetensors", metadata={"format": "pt"})
        return norm(tuned[n].double() - stored[n].double() for n in stored)

    def test_a_light_fine_tune_is_refused(self, base, tmp_path):
        self.moved(base, tmp_path / "tuned", 1e-5)
        stored = "float16" if "float16" in str(load_dtype(base)) else "float32"
        message = rf"away from the model as it is stored \({stored}\).*loaded \(bfloat16\).*float32"
        with pytest.raises(BasinscopeError, match=message):
            bs.Toward(tmp_path / "tuned").fit(bs.load(base, dtype="bfloat16"))
        with pytest.raises(BasinscopeError, match=message):
            bs.Merge([tmp_path / "tuned", base]).fit(bs.load(base, dtype="bfloat16"))

    def test_the_wider_dtype_measures_it(self, base, tmp_path):
        there = self.moved(base, tmp_path / "tuned", 1e-5)
        toward = bs.Toward(tmp_path / "tuned")
        toward.fit(bs.load(base, dtype="float32"))
        assert toward.displacement == pytest.approx(there, rel=1e-5)

    def test_the_model_itself_is_refused(self, base):
        with pytest.raises(BasinscopeError, match=r"is 0 away from the model as it is stored"):
            bs.Toward(base).fit(bs.load(base, dtype="bfloat16"))

    def test_a_heavy_fine_tune_drowns_the_rounding(self, base, tmp_path):
        there = self.moved(base, tmp_path / "tuned", 0.1)
        toward = bs.Toward(tmp_path / "tuned")
        toward.fit(bs.load(base, dtype="bfloat16"))
        assert toward.displacement == pytest.approx(there, rel=0.01)

    def test_a_fine_tune_of_the_rounded_weights_is_measured_from_them(self, base, tmp_path):
        engine = bs.load(base, dtype="bfloat16")
        shutil.copytree(base, tmp_path / "tuned")
        tuned = {n: engine.pristine(n).float() for n in engine.shapes}
        there = {n: t + 1e-5 for n, t in tuned.items()}
        save_file(there, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
        toward = bs.Toward(tmp_path / "tuned")
        toward.fit(engine)
        expected = norm(there[n].double() - tuned[n].double() for n in tuned)
        assert toward.displacement == pytest.approx(expected, rel=1e-5)


def load_dtype(folder):
    return next(iter(load_file(folder / "model.safetensors").values())).dtype


def causal(kind, seed):
    """Small model of an architecture."""
    import transformers

    small = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"n_embd": 32, "n_layer": 1, "n_head": 2} if kind == "GPT2" else {}
    if kind in ("Mixtral", "Qwen3Moe"):
        small |= {"num_key_value_heads": 2, "intermediate_size": 64, "num_experts_per_tok": 2}
        small |= {"num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**small, bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config)


def arrives(toward, engine, other):
    """Where the direction sits, the live weights are the other model's."""
    there = state(other)
    with engine.at(toward, step=toward.sits_at(engine)):
        for name, tensor in engine.module.named_parameters():
            assert torch.allclose(tensor, there[name], atol=1e-6), name


class TestMerge:
    @pytest.fixture
    def folders(self, tmp_path):
        for seed in (1, 2):
            (tmp_path / str(seed)).mkdir()
            save_file(state(net(seed)), tmp_path / str(seed) / "model.safetensors")
        return [tmp_path / "1", tmp_path / "2"]

    @pytest.mark.parametrize("weights", [None, (0.25, 0.75), (0.4, 0.4), (1.0, -1.0)])
    def test_is_the_weighted_sum_of_displacements(self, engine, folders, weights):
        merge = bs.Merge(folders, weights)
        theta, a, b = state(net()), state(net(1)), state(net(2))
        v, w = weights or (0.5, 0.5)
        moved = {n: v * (a[n] - theta[n]) + w * (b[n] - theta[n]) for n in theta}
        merge.fit(engine)
        assert merge.displacement == pytest.approx(norm(moved.values()), rel=1e-6)
        for name in theta:
            delta = merge.delta(engine, name) * (merge.displacement / math.sqrt(engine.d))
            assert torch.allclose(delta, moved[name], rtol=1e-4, atol=1e-6)

    def test_of_equal_shares_sits_at_the_average(self, engine, folders):
        merge = bs.Merge(folders)
        a, b = state(net(1)), state(net(2))
        with engine.at(merge, step=merge.sits_at(engine)):
            for name, tensor in engine.module.named_parameters():
                assert torch.allclose(tensor, (a[name] + b[name]) / 2, atol=1e-6)

    def test_identities_tell_weights_and_order_apart(self, engine, folders):
        merges = [
            bs.Merge(folders), bs.Merge(folders, [0.5, 0.5]), bs.Merge(folders, [0.3, 0.7]),
            bs.Merge(folders, [0.7, 0.3]),
        ]  # fmt: skip
        first, same, *others = [merge.identity(engine) for merge in merges]
        assert first == same
        assert len({first, *others}) == 3

    @pytest.mark.parametrize(
        ("models", "weights", "message"),
        [
            (["a"], None, "at least two"),
            ([], None, "at least two"),
            (["a", "b"], [1.0], "one finite number for each"),
            (["a", "b"], [1.0, math.nan], "one finite number for each"),
        ],
    )
    def test_refuses(self, models, weights, message):
        with pytest.raises(BasinscopeError, match=message):
            bs.Merge(models, weights)


class TestRefusals:
    def test_of_another_architecture_list_the_differences(self, engine, tmp_path):
        save_file({"a.weight": torch.ones(2), "0.bias": torch.ones(5)}, tmp_path / "x.safetensors")
        with pytest.raises(
            BasinscopeError,
            match=r"does not fit the model: it lacks 5 of 6 parameters \(0.weight, 1.weight, "
            r"1.bias, ...\); it has 1 that the model lacks \(a.weight\); allowed: the same names",
        ):
            bs.Toward(tmp_path).fit(engine)

    def test_of_another_shape_list_the_differences(self, engine, tmp_path):
        save_file(state(net(1, width=4)), tmp_path / "model.safetensors")
        with pytest.raises(
            BasinscopeError,
            match=r"has 5 of another shape \(0.weight \(4, 6\) instead of \(5, 6\), .*, \.\.\.\)",
        ):
            bs.Toward(tmp_path).fit(engine)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_of_weights_that_are_not_finite(self, engine, folder, bad):
        tensors = load_file(folder / "model.safetensors")
        tensors["2.bias"][1] = bad
        save_file(tensors, folder / "model.safetensors")
        before = engine.fingerprint()
        with (
            pytest.raises(BasinscopeError, match=r"to:.*: 2.bias is not finite"),
            engine.at(bs.Toward(folder), step=0.1),
        ):
            raise AssertionError("the body must not run")
        assert engine.fingerprint() == before

    def test_of_the_models_own_weights(self, engine, tmp_path):
        save_file(state(net()), tmp_path / "model.safetensors")
        with pytest.raises(BasinscopeError, match=r"has the same weights as the model"):
            bs.Toward(tmp_path).fit(engine)

    def test_of_an_empty_folder(self, engine, tmp_path):
        with pytest.raises(BasinscopeError, match="holds no weights"):
            bs.Toward(tmp_path).fit(engine)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
    def test_of_pickles(self, engine, tmp_path, name):
        torch.save(state(net(1)), tmp_path / name)
        for model in (tmp_path, tmp_path / name):
            with pytest.raises(BasinscopeError, match=r"is a pickle.*save_pretrained"):
                bs.Toward(model).fit(engine)

    def test_of_an_adapter(self, engine, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(BasinscopeError, match=r"is an adapter, .*; try: adapter:"):
            bs.Toward(tmp_path).fit(engine)

    @pytest.mark.parametrize("word", ["./nowhere", "/no/such/model", "a/b/c", "x.gguf"])
    def test_of_what_is_not_there(self, engine, word):
        with pytest.raises(BasinscopeError, match="no model at"):
            bs.Toward(word).fit(engine)

    def test_of_a_file_that_is_cut(self, engine, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
        with pytest.raises(BasinscopeError, match=r"cannot read .*model.safetensors"):
            bs.Toward(folder).fit(engine)

    def test_of_a_tensor_in_two_files(self, engine, folder):
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        save_file({"0.bias": torch.ones(5)}, folder / "b.safetensors")
        with pytest.raises(BasinscopeError, match=r"0.bias stands in .*b.safetensors and in"):
            bs.Toward(folder).fit(engine)

    def test_of_quantised_storage(self, engine, folder):
        tensors = load_file(folder / "model.safetensors")
        tensors["0.weight"] = tensors["0.weight"].to(torch.float8_e4m3fn)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(BasinscopeError, match=r"0.weight as F8_E4M3.*convert"):
            bs.Toward(folder).fit(engine)
