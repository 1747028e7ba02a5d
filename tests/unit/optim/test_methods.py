"""Every method behind one interface: steps, clean weights, resuming bit for bit, bad input."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import basinscope as bs
from basinscope.optim.methods import METHODS, MethodSpec, build

STEPS = 6
SPECS = {
    spec.label: spec
    for spec in (
        MethodSpec("adamw"),
        MethodSpec("adamw", {"base": "sgd", "average": "ema:0.9"}),
        MethodSpec("averaged", {"average": "tail:0.5"}),
        MethodSpec("go", {"sigma": 0.05}),
        MethodSpec("go", {"sigma": 0.1, "relative": True, "antithetic": True,
                          "schedule": "last:0.5", "select": "weight", "average": "ema:0.5"}),
    )
}  # fmt: skip


class Toy(nn.Module):
    """A regression with a dropout layer, as GPT-2 has them."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 5), nn.Linear(5, 2)
        self.dropout = nn.Dropout(0.0)
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) * 0.3)

    def forward(self, x):
        return self.outer(self.dropout(self.inner(x).tanh()))


def losses_of(model, step, micro=2):
    rng = torch.Generator().manual_seed(step)
    data = [torch.randn(8, 6, generator=rng) for _ in range(micro)]
    return [lambda x=x: (model(x) - x[:, :2].sin()).square().mean() for x in data]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def make(spec, model, **changed):
    given = {"lr": 0.01, "weight_decay": 0.1, "seed": 3, "total_steps": STEPS, **changed}
    return build(spec, model, **given)


def run(method, model, steps):
    return [method.step(losses_of(model, step), 0.5) for step in steps]


@pytest.mark.parametrize("label", SPECS)
def test_every_method_steps_and_says_what_it_saw(label):
    model = Toy()
    method = make(SPECS[label], model)
    before = weights(model)
    seen = run(method, model, range(2))
    assert all(math.isfinite(x) and x > 0 for x in seen)
    assert not torch.equal(weights(model), before)
    assert method.steps == 2
    assert method.passes >= 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("label", SPECS)
def test_resumes_bit_for_bit_through_safetensors_and_json(label):
    whole = Toy()
    method = make(SPECS[label], whole)
    seen = run(method, whole, range(STEPS))

    first = Toy()
    begun = make(SPECS[label], first)
    run(begun, first, range(4))
    state = begun.state_dict()
    kept, values = save(state["tensors"]), json.dumps(state["values"])

    second = Toy()
    second.load_state_dict(first.state_dict())
    again = make(SPECS[label], second)
    again.load_state_dict({"tensors": load(kept), "values": json.loads(values)})
    assert run(again, second, range(4, STEPS)) == seen[4:]
    assert torch.equal(weights(second), weights(whole))
    with again.evaluated(), method.evaluated():
        assert torch.equal(weights(second), weights(whole))
    assert torch.equal(weights(second), weights(whole))


@pytest.mark.parametrize("label", SPECS)
def test_the_seed_decides_and_no_global_generator_is_touched(label):
    states = []
    for _ in range(2):
        model = Toy()
        before = torch.random.get_rng_state()
        run(make(SPECS[label], model), model, range(STEPS))
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(weights(model))
        torch.rand(1)
    assert torch.equal(*states)


def test_all_methods_are_covered_here():
    assert {spec.name for spec in SPECS.values()} == set(METHODS)


BAD = {
    "an unknown method": (("adam-w",), r"method 'adam-w'; allowed: adamw,.*did you mean adamw\?"),
    "an unknown option": (("go", {"sgima": 1.0}), r"sgima=1\.0.*did you mean sigma\?"),
    "go without sigma": (("go",), "method go without sigma"),
    "a negative sigma": (("go", {"sigma": -0.1}), r"sigma=-0\.1; allowed: a finite number"),
    "sigma not a number": (("go", {"sigma": math.nan}), "sigma=nan; allowed: a finite number"),
    "sigma a word": (("go", {"sigma": "big"}), "sigma='big'; allowed: a finite number"),
    "relative a number": (("go", {"sigma": 0.1, "relative": 1.0}), "allowed: true or false"),
    "average a number": (("averaged", {"average": 0.9}), "average=0.9; allowed: a string"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_specs(bad):
    given, message = BAD[bad]
    with pytest.raises(bs.BasinscopeError, match=message):
        MethodSpec(*given)
