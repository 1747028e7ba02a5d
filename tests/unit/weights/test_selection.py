"""What is perturbed: the checkpoint's tensors, each once, under the checkpoint's names."""

import pytest
import torch
from torch import nn
from toys import WRAPPED, Modular, Wrapper

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.weights import selection


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


class TestNamesOfOthers:
    """Every name that a checkpoint may use, and which weights belong to linear layers."""

    def test_tied_parameters_go_by_each_name(self, language_model):
        found = selection.names(language_model)
        table = next(iter(found.values()))
        assert found["lm_head.weight"] == table != "lm_head.weight"
        assert set(found.values()) >= set(selection.parameters(language_model))
        assert {n for n, c in found.items() if n != c} == {"lm_head.weight"}

    def test_buffers_go_by_their_own(self):
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        assert set(selection.names(module)) == {
            "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
            "1.num_batches_tracked",
        }  # fmt: skip

    def test_wrappers_add_nothing(self):
        module = Wrapper(net(), "_orig_mod")
        assert selection.names(module) == selection.names(net()) == {n: n for n in NAMES}
        assert selection.linear(module) == selection.linear(net())

    def test_linear_weights_have_the_dimension_of_their_inputs(self):
        from transformers.pytorch_utils import Conv1D

        module = nn.Sequential(nn.Linear(3, 4), Conv1D(5, 4), nn.LayerNorm(5), nn.Embedding(5, 5))
        assert selection.linear(module) == {"0.weight": 1, "1.weight": 0}

    def test_an_embedding_is_none_even_where_a_linear_layer_shares_it(self):
        module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        module[1].weight = module[0].weight
        assert selection.linear(module) == {}


class LoraLinear(nn.Module):
    """As peft leaves a linear layer: the base, and the adapter beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})
        self.lora_magnitude_vector = nn.ParameterDict({"default": torch.ones(base.out_features)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Saved(nn.Module):
    """peft's ModulesToSaveWrapper: the original, and a copy that is trained."""

    def __init__(self, original, copy):
        super().__init__()
        self.original_module = original
        self.modules_to_save = nn.ModuleDict({"default": copy})

    def forward(self, x):
        return self.modules_to_save["default"](x)


class LoraModel(nn.Module):
    """peft's tuner."""

    prefix = "lora_"

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.peft_config = {"default": object()}

    def forward(self, x):
        return self.model(x)


class PeftModel(nn.Module):
    """peft's outer wrapper."""

    def __init__(self, inner):
        super().__init__()
        self.base_model = inner
        self.peft_config = {"default": object()}

    def forward(self, x):
        return self.base_model(x)


def with_adapter(seed=0):
    base = net(seed)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    base[0] = LoraLinear(base[0])
    base[2] = Saved(base[2], nn.Linear(4, 2))
    return PeftModel(LoraModel(base))


class TestDefect8:
    """A wrapper's extra parameters were counted in d; tied weights were perturbed twice."""

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_wrappers_add_nothing_and_keep_the_names(self, wrap):
        engine = bs.load(wrap(net()))
        assert list(engine.shapes) == NAMES
        assert engine.d == 34
        assert engine.fingerprint() == bs.load(net()).fingerprint()

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_wrapped_weights_get_the_noise_of_the_bare_ones(self, wrap):
        bare, wrapped = bs.load(net()), bs.load(wrap(net()))
        with bare.at(bs.Random(1), step=0.1, draw=2), wrapped.at(bs.Random(1), step=0.1, draw=2):
            assert wrapped.fingerprint() == bare.fingerprint()

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_adapters_add_nothing_and_keep_the_names(self, wrap):
        found = selection.checkpoint_parameters(wrap(with_adapter()))
        assert list(found) == NAMES
        assert sum(p.numel() for p in found.values()) == 34

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_a_submodule_called_module_keeps_its_name(self, wrap):
        found = selection.checkpoint_parameters(wrap(Modular("a", "a.module", "module")))
        assert list(found) == ["a.w", "a.module.w", "module.w"]
        assert (
            dict(selection.named(wrap(Modular("a", "a.module", "module")))).keys() == found.keys()
        )

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_what_adapters_add_is_named_without_the_wrappers_around(self, wrap):
        bare, wrapped = (dict(selection.named(w(with_adapter()))) for w in (WRAPPED["bare"], wrap))
        assert wrapped.keys() == bare.keys()
        assert "base_model.model.0.lora_A.default.weight" in bare
        assert "0.weight" in bare

    def test_adapters_leave_the_frozen_base_selected(self):
        assert list(bs.load(with_adapter()).shapes) == NAMES

    def test_adapters_of_another_prefix_add_nothing(self):
        module = with_adapter()
        module.base_model.prefix = "hada_"
        module.base_model.model[1].hada_w1 = nn.Parameter(torch.ones(3))
        assert list(bs.load(module).shapes) == NAMES

    def test_a_prompt_encoder_adds_nothing(self):
        module = PeftModel(net())
        module.prompt_encoder = nn.ModuleDict({"default": nn.Embedding(5, 3)})
        assert list(selection.checkpoint_parameters(module)) == NAMES

    def test_the_fingerprint_tells_adapters_apart(self):
        first, second = with_adapter(), with_adapter()
        first.load_state_dict(second.state_dict())
        assert bs.load(first).fingerprint() == bs.load(second).fingerprint()
        with torch.no_grad():
            second.base_model.model[0].lora_B["default"].weight.add_(1.0)
        assert bs.load(first).fingerprint() != bs.load(second).fingerprint()

    def test_one_parameter_under_two_names_counts_once(self):
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        module[1].weight = module[0].weight
        engine = bs.load(module)
        assert (list(engine.shapes), engine.d) == (["0.weight"], 9)

    def test_two_parameters_of_one_memory_count_once(self):
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        module[1].weight = nn.Parameter(module[0].weight.detach())
        assert module[1].weight is not module[0].weight
        engine = bs.load(module)
        assert (list(engine.shapes), engine.d) == (["0.weight"], 9)

    def test_tied_weights_move_once(self):
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        module[1].weight = nn.Parameter(module[0].weight.detach())
        before = module[0].weight.detach().clone()
        with bs.load(module).at(bs.Random(0), step=1.0):
            once = before + bs.normals("0.weight", 9).reshape(3, 3)
            assert torch.equal(module[0].weight, once)
            assert torch.equal(module[1].weight, once)
        assert torch.equal(module[1].weight, before)


class TestOverlap:
    @staticmethod
    def module(first, second):
        memory = torch.ones(12)
        module = nn.Module()
        module.a = nn.Parameter(first(memory))
        module.b = nn.Parameter(second(memory))
        return module

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (lambda m: m[:8], lambda m: m[4:]),  # partial
            (lambda m: m[:9].view(3, 3), lambda m: m[:9].view(3, 3).T),  # transposed
            (lambda m: m, lambda m: m[3:5]),  # inside
            (lambda m: m.view(torch.int32).view(torch.float32), lambda m: m.view(3, 4)),  # shape
        ],
        ids=["partial", "transposed", "inside", "reshaped"],
    )
    def test_in_part_is_refused(self, first, second):
        with pytest.raises(BasinscopeError, match="overlap in memory without being the same"):
            bs.load(self.module(first, second))

    def test_of_nothing_is_allowed(self):
        # slices of one flat buffer, as FSDP and fused optimisers lay them
        engine = bs.load(self.module(lambda m: m[:5], lambda m: m[5:]))
        assert engine.d == 12

    def test_is_mended_as_the_message_says(self):
        module = self.module(lambda m: m[:8], lambda m: m[4:])
        module.b.data = module.b.data.clone()
        assert bs.load(module).d == 16


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("weight", NAMES[::2]),
            (r"^0\.", NAMES[:2]),
            (r"1\.bias|2\.", ["1.bias", "2.weight", "2.bias"]),
            ("", NAMES),
        ],
    )
    def test_takes_what_it_matches_anywhere(self, pattern, names):
        assert list(bs.load(net(), params=pattern).shapes) == names

    def test_takes_frozen_parameters_too(self):
        module = net()
        module[0].requires_grad_(False)
        assert list(bs.load(module, params="0").shapes) == NAMES[:2]

    @pytest.mark.parametrize("pattern", ["(", "[a", "*"])
    def test_that_is_none_is_refused(self, pattern):
        with pytest.raises(BasinscopeError, match="is not a regular expression"):
            bs.load(net(), params=pattern)

    def test_that_matches_nothing_is_refused(self):
        with pytest.raises(BasinscopeError, match=r"params='q_proj' selects no.*6 named like: 0\."):
            bs.load(net(), params="q_proj")


class TestDefault:
    def test_is_what_trains(self):
        module = net()
        module[1].requires_grad_(False)
        assert list(bs.load(module).shapes) == NAMES[:2] + NAMES[4:]

    def test_is_everything_where_nothing_trains(self):
        assert list(bs.load(net().requires_grad_(False)).shapes) == NAMES

    def test_leaves_integers_and_empty_tensors_out(self):
        module = net()
        module.count = nn.Parameter(torch.arange(3), requires_grad=False)
        module.empty = nn.Parameter(torch.empty(0, 4))
        engine = bs.load(module)
        assert list(engine.shapes) == NAMES
        with engine.at(bs.Random(), step=0.1):
            pass
        assert engine.fingerprint() == bs.load(module).fingerprint()

    def test_of_no_parameter_is_refused(self):
        with pytest.raises(BasinscopeError, match=r"the model has no parameter; .* 0 named"):
            bs.load(nn.ReLU())

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_refuses_weights_that_are_not_finite(self, bad, dtype):
        module = net().to(dtype)
        module[2].weight.data[1, 1] = bad
        with pytest.raises(BasinscopeError, match=r"weights of 2\.weight are not finite"):
            bs.load(module)


class TestNames:
    def test_that_collide_are_refused(self):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(2))
        module.base_layer = nn.Module()
        module.base_layer.weight = nn.Parameter(torch.ones(3))
        with pytest.raises(BasinscopeError, match="two parameters are both called 'weight'"):
            bs.load(module)


class TestTensors:
    def test_are_parameters_and_persistent_buffers(self):
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        module.register_buffer("cache", torch.ones(2), persistent=False)
        assert list(selection.tensors(module)) == [
            *("0.weight", "0.bias", "1.weight", "1.bias"),
            *("1.running_mean", "1.running_var", "1.num_batches_tracked"),
        ]

    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_have_the_same_names_in_a_wrapper(self, wrap):
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        assert list(selection.tensors(wrap(module))) == list(selection.tensors(module))


CHANGED = {
    "another parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(3, 4))),
    "other memory": lambda m: setattr(m[0].weight, "data", torch.ones(3, 4)),
    "another dtype": lambda m: m.half(),
    "a part more": lambda m: m.append(nn.Linear(2, 2)),
    "a part less": lambda m: m.pop(1),
    "a buffer more": lambda m: m.register_buffer("scale", torch.ones(2)),
    "a buffer that is kept no more": lambda m: m[1]._non_persistent_buffers_set.add("running_mean"),
    "a tie": lambda m: setattr(m[2], "weight", m[0].weight),
}


class TestWalk:
    """Walking again costs nothing, and hides no change."""

    @pytest.fixture
    def module(self):
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(4, 3))

    def test_is_made_once(self, module, monkeypatch):
        walk, calls, real = selection.Walk(module), [], selection.tensors
        monkeypatch.setattr(selection, "tensors", lambda m: calls.append(1) or real(m))
        found = [walk() for _ in range(3)]
        with torch.no_grad():
            module[0].weight.mul_(2)
        assert [*found, walk()] == [real(module)] * 4
        assert calls == [1]

    @pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
    def test_follows_every_change(self, module, change):
        walk = selection.Walk(module)
        walk()
        change(module)
        found, expected = walk(), selection.tensors(module)
        assert list(found) == list(expected)
        assert all(found[n] is expected[n] for n in expected)
