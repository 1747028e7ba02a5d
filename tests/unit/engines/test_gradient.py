"""Differentiable log-likelihoods: the numbers of the engine's own rankings, and their gradients."""

from __future__ import annotations

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import gradient
from basinscope.engines.tokens import Row
from basinscope.tasks import Choices

REQUESTS = [
    Choices("one two", (" three", " four five", " x")),
    Choices("a", ("b", "cde")),
    Choices(" and then some more of it", (" y", " zz")),
    Choices("first", (" second", " third"), prefix="a shared start of many tokens. "),
    Choices("", ("nothing before", "it")),
]


@pytest.fixture(params=["cached", "plain"])
def engine(request, language_model):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    engine.forward.cached = request.param == "cached"
    return engine


def totals(engine, rows):
    found = {}
    for batch in gradient.batches(engine.forward, rows, 64):
        scored = gradient.loglik(engine.forward, [rows[i] for i in batch])
        found.update(zip(batch, scored, strict=True))
    return [found[i] for i in range(len(rows))]


def test_are_those_of_the_ranking(engine):
    rows = [engine.tokens.row(request) for request in REQUESTS]
    scored = totals(engine, rows)
    answers = engine.answer(REQUESTS)
    for own, answer in zip(scored, answers, strict=True):
        assert [float(logp.detach().sum()) for logp in own.logp] == pytest.approx(
            answer.loglik, abs=2e-4
        )


def test_hits_are_the_likeliest_tokens(engine):
    context, said = (5, 6, 7), []
    for _ in range(3):  # what greedy decoding writes, with one token of it changed
        logits = engine.forward.plain([[*context, *said]])
        said.append(int(logits[0, -1].argmax()))
    wrong = [said[0], (said[1] + 1) % 99, said[2]]
    rows = [Row((), context, (tuple(said), tuple(wrong)), (0, 0))]
    (scored,) = totals(engine, rows)
    assert scored.hits[0].tolist() == [True, True, True]
    assert scored.hits[1].tolist()[:2] == [True, False]


def test_gradient_is_that_of_the_modules_own_forward(engine):
    rows = [engine.tokens.row(request) for request in REQUESTS]

    def grads(loss):
        engine.module.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in engine.module.named_parameters()}

    found = grads(sum(logp.sum() for own in totals(engine, rows) for logp in own.logp))
    slow = 0.0
    for row in rows:
        for tail, skip in zip(row.tails, row.skips, strict=True):
            full = [*row.head, *row.body, *tail]
            logp = engine.module(input_ids=torch.tensor([full])).logits[0].log_softmax(-1)
            first = len(full) - len(tail) + skip
            slow = slow + sum(logp[k - 1, full[k]] for k in range(first, len(full)))
    expected = grads(slow)
    for name, g in expected.items():
        assert torch.allclose(found[name], g, rtol=1e-3, atol=1e-3 * float(g.abs().max())), name


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_checkpointing_changes_no_gradient_and_leaves_nothing(kind):
    module = toys.tiny_model(kind)
    if kind == "gpt2":  # dropout must stay off
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.5
    engine = bs.load(module, tokenizer=toys.tiny_tokenizer())
    rows = [engine.tokens.row(REQUESTS[0])]
    calls = []
    layer = next(p for p in module.modules() if type(p).__name__ in ("GPT2MLP", "LlamaMLP"))
    layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def grads():
        module.zero_grad()
        calls.clear()
        gradient.loglik(engine.forward, rows)[0].logp[0].sum().backward()
        return [p.grad.clone() for p in module.parameters()]

    plain = grads()
    assert len(calls) == 1
    with gradient.checkpointed(module):
        again = grads()
    assert len(calls) == 2, "run a second time in the backward pass"
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all("forward" not in vars(part) for part in module.modules())
    assert not module.training


def test_batches_hold_every_row_once_within_the_budget(engine):
    rows = [Row((), tuple(range(3, 3 + n)), ((1, 2), (3,)), (0, 0)) for n in (1, 5, 9, 30, 80, 2)]
    found = gradient.batches(engine.forward, rows, 40)
    assert sorted(i for batch in found for i in batch) == list(range(len(rows)))
    for batch in found:
        longest = max(gradient.cost_tokens(engine.forward, rows[i]) for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= 40
    assert found == gradient.batches(engine.forward, rows, 40)
