"""What is switched off is not used, what remains is, and everything is back afterwards."""

import functools

import pytest
import torch
import toys
from benchmarks import ablation

import basinscope as bs
from basinscope.engines import generation, kernels
from basinscope.tasks.base import Choices, Generate

SHARED = "Say what it is, and say it well: "
REQUESTS = (
    Choices("is it so", (" yes", " no"), prefix=SHARED),
    Choices("or not", (" yes", " no"), prefix=SHARED),
    Generate("Now: ", 24, prefix=SHARED),
)


@functools.cache
def engine(dtype=torch.bfloat16):
    loaded = bs.load(toys.tiny_model("llama", dtype=dtype), tokenizer=toys.tiny_tokenizer())
    assert loaded.forward.pooled
    return loaded


@pytest.fixture
def used(monkeypatch):
    """Parts that have been called."""
    names = set()

    def watched(place, method, name):
        work = getattr(place, method)

        def calls(*args, **options):
            names.add(name)
            return work(*args, **options)

        monkeypatch.setattr(place, method, calls)

    watched(kernels, "attend", "pool")
    watched(generation, "greatest", "kernels")
    return names


GONE = {"everything": set(), "pool": {"pool", "kernels"}}


@pytest.mark.parametrize("switch", GONE)
def test_a_switch_takes_away_its_part_and_no_other(switch, used):
    loaded = engine()
    forward = loaded.forward
    with loaded.at(bs.Random(), step=1e-5), ablation.without(loaded, switch):
        loaded.answer(REQUESTS)
    assert used == {"pool", "kernels"} - GONE[switch]
    assert loaded.forward is forward
    assert forward.pooled


def test_choices_take_no_part_of_writing():
    assert ablation.in_use(engine(), writes=False) == []
    assert ablation.in_use(engine(), writes=True) == ["pool"]


def test_every_switch_is_timed_in_every_round():
    seconds, answers = ablation.answers_by_turns(engine(), REQUESTS, 0.01, ["pool"], 3)
    assert list(seconds) == list(answers) == ["everything", "pool"]
    assert all(len(rounds) == 3 and min(rounds) > 0 for rounds in seconds.values())


def test_a_ratio_is_of_one_round():
    row = ablation.Row("pool", "gsm8k", "float32", 0.01, [1.0, 2.0, 4.0], [3.0, 2.0, 8.0])
    assert row.ratios == [3.0, 1.0, 2.0]
    assert "2.00 [1.00, 3.00]" in row.line()
