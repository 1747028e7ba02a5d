"""Every method behind one interface: steps, clean weights, resuming bit for bit, bad input."""

from __future__ import annotations

import json
import math
import sys

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
        MethodSpec("nso", {"sigma": 0.05}),
        MethodSpec("anti-pgd", {"sigma": 0.05}),
        MethodSpec("anti-pgd", {"sigma": 0.05, "schedule": "first:0.8", "average": "tail:0.4"}),
        MethodSpec("dropout", {"std": 0.2}),
        MethodSpec("sam", {"average": "ema:0.9"}),
        MethodSpec("asam"),
        MethodSpec("looksam", {"k": 3.0}),
        MethodSpec("friendly-sam"),
        MethodSpec("wsam", {"base": "sgd"}),
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
    "an unknown method": (("adam-w",), r"method 'adam-w'; allowed: adamw,.*try: adamw"),
    "an unknown option": (("go", {"sgima": 1.0}), r"sgima=1\.0.*try: sigma"),
    "go without sigma": (("go",), "method go without sigma"),
    "a negative sigma": (("go", {"sigma": -0.1}), r"sigma=-0\.1; allowed: a finite number"),
    "sigma not a number": (("go", {"sigma": math.nan}), "sigma=nan; allowed: a finite number"),
    "sigma a word": (("go", {"sigma": "big"}), "sigma='big'; allowed: a finite number"),
    "relative a number": (("go", {"sigma": 0.1, "relative": 1.0}), "allowed: true, false, 'model'"),
    "an unknown base": (("adamw", {"base": "sdg"}), "base='sdg'.*try: sgd"),
    "an unknown schedule": (("go", {"sigma": 0.1, "schedule": "later"}), "schedule='later'"),
    "a share of nothing": (("go", {"sigma": 0.1, "schedule": "last:0"}), "0 < SHARE <= 1"),
    "a decay of one": (("averaged", {"average": "ema:1"}), "average='ema:1'.*0 < DECAY < 1"),
    "no regular expression": (
        ("go", {"sigma": 0.1, "select": "("}),
        "allowed: a regular expression",
    ),
    "average a number": (("averaged", {"average": 0.9}), "average=0.9; allowed: a string"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_specs(bad):
    given, message = BAD[bad]
    with pytest.raises(bs.BasinscopeError, match=message):
        MethodSpec(*given)


def mean_gradient(model, losses):
    grads = torch.autograd.grad(sum(loss() for loss in losses) / len(losses), model.parameters())
    return torch.cat([g.flatten() for g in grads])


def test_adamw_is_torch_s_own_loop_bit_for_bit():
    model, plain = Toy(), Toy()
    method = make(MethodSpec("adamw"), model)
    matrices = [p for p in plain.parameters() if p.dim() == 2]
    others = [p for p in plain.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=0.01)
    for step in range(3):
        method.step(losses_of(model, step), 0.5)
        for loss in losses_of(plain, step):
            (loss() / 2).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        opt.step()
        opt.zero_grad()
    assert torch.equal(weights(model), weights(plain))


def test_go_is_gaussian_augmented():
    model, other = Toy(), Toy()
    method = make(MethodSpec("go", {"sigma": 0.1, "base": "sgd"}), model, weight_decay=0.0)
    opt = bs.GaussianAugmented(
        other.named_parameters(), base=torch.optim.SGD, sigma=0.1, seed=3, lr=0.01, momentum=0.9
    )
    for step in range(3):
        method.step(losses_of(model, step))
        for loss in losses_of(other, step):
            with opt.perturbed():
                (loss() / 2).backward()
        opt.step()
        opt.zero_grad()
    assert torch.allclose(weights(model), weights(other), rtol=0, atol=1e-7)


@pytest.mark.parametrize("label", ["nso sigma=0.05", "go sigma=0.05"])
def test_sigma_zero_is_the_base(label):
    model, plain = Toy(), Toy()
    name = SPECS[label].name
    run(make(MethodSpec(name, {"sigma": 0.0, "base": "sgd"}), model), model, range(3))
    run(make(MethodSpec("adamw", {"base": "sgd"}), plain), plain, range(3))
    assert torch.allclose(weights(model), weights(plain), rtol=0, atol=1e-7)


def test_learning_rate_schedules_act_on_every_method():
    for spec in SPECS.values():
        model = Toy()
        method = make(spec, model)
        rate = torch.optim.lr_scheduler.LambdaLR(method.optimizer, lambda step: 0.0)
        before = weights(model)
        with method.evaluated():
            assert torch.equal(weights(model), before)
        method.step(losses_of(model, 0))
        rate.step()
        with method.evaluated():
            assert torch.allclose(weights(model), before, rtol=0, atol=1e-6), spec.label


@pytest.mark.parametrize("label", SPECS)
def test_an_exception_in_the_loss_leaves_the_weights_alone(label):
    model = Toy()
    method = make(SPECS[label], model)
    before, calls = weights(model), []

    def fails_later():
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("planned")
        return model(torch.ones(1, 6)).mean()

    with pytest.raises(RuntimeError, match="planned"):
        method.step([fails_later, fails_later])
    assert torch.equal(weights(model), before)


def test_passes_are_the_calls_that_are_made():
    for spec in SPECS.values():
        model, calls = Toy(), []

        def loss(model=model, calls=calls):
            calls.append(1)
            return model(torch.ones(1, 6)).square().mean()

        method = make(spec, model)
        for _ in range(STEPS):
            method.step([loss, loss])
        assert len(calls) / (2 * STEPS) == pytest.approx(method.passes), spec.label


def test_a_state_of_another_run_is_refused_with_the_difference():
    state = make(MethodSpec("go", {"sigma": 0.05}), Toy()).state_dict()
    other = make(MethodSpec("go", {"sigma": 0.1}), Toy(), seed=4)
    with pytest.raises(bs.BasinscopeError, match=r"seed: 3 -> 4; sigma: 0\.05 -> 0\.1"):
        other.load_state_dict(state)


def test_antithetic_pairs_lie_within_a_step():
    model = Toy()
    method = make(MethodSpec("go", {"sigma": 0.1, "antithetic": True}), model)
    with pytest.raises(bs.BasinscopeError, match=r"3 micro-batches.*even number"):
        method.step(losses_of(model, 0, micro=3))


def test_losses_that_cannot_be_used():
    model = Toy()
    method = make(MethodSpec("sam"), model)
    with pytest.raises(bs.BasinscopeError, match="without a micro-batch"):
        method.step([])
    with pytest.raises(bs.BasinscopeError, match=r"a loss that is a value.*callable"):
        method.step([model(torch.ones(1, 6)).mean()])
    with pytest.raises(bs.BasinscopeError, match=r"a loss of shape \(1, 2\)"):
        method.step([lambda: model(torch.ones(1, 6))])


def test_specs_go_to_json_and_back():
    for spec in SPECS.values():
        assert MethodSpec.of(json.loads(json.dumps(spec.to_json()))) == spec
    assert MethodSpec.of("adamw") == MethodSpec("adamw", {"base": "adamw", "average": None})
    with pytest.raises(bs.BasinscopeError, match="allowed: a name, or `name`"):
        MethodSpec.of({"sigma": 0.1})


def test_sam_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(bs.BasinscopeError, match=r"method sam without.*pip install 'basinscope"):
        make(MethodSpec("sam"), Toy())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MethodSpec("looksam", {"k": 2.5}), r"k=2\.5; allowed: an integer of at least 1"),
        (MethodSpec("wsam", {"gamma": 1.0}), "gamma=1; allowed: at least 0, below 1"),
        (MethodSpec("anti-pgd", {"sigma": 0.1, "select": "norm"}), "select='norm' matches no"),
        (MethodSpec("go", {"sigma": 0.1, "select": "norm"}), "select='norm' matches no"),
    ],
    ids=["k", "gamma", "anti-pgd", "go"],
)
def test_options_that_a_model_or_method_cannot_have(spec, message):
    with pytest.raises(bs.BasinscopeError, match=message):
        make(spec, Toy())
