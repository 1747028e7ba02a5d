"""Likelihood of texts against the plain definition: one window, one forward pass, no cache."""

import math

import pytest
import torch
import toys

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import score
from basinscope.runs.cost import cost
from basinscope.tasks import (
    Choices,
    Corpus,
    Generate,
    Generation,
    Item,
    Likelihood,
    Outcome,
    Ranking,
)

TEXT = "It was a dark night; the rain fell in torrents, except at odd intervals. " * 12


@pytest.fixture(params=["cached", "plain"])
def engine(language_model, request):
    engine = bs.load(language_model, tokenizer=toys.tiny_tokenizer())
    engine._forward.cached = request.param == "cached"
    return engine


def definition(engine, text, window):
    """Every token but the first once, by the module's own forward over each window.

    Windows begin half a window apart; each scores what no window before it has scored.
    """
    tokens = engine.tokenizer.encode(text)
    window = min(window, 256)
    logliks, hits, margins, done, start = [], [], [], 1, 0
    while done < len(tokens):
        own = tokens[start : start + window]
        with torch.no_grad():
            logits = engine.module(torch.tensor([own])).logits[0].float()
        for k in range(done - start, len(own)):
            row = logits[k - 1]
            logliks.append(float(row.log_softmax(-1)[own[k]]))
            hits.append(int(row.argmax()) == own[k])
            others = torch.cat([row[: own[k]], row[own[k] + 1 :]])
            margins.append(float(row[own[k]] - others.max()))
        done = start + len(own)
        start = done - window // 2
    return logliks, hits, margins


@pytest.mark.parametrize("n", [2, 3, 100, 256, 257, 384, 385, 876])
def test_equals_the_definition(engine, n):
    (found,) = engine.answer([Corpus(TEXT[:n])])
    logliks, hits, margins = definition(engine, TEXT[:n], 1024)
    assert found.n_tokens == len(logliks) == n - 1
    assert found.logliks == pytest.approx(logliks, abs=1e-4)
    assert found.margins == pytest.approx(margins, abs=1e-3)
    assert list(found.hits) == hits
    assert found.nll == pytest.approx(-sum(logliks), abs=1e-2)
    assert found.failure == ""


@pytest.mark.parametrize("window", [2, 3, 50, 255, 256, 300])
def test_of_a_declared_window_equals_the_definition(engine, window):
    (found,) = engine.answer([Corpus(TEXT[:400], window=window)])
    logliks, _, _ = definition(engine, TEXT[:400], window)
    assert len(found.logliks) == 399
    assert found.logliks == pytest.approx(logliks, abs=1e-4)


def test_equals_the_loss_of_transformers(engine):
    ids = torch.tensor([engine.tokenizer.encode(TEXT[:200])])
    with torch.no_grad():
        loss = float(engine.module(ids, labels=ids).loss)
    (found,) = engine.answer([Corpus(TEXT[:200])])
    assert found.nll / found.n_tokens == pytest.approx(loss, abs=1e-4)


def test_equals_the_ranking_of_its_continuation(engine):
    text, ranking = engine.answer([Corpus("Once upon"), Choices("O", ("nce upon",))])
    assert -text.nll == pytest.approx(ranking.loglik[0], abs=1e-4)


def test_follows_the_weights(engine):
    request = Corpus(TEXT[:300])
    (before,) = engine.answer([request])
    with engine.at(bs.Random(), step=0.05):
        (found,) = engine.answer([request])
        logliks, _, _ = definition(engine, TEXT[:300], 1024)
        assert found.logliks == pytest.approx(logliks, abs=1e-4)
    assert found.nll != before.nll
    assert engine.answer([request]) == [before]


def test_beside_other_requests_keeps_the_order(engine):
    requests = [Generate("a", 3), Corpus("abc"), Choices("a", ("b",)), Corpus("abcd")]
    answers = engine.answer(requests)
    assert [type(a) for a in answers] == [Generation, Likelihood, Ranking, Likelihood]
    assert [answers[k].n_tokens for k in (1, 3)] == [2, 3]


def test_a_start_of_the_tokenizer_foretells_the_first_token(language_model):
    from tokenizers.processors import TemplateProcessing

    tokenizer = toys.tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    (found,) = bs.load(language_model, tokenizer=tokenizer).answer([Corpus("abc")])
    assert found.n_tokens == 3


def test_counts_in_the_estimate(engine):
    before = engine.fingerprint()
    task = Reads(Generate("a", 0, reference=TEXT[:200]), Corpus(TEXT))
    assert cost(engine, [task], probe_s=0.1).seconds > 0
    assert engine.fingerprint() == before


def test_not_finite_is_a_failure(engine):
    with engine.at(bs.Random(), step=3e38):
        (found,) = engine.answer([Corpus(TEXT[:300])])
        (outcome,) = score(engine, Reads(Corpus("abc")))
    assert found == Likelihood((), (), (), "non-finite logits")
    assert outcome == Outcome(False, "non-finite logits", failed=True)


def test_of_one_token_is_a_failure_and_no_zero(engine):
    found, other = engine.answer([Corpus("a"), Corpus("ab")])
    assert found.failure == "text of one token has nothing to score"
    assert other.failure == ""
    (outcome,) = score(engine, Reads(Corpus("a")))
    assert outcome == Outcome(False, found.failure, failed=True)


class Reads:
    """Right whatever the answer: only a failure can make it wrong."""

    name, chance, scoring = "reads", 0.0, "1"

    def __init__(self, *requests):
        self.items = (Item("0", requests),)

    def oracle(self, item, answers):
        return Outcome(True)


@pytest.mark.parametrize(("text", "window"), [("", 1024), ("abc", 1), ("abc", 0), ("abc", -4)])
def test_refuses_what_has_no_likelihood(text, window):
    with pytest.raises(BasinscopeError, match=r"a corpus of \d characters in windows of .*allowed"):
        Corpus(text, window=window)


def test_mean_is_the_log_of_the_perplexity():
    found = Likelihood((-math.log(2), -math.log(8)), (True, False), (0.1, -0.1))
    assert math.exp(found.nll / found.n_tokens) == pytest.approx(4)
