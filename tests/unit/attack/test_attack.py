"""`bs.attack`: what it attacks, what it refuses, what it leaves behind."""

from __future__ import annotations

import math

import pytest
import torch
import toys
from torch import nn

import basinscope as bs
from basinscope.attack import Proxy, collapse_radius, objective
from basinscope.tasks import Choices, Generate, Item, Outcome


def easy(engine, n=20, *, name="easy", chance=0.5):
    """Choices of which the model's own favourite is right: its score at theta0 is 1."""
    asks = [
        Choices(f"{k} {word}", (" a", " bc", " d"))
        for k, word in zip(range(n), ["x", "yy", "z z"] * n, strict=False)
    ]
    answers = engine.answer(asks)
    items = tuple(
        Item(str(k), (ask,), max(range(3), key=answer.loglik.__getitem__))
        for k, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    )
    return Easy(items, name, chance)


class Easy:
    scoring = "easy/1"

    def __init__(self, items, name, chance):
        self.items, self.name, self.chance = items, name, chance

    def oracle(self, item, answers):
        loglik = answers[0].loglik
        return Outcome(loglik[item.answer] == max(loglik))


@pytest.fixture
def engine():
    return bs.load(toys.tiny_model("llama"), tokenizer=toys.tiny_tokenizer())


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog lay on the log\n" * 80)
    return path


def cosine(engine, a, b):
    va, vb = (torch.cat([x.delta(engine, n).flatten() for n in engine.shapes]) for x in (a, b))
    return float(va @ vb / (va.norm() * vb.norm()))


# --- what it finds ------------------------------------------------------------------------------


def test_collapses_a_task_far_nearer_than_a_random_direction(engine):
    task = easy(engine)
    found = bs.attack(engine, task, steps=30, starts=1, limit=12)
    names = [(edge.task, edge.sign) for edge in found.collapse]
    assert names == [
        (f"easy ({part})", sign) for part in ("attacked", "held out") for sign in (1, -1)
    ]
    plus = found.collapse[0]
    random = collapse_radius(engine, bs.Random(0), task, tolerance=0.01)
    assert plus.high < min(edge.low for edge in random) / 5
    # the radius that the ascent ended with is one at which it saw the collapse
    assert found.starts[found.best].collapsed
    assert plus.norm[0] <= found.radius * (1 + 1e-6)
    assert found.loss > found.loss_at_zero


def test_direction_has_norm_root_d_and_can_be_drawn(engine):
    found = bs.attack(engine, easy(engine), steps=8, limit=12)
    square = sum(float(found.direction.delta(engine, n).square().sum()) for n in engine.shapes)
    assert math.sqrt(square) == pytest.approx(math.sqrt(engine.d), rel=1e-5)
    land = bs.landscape(engine, easy(engine), directions=[found.direction], steps=[0.001], draws=1)
    assert land.directions() == ["attack"]


def test_items_beyond_the_limit_are_held_out(engine):
    task = easy(engine)
    attacked, held = objective.of(engine, task, 10, 0).tasks
    ids = [{item.id for item in part.items} for part in (attacked, held)]
    assert (len(ids[0]), len(ids[1])) == (10, 10)
    assert ids[0] | ids[1] == {item.id for item in task.items}
    (whole,) = objective.of(engine, task, 20, 0).tasks
    assert (whole.name, len(whole.items)) == ("easy", 20)
    other = objective.of(engine, task, 10, 1)
    assert {item.id for item in other.tasks[0].items} != ids[0], "the seed draws the sample"
    assert other.identity != objective.of(engine, task, 10, 0).identity


def test_loss_and_score_of_a_task_are_those_of_its_answers(engine):
    task = easy(engine)
    value = objective.of(engine, task, 20, 0).evaluate(False)
    answers = engine.answer([item.requests[0] for item in task.items])
    nll = [
        -torch.tensor(answer.loglik).log_softmax(0)[item.answer]
        for item, answer in zip(task.items, answers, strict=True)
    ]
    assert value.loss == pytest.approx(float(torch.stack(nll).mean()), rel=1e-4)
    assert value.score == 1.0


def test_a_text_file_is_attacked_by_its_tokens_and_measured_on_other_blocks(engine, text):
    found = bs.attack(engine, text, steps=12, limit=4, radius=2.0)
    assert found.loss > found.loss_at_zero + 0.5
    attacked, held = objective.of(engine, text, 4, 0).tasks
    assert (attacked.name, held.name) == ("text.txt (attacked)", "text.txt (held out)")
    assert attacked.n_items == held.n_items == 4 * 63
    assert attacked.version != held.version
    hits = attacked.fn(engine.module)
    assert set(hits) <= {0, 1}
    value = objective.of(engine, text, 4, 0).evaluate(False)
    assert sum(hits) / len(hits) == pytest.approx(value.score)


def test_a_task_that_reads_a_text_has_its_likelihood_for_a_loss(engine, tmp_path):
    """Blocks of 512 characters are three windows each of this model's 256 tokens."""
    path = tmp_path / "read.txt"
    path.write_text("".join(f"line {i} of a text, and {i * 7 % 13} more\n" for i in range(60)))
    (task,) = bs.tasks(f"nll:{path}")
    found = objective.of(engine, task, 2, 0)
    value = found.evaluate(False)
    answers = engine.answer([item.requests[0] for item in found.tasks[0].items])
    tokens = sum(answer.n_tokens for answer in answers)
    assert value.loss == pytest.approx(sum(a.nll for a in answers) / tokens, rel=1e-4)
    assert value.score == pytest.approx(sum(sum(a.hits) for a in answers) / tokens)
    attack = bs.attack(engine, task, limit=2, steps=8, radius=0.5)
    assert attack.loss > attack.loss_at_zero
    assert {row.task for row in attack.collapse} == {
        f"{task.name} ({part})" for part in ("attacked", "held out")
    }


def test_reference_of_a_generation_is_its_expected_text(engine):
    class Sums(Easy):
        pass

    items = (Item("a", (Generate("2 + 2 =", 4),), "4"),)
    value = objective.of(engine, Sums(items, "sums", 0.0), 5, 0).evaluate(False)
    logits = engine.forward.plain([engine.tokenizer.encode("2 + 2 = 4")])[0].detach()
    ids = engine.tokenizer.encode("2 + 2 = 4")
    logp = logits.log_softmax(-1)
    expected = -(logp[-3, ids[-2]] + logp[-2, ids[-1]]) / 2
    assert value.loss == pytest.approx(float(expected), rel=1e-4)


def test_sixteen_bits_are_attacked_in_float32(text):
    half = bs.load(toys.tiny_model("llama", dtype=torch.bfloat16), tokenizer=toys.tiny_tokenizer())
    full = bs.load(
        toys.tiny_model("llama", dtype=torch.bfloat16).float(), tokenizer=toys.tiny_tokenizer()
    )
    before = half.fingerprint()
    one, two = (bs.attack(e, text, steps=4, limit=2, radius=0.01) for e in (half, full))
    assert half.fingerprint() == before
    assert half.dtype == "bfloat16"
    assert one.loss == two.loss
    assert cosine(full, one.direction, two.direction) == pytest.approx(1.0, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_another(engine, text):
    def deltas(seed):
        found = bs.attack(engine, text, steps=6, starts=2, limit=2, radius=0.5, seed=seed)
        return [found.direction.delta(engine, n) for n in engine.shapes], found.starts

    one, two, other = deltas(0), deltas(0), deltas(1)
    assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    assert one[1] == two[1]
    assert one[1] != other[1]


def test_every_gradient_counts_and_no_more_are_taken(engine, text, monkeypatch):
    calls = []
    plain = objective._likelihood

    def counted(*given):
        evaluate = plain(*given)

        def more(backward):
            calls.append(backward)
            return evaluate(backward)

        return more

    monkeypatch.setattr(objective, "_likelihood", counted)
    found = bs.attack(engine, text, steps=11, starts=2, limit=2, radius=0.5)
    assert sum(calls) == 11 == sum(start.steps for start in found.starts)
    assert [start.steps for start in found.starts] == [5, 6]


def test_a_start_of_one_step_whose_loss_was_not_seen_is_not_the_best(engine, text):
    """Of three steps the first start has one, for its gradient; the second sees its loss."""
    found = bs.attack(engine, text, steps=3, limit=2, radius=0.5)
    assert math.isnan(found.starts[0].loss)
    assert found.best == 1
    assert found.loss == found.starts[1].loss > 0


def test_checkpointed_rows_give_the_same_gradient(engine, text, monkeypatch):
    for compute, tolerance in (("float32", 1e-5), ("bfloat16", 1e-3)):
        options = {"steps": 3, "starts": 1, "limit": 2, "radius": 0.5, "compute": compute}
        whole = bs.attack(engine, text, **options)
        with monkeypatch.context() as patch:
            patch.setattr(objective, "BATCH_TOKENS", 16)
            parts = bs.attack(engine, text, **options)
        same = cosine(engine, whole.direction, parts.direction)
        assert same == pytest.approx(1.0, abs=tolerance)


def test_products_in_bfloat16_lose_no_small_displacement(text):
    # the weights are a bfloat16 checkpoint: cast once, they would all round back to theta0
    module = toys.tiny_model("llama", dtype=torch.bfloat16).float()
    engine = bs.load(module, tokenizer=toys.tiny_tokenizer(), params="_proj")
    plain, split = (objective.of(engine, text, 4, 0, c) for c in ("float32", "bfloat16"))
    direction = bs.attack(engine, text, steps=2, starts=1, limit=4, radius=1e-3).direction
    step = 0.1 * 2**-9 * engine.rms  # a tenth of half a unit in the last place
    rises = []
    for evaluate in (plain.evaluate, split.evaluate):
        losses = []
        for sign in (-1, 1):
            with engine.at(direction, step=sign * step):
                losses.append(evaluate(False).loss)
        rises.append(losses[1] - losses[0])
    assert rises[1] == pytest.approx(rises[0], rel=0.1)

    class Cast(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.linear:
                return (args[0].bfloat16() @ args[1].bfloat16().T).float()
            return func(*args, **(kwargs or {}))

    losses = []
    for sign in (-1, 1):
        with engine.at(direction, step=sign * step), Cast():
            losses.append(plain.evaluate(False).loss)
    assert abs(losses[1] - losses[0]) < 0.5 * rises[0], "what a single cast would lose"


# --- what it leaves behind ----------------------------------------------------------------------


class Guarded(nn.Module):
    """One frozen, one trained parameter with a gradient of its own, one buffer."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.arange(1.0, 6.0))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.w.grad = torch.full((5,), 7.0)


def test_gradients_flags_and_weights_are_what_they_were():
    module = Guarded()
    engine = bs.load(module)
    before, grad = engine.fingerprint(), module.w.grad
    at = module.w.detach().clone()
    bs.attack(engine, lambda m: ((m.w - at) ** 2 * at).sum() + 0 * m.frozen.sum(), steps=20)
    assert engine.fingerprint() == before
    assert module.w.grad is grad
    assert (grad == 7.0).all()
    assert module.w.requires_grad
    assert not module.frozen.requires_grad
    assert module.frozen.grad is None
    assert list(engine.shapes) == ["w"]


def test_so_are_they_after_an_exception():
    module = Guarded()
    engine = bs.load(module)
    before, calls = engine.fingerprint(), []

    def loss(m):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("mine")
        return (m.w**2).sum()

    with pytest.raises(RuntimeError, match="mine"):
        bs.attack(engine, loss, steps=20)
    assert engine.fingerprint() == before
    assert (module.w.grad == 7.0).all()
    assert not module.frozen.requires_grad
    with engine.at(bs.Random(0), step=0.1):
        pass


def test_tied_parameters_that_are_two_objects_add_up():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(4))
            self.b = nn.Parameter(self.a.data)

    module = Tied()
    engine = bs.load(module)
    assert engine.d == 4
    one, two = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])
    found = bs.attack(engine, lambda m: m.a @ one + m.b @ two, starts=1)
    delta = found.direction.delta(engine, "a")
    assert torch.allclose(delta, torch.tensor([2.0, 2.0, 0, 0]).sqrt(), atol=1e-5)


def test_float64_toys_stay_in_float64():
    module = nn.Linear(3, 1, bias=False).double()
    engine = bs.load(module)
    seen = set()

    def loss(m):
        seen.add(m.weight.dtype)
        return (m.weight @ torch.tensor([[1.0], [0], [0]], dtype=torch.float64)).sum()

    found = bs.attack(engine, loss, steps=5, starts=1)
    assert seen == {torch.float64}
    assert float(found.direction.delta(engine, "weight")[0, 0]) == pytest.approx(math.sqrt(3))


def test_only_selected_parameters_move():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    engine = bs.load(module, params="^1")
    x = torch.ones(1, 2)
    found = bs.attack(engine, lambda m: m(x).square().sum(), steps=8)
    assert set(engine.shapes) == {"1.weight", "1.bias"}
    assert found.direction.delta(engine, "1.bias").abs().sum() > 0


# --- a loss that is not finite ------------------------------------------------------------------


def test_nan_on_the_way_keeps_the_last_good_direction():
    module = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(module.weight)
    engine = bs.load(module)
    calls = []

    def loss(m):
        calls.append(1)
        w = m.weight[0]
        curved = w @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])) @ w
        return curved * (math.nan if len(calls) > 6 else 1.0)

    found = bs.attack(engine, loss, steps=30, starts=1, radius=1.0)
    assert "not finite at radius 1; the last good is kept" in found.ended[0]
    assert math.isfinite(found.loss)
    assert torch.isfinite(found.direction.delta(engine, "weight")).all()
    assert found.summary()["starts"][0]["trace"][-1][2] is not None


def test_nan_at_theta0_is_refused():
    engine = bs.load(nn.Linear(4, 1))
    with pytest.raises(bs.BasinscopeError, match="at theta0 is nan; allowed: a finite loss"):
        bs.attack(engine, lambda m: m.weight.sum() * math.nan)


# --- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fgsm"}, "method 'fgsm'; allowed: pga, proxy"),
        ({"steps": 1, "starts": 2}, "allowed: at least one start, a step for each"),
        ({"starts": 0}, "starts=0"),
        ({"radius": 0.0}, "radius=0.0; allowed: a norm above 0"),
        ({"radius": -1.0}, "radius=-1.0"),
        ({"radius": math.nan}, "radius=nan"),
        ({"radius": math.inf}, "radius=inf"),
        ({"level": 1.0}, "level=1.0; allowed: between 0 and 1"),
        ({"compute": "int8"}, "compute='int8'; allowed: bfloat16, float32"),
        ({"limit": 0}, "limit=0; allowed: at least 1"),
        ({"seed": -1, "starts": 2}, "seed=-1; allowed: an integer"),
    ],
)
def test_numbers_out_of_range(options, message):
    engine = bs.load(nn.Linear(3, 1))
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.attack(engine, lambda m: m.weight.square().sum(), **options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m: m.weight, r"loss\(module\) returned \(1, 3\); allowed: a tensor with one"),
        (lambda m: 1.0, r"loss\(module\) returned float"),
        (lambda m: m.weight.detach().sum(), "does not depend on the module's parameters"),
        (3, "an objective of type int; allowed: a task, the path of a text file"),
    ],
)
def test_what_is_no_loss(loss, message):
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.attack(bs.load(nn.Linear(3, 1)), loss)


def test_tasks_without_reference_answers(engine):
    with pytest.raises(bs.BasinscopeError, match=r"task 'safety' has no reference answer.*text"):
        bs.attack(engine, bs.tasks("safety")[0])
    items = (Item("q", (Choices("a", (" b", " c")),), answer=5),)
    with pytest.raises(bs.BasinscopeError, match="item 'q' of task 'odd' has no reference answer"):
        bs.attack(engine, Easy(items, "odd", 0.0))
    with pytest.raises(bs.BasinscopeError, match="'none' has no items"):
        bs.attack(engine, Easy((), "none", 0.0))


def test_a_task_or_text_for_a_plain_module(text):
    plain = bs.load(nn.Linear(2, 1))
    for what in (text, bs.tasks("basic", limit=3)[0]):
        with pytest.raises(bs.BasinscopeError, match=r"no tokenizer.*loss\(module\)"):
            bs.attack(plain, what)


def test_texts_that_are_none(engine, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=r"cannot read .*missing.txt' as text"):
        bs.attack(engine, tmp_path / "missing.txt")
    with pytest.raises(bs.BasinscopeError, match="cannot read"):
        bs.attack(engine, tmp_path)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(bs.BasinscopeError, match="not UTF-8"):
        bs.attack(engine, bad)
    bad.write_text("")
    with pytest.raises(bs.BasinscopeError, match="holds 0 tokens; allowed: at least 2"):
        bs.attack(engine, bad)


def test_an_item_longer_than_the_context(engine):
    items = (Item("long", (Choices("x" * 400, (" a", " b")),), 0),)
    with pytest.raises(bs.BasinscopeError, match="'long' has 402 tokens; allowed: at most 256"):
        bs.attack(engine, Easy(items, "long", 0.0))


def test_a_task_that_is_not_above_chance_has_nothing_to_collapse(engine):
    task = easy(engine)
    wrong = tuple(Item(i.id, i.requests, (i.answer + 1) % 3) for i in task.items)
    bad = Easy(wrong, "bad", 0.3)
    with pytest.raises(bs.BasinscopeError, match="at theta0 is 0, not above chance"):
        bs.attack(engine, bad)
    found = bs.attack(engine, bad, radius=0.1, steps=4)
    assert "not above chance" in found.collapse[0].reason


# --- the proxy ----------------------------------------------------------------------------------


def test_the_proxy_takes_the_steps_of_torchs_adamw():
    module = nn.Linear(6, 1, bias=False)
    engine = bs.load(module)
    theta0 = module.weight.detach().clone()
    x = torch.linspace(-1, 1, 6)
    settings = Proxy(lr=0.01, pull=50.0, weight_decay=0.3)
    found = bs.attack(
        engine, lambda m: (m.weight @ x).square().sum(), method="proxy", proxy=settings
    )
    theta = nn.Parameter(theta0.clone())
    adamw = torch.optim.AdamW([theta], lr=0.01, weight_decay=0.3)
    for _ in range(10):
        adamw.zero_grad()
        loss = -(theta @ x).square().sum() + 50.0 * (theta - theta0).square().mean()
        loss.backward()
        adamw.step()
    move = (theta - theta0).detach()
    assert found.starts[0].steps == 10
    assert found.radius == pytest.approx(float(move.norm()), rel=1e-4)
    assert found.direction.displacement == pytest.approx(float(move.norm()), rel=1e-4)
    delta = found.direction.delta(engine, "weight")
    assert torch.allclose(delta, move * math.sqrt(6) / move.norm(), atol=1e-4)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": math.nan}, {"pull": -1.0}, {"lr": math.inf}])
def test_settings_of_the_proxy(bad):
    with pytest.raises(bs.BasinscopeError, match="allowed: finite, lr above 0"):
        Proxy(**bad)


def test_a_proxy_that_does_not_move_is_refused():
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    with pytest.raises(bs.BasinscopeError, match="the proxy has not moved"):
        bs.attack(bs.load(module), lambda m: m.weight.square().sum(), method="proxy")
