"""The words for directions."""

import pytest

import basinscope as bs
from basinscope.directions.words import parse
from basinscope.errors import BasinscopeError


@pytest.mark.parametrize(
    ("word", "seed"), [("random", 0), ("random:0", 0), ("random:17", 17), ("random:007", 7)]
)
def test_random(word, seed):
    assert parse(word) == bs.Random(seed)


WORDS = {
    "to:folder": bs.Toward("folder"),
    "to:org/name": bs.Toward("org/name"),
    "adapter:a/b c": bs.Adapter("a/b c"),
    "saved:worst.safetensors": bs.Saved("worst.safetensors"),
    "saved:a/b:c.safetensors": bs.Saved("a/b:c.safetensors"),
    "quantised:4": bs.Quantised(4),
    "quantised:4:128": bs.Quantised(4, 128),
    "quantised:4:asymmetric": bs.Quantised(4, symmetric=False),
    "quantised:3:64:asymmetric": bs.Quantised(3, 64, symmetric=False),
    "pruned:0.5": bs.Pruned(0.5),
    "merge:a+b+c/d": bs.Merge(["a", "b", "c/d"]),
    "merge:0.25*a+0.75*b": bs.Merge(["a", "b"], [0.25, 0.75]),
    "merge:-1.0*a+1e-07*b": bs.Merge(["a", "b"], [-1, 1e-7]),
}


@pytest.mark.parametrize("word", WORDS)
def test_the_word_is_the_label(word):
    assert parse(word) == WORDS[word]
    assert parse(word).label == word
    assert isinstance(parse(word), bs.Direction)
    assert getattr(parse(word), "draws", None) == 1


def test_fractions_may_be_written_in_other_ways():
    assert parse("pruned:.5") == parse("pruned:0.50") == bs.Pruned(0.5)
    assert parse("merge:1*a+2*b") == bs.Merge(["a", "b"], [1, 2])


@pytest.mark.parametrize(
    "word",
    ["", "rand", "random:", "random:x", "random:-1", "random:1.5", "random:²", ":1", "saved",
     "saved:", "to", "to:", "adapter:", "quantised:", "quantised:four", "quantised:4:",
     "quantised:4:x", "quantised:4:8:16", "quantised:4:symmetric", "quantised:asymmetric",
     "quantised:4.0",
     "quantized:4", "pruned:", "pruned:half", "merge:", "merge:a", "merge:a+", "merge:+b",
     "merge:0.5*a+b", "merge:a+0.5*b"],
)  # fmt: skip
def test_anything_else_is_refused(word):
    with pytest.raises(BasinscopeError, match=r"direction .*allowed: random or random:SEED"):
        parse(word)
