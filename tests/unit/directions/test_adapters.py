"""Adapters against peft's own merge, and every adapter that is not theta0 + scale BA."""

import json
import math
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import basinscope as bs
from basinscope.errors import BasinscopeError

peft = pytest.importorskip("peft")

ATTENTION = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
TABLE = {"gpt2": "wte", "llama": "embed_tokens"}
MLP = {"gpt2": r".*mlp\.c_fc", "llama": r".*layers\.1\.mlp\.up_proj"}


def model(kind, *, tied=True, width=32):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=99, n_positions=64, n_embd=width, n_layer=2, n_head=2,
                    tie_word_embeddings=tied,
                )
            )  # fmt: skip
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=99, max_position_embeddings=64, hidden_size=width, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=tied,
            )
        )  # fmt: skip


def adapted(kind, *, tied=True, **settings):
    """A model with an adapter that is trained already, as far as a test can tell."""
    options = {"r": 4, "target_modules": ATTENTION[kind]} | settings
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        found = peft.get_peft_model(model(kind, tied=tied), peft.LoraConfig(**options))
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return found


def write(found, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(adapted("llama"), tmp_path / "lora")


@pytest.fixture
def engine():
    return bs.load(model("llama"))


SETTINGS = {
    "plain": lambda kind: {},
    "alpha": lambda kind: {"lora_alpha": 3},
    "rslora": lambda kind: {"use_rslora": True, "lora_alpha": 3},
    "patterns": lambda kind: {
        "target_modules": "all-linear", "rank_pattern": {MLP[kind]: 2},
        "alpha_pattern": {MLP[kind]: 5},
    },
    "rslora patterns": lambda kind: {
        "target_modules": "all-linear", "use_rslora": True, "rank_pattern": {MLP[kind]: 2},
        "alpha_pattern": {"mlp.c_fc": 5, "up_proj": 7},
    },
    "embedding": lambda kind: {"target_modules": [*ATTENTION[kind], TABLE[kind]]},
    "head": lambda kind: {"target_modules": [*ATTENTION[kind], "lm_head"]},
    "bias": lambda kind: {"bias": "all"},
    "bias of the layers": lambda kind: {"bias": "lora_only"},
    "whole modules": lambda kind: {
        "modules_to_save": ["ln_f" if kind == "gpt2" else "post_attention_layernorm"]
    },
    "gaussian": lambda kind: {"init_lora_weights": "gaussian"},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_where_it_sits_the_weights_are_those_that_peft_merges(kind, tied, settings, tmp_path):
    found = adapted(kind, tied=tied, **settings(kind))
    adapter = bs.Adapter(write(found, tmp_path))
    engine = bs.load(model(kind, tied=tied))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = dict(found.merge_and_unload().named_parameters())
    moved = 0
    before = engine.fingerprint()
    with engine.at(adapter, step=adapter.sits_at(engine)):
        for name, tensor in engine.module.named_parameters():
            assert torch.allclose(tensor, merged[name], rtol=1e-5, atol=1e-6), name
            moved += not torch.equal(tensor, engine.pristine(name))
    assert moved == sum(not torch.equal(merged[n], engine.pristine(n)) for n in engine.shapes)
    assert moved > 0
    assert engine.fingerprint() == before
    total = sum(
        float((merged[n].detach().double() - engine.pristine(n).double()).square().sum())
        for n in engine.shapes
    )
    assert adapter.displacement == pytest.approx(math.sqrt(total), rel=1e-5)


def test_bias_of_the_second_factor_is_added(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    base = {n: p.detach().clone() for n, p in module.named_parameters()}
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], lora_bias=True)
    found = peft.get_peft_model(module, config)
    for parameter in found.parameters():
        parameter.data.add_(0.25 * parameter.requires_grad)
    adapter = bs.Adapter(write(found, tmp_path))
    merged = dict(found.merge_and_unload().named_parameters())
    again = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    again.load_state_dict(base)
    engine = bs.load(again)
    with engine.at(adapter, step=adapter.sits_at(engine)):
        for name, tensor in again.named_parameters():
            assert torch.allclose(tensor, merged[name], atol=1e-6), name
    assert not torch.equal(merged["0.bias"], base["0.bias"])


def test_delta_has_norm_sqrt_d_and_is_zero_elsewhere(engine, folder):
    adapter = bs.Adapter(folder)
    deltas = {name: adapter.delta(engine, name) for name in engine.shapes}
    moved = {name for name, delta in deltas.items() if delta.any()}
    assert moved == {n for n in engine.shapes if "q_proj" in n or "v_proj" in n}
    total = sum(float(d.double().square().sum()) for d in deltas.values())
    assert total == pytest.approx(engine.d, rel=1e-6)


def test_identity_is_that_of_factors_and_scale(engine, folder, tmp_path):
    identities = []
    for name, alpha in (("a", 8), ("b", 8), ("c", 9)):
        copy = tmp_path / name
        copy.mkdir()
        config = json.loads((folder / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file(tensors, copy / "adapter_model.safetensors")
        identities.append(bs.Adapter(copy).identity(engine))
    assert identities[0] == identities[1] != identities[2]


def experts(kind, inner=32):
    """A mixture of experts, an adapter on whose stacked weights is trained already."""
    import transformers

    settings = {
        "vocab_size": 99, "hidden_size": 32, "intermediate_size": inner, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 2,
        "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": inner, "head_dim": 16,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe", "GptOss"])
@pytest.mark.parametrize(("rslora", "inner"), [(False, 32), (True, 48)])
def test_experts_are_merged_as_peft_merges_them(tmp_path, kind, rslora, inner):
    engine = bs.load(experts(kind, inner))
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        settings = {"target_modules": ["q_proj"], "target_parameters": targets}
        found = peft.get_peft_model(
            experts(kind, inner), peft.LoraConfig(r=3, use_rslora=rslora, **settings)
        )
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        adapter = bs.Adapter(write(found, tmp_path))
        merged = dict(found.merge_and_unload().named_parameters())
    scale = adapter.sits_at(engine)
    moved = 0
    for name in engine.shapes:
        there = engine.pristine(name) + adapter.delta(engine, name) * scale
        assert torch.allclose(there, merged[name], atol=1e-5), name
        moved += not torch.equal(merged[name], engine.pristine(name))
    assert moved == 6  # in two layers: q_proj and both stacks


def test_experts_of_another_size_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
        found = peft.get_peft_model(experts("Mixtral"), peft.LoraConfig(r=3, **settings))
    with pytest.raises(BasinscopeError, match=r"mlp\.experts fit no parameter of the model"):
        bs.Adapter(write(found, tmp_path)).fit(bs.load(experts("Mixtral", inner=48)))


# --- refusals -----------------------------------------------------------------------------------


def change(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return bs.Adapter(folder)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "IA3"}, "its type is IA3"),
        ({"peft_type": None}, "its type is None"),
        ({"use_dora": True}, r"it is DoRA \(use_dora\)"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "it moved the base itself"),
        ({"init_lora_weights": "olora"}, "it moved the base itself"),
    ],
)
def test_other_kinds_are_refused_with_what_to_try(engine, folder, settings, reason):
    with pytest.raises(BasinscopeError, match=rf"{reason}.*allowed: LoRA.*merge_and_unload.*to:"):
        change(folder, **settings).fit(engine)


def test_a_real_dora_is_refused(engine, tmp_path):
    folder = write(adapted("llama", use_dora=True), tmp_path)
    with pytest.raises(BasinscopeError, match="it is DoRA"):
        bs.Adapter(folder).fit(engine)
    with pytest.raises(BasinscopeError, match=r"lora_magnitude_vector.* no factor of LoRA"):
        change(folder, use_dora=False).fit(engine)


def test_a_head_trained_apart_from_the_table_it_is_tied_to_is_refused(engine, tmp_path):
    folder = write(adapted("llama", modules_to_save=["lm_head"]), tmp_path)
    with pytest.raises(BasinscopeError, match=r"trains lm_head.weight apart from what it is tied"):
        bs.Adapter(folder).fit(engine)
    bs.Adapter(folder).fit(bs.load(model("llama", tied=False)))


def test_an_adapter_of_another_architecture_lists_the_differences(folder):
    with pytest.raises(
        BasinscopeError,
        match=r"is an adapter for another base .*changes 4 tensors that the model lacks "
        r"\(model.layers.0.self_attn.q_proj.weight, .*give the model that it was trained on",
    ):
        bs.Adapter(folder).fit(bs.load(model("gpt2")))


def test_an_adapter_of_another_size_lists_the_differences(folder):
    with pytest.raises(
        BasinscopeError,
        match=r"has 4 of another shape \(model.layers.0.self_attn.q_proj.weight \(32, 32\) "
        r"instead of \(16, 16\)",
    ):
        bs.Adapter(folder).fit(bs.load(model("llama", width=16)))


def test_factors_that_do_not_multiply_are_refused(engine, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = torch.ones(3, 32)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(BasinscopeError, match=r"has 1 of another shape .*\(32, 4\) x \(3, 32\)"):
        bs.Adapter(folder).fit(engine)
    del tensors[key]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(BasinscopeError, match=r"one factor of .* only"):
        bs.Adapter(folder).fit(engine)


def test_factors_that_are_not_finite_are_refused(engine, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[next(iter(tensors))][0, 0] = math.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(BasinscopeError, match=r"adapter:.*q_proj.weight is not finite"):
        bs.Adapter(folder).fit(engine)


@pytest.mark.parametrize(
    "settings",
    [{"lora_alpha": "much"}, {"lora_alpha": None}, {"alpha_pattern": {"(": 1}},
     {"alpha_pattern": {"a": "x"}}, {"alpha_pattern": [1]}],
)  # fmt: skip
def test_a_malformed_scale_is_refused(engine, folder, settings):
    with pytest.raises(BasinscopeError, match=r"lora_alpha or alpha_pattern of .* is malformed"):
        change(folder, **settings).fit(engine)


def test_an_untrained_adapter_is_refused(engine, tmp_path):
    found = adapted("llama", init_lora_weights=True)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    with pytest.raises(BasinscopeError, match="has the same weights as the model"):
        bs.Adapter(write(found, tmp_path)).fit(engine)


def test_folders_that_are_no_adapter_are_refused(engine, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BasinscopeError, match=r"is not an adapter .*; try: to:.* for a whole model"
    ):
        bs.Adapter(tmp_path / "empty").fit(engine)
    with pytest.raises(BasinscopeError, match="no model at"):
        bs.Adapter("./nowhere").fit(engine)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BasinscopeError, match="only a pickle"):
        bs.Adapter(folder).fit(engine)
    for text in ("[]", "{", ""):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(BasinscopeError, match=r"cannot read .*adapter_config.json"):
            bs.Adapter(folder).fit(engine)
