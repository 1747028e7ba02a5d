"""Texts and tokens: the split, the order of the windows, the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys

import basinscope as bs
from basinscope.widening import text, tokens
from basinscope.widening.recipe import Text
from basinscope.widening.text import SEPARATOR, Documents, Files

BOOK = (
    "Header\r\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\r\n"
    + "\r\n\r\n".join(f"Paragraph {i} " + "word " * 60 for i in range(40))
    + "\r\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\r\nLicence"
)


def test_a_book_loses_its_header_and_is_cut_at_empty_lines():
    found = text.passages(BOOK)
    assert len(found) > 3
    assert found[0].startswith("Paragraph 0 ")
    assert "Licence" not in found[-1]
    assert all("\r" not in p and p == p.rstrip() for p in found)
    assert all(len(p) >= text.PASSAGE_CHARACTERS - 1 for p in found[:-1])
    assert sum(p.count("Paragraph") for p in found) == 40


def test_stories_are_cut_at_the_separator():
    assert text.passages(f"a\n{SEPARATOR}\nb\n\nb{SEPARATOR}\n{SEPARATOR}") == ["a", "b\n\nb"]
    assert text.passages("  \n\n ") == []


def test_the_split_has_no_overlap_and_does_not_hang_on_the_order():
    found = [f"story {i % 90} " * 5 for i in range(100)]  # ten of them twice
    one, other = text.split(found, 0.2), text.split(found[::-1], 0.2)
    assert not set(one.train) & set(one.validation)
    assert set(one.train) | set(one.validation) == set(found)
    assert set(one.validation) == set(other.validation)
    assert len(set(one.validation)) == len(one.validation), "what is twice there is held out once"
    held = sum(map(len, one.validation)) / sum(map(len, set(found)))
    assert 0.2 <= held < 0.25


def test_a_text_of_one_passage_cannot_be_split():
    with pytest.raises(bs.BasinscopeError, match="a text of 1 passages; allowed: at least 2"):
        text.split(["one", "one"], 0.1)


def test_documents_of_a_data_set_are_held_out_by_their_hash():
    class Rows(list):
        _fingerprint = "abc"

    rows = Rows({"a": f"row {i}", "b": "" if i % 2 else "more"} for i in range(2000))
    found = list(Documents(rows, Text(dataset="x", columns=("a", "b"), hold_out=0.1)).passages())
    assert found[0][1] == "row 0\nmore"
    assert found[1][1] == "row 1"
    # Binomial(2000, 0.1): 120 or fewer, or 280 or more, has probability below 2e-8
    assert 120 < sum(held for held, _ in found) < 280


MISSING = {
    "name": (
        "nosuch.txt",
        r"no text 'nosuch.txt' in .*; try: name the data folder with --data-dir",
    ),
    "pattern": ("*.md", r"no text '\*.md'"),
    "absolute": ("/nosuch/file.txt", "no text '/nosuch/file.txt'"),
}


@pytest.mark.parametrize(("name", "message"), MISSING.values(), ids=MISSING)
def test_a_missing_file(name, message, texts):
    with pytest.raises(bs.BasinscopeError, match=message):
        text.parts(Text(files=(name,)), texts, None)


def test_a_file_that_is_no_text(texts):
    (texts / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(bs.BasinscopeError, match=r"cannot read the text \S*bytes.txt"):
        text.parts(Text(files=("bytes.txt",)), texts, None)


def test_a_file_without_an_end_worth_reading(texts):
    with (texts / "sparse.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(bs.BasinscopeError, match=r"cannot read the text \S*sparse.txt \(it begins"):
        text.parts(Text(files=("sparse.txt",)), texts, None)


def test_files_lie_in_the_data_folder_or_beside_the_recipe(texts, tmp_path, monkeypatch):
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    there = text.parts(Text(files=("[no]*.txt",)), texts, None)
    beside = text.parts(Text(files=("old.txt", "new.txt")), None, texts)
    assert {p for _, p in there.passages()} == {p for _, p in beside.passages()}
    with pytest.raises(bs.BasinscopeError, match=r"no text 'old.txt'; allowed"):
        text.parts(Text(files=("old.txt",)), None, None)
    with pytest.raises(bs.BasinscopeError, match="is no folder"):
        text.parts(Text(files=("old.txt",)), tmp_path / "nosuch", None)


def test_a_hub_that_cannot_be_asked(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(bs.BasinscopeError, match=r"cannot load the data set 'no/such' .*--dry-run"):
        text.parts(Text(dataset="no/such"), None, None)


def test_tokens_are_the_text_again(texts):
    found = text.parts(Text(files=("old.txt",), hold_out=0.2), texts, None)
    assert isinstance(found, Files)
    tokenizer = tokens.tokenizer_of(300, found)
    assert len(tokenizer) == 300
    stream = tokens.stream(tokenizer, found)
    for part, passages in ((stream.train, found.train), (stream.validation, found.validation)):
        assert part.dtype == torch.int32
        assert tokenizer.decode(part.tolist()) == "".join(p + SEPARATOR for p in passages)
    again = tokens.stream(tokens.tokenizer_of(300, found), found)
    assert again.digest == stream.digest
    assert torch.equal(again.train, stream.train)


def test_a_text_is_read_as_far_as_is_asked(texts):
    whole = (texts / "old.txt").read_text()
    found = text.parts(Text(files=("old.txt",), hold_out=0.2, characters=400), texts, None)
    read = [passage for _, passage in found.passages()]
    assert sorted(read) == sorted(text.passages(whole[:400]))
    assert len(read) > 1


def test_the_cache_is_made_once_and_names_what_it_holds(texts, monkeypatch):
    found = text.parts(Text(files=("new.txt",), hold_out=0.2), texts, None)
    tokenizer = tokens.tokenizer_of(280, found)
    first = tokens.stream(tokenizer, found)
    monkeypatch.setattr(tokens, "_encode", None)
    monkeypatch.setattr(tokens, "_train", None)
    assert torch.equal(tokens.stream(tokens.tokenizer_of(280, found), found).train, first.train)
    with pytest.raises(TypeError, match="not callable"):  # another size is another entry
        tokens.tokenizer_of(281, found)


def test_a_cache_that_cannot_be_written(texts, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "file"))
    found = text.parts(Text(files=("new.txt",), hold_out=0.2), texts, None)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write to the cache .*BASINSCOPE_CACHE"):
        tokens.tokenizer_of(280, found)


@pytest.mark.parametrize(
    ("choice", "message"),
    [(100, "tokenizer: 100; allowed: 257 or more"),
     ("no/such", "cannot load the tokenizer 'no/such' .*size of a BPE"),
     ("endless", "tokenizer 'endless' has no end token; allowed: one with both"),
     ("slow", "tokenizer 'slow' has no fast form; allowed: one with both")],
    ids=["small", "unknown", "endless", "slow"],
)  # fmt: skip
def test_a_bad_tokenizer(choice, message, texts, monkeypatch):
    if choice in ("endless", "slow"):
        tokenizer = toys.tiny_tokenizer()
        tokenizer.eos_token = None
        monkeypatch.setattr(type(tokenizer), "is_fast", choice == "endless")
        monkeypatch.setattr(
            "transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer
        )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = text.parts(Text(files=("new.txt",), hold_out=0.2), texts, None)
    with pytest.raises(bs.BasinscopeError, match=message):
        tokens.tokenizer_of(choice, found)


def test_every_pass_sees_every_window_once_in_an_order_of_its_own():
    whole = tokens.order(10, 0, 30, seed=3).tolist()
    passes = [whole[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert tokens.order(10, 0, 30, seed=4).tolist() != whole


@pytest.mark.parametrize("size", [1, 3, 7, 10, 25])
def test_the_order_is_a_function_of_seed_and_place(size):
    whole = tokens.order(10, 0, 50, seed=1)
    parts = [tokens.order(10, first, size, seed=1) for first in range(0, 50, size)]
    assert np.array_equal(np.concatenate(parts)[:50], whole)


def test_windows_take_every_token_as_a_target_once():
    stream = torch.arange(13, dtype=torch.int32)
    rows = tokens.batch(stream, [0, 1, 2], 4)
    assert rows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert tokens.Stream(stream, stream, "").windows(4) == 3
