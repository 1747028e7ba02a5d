"""The frame of every run: whoever measures, a weight that was left changed is noticed."""

from __future__ import annotations

import pytest
import torch
from toys import tiny_model, tiny_tokenizer

import basinscope as bs
from basinscope.attack import collapse_radius
from basinscope.certify import certify_tokens
from basinscope.directions import save_direction
from basinscope.engines.pristine import SAMPLE
from basinscope.runs.bench import ZERO, Bench
from basinscope.runs.session import open_session
from basinscope.runs.spec import RunSpec

ITEMS = 8
CERTIFICATE = {"sigma": 0.2, "draws": 60, "items_per_draw": ITEMS}


class Layer:
    """A layer of which the weight is perturbed; its task may write to the bias."""

    def __init__(self):
        module = torch.nn.Linear(ITEMS, 2 * SAMPLE)
        torch.nn.init.constant_(module.weight, 1.0)
        self.engine = bs.load(module, params="^weight$")
        self.writes = False
        self.task = bs.CallableTask("half-spaces", self._ask, n_items=ITEMS)

    def _ask(self, module):
        if self.writes:
            module.bias.data[1] += 1  # past torch's count of writes and the sample of `at`
        return (module.weight[0] > 0).int()


@pytest.fixture
def layer():
    return Layer()


def landscape(layer, run):
    bs.landscape(layer.engine, layer.task, steps=[0.1], draws=1, run=run)


def search(layer, run):
    bs.landscape(layer.engine, layer.task, draws=1, run=run)


def surface(layer, run):
    plane = {"xs": [0.0, 0.1], "ys": [0.0]}
    bs.surface(layer.engine, layer.task, bs.Random(0), bs.Random(1), **plane, run=run)


def certificate(layer, run):
    bs.certify(layer.engine, layer.task, **CERTIFICATE, run=run)


def strict(layer, run):
    bs.strict_basin(layer.engine, layer.task, sigmas=0.01, run=run)


def radius(layer, run):
    collapse_radius(layer.engine, bs.Random(0), layer.task, run=run)


@pytest.mark.parametrize("measure", [landscape, search, surface, certificate, strict, radius])
def test_a_task_that_leaves_a_weight_changed_ends_the_run(measure, layer, tmp_path):
    measure(layer, tmp_path / "well")
    layer.writes = True
    with pytest.raises(AssertionError, match="the weights were not restored"):
        measure(layer, tmp_path / "changed")


def test_a_verdict_notices_it_too(layer, tmp_path):
    cert = bs.certify(layer.engine, layer.task, **CERTIFICATE)
    file = tmp_path / "moved.safetensors"
    save_direction(file, {"weight": torch.full((2 * SAMPLE, ITEMS), 0.01)}, {}, displacement=0.1)
    word = f"saved:{file}"
    assert cert.verdict(word, task=layer.task).score.estimate == 1.0
    layer.writes = True
    with pytest.raises(AssertionError, match="the weights were not restored"):
        cert.verdict(word, task=layer.task)


class Writing:
    """A task of texts whose oracle may write to the model."""

    chance, scoring = 0.0, "writing/1"

    def __init__(self, module, writes):
        (whole,) = bs.tasks("basic", limit=2)
        self.name, self.items, self._oracle = whole.name, whole.items, whole.oracle
        self.module, self.writes = module, writes

    def oracle(self, item, answers):
        if self.writes:
            next(self.module.parameters()).data.view(-1)[0] += 1
        return self._oracle(item, answers)


@pytest.mark.parametrize("writes", [False, True])
def test_position_wise_noise_notices_it_too(writes, tmp_path):
    module = tiny_model()
    engine = bs.load(module, tokenizer=tiny_tokenizer())
    task = Writing(module, writes)
    options = {"sigma": 0.01, "draws": 7, "confidence": 0.9, "run": tmp_path / "run"}
    if not writes:
        assert len(certify_tokens(engine, task, **options).p_items) == 2
        return
    with pytest.raises(AssertionError, match="the weights were not restored"):
        certify_tokens(engine, task, **options)


def test_an_error_inside_is_not_hidden_and_the_workers_end(layer):
    bench = Bench.of(layer.engine, [bs.Random(0)], [layer.task])
    spec = RunSpec(
        kind="landscape", model=bench.model, tasks=bench.task_specs, directions=("random",),
        draws=1, steps=None, level=0.5,
    )  # fmt: skip
    layer.writes = True
    closed = []

    def fail():
        with open_session(bench, spec, None) as session:
            session.team.close = lambda: closed.append(True)
            session.measure([ZERO])
            assert session.trial(ZERO, 0).correct == (1,) * ITEMS
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert closed == [True]
