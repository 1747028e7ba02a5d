"""A draft changes nothing but time: tokens are those of decoding one by one."""

import functools
import random

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import generation
from basinscope.engines.drafts import Drafts
from basinscope.tasks import Generate

KINDS = [(kind, dtype) for kind in ("gpt2", "llama") for dtype in (torch.float32, torch.bfloat16)]
SHARED = "Say what it is, and say it well: " * 3
STEP = 0.03


@functools.cache
def engine(kind, dtype):
    found = bs.load(toys.tiny_model(kind, dtype=dtype), tokenizer=toys.tiny_tokenizer())
    if not (found.forward.exact and found.forward.ordered()):
        pytest.skip("this CPU's products depend on their company: nothing is guessed")
    return found


@functools.cache
def requests():
    rng = random.Random(0)
    found = []
    for n in range(14):
        text = "".join(rng.choice("abcdefgh ") for _ in range(rng.choice((1, 3, 16, 33, 70))))
        stop = ("e", "yy")[: rng.randrange(3)]
        decided = (lambda text: len(text) >= 17) if n % 5 == 0 else None
        prefix = SHARED if n % 3 == 0 else ""
        found.append(Generate(text, (1, 9, 40, 64)[n % 4], stop, decided=decided, prefix=prefix))
    return tuple(found)


def tokens_of(own, asked, drafts=None, *, guessing=True):
    """Answers under perturbed weights, and the tokens that they were written with."""
    own._drafts, own.forward.exact = drafts if drafts is not None else Drafts(), guessing
    try:
        with own.at(bs.Random(), step=STEP):
            answers = own.answer(asked)
    finally:
        own.forward.exact = True
    written = own._drafts
    own._drafts = Drafts()
    return answers, [list(written.find(request)) for request in asked]


@functools.cache
def expected(kind, dtype):
    return tokens_of(engine(kind, dtype), requests(), guessing=False)


class Given(Drafts):
    """Drafts that a test made up; what is written is kept all the same."""

    def __init__(self, made):
        super().__init__()
        self.made, self.given = made, 0

    def find(self, request):
        if self.given < len(self.made):
            self.given += 1
            return self.made[request]
        return super().find(request)


def adversarial(true, kind):
    """A draft by what is written without one."""
    rng = random.Random(kind)
    return {
        "the truth": true,
        "the truth and more": [*true, *range(3, 90)],
        "wrong from the first token": [(t + 1) % 99 for t in true] or [5],
        "wrong in the middle": [*true[: len(true) // 2], 7, *true[len(true) // 2 + 1 :]],
        "one token too many": [*true[:3], 8, *true[3:]],
        "one token missing": [*true[:2], *true[3:]],
        "end tokens": [1] * 50,
        "an end token in the middle": [*true[:4], 1, *true[4:]],
        "a stop in the middle": [*true[:4], *(t + 3 for t in b"\x45yy"), *true[4:]],
        "no token": [],
        "outside of the vocabulary": [*true[:3], 99, 1 << 40, -5, *true[3:]],
        "at random": [rng.randrange(99) for _ in range(80)],
    }[kind]


@pytest.mark.parametrize(("kind", "dtype"), KINDS, ids=str)
class TestTokens:
    @pytest.mark.parametrize("draft", [
        "the truth", "the truth and more", "wrong from the first token", "wrong in the middle",
        "one token too many", "one token missing", "end tokens", "an end token in the middle",
        "a stop in the middle", "no token", "outside of the vocabulary", "at random",
    ])  # fmt: skip
    def test_do_not_depend_on_the_draft(self, kind, dtype, draft):
        answers, tokens = expected(kind, dtype)
        made = {r: adversarial(t, draft) for r, t in zip(requests(), tokens, strict=True)}
        assert tokens_of(engine(kind, dtype), requests(), Given(made)) == (answers, tokens)

    def test_do_not_depend_on_the_answers_of_other_weights(self, kind, dtype):
        own, kept = engine(kind, dtype), Drafts()
        for step in (0.0, 0.01, 0.1):
            own._drafts = kept
            with own.at(bs.Random(), step=step):
                own.answer(requests())
            answers, _ = expected(kind, dtype)
            assert tokens_of(own, requests(), kept)[0] == answers
        own._drafts = Drafts()

    @pytest.mark.parametrize("rows", [1, 2, 7])
    def test_do_not_depend_on_how_many_rows_there_is_room_for(self, kind, dtype, rows, monkeypatch):
        monkeypatch.setattr(generation, "DECODE_ROWS", rows)
        for guessing in (False, True):
            found = tokens_of(engine(kind, dtype), requests(), guessing=guessing)
            assert found == expected(kind, dtype)

    def test_do_not_depend_on_the_order(self, kind, dtype):
        order = list(range(len(requests())))
        random.Random(1).shuffle(order)
        answers, tokens = tokens_of(engine(kind, dtype), [requests()[i] for i in order])
        whole = expected(kind, dtype)
        assert (answers, tokens) == tuple([part[i] for i in order] for part in whole)

    def test_of_one_text_are_those_among_many(self, kind, dtype):
        for i in range(0, len(requests()), 3):
            (answer,), (own,) = tokens_of(engine(kind, dtype), [requests()[i]])
            assert (answer, own) == tuple(part[i] for part in expected(kind, dtype))

    @pytest.mark.parametrize("budget", [32, 300])
    def test_do_not_depend_on_the_token_budget(self, kind, dtype, budget):
        own = engine(kind, dtype)
        before, own.token_budget = own.token_budget, budget
        try:
            assert tokens_of(own, requests()) == expected(kind, dtype)
        finally:
            own.token_budget = before

    def test_do_not_depend_on_threads(self, kind, dtype):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            found = tokens_of(engine(kind, dtype), requests()[::3])
        finally:
            torch.set_num_threads(before)
        assert found == tuple(part[::3] for part in expected(kind, dtype))


def test_a_wrong_guess_that_is_taken_is_caught(monkeypatch):
    kind, dtype = KINDS[2]
    answers, tokens = expected(kind, dtype)
    made = {r: adversarial(t, "one token missing") for r, t in zip(requests(), tokens, strict=True)}
    monkeypatch.setattr(generation, "_agreed", lambda guessed, chosen: len(guessed))
    assert tokens_of(engine(kind, dtype), requests(), Given(made))[0] != answers


def test_right_guesses_save_passes(monkeypatch):
    kind, dtype = KINDS[0]
    _, tokens = expected(kind, dtype)
    passes = []
    real = generation._pass
    monkeypatch.setattr(generation, "_pass", lambda *given: passes.append(real(*given)))
    own = engine(kind, dtype)
    tokens_of(own, requests(), guessing=False)
    without = len(passes)
    made = {r: adversarial(t, "the truth") for r, t in zip(requests(), tokens, strict=True)}
    tokens_of(own, requests(), Given(made))
    assert len(passes) - without < without / 4


@pytest.mark.model
@pytest.mark.parametrize("step", [0.0, 0.01, 0.03])
def test_of_real_weights_are_those_without_a_draft(smollm2, step):
    if not (smollm2.forward.exact and smollm2.forward.ordered()):
        pytest.skip("this CPU's products depend on their company: nothing is guessed")
    asked = [
        Generate(text, 32, chat=True)
        for text in ("What is the capital of France?", "Write a haiku.", "Count to twenty.", "Why?")
    ]
    found = []
    smollm2._drafts = kept = Drafts()
    smollm2.answer(asked)
    for drafts, guessing in ((kept, True), (Drafts(), True), (Drafts(), False)):
        smollm2._drafts, smollm2.forward.exact = drafts, guessing
        with smollm2.at(bs.Random(seed=0), step=step):
            found.append((smollm2.answer(asked), smollm2.answer(asked[:1])))
    smollm2._drafts, smollm2.forward.exact = Drafts(), True
    assert found[0] == found[1] == found[2]
