"""Likelihood of a text: its mean negative log-likelihood, and a 0-1 score from the same passes.

``nll:FILE`` takes any text file in UTF-8, ``nll:wikitext2`` the test part of WikiText-2 (Merity et
al., arXiv 1609.07843). The text is cut into blocks of at most `BLOCK` characters that end before
white space; one after another they are the text. A block is an item:

- ``nll`` is the negative log-likelihood of all its tokens but the first, which nothing foretells,
  and ``tokens`` their number. The mean over the task, in nats a token, is the sum of the one over
  the sum of the other: `basinscope.landscape.Landscape.likelihood`.
- ``correct`` is the 0-1 oracle of one token of the block's second half: is it what greedy decoding
  would have written? The hash of the block's text picks the token: as good as drawn at random,
  and the same one at every setting of the weights. So the score estimates the next-token
  accuracy with half a block of context and more, and items are as independent as blocks are.
  ``margin`` is that token's logit minus the highest other one.

Blocks are short so that many of them cost little; a perplexity over long contexts, which is lower,
is what `basinscope.Corpus` gives for the text as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from basinscope.errors import BasinscopeError
from basinscope.files import ordinary
from basinscope.tasks.base import Answer, Corpus, Item, Likelihood, Outcome
from basinscope.tasks.data import VARIABLE, Hub, folder_of, read
from basinscope.tasks.published import Published

PREFIX: Final = "nll:"
BLOCK: Final = 512
"""Most characters of a block (a last one of less than half of that is added to the one before)."""

KNOWN: Final = {
    "wikitext2": (
        "text/wikitext2_test.txt",
        Hub("Salesforce/wikitext", "wikitext-2-v1", "test"),
    )
}


def load(name: str, data_dir: str | Path | None = None) -> Published:
    """Task of the likelihood of a text.

    Args:
        name: ``nll:wikitext2``, or ``nll:`` and the path of a text file.
        data_dir: folder with ``text/wikitext2_test.txt``; see `basinscope.tasks.data`.

    Raises:
        BasinscopeError: If there is no such text, or if it is empty or not in UTF-8.
    """
    word = name.removeprefix(PREFIX)
    folder = folder_of(data_dir) if word in KNOWN else None
    text = _known(word, folder) if word in KNOWN else _text(Path(word).expanduser())
    items = tuple(
        Item(str(i), (Corpus(block),), _drawn(block)) for i, block in enumerate(blocks(text))
    )
    where = None if folder is None else str(folder)
    return Published(name, items, 0.0, "next-token/1", _score, where)


def blocks(text: str, size: int = BLOCK) -> Iterator[str]:
    """Cut a text before white space; a word of more than ``size`` characters is cut anywhere.

    >>> list(blocks("one two  three four", size=8))
    ['one two ', ' three four']
    """
    start = 0
    while len(text) - start > size + size // 2:
        # the first word of a block stays whole, whatever stands before it
        first = start + len(text[start : start + size]) - len(text[start : start + size].lstrip())
        ends = (k for k in range(start + size, first, -1) if text[k].isspace())
        end = next(ends, start + size)
        yield text[start:end]
        start = end
    yield text[start:]


def _drawn(block: str) -> int:
    """Number that is as good as random, and the same for the same text."""
    return int.from_bytes(hashlib.sha256(block.encode()).digest()[:6], "big")


def _score(item: Item, answer: Answer) -> Outcome:
    if not isinstance(answer, Likelihood):
        raise TypeError(f"item {item.id!r} asks for a Likelihood, got {type(answer).__name__}")
    assert isinstance(item.answer, int)
    n = answer.n_tokens
    asked = n // 2 + item.answer % (n - n // 2)
    hit = answer.hits[asked]
    return Outcome(hit, "hit" if hit else "miss", answer.margins[asked], answer.nll, n)


def _known(word: str, folder: Path | None) -> str:
    file, hub = KNOWN[word]
    if folder is None:
        rows = read(None, file, hub, ("text",))
        return _checked("".join(str(row.cells.get("text") or "") for row in rows), hub.repo)
    return _text(folder / file)


def _text(path: Path) -> str:
    try:
        text = ordinary(path).read_bytes().decode("utf-8-sig")  # line ends as they are
    except UnicodeDecodeError as error:
        raise BasinscopeError(
            f"{path}: byte {error.start} ({error.object[error.start]:#04x}) is not UTF-8",
            "text in UTF-8",
            "save the file as UTF-8",
        ) from None
    except OSError as error:
        raise BasinscopeError(
            f"no text {str(path)!r} ({error.strerror or error})",
            f"{PREFIX} and the path of a text file, or {', '.join(KNOWN)}",
            f"check the path; {', '.join(KNOWN)} is found by --data-dir or {VARIABLE}",
        ) from None
    return _checked(text, str(path))


def _checked(text: str, where: str) -> str:
    if len(text.split()) < 2:
        raise BasinscopeError(f"{where} holds no text", "at least two words", "name another file")
    return text
