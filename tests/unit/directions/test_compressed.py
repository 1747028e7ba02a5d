"""Quantised and pruned copies: the grids by hand, which tensors, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import basinscope as bs
from basinscope.errors import BasinscopeError


def linear(rows):
    module = nn.Linear(len(rows[0]), len(rows), bias=False)
    module.weight.data = torch.tensor(rows)
    return module


def copy_of(direction, engine, name="weight"):
    """The other model's tensor, as the slice reaches it."""
    step = direction.sits_at(engine)
    return engine.pristine(name).float() + direction.delta(engine, name) * step


class TestQuantised:
    @pytest.mark.parametrize(
        ("row", "direction", "expected"),
        [
            # q = 1: -s, 0, s with s = max|w|
            ([1.0, -0.4, 0.6, 0.2], bs.Quantised(2), [1.0, 0.0, 1.0, 0.0]),
            # q = 3, s = 1
            ([3.0, -1.4, 0.6, -2.6], bs.Quantised(3), [3.0, -1.0, 1.0, -3.0]),
            # two groups, s = 1 and 0.5
            ([3.0, -1.4, 0.3, -1.5], bs.Quantised(3, 2), [3.0, -1.0, 0.5, -1.5]),
            # the last group is shorter: s = 1, then s = 1/6
            ([3.0, -1.4, 0.6, 0.5], bs.Quantised(3, 3), [3.0, -1.0, 1.0, 0.5]),
            # a group of zeros stays
            ([0.0, 0.0, 1.0, 0.2], bs.Quantised(2, 2), [0.0, 0.0, 1.0, 0.0]),
            # 0 .. 3 from -1 to 2: s = 1, z = 1
            ([-1.0, 2.0, 0.4, 0.6], bs.Quantised(2, None, False), [-1.0, 2.0, 0.0, 1.0]),
            # zero is on the grid where all are positive: 0 .. 3 from 0 to 6
            ([6.0, 5.0, 3.1, 2.9], bs.Quantised(2, None, False), [6.0, 4.0, 4.0, 2.0]),
        ],
    )
    def test_grid(self, row, direction, expected):
        engine = bs.load(linear([row]))
        assert copy_of(direction, engine)[0].tolist() == pytest.approx(expected, abs=1e-6)

    def test_each_output_has_its_own_grid(self):
        engine = bs.load(linear([[1.0, 0.4], [100.0, 60.0]]))
        assert copy_of(bs.Quantised(2), engine).tolist() == [[1.0, 0.0], [100.0, 100.0]]

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_linear_layers_alone_along_their_inputs(self, kind):
        from transformers.pytorch_utils import Conv1D

        model = tiny(kind)
        engine = bs.load(model)
        direction = bs.Quantised(3, 8)
        for path, layer in model.named_modules():
            for name, tensor in layer.named_parameters(path, recurse=False):
                if name not in engine.shapes:
                    continue
                delta = direction.delta(engine, name)
                if tensor.ndim < 2 or path == "lm_head" or isinstance(layer, nn.Embedding):
                    assert not delta.any(), name
                    continue
                turn = isinstance(layer, Conv1D)
                weight = tensor.detach().T if turn else tensor.detach()
                groups = weight.reshape(-1, 8)
                scale = groups.abs().amax(1, keepdim=True) / 3
                rounded = ((groups / scale).round() * scale).reshape(weight.shape)
                moved = rounded - weight
                expected = (moved.T if turn else moved) * (1 / direction.sits_at(engine))
                assert torch.allclose(delta, expected, rtol=1e-4, atol=1e-5), name
        assert len(engine.linear) == {"gpt2": 4, "llama": 14}[kind]

    def test_more_bits_lie_nearer(self):
        engine = bs.load(tiny("llama"))
        found = [bs.Quantised(bits, 8).sits_at(engine) for bits in (2, 3, 4, 8, 16)]
        assert found == sorted(found, reverse=True)
        assert found[-1] < 1e-3 * found[0]
        assert bs.Quantised(3, 8).sits_at(engine) < bs.Quantised(3).sits_at(engine)

    def test_labels_and_identities_differ(self):
        engine = bs.load(tiny("llama"))
        lines = [
            bs.Quantised(4), bs.Quantised(4, 8), bs.Quantised(3), bs.Quantised(4, None, False),
            bs.Quantised(4, 8, False),
        ]  # fmt: skip
        assert len({line.label for line in lines}) == 5
        assert len({line.identity(engine) for line in lines}) == 5

    @pytest.mark.parametrize("bits", [0, 1, 17, 4.0, True, None, "4"])
    def test_refuses_bits(self, bits):
        with pytest.raises(BasinscopeError, match=r"bits=.*2 to 16"):
            bs.Quantised(bits)

    def test_numbers_of_numpy_are_numbers(self):
        assert bs.Quantised(np.int64(4), np.int32(8)).label == "quantised:4:8"
        assert bs.Pruned(np.float64(0.5)).label == "pruned:0.5"
        assert bs.Pruned(1).label == "pruned:1.0"

    @pytest.mark.parametrize("group", [0, -1, 2.0, True])
    def test_refuses_groups(self, group):
        with pytest.raises(BasinscopeError, match=r"group=.*at least 1"):
            bs.Quantised(4, group)

    def test_refuses_a_selection_without_linear_layers(self):
        engine = bs.load(tiny("llama"), params="norm")
        with pytest.raises(BasinscopeError, match="no weight of a linear layer"):
            bs.Quantised(4).fit(engine)

    def test_refuses_weights_that_are_on_the_grid_already(self):
        with pytest.raises(BasinscopeError, match="same weights as the model"):
            bs.Quantised(3).fit(bs.load(linear([[3.0, -1.0, 2.0]])))


class TestPruned:
    def test_the_smallest_of_each_layer_become_zero(self):
        engine = bs.load(nn.Sequential(linear([[4.0, -1.0], [2.0, 3.0]]), linear([[10.0, 20.0]])))
        half = bs.Pruned(0.5)
        for name, expected in (("0.weight", [4.0, 0.0, 0.0, 3.0]), ("1.weight", [0.0, 20.0])):
            there = copy_of(half, engine, name).flatten().tolist()
            assert there == pytest.approx(expected, abs=1e-5)
        half.fit(engine)
        assert half.displacement == pytest.approx(math.sqrt(1 + 4 + 100))

    @pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
    def test_share(self, fraction):
        engine = bs.load(tiny("llama"))
        direction = bs.Pruned(fraction)
        for name in engine.linear:
            there = copy_of(direction, engine, name)
            gone = float((there.abs() < 1e-5 * engine.pristine(name).abs()).float().mean())
            assert gone == pytest.approx(fraction, abs=1e-3)

    @pytest.mark.parametrize("fraction", [0, -0.1, 1.1, math.nan, "0.5", True])
    def test_refuses(self, fraction):
        with pytest.raises(BasinscopeError, match=r"fraction=.*above 0"):
            bs.Pruned(fraction)


def tiny(kind):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=99, n_positions=64, n_embd=32, n_layer=1, n_head=2)
            )
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=99, max_position_embeddings=64, hidden_size=32, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=False,
            )
        )  # fmt: skip
