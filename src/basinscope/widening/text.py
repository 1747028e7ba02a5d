"""Texts of a recipe: read, cut into passages, and split into a training and a validation part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from basinscope.errors import BasinscopeError
from basinscope.files import ordinary
from basinscope.tasks.data import VARIABLE, folder_of
from basinscope.widening.recipe import Text

SEPARATOR = "<|endoftext|>"
PASSAGE_CHARACTERS = 2000
_GUTENBERG = re.compile(r"\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*")


class Parts(Protocol):
    """Passages to train on and passages kept for validation; no passage is in both."""

    @property
    def digest(self) -> str:
        """Names the passages and their split."""
        ...

    def passages(self) -> Iterator[tuple[bool, str]]:
        """Every passage, and whether it is held out for validation."""
        ...


@dataclass(frozen=True)
class Files:
    """Passages of files, in memory."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Sha256 of both parts."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            for passage in part:
                digest.update(f"{len(passage)}\0{passage}".encode())
            digest.update(b"\0\0")
        return digest.hexdigest()

    def passages(self) -> Iterator[tuple[bool, str]]:
        """Every passage, and whether it is held out."""
        yield from ((False, passage) for passage in self.train)
        yield from ((True, passage) for passage in self.validation)


@dataclass(frozen=True)
class Documents:
    """Documents of a data set, one after another; held out where their hash falls below a share."""

    rows: Any
    text: Text

    @property
    def digest(self) -> str:
        """Fingerprint of the data set, and what is taken of it."""
        return f"{self.rows._fingerprint}\0{self.text.columns}\0{self.text.hold_out}"

    def passages(self) -> Iterator[tuple[bool, str]]:
        """Every document, and whether it is held out."""
        for row in self.rows:
            cells = [str(row[column]) for column in self.text.columns if row.get(column)]
            document = "\n".join(cells)
            if document:
                place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8])
                yield place < self.text.hold_out * 2**64, document


def parts(text: Text, data_dir: str | Path | None, beside: Path | None) -> Parts:
    """The two parts of a text.

    Files are cut into passages (`passages`). What is held out is told by the hash of a passage, so
    the split is a function of the text alone, and the same passage never lies on both sides.

    Args:
        text: of the recipe.
        data_dir: folder of the data; default BASINSCOPE_DATA.
        beside: folder of the recipe, where files are looked for too.

    Raises:
        BasinscopeError: a file that is missing, unreadable or no text; a text of one passage; a
            hub that cannot be asked.
    """
    if text.files:
        pieces = [
            passage
            for path in _paths(text.files, data_dir, beside)
            for passage in passages(_read(path)[: text.characters])
        ]
        return split(pieces, text.hold_out)
    return Documents(_from_hub(text), text)


def split(pieces: Sequence[str], hold_out: float) -> Files:
    """Passages with the least hashes go to validation until it holds that share of characters.

    Raises:
        BasinscopeError: fewer than two different passages.
    """
    ranked = sorted({(hashlib.sha256(p.encode()).hexdigest(), p) for p in pieces})
    if len(ranked) < 2:
        raise BasinscopeError(
            f"a text of {len(ranked)} passages",
            "at least 2, one to be held out",
            f"a longer text, with {SEPARATOR} or empty lines between its passages",
        )
    wanted, held, kept = hold_out * sum(len(p) for _, p in ranked), 0, set()
    for digest, passage in ranked[:-1]:
        if held >= wanted:
            break
        kept.add(digest)
        held += len(passage)
    chosen = {p: d in kept for d, p in ranked}
    return Files(
        tuple(p for p in pieces if not chosen[p]),
        tuple(dict.fromkeys(p for p in pieces if chosen[p])),
    )


def passages(text: str) -> list[str]:
    r"""Documents between separators; in a text without them, paragraphs up to some size.

    >>> passages("One day.<|endoftext|>\nTwo cats.\n")
    ['One day.', 'Two cats.']
    """
    marks = list(_GUTENBERG.finditer(text))
    start = next((m.end() for m in marks if m[1] == "START"), 0)
    end = next((m.start() for m in marks if m[1] == "END" and m.start() > start), len(text))
    text = text[start:end].replace("\r\n", "\n")
    if SEPARATOR in text:
        return [p for part in text.split(SEPARATOR) if (p := part.strip())]
    pieces: list[str] = []
    held = ""
    for paragraph in re.split(r"\n\s*\n", text):
        held = f"{held}\n\n{paragraph}" if held else paragraph.lstrip("\n")
        if len(held) >= PASSAGE_CHARACTERS:
            pieces.append(held.rstrip())
            held = ""
    return [*pieces, held.rstrip()] if held.strip() else pieces


def _paths(
    patterns: Sequence[str], data_dir: str | Path | None, beside: Path | None
) -> Iterator[Path]:
    folder = folder_of(data_dir)
    for pattern in patterns:
        given = Path(pattern).expanduser()
        if given.is_absolute():
            hits = [given] if given.is_file() else []
        else:
            places = [place for place in (folder, beside) if place is not None]
            hits = next((h for p in places if (h := sorted(p.glob(pattern)))), [])
        if not hits:
            looked = ", ".join(str(p) for p in (folder, beside) if p is not None)
            raise BasinscopeError(
                f"no text {pattern!r}" + (f" in {looked}" if looked else ""),
                "a file or pattern in the data folder or beside the recipe",
                f"name the data folder with --data-dir or {VARIABLE}",
            )
        yield from hits


def _read(path: Path) -> str:
    try:
        with ordinary(path, None).open("rb") as file:
            if b"\0" in file.read(1 << 12):  # before all of it is in memory
                raise OSError("it begins with null bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BasinscopeError(
            f"cannot read the text {path} ({error})", "a text in UTF-8", "save it as UTF-8"
        ) from None


def _from_hub(text: Text) -> Any:
    from datasets import load_dataset  # type: ignore[import-untyped]

    assert text.dataset is not None
    try:
        return load_dataset(text.dataset, text.config, split=text.split)
    except Exception as error:
        raise BasinscopeError(
            f"cannot load the data set {text.dataset!r} ({' '.join(str(error).split())[:160]})",
            "a data set of the Hugging Face hub, or files",
            "check the spelling and the network; --dry-run needs neither",
        ) from None
