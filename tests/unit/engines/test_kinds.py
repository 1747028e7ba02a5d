"""Which way an engine takes for a model, and that it agrees with the module's own forward."""

import functools

import pytest
import torch
import toys

import basinscope as bs
from basinscope.tasks import Choices, Corpus


def other(kind, **options):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
        **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return model.bfloat16().eval()


MODELS = {
    "llama": (lambda: toys.tiny_model("llama", dtype=torch.bfloat16), "transformers-pool/1"),
    "gpt2": (lambda: toys.tiny_model("gpt2", dtype=torch.bfloat16), "transformers-pool/1"),
    "llama in float32": (lambda: toys.tiny_model("llama"), "transformers-pool/1"),
    # a window is settled by a kernel that knows it
    "mistral": (lambda: other("Mistral", num_key_value_heads=2, sliding_window=130),
                "transformers-pool-cached/1"),
    # position and content have scores of their own
    "bloom": (lambda: toys_bloom(), "transformers-cached/1"),
}  # fmt: skip


def toys_bloom():
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(
        vocab_size=99, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BloomForCausalLM(config).bfloat16().eval()


@functools.cache
def requests():
    prefix = "Q: what is it? A: nobody knows that.\n" * 3
    found = [Choices(f"{'ab' * n}?", (" x", "yes", "no"), prefix) for n in (1, 9, 30)]
    return (*found, Choices("cd" * 60, ("d", "e")), Corpus("abc " * 40, window=50))


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_says_which_way_it_takes_and_agrees_with_the_plain_one(name):
    build, kind = MODELS[name]
    engine = bs.load(build(), tokenizer=toys.tiny_tokenizer())
    assert engine.kind == kind
    found = engine.answer(requests())
    engine.forward.cached = False
    for own, plain in zip(found, engine.answer(requests()), strict=True):
        a, b = (getattr(x, "loglik", getattr(x, "logliks", None)) for x in (own, plain))
        assert a == pytest.approx(b, rel=0.02, abs=0.3)
