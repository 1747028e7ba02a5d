"""The words for directions."""

import pytest

import basinscope as bs
from basinscope.directions import Direction, Layerwise
from basinscope.directions.words import direction, directions
from basinscope.errors import BasinscopeError


@pytest.mark.parametrize(
    ("word", "seed"), [("random", 0), ("random:0", 0), ("random:17", 17), ("random:007", 7)]
)
def test_random(word, seed):
    assert direction(word) == bs.Random(seed)


@pytest.mark.parametrize(("word", "seed"), [("layerwise", 0), ("layerwise:17", 17)])
def test_layerwise(word, seed):
    assert direction(word) == Layerwise(seed) != bs.Random(seed)
    assert direction(word).label == word


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


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The files that words name."""
    monkeypatch.chdir(tmp_path)
    for name in ("worst.safetensors", "a/b:c.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize("word", WORDS)
def test_the_word_is_the_label(word):
    assert direction(word) == WORDS[word]
    assert direction(word).label == word
    assert isinstance(direction(word), Direction)
    assert getattr(direction(word), "draws", None) == 1


def test_fractions_may_be_written_in_other_ways():
    assert direction("pruned:.5") == direction("pruned:0.50") == bs.Pruned(0.5)
    assert direction("merge:1*a+2*b") == bs.Merge(["a", "b"], [1, 2])


@pytest.mark.parametrize(
    "word",
    ["", "rand", "random:", "random:x", "random:-1", "random:1.5", "random:²", ":1", "saved",
     "layerwise:", "layerwise:x",
     "saved:", "to", "to:", "adapter:", "quantised:", "quantised:four", "quantised:4:",
     "quantised:4:x", "quantised:4:8:16", "quantised:4:symmetric", "quantised:asymmetric",
     "quantised:4.0",
     "quantized:4", "pruned:", "pruned:half", "merge:", "merge:a", "merge:a+", "merge:+b",
     "merge:0.5*a+b", "merge:a+0.5*b"],
)  # fmt: skip
def test_anything_else_is_refused(word):
    with pytest.raises(BasinscopeError, match=r"direction .*allowed: random\[:INTEGER\], "):
        direction(word)


@pytest.mark.parametrize(
    "word",
    ["to:./nowhere", "to:a/b/c", "adapter:/no/such", "saved:nosuch", "merge:./c+b", "to:x.gguf"],
)
def test_a_path_to_nothing_is_refused(word):
    with pytest.raises(BasinscopeError, match=r"^no (model|adapter|file) at '"):
        direction(word)


def test_a_plus_in_the_name_of_a_folder_that_exists_is_no_sum(tmp_path):
    both, other = tmp_path / "base+lora", tmp_path / "other"
    both.mkdir(), other.mkdir()
    assert bs.direction(f"merge:{both}+{other}").models == (str(both), str(other))
    weighted = bs.direction(f"merge:0.3*{other}+0.7*{both}")
    assert (weighted.models, weighted.weights) == ((str(other), str(both)), (0.3, 0.7))


def test_an_object_is_taken_as_it_is_and_a_wrong_one_refused():
    line = bs.Toward("./nowhere")
    assert direction(line) is line
    assert directions([line, "random"]) == [line, bs.Random(0)]
    assert directions("random:1") == [bs.Random(1)]
    for wrong in (3, None, 0.5, bs.CallableTask("t", lambda m: [1], 1)):
        with pytest.raises(BasinscopeError, match=f"a direction of type {type(wrong).__name__};"):
            direction(wrong)


def test_the_nearest_word_is_suggested():
    with pytest.raises(BasinscopeError, match=r"try: random\[:INTEGER\]$"):
        direction("randm:1")
