"""The words for directions."""

import pytest

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.weights.words import parse


@pytest.mark.parametrize(
    ("word", "seed"), [("random", 0), ("random:0", 0), ("random:17", 17), ("random:007", 7)]
)
def test_random(word, seed):
    assert parse(word) == bs.Random(seed)


@pytest.mark.parametrize("word", ["saved:worst.safetensors", "saved:a/b:c.safetensors"])
def test_the_word_is_the_label(word):
    assert parse(word).label == word
    assert parse(word) == parse(word)


@pytest.mark.parametrize(
    "word",
    ["", "rand", "random:", "random:x", "random:-1", "random:1.5", "random:²", ":1", "saved",
     "saved:"],
)  # fmt: skip
def test_anything_else_is_refused(word):
    with pytest.raises(BasinscopeError, match=r"direction .*allowed: random or random:SEED"):
        parse(word)
