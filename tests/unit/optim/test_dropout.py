"""Continuous dropout: where it acts in GPT-2, and the models it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build

SPEC = MethodSpec("dropout", {"std": 0.3})


def gpt2(attention="sdpa"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2,
                            attn_implementation=attention)  # fmt: skip
        return GPT2LMHeadModel(config).train()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sites_in_gpt2(attention):
    """Embeddings, and both branches of two blocks; rates of 0.1 are off during the step."""
    model, seen = gpt2(attention), []
    method = build(SPEC, model, lr=0.1, total_steps=1)
    ids = torch.arange(8)[None]
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    handles = [layer.register_forward_hook(lambda m, i, o: seen.append(m.p)) for layer in layers]
    state = torch.random.get_rng_state()
    method.step([lambda: model(ids, labels=ids).loss])
    assert seen == [0.0] * 5
    assert torch.equal(torch.random.get_rng_state(), state)  # ordinary dropout would draw
    assert [layer.p for layer in layers] == [0.1] * len(layers)
    for handle in handles:
        handle.remove()


def test_a_model_without_dropout_layers():
    with pytest.raises(bs.BasinscopeError, match="Linear, which has no dropout layer"):
        build(SPEC, nn.Linear(2, 2), lr=0.1, total_steps=1)


def test_a_model_in_evaluation_mode():
    model = gpt2().eval()
    ids = torch.arange(8)[None]
    method = build(SPEC, model, lr=0.1, total_steps=1)
    with pytest.raises(bs.BasinscopeError, match=r"evaluation mode.*model\.train"):
        method.step([lambda: model(ids, labels=ids).loss])


def test_gradient_checkpointing():
    model = gpt2()
    model.activation_checkpointing_enable()
    method = build(SPEC, model, lr=0.1, total_steps=1)
    with pytest.raises(bs.BasinscopeError, match="runs layers again"):
        method.step([lambda: model(torch.arange(8)[None]).logits.square().mean()])
