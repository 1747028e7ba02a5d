"""Rows of tokens: shared starts held once, rows kept up to a bound, cut as the request says."""

import tracemalloc

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import tokens as module
from basinscope.engines.tokens import Tokens
from basinscope.runs.bench import score
from basinscope.tasks import Choices, Corpus, Generate, Item, Outcome

PREFIX = "Question: what is it? Answer: nobody knows.\n\n" * 3


@pytest.fixture
def tokens():
    return Tokens(toys.tiny_tokenizer())


@pytest.fixture
def encoded(tokens, monkeypatch):
    """Texts that the tokenizer was asked for."""
    seen = []
    real = tokens.tokenizer.encode

    def spy(text, **options):
        seen.append(text)
        return real(text, **options)

    monkeypatch.setattr(tokens.tokenizer, "encode", spy, raising=False)
    return seen


@pytest.mark.parametrize("chat", [False, True])
def test_of_one_prefix_hold_one_head(tokens, chat):
    rows = [tokens.row(Generate(f"{i}?", 3, chat=chat, prefix=PREFIX)) for i in range(5)]
    assert all(row.head is rows[0].head for row in rows)
    assert len(rows[0].head) == len(PREFIX) + (len("[user]") if chat else 0)
    for i, row in enumerate(rows):
        text = f"[user]{PREFIX}{i}?\n[assistant]" if chat else f"{PREFIX}{i}?"
        assert [*row.head, *row.body] == tokens.tokenizer.encode(text)


def test_of_a_prefix_alone_keep_a_token_to_run(tokens):
    row = tokens.row(Generate("", 3, prefix=PREFIX))
    assert (len(row.head), len(row.body)) == (len(PREFIX) - 1, 1)


def test_of_rankings_and_texts_share_the_head_of_a_prefix(tokens):
    one = tokens.row(Choices("a?", ("x", "yz"), prefix=PREFIX))
    other = tokens.row(Generate("b?", 3, prefix=PREFIX))
    assert one.head is other.head


def test_read_a_prefix_once_and_a_request_once(tokens, encoded):
    requests = [Choices(f"{i}?", ("x", "y"), prefix=PREFIX) for i in range(10)]
    for _ in range(3):
        for request in requests:
            tokens.row(request)
    assert encoded.count(PREFIX) == 1
    assert len(encoded) == 1 + 10 * 3


def test_are_kept_up_to_a_bound(tokens, monkeypatch):
    monkeypatch.setattr(module, "KEPT_TOKENS", 1000)
    monkeypatch.setattr(module, "KEPT_STARTS", 5)
    for i in range(300):
        request = Choices(f"item {i}?", ("x", "y"), prefix=PREFIX + "ab" * (i // 20))
        assert tokens.row(request) == Tokens(tokens.tokenizer).row(request)
        assert sum(row.own for row in tokens._rows.values()) == tokens._kept <= 1000
        assert len(tokens._starts) <= 6
        assert len(tokens._heads) <= 6
    assert len(tokens._rows) > 10


@pytest.mark.parametrize(("n", "window"), [(2, 8), (8, 8), (9, 8), (30, 8), (31, 7), (40, 99)])
def test_windows_score_every_token_but_the_first_once(tokens, n, window):
    text = "".join(chr(33 + k) for k in range(n))
    rows = tokens.windows(Corpus(text, window=window), 16)
    scored = [token for row in rows for token in row.tails[0]]
    assert scored == tokens.tokenizer.encode(text)[1:]
    size = min(window, 16)
    assert all(row.longest <= size for row in rows)
    assert len(rows[0].body) == 1
    assert {len(row.body) for row in rows[1:]} <= {size // 2}
    assert all(not row.head for row in rows)


class Asks:
    """Items made beforehand, so that what is traced is what answering them takes."""

    name, chance, scoring = "asks", 0.0, "1"

    def __init__(self, n, kind):
        make = {
            "choices": lambda text: Choices(text, ("x", "yz"), prefix=PREFIX[:120]),
            "generate": lambda text: Generate(text, 1, prefix=PREFIX[:120]),
            "corpus": Corpus,
        }[kind]
        texts = (f"{i:05d} how many of them are there? " * 3 for i in range(n))
        self.items = tuple(Item(text[:5], (make(text),)) for text in texts)

    def oracle(self, item, answers):
        return RIGHT


RIGHT = Outcome(True)


def peak_bytes(engine, task):
    """Most Python memory held while a task is scored."""
    tracemalloc.start()
    try:
        score(engine, task)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["choices", "generate", "corpus"])
def test_memory_does_not_grow_with_the_number_of_items(kind, monkeypatch):
    # null hypothesis: rows or answers of all items are held at once. A row's 100 tokens were some
    # 800 bytes as a tuple; the likelihoods of 100 tokens are 7,000: 640 kB and more for 800 items
    monkeypatch.setattr("basinscope.runs.bench.CHUNK", 100)
    monkeypatch.setattr(module, "KEPT_TOKENS", 10_000)
    engine = bs.load(toys.tiny_model("gpt2"), tokenizer=toys.tiny_tokenizer())
    score(engine, Asks(200, kind))
    few, many = (peak_bytes(engine, Asks(n, kind)) for n in (200, 1000))
    assert many - few < 200_000, f"{few} bytes for 200 items, {many} for 1000"


def test_prefixes_leave_the_texts_as_they_are(language_model):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    own = ["1 and 2?", "", "who", "ab" * 20]
    for chat in (False, True):
        split = [Generate(p, 15, chat=chat, prefix=PREFIX) for p in own]
        whole = [Generate(PREFIX + p, 15, chat=chat) for p in own]
        assert [a.text for a in engine.answer(split)] == [a.text for a in engine.answer(whole)]
    ids = torch.tensor([engine.tokenizer.encode(PREFIX + own[0])])
    with torch.no_grad():
        out = engine.module.generate(ids, max_new_tokens=15, do_sample=False, pad_token_id=1)
    text = engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert engine.answer([Generate(own[0], 15, prefix=PREFIX)])[0].text == text


@pytest.mark.parametrize("path", ["cached", "plain"])
def test_a_reference_has_the_likelihood_of_its_continuation(language_model, path):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    engine._forward.cached = path == "cached"
    asked = [("", "Why?", " so"), (PREFIX, "What?", " this one"), (PREFIX, "b", "c")]
    free = engine.answer([Generate(p, 5, prefix=x) for x, p, _ in asked])
    told = engine.answer([Generate(p, 5, prefix=x, reference=r) for x, p, r in asked])
    ranked = engine.answer([Choices(p, (r,), prefix=x) for x, p, r in asked])
    assert [a.text for a in told] == [a.text for a in free]
    assert [a.nll for a in free] == [None] * 3
    assert [a.nll for a in told] == pytest.approx([-a.loglik[0] for a in ranked], abs=1e-4)
    chat = Generate("Hi", 5, chat=True, reference="Hello")
    plain = Generate("[user]Hi\n[assistant]", 5, reference="Hello")
    first, second = engine.answer([chat, plain])
    assert first.nll == pytest.approx(second.nll, abs=1e-4)
    (choice,) = engine.answer([Choices("[user]Hi\n[assistant]", ("Hello",))])
    assert first.nll == pytest.approx(-choice.loglik[0], abs=1e-4)


def test_a_reference_that_does_not_fit_leaves_the_text(language_model):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    (found,) = engine.answer([Generate("a" * 200, 6, reference="b" * 57)])
    assert (found.failure, found.nll) == ("", None)
    (found,) = engine.answer([Generate("a" * 200, 6, reference="b" * 56)])
    assert found.nll > 0


def test_a_prefix_counts_towards_the_context(language_model):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    fits, over = (Generate("b" * n, 6, prefix="a" * 200) for n in (50, 51))
    first, second = engine.answer([fits, over])
    assert first.failure == ""
    assert second.failure == "prompt of 257 tokens does not fit the context of 256"


def test_a_failure_stands_in_the_trial(language_model):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())

    class Mixed:
        name, chance, scoring = "mixed", 0.0, "1"
        items = (
            Item("fits", (Generate("a", 2, prefix=PREFIX[:60]),)),
            Item("over", (Generate("a" * 200, 2, prefix=PREFIX[:60]),)),
        )

        def oracle(self, item, answers):
            return Outcome(True, "right")

    outcomes = score(engine, Mixed())
    assert [o.failed for o in outcomes] == [False, True]
    (trial,) = bs.landscape(engine, Mixed(), steps=[0.0]).trials
    assert (trial.correct, trial.failed) == ((1, 0), (1,))
    assert "does not fit the context of 256" in trial.labels[1]
