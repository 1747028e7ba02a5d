"""Another folder's weights are used only where all else that makes answers is the model's."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import tiny_model, tiny_tokenizer, write_checkpoint

import basinscope as bs


@pytest.fixture
def base(tmp_path):
    return write_checkpoint(tmp_path / "base")


@pytest.fixture
def other(base, tmp_path):
    """The model a little displaced, in all else the same."""
    folder = shutil.copytree(base, tmp_path / "other")
    stored = {n: t + 1e-3 for n, t in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change(folder, file, **fields):
    path = folder / file
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | fields))


def other_characters(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def lower_case(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def other_template(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)


CHANGES = {
    "layer_norm_epsilon": lambda f: change(f, "config.json", layer_norm_epsilon=5.0),
    "activation_function": lambda f: change(f, "config.json", activation_function="relu"),
    "model_type": lambda f: change(f, "config.json", model_type="gptj"),
    "eos_token_id": lambda f: change(f, "generation_config.json", eos_token_id=[1, 7]),
    "tokenizer of": other_characters,
    "tokenizer, which reads": lower_case,
    "chat_template": other_template,
}
IDLE = {
    "dropout": lambda f: change(f, "config.json", attn_pdrop=0.5, use_cache=False),
    "version": lambda f: change(f, "config.json", transformers_version="4.0", dtype="bfloat16"),
    "sampling": lambda f: change(f, "generation_config.json", temperature=0.5, do_sample=True),
    "weights alone": lambda f: [p.unlink() for p in f.iterdir() if p.suffix != ".safetensors"],
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_differs_is_refused_by_name(base, other, field):
    CHANGES[field](other)
    engine = bs.load(base, dtype="float32")
    for direction in (bs.Toward(other), bs.Merge([base, other])):
        with pytest.raises(
            bs.BasinscopeError, match=f"answers in another way.*: {field}"
        ) as raised:
            direction.fit(engine)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change_", IDLE.values(), ids=IDLE)
def test_what_changes_no_answer_passes(base, other, change_):
    change_(other)
    bs.Toward(other).fit(bs.load(base, dtype="float32"))


def test_a_verdict_says_nothing_of_another_model(base, other):
    change(other, "config.json", layer_norm_epsilon=5.0)
    engine = bs.load(base, dtype="float32")
    task = bs.CallableTask("some", lambda module: [1] * 8, 8)
    cert = bs.certify(engine, task, sigma=0.01, draws=20, target=0.4)
    with pytest.raises(bs.BasinscopeError, match=r"layer_norm_epsilon 5\.0, the model's 1e-05"):
        cert.verdict(str(other), task=task)


def test_the_config_counts_where_there_is_no_tokenizer(base, other):
    change(other, "config.json", layer_norm_epsilon=5.0)
    with pytest.raises(bs.BasinscopeError, match="layer_norm_epsilon"):
        bs.Toward(other).fit(bs.load(tiny_model()))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_base_of_an_adapter_counts(base, other):
    peft = pytest.importorskip("peft")
    change(other, "config.json", layer_norm_epsilon=5.0)
    adapted = peft.get_peft_model(
        tiny_model(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    torch.nn.init.ones_(next(p for n, p in adapted.named_parameters() if "lora_B" in n))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(other.parent / "adapter")
    bs.Adapter(other.parent / "adapter").fit(bs.load(base, dtype="float32"))
    adapted.peft_config["default"].base_model_name_or_path = str(other)
    adapted.save_pretrained(other.parent / "foreign")
    with pytest.raises(bs.BasinscopeError, match=r"the base of adapter:.*layer_norm_epsilon"):
        bs.Adapter(other.parent / "foreign").fit(bs.load(base, dtype="float32"))


def test_a_malformed_config_is_one_line(base, other):
    (other / "config.json").write_text("[1]")
    with pytest.raises(bs.BasinscopeError, match=r"config\.json is no JSON object"):
        bs.Toward(other).fit(bs.load(base, dtype="float32"))


def test_code_of_another_folder_is_refused_without_a_question(base, other, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "yes")
    (other / "config.json").unlink()
    (other / "own.py").write_text("raise SystemExit('it was run')\n")
    code = {"AutoTokenizer": ["own.Own", None]}
    change(other, "tokenizer_config.json", tokenizer_class="Own", auto_map=code)
    with pytest.raises(bs.BasinscopeError, match="its tokenizer cannot be read"):
        bs.Toward(other).fit(bs.load(base, dtype="float32"))
    assert asked == []
