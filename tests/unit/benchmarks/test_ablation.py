"""What is switched off is not used, what remains is, and everything is back afterwards."""

import functools

import pytest
import torch
import toys
from benchmarks import ablation

import basinscope as bs
from basinscope.engines import generation, kernels
from basinscope.engines.drafts import Drafts
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
    """Parts that have been called, guesses where there were any."""
    names = set()

    def watched(place, method, name, counts=lambda result: True):
        work = getattr(place, method)

        def calls(*args, **options):
            result = work(*args, **options)
            if counts(result):
                names.add(name)
            return result

        monkeypatch.setattr(place, method, calls)

    watched(generation.Guess, "next", "drafts", bool)
    watched(kernels, "attend", "pool")
    watched(generation, "greatest", "kernels")
    return names


GONE = {
    "everything": set(),
    "pool": {"pool", "kernels", "drafts"},
    "drafts": {"drafts"},
}


@pytest.mark.parametrize("switch", GONE)
def test_a_switch_takes_away_its_part_and_no_other(switch, used):
    loaded = engine()
    forward = loaded.forward
    if not forward.exact:
        pytest.skip("this CPU has no products for every part")
    before = forward.pooled, forward.exact
    loaded.answer(REQUESTS)  # a draft of each text
    used.clear()
    with loaded.at(bs.Random(), step=1e-5), ablation.without(loaded, switch):
        loaded.answer(REQUESTS)
    assert used == {"pool", "kernels", "drafts"} - GONE[switch]
    assert loaded.forward is forward
    assert (forward.pooled, forward.exact) == before


def test_choices_take_no_part_of_writing():
    assert ablation.in_use(engine(), writes=False) == []
    assert set(ablation.in_use(engine(), writes=True)) <= {"pool", "drafts"}


def test_every_switch_is_timed_in_every_round():
    seconds, answers = ablation.answers_by_turns(
        engine(), REQUESTS, 0.01, ["drafts", "pool"], 3, Drafts()
    )
    assert list(seconds) == list(answers) == ["everything", "drafts", "pool"]
    assert all(len(rounds) == 3 and min(rounds) > 0 for rounds in seconds.values())


def test_a_text_has_its_answer_at_step_0_for_a_draft():
    loaded = engine()
    texts = ablation.drafts(loaded, REQUESTS)
    ablation.answers_by_turns(loaded, REQUESTS, 0.3, [], 2, texts)
    (pristine,) = loaded.answer(REQUESTS[2:])
    draft = texts.find(REQUESTS[2])
    assert loaded.tokens.text([t for t in draft if t not in loaded.ends]) == pristine.text


def test_at_step_0_a_text_has_no_draft():
    loaded = engine()
    texts = ablation.drafts(loaded, REQUESTS)
    ablation.answers_by_turns(loaded, REQUESTS, 0.0, [], 1, texts)
    assert loaded._drafts is not texts


def test_a_ratio_is_of_one_round():
    row = ablation.Row("drafts", "gsm8k", "float32", 0.01, [1.0, 2.0, 4.0], [3.0, 2.0, 8.0])
    assert row.ratios == [3.0, 1.0, 2.0]
    assert "2.00 [1.00, 3.00]" in row.line()
