"""The Gaussian-augmented optimiser."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from scipy.stats import norm
from torch import nn
from toys import WRAPPED, Modular

import basinscope as bs
from basinscope.optim.methods import MethodSpec, build
from basinscope.optim.tensors import FIRST_DRAW
from basinscope.optim.trainer import unwrapped


def network() -> nn.Module:
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.3)
    return net


def batches(n: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(8, 6, generator=rng) for _ in range(n)]


def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (net(x) - x[:, :2].sin()).square().mean()


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def train(net, opt, data, clip=None, accumulate=1):
    for i, x in enumerate(data):
        with opt.perturbed():
            loss_of(net, x).backward()
        if (i + 1) % accumulate == 0:
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            opt.step()
            opt.zero_grad()
    return weights(net)


BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05}),
}


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("base", BASES)
def test_sigma_zero_is_the_base_bit_for_bit(base, relative):
    kind, kwargs = BASES[base]
    plain, augmented = network(), network()
    opt = kind(plain.parameters(), **kwargs)
    for x in batches(12):
        loss_of(plain, x).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        opt.step()
        opt.zero_grad()
    go = bs.GaussianAugmented(
        augmented.parameters(), base=kind, sigma=0, relative=relative, **kwargs
    )
    assert torch.equal(train(augmented, go, batches(12), clip=0.5), weights(plain))


def test_gradient_of_the_smoothed_absolute_value():
    """E grad |theta + eps| = 2 Phi(theta / sigma) - 1, the golden identity of the method page.

    Null: the mean of N = 20,000 signs has that expectation; the gate is 6 standard errors (false
    alarm 2e-9). Noise of variance 1.17 (defect 9) shifts the last value by 0.038 = 7 errors.
    """
    sigma, n = 0.5, 20_000
    theta = torch.tensor([-0.4, 0.0, 0.1, 0.5])
    rows = nn.Parameter(theta.repeat(n, 1))  # n independent copies, one draw
    opt = bs.GaussianAugmented([("w", rows)], base=torch.optim.SGD, sigma=sigma, lr=1.0)
    with opt.perturbed():
        rows.abs().sum().backward()
    expected = 2 * norm.cdf(theta.numpy() / sigma) - 1
    error = 1 / math.sqrt(n)
    assert abs(rows.grad.mean(0).numpy() - expected).max() < 6 * error


def test_second_order_effect_on_a_quadratic():
    """On (1/2) x'Hx the mean loss under noise exceeds the clean one by (sigma^2 / 2) tr H.

    Null: exactly that, over 40,000 draws with a gate of 6 standard errors.
    """
    curvature, sigma, n = torch.tensor([1.0, 4.0, 9.0]), 0.2, 40_000
    x = nn.Parameter(torch.ones(n, 3))
    opt = bs.GaussianAugmented([("x", x)], base=torch.optim.SGD, sigma=sigma, lr=1.0)
    with opt.perturbed(), torch.no_grad():
        losses = (0.5 * curvature * x**2).sum(1).double()
    expected = float(0.5 * curvature.sum() * (1 + sigma**2))
    assert abs(float(losses.mean()) - expected) < 6 * float(losses.std()) / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_is_that_of_normals_and_clean_weights_come_back(dtype):
    net = network().to(dtype)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    opt = bs.GaussianAugmented(net.named_parameters(), sigma=0.1, seed=3, lr=0.1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for draw in range(2):
        with opt.perturbed():
            for name, p in net.named_parameters():
                noise = bs.normals(name, p.numel(), seed=3, draw=FIRST_DRAW + draw).reshape(p.shape)
                expected = (before[name].to(wide) + 0.1 * noise.to(wide)).to(dtype)
                assert torch.equal(p.detach(), expected)
        assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


NAMINGS = {
    "parameters that are named": lambda m, **k: bs.GaussianAugmented(m.named_parameters(), **k),
    "names": lambda m, **k: bs.GaussianAugmented(m.parameters(), names=m.named_parameters(), **k),
    "the module": lambda m, **k: bs.GaussianAugmented(m.named_parameters(), names=m, **k),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("make", NAMINGS.values(), ids=NAMINGS)
def test_noise_goes_by_the_names_that_a_certificate_gives(make, wrap):
    module = Modular("a", "a.module", "module")
    wrapped = wrap(module)
    names = list(bs.load(wrapped).shapes)
    assert names == ["a.w", "a.module.w", "module.w"]
    with make(wrapped, sigma=1.0, seed=7).perturbed():
        for name in names:
            expected = bs.normals(name, 5, seed=7, draw=FIRST_DRAW)
            assert torch.equal(module.get_parameter(name), expected), name


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("method", ["go", "anti-pgd"])
def test_methods_name_a_model_that_is_all_in_a_submodule_called_module(method, wrap):
    # from its names alone it could not be told from one that DDP has wrapped
    module = Modular("module")
    options = {"sigma": 1.0, "base": "sgd"}
    seen = []

    def loss():
        seen.append(module.module.w.detach().clone())
        return module.module.w.sum() * 0

    wrapped = wrap(module)
    trained = build(MethodSpec(method, options), wrapped, lr=0.1, seed=7, total_steps=2)
    for _ in range(2):
        trained.step([loss])
    assert list(bs.load(wrapped).shapes) == ["module.w"]
    draw = FIRST_DRAW + 1  # the second of GO, the first that anti-PGD leaves behind
    expected = bs.normals("module.w", 5, seed=7, draw=draw)
    assert torch.allclose(seen[1], expected)


def test_an_exception_leaves_clean_weights_and_an_open_door():
    net = network()
    before = weights(net)
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.1, lr=0.1)
    with pytest.raises(RuntimeError, match="planned"), opt.perturbed():
        raise RuntimeError("planned")
    assert torch.equal(weights(net), before)
    with opt.perturbed():
        assert not torch.equal(weights(net), before)


def test_backward_after_the_block_is_refused_by_autograd():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.1, lr=0.1)
    with opt.perturbed():
        loss = loss_of(net, batches(1)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_every_micro_batch_has_fresh_noise():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.1, lr=0.1)
    seen = []
    for _ in range(3):
        with opt.perturbed():
            seen.append(weights(net))
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert opt.draws == 3


def test_antithetic_pairs():
    net = network()
    clean = weights(net).double()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.1, antithetic=True, lr=0.1)
    moves = []
    for _ in range(4):
        with opt.perturbed():
            moves.append(weights(net).double() - clean)
    assert torch.allclose(moves[0], -moves[1], atol=1e-6)
    assert torch.allclose(moves[2], -moves[3], atol=1e-6)
    assert not torch.allclose(moves[0], moves[2], atol=1e-2)


def test_relative_sigma_follows_each_tensor_and_the_schedule_the_steps():
    big, small = nn.Parameter(torch.full((4000,), 10.0)), nn.Parameter(torch.full((4000,), 0.1))
    opt = bs.GaussianAugmented(
        [("big", big), ("small", small)], base=torch.optim.SGD, sigma=0.1, relative=True,
        schedule=lambda step: 1.0 if step == 0 else 0.5, lr=0.0,
    )  # fmt: skip
    spreads = []
    for _ in range(2):
        with opt.perturbed():
            spreads.append((big.detach().std().item(), small.detach().std().item()))
            (big.sum() + small.sum()).backward()
        opt.step()
    assert spreads[0] == pytest.approx((1.0, 0.01), rel=0.1)
    assert spreads[1] == pytest.approx((0.5, 0.005), rel=0.1)


def test_sigma_in_units_of_the_whole_model_is_the_same_for_every_tensor_until_it_changes():
    big, small = nn.Parameter(torch.full((3000,), 2.0)), nn.Parameter(torch.zeros(1000))
    frozen = nn.Parameter(torch.full((1000,), 50.0))
    opt = bs.GaussianAugmented(
        [("big", big), ("small", small), ("frozen", frozen)], base=torch.optim.SGD, sigma=0.1,
        relative="model", select="big|small", lr=1.0,
    )  # fmt: skip
    spreads = []
    for _ in range(2):
        with opt.perturbed():
            spreads.append((big.detach().std().item(), small.detach().std().item()))
            big.sum().backward()
        opt.zero_grad()
        big.grad = torch.full_like(big, 1.0)  # 2.0 -> 1.0
        opt.step()
    whole = math.sqrt(3000 * 2.0**2 / 4000)
    assert spreads[0] == pytest.approx((0.1 * whole, 0.1 * whole), rel=0.1)
    assert spreads[1] == pytest.approx((0.05 * whole, 0.05 * whole), rel=0.1)


@pytest.mark.parametrize("relative", [1, "tensor", None])
def test_an_unknown_unit_of_sigma_is_refused(relative):
    with pytest.raises(bs.BasinscopeError, match="allowed: true, false, 'model'"):
        bs.GaussianAugmented(network().parameters(), sigma=0.1, relative=relative)


def test_a_copy_or_a_pickle_of_an_optimiser_is_refused_not_made_without_its_noise():
    opt = bs.GaussianAugmented(network().parameters(), sigma=0.1)
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(bs.BasinscopeError, match="state_dict"):
            make(opt)


def test_groups_with_their_own_sigma_and_a_selection():
    net = network()
    groups = [
        {"params": [("0.weight", net[0].weight)], "sigma": 0.2},
        {"params": [("0.bias", net[0].bias), ("2.weight", net[2].weight)]},
    ]
    opt = bs.GaussianAugmented(groups, sigma=0.0, lr=0.1)
    opt.add_param_group({"params": [("2.bias", net[2].bias)], "sigma": 0.1})
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    with opt.perturbed():
        moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"0.weight", "2.bias"}
    opt = bs.GaussianAugmented(net.named_parameters(), sigma=0.1, select="weight", lr=0.1)
    with opt.perturbed():
        moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"0.weight", "2.weight"}


@pytest.mark.parametrize("steps", [0, 5], ids=["before the first step", "after some"])
def test_state_dict_resumes_bit_for_bit(steps):
    data = batches(12)
    whole = network()
    reference = train(
        whole, bs.GaussianAugmented(whole.named_parameters(), sigma=0.05, seed=1, lr=0.01), data
    )
    first = network()
    opt = bs.GaussianAugmented(first.named_parameters(), sigma=0.05, seed=1, lr=0.01)
    train(first, opt, data[:steps])
    second = network()
    second.load_state_dict(first.state_dict())
    again = bs.GaussianAugmented(second.named_parameters(), sigma=0.05, seed=1, lr=0.01)
    again.load_state_dict(opt.state_dict())
    assert again.draws == steps
    assert torch.equal(train(second, again, data[steps:]), reference)


def test_state_of_the_bare_base_is_taken():
    net = network()
    plain = torch.optim.AdamW(net.parameters(), lr=0.01)
    loss_of(net, batches(1)[0]).backward()
    plain.step()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.05, lr=0.5)
    opt.load_state_dict(plain.state_dict())
    assert opt.draws == 0
    assert opt.param_groups[0]["sigma"] == 0.05
    assert len(opt.state) == 4


def test_accumulation_draws_anew_and_a_skipped_step_keeps_the_count():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.05, lr=0.01)
    train(net, opt, batches(6), accumulate=3)
    assert opt.draws == 6
    assert opt.param_groups[0]["noise_steps"] == 2


def test_grad_scaler_skips_a_step_with_infinite_gradients():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.05, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights(net)
    with opt.perturbed():
        scaler.scale(loss_of(net, batches(1)[0]) * math.inf).backward()
    scaler.step(opt)
    scaler.update()
    assert torch.equal(weights(net), before)
    opt.zero_grad()
    with opt.perturbed():
        scaler.scale(loss_of(net, batches(1)[0])).backward()
    scaler.step(opt)
    assert not torch.equal(weights(net), before)


def test_schedulers_and_closures():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), base=torch.optim.SGD, sigma=0.05, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.5**step)
    before, seen = weights(net), []

    def closure():
        opt.zero_grad()
        seen.append(weights(net))
        loss = loss_of(net, batches(1)[0])
        loss.backward()
        return loss

    assert opt.step(closure).item() > 0
    assert not torch.equal(seen[0], before)  # evaluated at noisy weights
    schedule.step()
    assert opt.base.param_groups[0]["lr"] == 0.05


def test_autocast():
    net = network()
    before = weights(net)
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.05, lr=0.01)
    with opt.perturbed(), torch.autocast("cpu", torch.bfloat16):
        loss_of(net, batches(1)[0]).backward()
    assert torch.equal(weights(net), before)
    opt.step()


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf, "0.1", True])
def test_bad_sigma(sigma):
    with pytest.raises(bs.BasinscopeError, match=r"sigma=.*finite number of at least 0"):
        bs.GaussianAugmented(network().parameters(), sigma=sigma, lr=0.1)


@pytest.mark.parametrize("base", [nn.Linear, "adamw", None])
def test_a_base_that_is_no_optimiser(base):
    with pytest.raises(bs.BasinscopeError, match=r"base=.*torch\.optim\.Optimizer"):
        bs.GaussianAugmented(network().parameters(), base=base, sigma=0.1)


def test_a_selection_that_matches_nothing():
    with pytest.raises(bs.BasinscopeError, match=r"select='norm'.*0\.weight"):
        bs.GaussianAugmented(network().named_parameters(), sigma=0.1, select="norm")
    with pytest.raises(bs.BasinscopeError, match=r"select='\(' .*; allowed: a regular expression"):
        bs.GaussianAugmented(network().named_parameters(), sigma=0.1, select="(")


CALLS = {
    "step": lambda opt, state: opt.step(),
    "state_dict": lambda opt, state: opt.state_dict(),
    "load_state_dict": lambda opt, state: opt.load_state_dict(state),
    "perturbed": lambda opt, state: opt.perturbed().__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_refused_inside_the_block(call):
    opt = bs.GaussianAugmented(network().parameters(), sigma=0.1, lr=0.1)
    state = opt.state_dict()
    with opt.perturbed(), pytest.raises(bs.BasinscopeError, match="inside"):
        CALLS[call](opt, state)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"sigma": 0.2}, r"sigma of group 0: 0\.1 -> 0\.2"),
        ({"seed": 1}, "noise_seed of group 0: 0 -> 1"),
        ({"relative": True}, "noise_relative of group 0: False -> True"),
        ({"antithetic": True}, "noise_antithetic of group 0: False -> True"),
        ({"select": "0"}, "noise_select of group 0: None -> 0"),
        ({"independent_ranks": True}, "noise_independent_ranks of group 0: False -> True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_resuming_with_other_noise_is_refused(changed, difference):
    state = bs.GaussianAugmented(network().parameters(), sigma=0.1, lr=0.1).state_dict()
    other = bs.GaussianAugmented(network().parameters(), **{"sigma": 0.1, "lr": 0.1, **changed})
    with pytest.raises(bs.BasinscopeError, match=f"other noise.*{difference}"):
        other.load_state_dict(state)


def test_a_guarded_model_is_not_saved_inside_the_block():
    net = network()
    opt = bs.GaussianAugmented(net.parameters(), sigma=0.1, lr=0.1)
    opt.guard(net)
    with opt.perturbed(), pytest.raises(bs.BasinscopeError, match="saving the model inside"):
        net.state_dict()
    assert torch.equal(net.state_dict()["0.bias"], net[0].bias)


def test_unwrapped_refuses_another_optimiser():
    with pytest.raises(bs.BasinscopeError, match="the optimiser is SGD"):
        unwrapped(torch.optim.SGD(network().parameters()))


RANKS = """
    import sys, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    import basinscope as bs
    rank, port = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    def full(p):
        return p.full_tensor() if hasattr(p, "full_tensor") else p
    for mode in ("fsdp", "ddp", "independent"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        model = fully_shard(net) if mode == "fsdp" else nn.parallel.DistributedDataParallel(net)
        opt = bs.GaussianAugmented(model.named_parameters(), base=torch.optim.SGD, sigma=0.1,
                                   lr=0.1, independent_ranks=mode == "independent")
        x = torch.linspace(-1, 1, 24).reshape(4, 6)
        with opt.perturbed():
            noisy = torch.cat([full(p).detach().flatten() for p in model.parameters()]).clone()
            model(x).square().mean().backward()
        opt.step()
        stepped = torch.cat([full(p).detach().flatten() for p in model.parameters()])
        print(mode, "|", noisy.tolist(), "|", stepped.tolist(), flush=True)
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Noisy and stepped weights of either rank, by mode: one pair of processes for all of them."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    command = [sys.executable, "-W", "ignore", str(script)]
    jobs = [
        subprocess.Popen([*command, str(rank), str(folder / "meet")], stdout=subprocess.PIPE)
        for rank in (0, 1)
    ]
    found = {}
    for job in jobs:
        out, _ = job.communicate(timeout=120)
        assert job.returncode == 0
        for line in out.decode().splitlines():
            mode, *parts = line.split("|")
            pair = [torch.tensor(json.loads(part)) for part in parts]
            found.setdefault(mode.strip(), []).append(pair)
    return found


@pytest.mark.parametrize("mode", ["fsdp", "ddp"])
def test_ranks_draw_the_same_noise_whatever_the_sharding(mode, ranks):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    opt = bs.GaussianAugmented(net.named_parameters(), base=torch.optim.SGD, sigma=0.1, lr=0.1)
    x = torch.linspace(-1, 1, 24).reshape(4, 6)
    with opt.perturbed():
        noisy = weights(net)
        net(x).square().mean().backward()
    opt.step()
    assert len(ranks[mode]) == 2
    for found_noisy, found_stepped in ranks[mode]:
        assert torch.equal(found_noisy, noisy)
        assert torch.allclose(found_stepped, weights(net), atol=1e-6)


def test_independent_ranks(ranks):
    (noisy0, stepped0), (noisy1, stepped1) = ranks["independent"]
    assert not torch.equal(noisy0, noisy1)
    assert torch.equal(stepped0, stepped1)
