"""Whatever surrounds a call, its numbers are those of a bare process."""

from contextlib import contextmanager

import pytest
import torch
import toys
from torch import nn

import basinscope as bs
from basinscope.tasks import Choices
from basinscope.weights.surroundings import fixed


@contextmanager
def setting(write, value, usual):
    write(value)
    try:
        yield
    finally:
        write(usual)


@contextmanager
def doubling_hook():
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2)
    try:
        yield
    finally:
        hook.remove()


SURROUNDINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "default device": lambda: torch.device("meta"),
    "default dtype": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "matmul precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "attention kernels": lambda: setting(torch.backends.cuda.enable_flash_sdp, False, True),
    "flushed denormals": lambda: setting(torch.set_flush_denormal, True, False),
    "global hook": doubling_hook,
}


def product():
    """Numbers that rest on most of the settings."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    x = torch.randn(4, 64)
    attended = nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])
    tiny = torch.full((1,), 1e-40) * 1.0
    return [layer(x).detach(), attended, tiny, torch.zeros(1)]


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_torch_computes_as_in_a_bare_process_and_then_as_before(name):
    bare = product()
    with SURROUNDINGS[name]():
        around = [(t.dtype, t.device, t.is_inference()) for t in product()]
        with fixed():
            assert torch.is_grad_enabled()
            inside = product()
        after = [(t.dtype, t.device, t.is_inference()) for t in product()]
    for one, other in zip(bare, inside, strict=True):
        assert one.dtype == other.dtype
        assert one.device == other.device
        assert torch.equal(one, other)
    assert around == after


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_records_are_those_of_a_bare_process(name):
    engine = bs.load(toys.tiny_model("llama"), tokenizer=toys.tiny_tokenizer())
    tasks = [bs.tasks("basic", limit=4)[0], callable_task()]

    def trials():
        land = bs.landscape(engine, tasks, steps=[0.0, 0.02], draws=1)
        return {t.address: (t.correct, t.margins, t.labels) for t in land.trials}

    bare = trials()
    with SURROUNDINGS[name]():
        assert trials() == bare


def callable_task():
    ids = torch.arange(3, 35).reshape(4, 8)

    def certain(module):
        return [int(p > 0.02) for p in module(ids).logits[:, -1].softmax(-1).amax(-1)]

    return bs.CallableTask("certain", certain, 4)


@pytest.mark.parametrize(
    "name", ["inference mode", "no_grad", "autocast to float16", "default dtype"]
)
def test_an_engine_loaded_inside_is_the_same(name, checkpoint):
    bare = bs.load(checkpoint)
    with SURROUNDINGS[name]():
        engine = bs.load(checkpoint)
    assert engine.fingerprint() == bare.fingerprint()
    assert not any(p.is_inference() for p in engine.module.parameters())
    ask = Choices("One", (" a", " b"))
    assert engine.answer([ask])[0].loglik == bare.answer([ask])[0].loglik
