"""Forecasts scale with the plan."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import basinscope as bs
from basinscope.runs import forecast as module
from basinscope.runs.cost import Cost
from basinscope.runs.forecast import Forecast, crowding, forecast, minutes


@pytest.fixture
def asked(monkeypatch):
    """A model of known cost on which two workers take 1.5 times as long; what the probe is told."""
    seen = []

    def fixed(engine, tasks, settings, *, probe_s, threads):
        seen.append(SimpleNamespace(settings=settings, probe_s=probe_s, threads=threads))
        return Cost(100, 50, 10.0)

    monkeypatch.setattr(module, "cost", fixed)
    monkeypatch.setattr(module, "crowding", lambda engine, workers: 1.5)
    monkeypatch.setattr(module, "cores", lambda: 2)
    return seen


ENGINE = SimpleNamespace(device=torch.device("cpu"), kind="module/1")
TASKS = [bs.CallableTask("a", lambda m: [1] * 20, 20), bs.CallableTask("b", lambda m: [1] * 5, 5)]
SETTINGS = [(bs.Random(0), 0, 0.01 * k) for k in range(1, 21)]


def test_of_a_curve_counts_every_setting_and_the_rounds_of_the_workers(asked):
    found = forecast(ENGINE, TASKS, SETTINGS, start_s=4.0)
    assert found == Forecast(21, 21 * 25, 2100, 1050, 2, 11 * 10.0 * 1.5 + 4.0)
    (probe,) = asked
    assert [step for _, _, step in probe.settings] == [0.04, 0.11, 0.17]
    assert probe.threads == 1
    assert probe.probe_s == 1.5


def test_of_one_worker_is_that_of_this_process(asked):
    found = forecast(ENGINE, TASKS, SETTINGS[:1], workers=1, start_s=4.0)
    assert found == Forecast(2, 50, 200, 100, 1, 20.0)
    assert asked[0].threads is None
    assert len(asked[0].settings) == 1


def test_of_a_sample_of_the_items_takes_its_share(asked):
    found = forecast(ENGINE, TASKS, SETTINGS[:1], points=10, items=5, workers=1)
    assert found == Forecast(10, 100, 400, 200, 1, 40.0)


def test_reads_as_a_line_and_as_plain_values():
    found = Forecast(2, 50, 2000, 100, 2, 90.04)
    assert str(found) == "2,000 tokens read and 100 written, about 1.5 min on 2 workers"
    assert found.to_json()["seconds"] == 90.0
    assert str(Forecast(1, 1, 7, 0, 1, 1.0)) == "7 tokens read, about 0.1 min on 1 worker"
    assert minutes(3 * 3600) == "3.0 h"


def test_workers_crowd_each_other_or_not_but_never_help(checkpoint):
    threads = torch.get_num_threads()
    assert 1.0 <= crowding(bs.load(checkpoint), 2) < 100.0
    assert torch.get_num_threads() == threads
