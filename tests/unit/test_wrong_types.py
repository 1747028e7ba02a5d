"""Words for numbers, numbers for words: the public functions refuse them in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.errors import typed

ENGINE = bs.load(torch.nn.Linear(2, 1))
TASK = bs.CallableTask("one", lambda module: [1], 1)
ROWS = [{"prompt": "a", "completion": "b"}]

WRONG = {
    "steps='0,0.01'": lambda: bs.landscape(ENGINE, TASK, steps="0,0.01", draws=1),
    "steps=0.1": lambda: bs.landscape(ENGINE, TASK, steps=0.1, draws=1),
    r"steps=\[None\]": lambda: bs.landscape(ENGINE, TASK, steps=[None], draws=1),
    "draws='4'": lambda: bs.landscape(ENGINE, TASK, steps=[0.1], draws="4"),
    "draws=1.5": lambda: bs.landscape(ENGINE, TASK, steps=[0.1], draws=1.5),
    "level='x'": lambda: bs.landscape(ENGINE, TASK, draws=1, level="x"),
    "run=3": lambda: bs.landscape(ENGINE, TASK, steps=[0.1], draws=1, run=3),
    "step='x'": lambda: ENGINE.at("random", step="x").__enter__(),
    "sigma='x'": lambda: bs.certify(ENGINE, TASK, sigma="x"),
    "confidence='x'": lambda: bs.certify(ENGINE, TASK, sigma=0.1, confidence="x"),
    r"sigmas=\['x'\]": lambda: bs.strict_basin(ENGINE, TASK, sigmas=["x"]),
    "xs='0,1'": lambda: bs.surface(ENGINE, TASK, "random", "random:1", xs="0,1", ys=[0.0]),
    "steps='x'": lambda: bs.attack(ENGINE, TASK, steps="x"),
    "limit='x'": lambda: bs.tasks("basic", limit="x"),
    "n_items=x": lambda: bs.CallableTask("t", lambda module: [1], "x"),
    "folder=None": lambda: bs.load_run(None),
    "data 3": lambda: bs.finetune(ENGINE, 3, run="out"),
    "run=4": lambda: bs.finetune(ENGINE, ROWS, run=4),
}


@pytest.mark.parametrize("match", WRONG)
def test_an_argument_of_a_wrong_type_is_refused_in_one_line(match):
    with pytest.raises(bs.BasinscopeError, match=f"^{match}") as caught:
        WRONG[match]()
    assert "\n" not in str(caught.value)


@typed
def asked(n: int, x: float | None, steps: list[float], path: str | Path = "", *rest: str):
    return n, x, steps, path, rest


def test_what_is_of_the_type_passes_as_it_is():
    assert asked(np.int64(1), np.float32(0.5), None, Path("a"), "b") == (
        1, 0.5, None, Path("a"), ("b",),
    )  # fmt: skip
    assert asked(True, torch.tensor(2.0), [1])[1] == 2.0
    with pytest.raises(TypeError, match="missing a required argument"):
        asked(1)
