"""A recipe of seconds: a text made here, a GPT-2 of a few thousand parameters."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest

WORDS = (
    "the cat dog sun moon sea hill tree bird king queen boat road house red blue old small big "
    "saw found lost loved made kept took gave and but then near under over with"
).split()


def story(seed: int, words: int = 60) -> str:
    """A walk over the words: three may follow each, so that there is something to learn."""
    rng, place, told = random.Random(seed), 0, []
    for _ in range(words):
        place = (3 * place + rng.choice((1, 2, 7))) % len(WORDS)
        told.append(WORDS[place])
    return " ".join(told) + "."


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path_factory.getbasetemp() / "widen-cache"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, first, count in (("old.txt", 0, 60), ("new.txt", 1000, 40)):
        stories = [story(first + i) for i in range(count)]
        (folder / name).write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return folder


TINY = {
    "model": {"layers": 1, "width": 16, "heads": 2},
    "tokenizer": 300,
    "text": {"files": ["old.txt"], "hold_out": 0.2},
    "tokens": 60 * 8 * 16,
    "repeat": 6,
    "context": 16,
    "batch": 8,
    "lr": 0.02,
    "compute": "float32",
    "attention": "eager",
    "methods": ["adamw", {"go": {"sigma": 0.01}}],
    "seeds": [0],
    "checkpoint_every": 10,
    "measure": {"windows": 8, "validation": 16, "draws": 6, "over_training": [0.5],
                "over_draws": 2},
    "finetune": {"text": {"files": ["new.txt"], "hold_out": 0.2}, "steps": 12, "batch": 4,
                 "repeat": 4, "points": 4},
}  # fmt: skip


@pytest.fixture
def tiny():
    """The recipe, with keys changed: ``tiny(lr=1, measure={"draws": 2})``."""

    def make(**changes):
        made = deepcopy(TINY)
        for key, value in changes.items():
            if value is None:
                made.pop(key, None)
            elif isinstance(value, dict) and isinstance(made.get(key), dict):
                made[key] = made[key] | value
            else:
                made[key] = value
        return made

    return make
