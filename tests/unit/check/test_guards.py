"""A block that must leave every bit as it was; one bit is noticed."""

from __future__ import annotations

import re

import pytest
import torch
from toys import tiny_model

import basinscope as bs
from basinscope.check.guards import differences
from basinscope.errors import BasinscopeError


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def model(request):
    return tiny_model("llama", dtype=request.param)


def test_what_changes_nothing_passes(model):
    with bs.unchanged(model):
        model(torch.tensor([[1, 2, 3]]))
    engine = bs.load(model)
    with bs.unchanged(engine), engine.at("random", step=0.1):
        pass


def refused(model, block) -> str:
    """What is said of a block that must leave all as it was."""

    def guarded():
        with bs.unchanged(model):
            block()

    with pytest.raises(BasinscopeError, match="; allowed: every bit as it was; try: put") as error:
        guarded()
    return str(error.value)


def test_one_bit_is_noticed_and_named(model):
    name, weight = [*model.named_parameters()][-2]

    def flip():
        weight.data.view(-1).view(torch.uint8)[0] ^= 1

    said = refused(model, flip)
    assert said.startswith("the block left 1 of 20 tensors different: ")
    assert f"{name} in 1 of {weight.numel():,} elements, by " in said
    assert "by 0 at most" not in said


def test_the_sign_of_zero_is_a_bit():
    layer = torch.nn.Linear(2, 1)
    layer.bias.data.zero_()
    assert "bias in 1 of 1 elements, by 0 at" in refused(layer, lambda: layer.bias.data.neg_())


def test_the_largest_differences_come_first_and_the_rest_is_counted(model):
    def block():
        for n, weight in enumerate(model.parameters()):
            weight.data.mul_(1.0 + n)

    said = refused(model, block)
    assert said.count("of its mean") == 3
    assert "; and 16 more" in said
    assert said.index("model.norm.weight") < said.index("layers.1.post_attention_layernorm")


def test_buffers_and_tensors_that_come_or_go_are_noticed():
    module = torch.nn.BatchNorm1d(2)
    assert "num_batches_tracked in 1 of 1" in refused(module, lambda: module(torch.ones(4, 2)))
    extra = torch.nn.Parameter(torch.ones(1))
    words = "extra is another tensor, has gone or has come"
    assert words in refused(module, lambda: module.register_parameter("extra", extra))
    assert words in refused(module, lambda: delattr(module, "extra"))


def test_an_exception_of_the_block_passes_through():
    layer = torch.nn.Linear(2, 1)
    with pytest.raises(ZeroDivisionError), bs.unchanged(layer):
        layer.weight.data += 1 / 0


def test_nan_is_itself():
    layer = torch.nn.Linear(2, 1)
    layer.weight.data.fill_(float("nan"))
    with bs.unchanged(layer):
        pass


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_merged_adapter_that_is_unmerged_is_noticed():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_model("llama", dtype=torch.bfloat16), config)

    def there_and_back():
        model.merge_adapter()
        model.unmerge_adapter()

    assert re.search(r"q_proj\.weight in [\d,]+ of 1,024", refused(model, there_and_back))


def test_differences_are_relative_to_the_mean():
    (one,) = differences({"w": torch.tensor([1.0, -3.0])}, {"w": torch.tensor([1.0, -2.0])})
    assert (one.elements, one.size, one.largest, one.relative) == (1, 2, 1.0, 0.25)


def test_what_is_no_model_is_refused():
    with pytest.raises(BasinscopeError, match="of type str; allowed: a module or an engine"):
        bs.unchanged("smollm2").__enter__()
