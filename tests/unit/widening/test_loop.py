"""The training loop: rates, marks, and two processes as one."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

import basinscope as bs
from basinscope.widening.loop import Job, factor, log_spaced, shares, windows_of


def job(**changes):
    settings = {
        "tokens": torch.arange(100, dtype=torch.int32), "context": 4, "batch": 2, "accumulate": 1,
        "steps": 100, "lr": 0.1, "lr_schedule": "constant", "warmup": 0.0, "clip": None,
        "compute": "float32", "seed": 0, "every": 10, "marks": {},
    }  # fmt: skip
    return Job(**(settings | changes))


RATES = {
    "constant": ({}, {0: 1.0, 50: 1.0, 99: 1.0}),
    "linear": ({"lr_schedule": "linear"}, {0: 1.0, 50: 0.5, 99: 0.01}),
    "cosine": ({"lr_schedule": "cosine"}, {0: 1.0, 50: 0.5, 25: 0.8535534}),
    "wsd": ({"lr_schedule": "wsd:0.2"}, {0: 1.0, 79: 1.0, 80: 1.0, 90: 0.5, 99: 0.05}),
    "warm-up steps": ({"warmup": 9}, {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0}),
    "warm-up share": ({"warmup": 0.19}, {0: 0.05, 9: 0.5, 19: 1.0}),
    "linear after warm-up": ({"warmup": 10, "lr_schedule": "linear"}, {10: 1.0, 55: 0.5}),
}


@pytest.mark.parametrize(("changes", "expected"), RATES.values(), ids=RATES)
def test_the_rate_is_a_function_of_the_step(changes, expected):
    found = {step: factor(job(**changes), step) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert all(factor(job(**changes), step) > 0 for step in range(100))


@pytest.mark.parametrize(("steps", "points"), [(1, 2), (3, 14), (300, 14), (7, 2), (1000, 30)])
def test_points_of_a_stage_are_different_and_reach_its_end(steps, points):
    found = log_spaced(steps, points)
    assert found == sorted(set(found))
    assert found[-1] == steps
    assert 1 <= found[0]
    assert len(found) <= points + 1


def test_ranks_share_what_one_process_sees():
    eight = job(batch=8)
    parts = [windows_of(eight, 3, rank, 2) for rank in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), windows_of(eight, 3))
    assert parts[0].shape == (4, 5)


def test_shares_become_steps():
    assert list(shares(200, (0.5, 0.001, 1.0, 0.5))) == [1, 100, 200]


RANKS = """
    import os, sys, torch, yaml
    torch.set_num_threads(1)
    import basinscope as bs
    recipe, run, data = sys.argv[1:]
    with open(recipe) as file:
        content = yaml.safe_load(file)
    found = bs.widen(content, run=run, data_dir=data, device="cpu")
    with open(f"{run}.rank{os.environ['RANK']}", "w") as file:
        file.write(found.table())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one_up_to_rounding(tiny, texts, tmp_path):
    """DDP over gloo, as ``torchrun`` starts it: halves of every batch, gradients averaged.

    The same windows and the same noise; only the order of the sums differs.
    """
    made = tiny(
        accumulate=2, finetune={"steps": 4, "batch": 4}, tokens=20 * 8 * 16,
        methods=["adamw", {"go": {"sigma": 0.01}}],
        measure={"draws": 1, "over_draws": 1, "windows": 4, "validation": 4},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run",
               "--nproc-per-node", "2", "--standalone", str(script),
               str(tmp_path / "recipe.yaml"), str(tmp_path / "two"), str(texts)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (tmp_path / f"two.rank{rank}" for rank in (0, 1))
    assert one.read_text() == two.read_text()
    alone = bs.widen(made, run=tmp_path / "one", data_dir=texts)
    both = bs.load_run(tmp_path / "two")
    for a, b in zip(alone.rows, both.rows, strict=True):
        assert a.losses[0][1] == pytest.approx(b.losses[0][1], rel=1e-5)
        assert a.nll == pytest.approx(b.nll, rel=2e-3)
        assert a.tokens == b.tokens
        assert len(a.finetune) == len(b.finetune)
    text = (tmp_path / "two" / "rows" / "adamw-s0.json").read_text()
    assert json.loads(text)["state"] == "done"


def test_a_batch_that_the_processes_cannot_share_is_refused(tiny, texts, tmp_path, monkeypatch):
    module = importlib.import_module("basinscope.widening.run")  # bs.widen is the function
    real = module._accelerator

    class Three:
        def __init__(self, inner):
            self.inner = inner
            self.num_processes, self.process_index = 3, 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(module, "_accelerator", lambda device: Three(real(device)))
    with pytest.raises(bs.BasinscopeError, match="batch 8 with accumulate 1 on 3 processes"):
        bs.widen(tiny(), run=tmp_path / "x", data_dir=texts)
    with pytest.raises(bs.BasinscopeError, match="batch 4 with accumulate 1 on 3 processes"):
        bs.widen(tiny(batch=6), run=tmp_path / "x", data_dir=texts)
    assert not (tmp_path / "x").exists()
