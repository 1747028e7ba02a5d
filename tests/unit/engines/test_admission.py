"""What cannot be served is refused from its config, before any weights are read."""

import json

import pytest
import torch
import toys
import transformers
from torch import nn

import basinscope as bs
from basinscope.engines import admission
from basinscope.errors import BasinscopeError

SMALL = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip
CPU = torch.device("cpu")


def folder_of(path, config, architecture):
    """A checkpoint's folder without weights: whoever reads them fails."""
    config.architectures = [architecture]
    config.save_pretrained(path)
    toys.tiny_tokenizer().save_pretrained(path)
    return path


REFUSED = {
    "encoder": (
        lambda: transformers.BertConfig(**SMALL), "BertForMaskedLM",
        r"is an encoder: each token sees those behind it; allowed: causal .*go on with a text",
    ),
    "encoder of another family": (
        lambda: transformers.RobertaConfig(**SMALL), "RobertaForMaskedLM", "is an encoder",
    ),
    "encoder-decoder": (
        lambda: transformers.BartConfig(vocab_size=99, d_model=16), "BartForConditionalGeneration",
        r"is a Bart, which reads with an encoder and writes with a decoder; .*both in one",
    ),
    "encoder-decoder that is no causal model at all": (
        lambda: transformers.T5Config(vocab_size=99), "T5ForConditionalGeneration", "is a T5, whi",
    ),
    "pictures": (
        lambda: transformers.ViTConfig(), "ViTForImageClassification",
        "is a ViT, for which transformers has no causal language model",
    ),
    "pictures and text": (
        lambda: transformers.Gemma3Config(), "Gemma3ForConditionalGeneration",
        r"is a Gemma3, which has parts for pictures or sound .*save its language model alone",
    ),
    "quantised layers": (
        lambda: transformers.LlamaConfig(
            **SMALL, quantization_config={"quant_method": "gptq", "bits": 4}
        ), "LlamaForCausalLM",
        r"stored with layers quantised by gptq, .*give the checkpoint that it was made from",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "architecture", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_causal_language_model_is_refused(tmp_path, config, architecture, message):
    folder = folder_of(tmp_path, config(), architecture)
    with pytest.raises(BasinscopeError, match=message) as raised:
        bs.load(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(("config", "architecture"), [
    (transformers.GPTNeoXConfig(**SMALL), "GPTNeoXForCausalLM"),
    (transformers.BertConfig(**SMALL, is_decoder=True), "BertLMHeadModel"),
    (transformers.LlamaConfig(**SMALL), "LlamaForCausalLM"),
    (transformers.LlamaConfig(**SMALL, quantization_config={"quant_method": "gguf"}), "LlamaModel"),
], ids=lambda part: part if isinstance(part, str) else "")  # fmt: skip
def test_what_is_one_passes(config, architecture):
    config.architectures = [architecture]
    admission.check_config("x", config, getattr(transformers, architecture))


def test_the_text_part_of_a_model_of_pictures_passes():
    config = transformers.Qwen3_5Config()
    admission.check_config("x", config, transformers.Qwen3_5ForCausalLM)


def test_a_live_module_is_refused_as_its_checkpoint_is(tokenizer):
    config = transformers.BartConfig(
        vocab_size=99, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    with pytest.raises(BasinscopeError, match="'BartForConditionalGeneration' is a Bart, which r"):
        bs.load(transformers.BartForConditionalGeneration(config), tokenizer=tokenizer)


class TestMemory:
    def check(self, *, dtype=torch.float32, folder=None):
        admission.check_memory("big", folder, lambda: nn.Linear(1000, 1000), dtype, CPU)

    @pytest.mark.parametrize(("dtype", "gigabytes"), [
        (torch.float32, "0.00801"), (torch.bfloat16, "0.004"),
    ])  # fmt: skip
    def test_says_how_much_is_needed(self, monkeypatch, dtype, gigabytes):
        needed = 2 * 1_001_000 * dtype.itemsize
        monkeypatch.setattr(admission, "free_bytes", lambda device: needed)
        self.check(dtype=dtype)
        monkeypatch.setattr(admission, "free_bytes", lambda device: needed - 1)
        with pytest.raises(
            BasinscopeError, match=f"'big' needs {gigabytes} GB .* and cpu has 0.00.* GB free; .*fr"
        ):
            self.check(dtype=dtype)

    def test_of_weights_that_a_file_holds_is_needed_once(self, monkeypatch, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(bytes(4_004_000))
        monkeypatch.setattr(admission, "free_bytes", lambda device: 4_004_000)
        self.check(folder=tmp_path)
        monkeypatch.setattr(admission, "free_bytes", lambda device: 4_003_999)
        with pytest.raises(BasinscopeError, match=r"'big' needs 0\.004 GB"):
            self.check(folder=tmp_path)

    def test_that_is_plenty_asks_for_no_module(self, tmp_path):
        def unasked():
            raise AssertionError("the size of the files was enough to know")

        (tmp_path / "model.safetensors").write_bytes(bytes(100))
        admission.check_memory("small", tmp_path, unasked, torch.float32, CPU)

    def test_too_little_refuses_a_checkpoint_before_its_weights_are_read(
        self, checkpoint, monkeypatch
    ):
        def unread(*_, **__):
            raise AssertionError("weights were read")

        monkeypatch.setattr(admission, "free_bytes", lambda device: 1000)
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", unread)
        with pytest.raises(BasinscopeError, match=r"GB for its weights, and cpu has 1e-06 GB free"):
            bs.load(checkpoint)

    def test_free_is_within_the_limit_of_a_container(self, monkeypatch, tmp_path):
        monkeypatch.setattr(admission, "_GROUP", tmp_path)
        whole = admission.free_bytes(CPU)
        assert whole > 1 << 20
        (tmp_path / "memory.max").write_text("1000000\n")
        (tmp_path / "memory.current").write_text("400000\n")
        (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 50000\n")
        assert admission.free_bytes(CPU) == 650_000
        (tmp_path / "memory.max").write_text("max\n")
        assert admission.free_bytes(CPU) > 1 << 20


def test_a_config_of_its_own_code_is_left_to_that_code(tmp_path):
    toys.tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "no-such-type", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BasinscopeError, match=r"cannot load .*allow trust_remote_code if you"):
        bs.load(tmp_path)
