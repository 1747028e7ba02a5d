"""Write files and folders whole, or not at all: draft, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from basinscope.errors import BasinscopeError

DRAFT = ".draft-"
"""How the names of drafts begin; one is left behind where a process was killed."""

Explain = Callable[[Path, OSError], BasinscopeError]
"""What to say where a path cannot be written."""


def disk_error(path: Path, error: OSError) -> BasinscopeError:
    """What to say when a file of the run folder cannot be written."""
    return BasinscopeError(
        f"cannot write {path} ({error.strerror or error})",
        "a folder with free space and the right to write",
        "free some space or mend the permissions, then run the same line again: it resumes",
    )


def write(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes; folders are made where they are missing.

    The file has the permissions of any other new file, so that a group can share a run folder.
    """
    with whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: Path, explain: Explain = disk_error) -> Iterator[Path]:
    """A path for the body to write to, which becomes ``path`` when the body ends without error.

    Raises:
        BasinscopeError: what ``explain`` says of an OSError, or of safetensors' own error.
    """
    with _draft(path.parent, path, explain) as draft:
        yield draft
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)


@contextmanager
def whole_folder(
    path: Path, explain: Explain = disk_error, *, shared: bool = False
) -> Iterator[Path]:
    """A folder for the body to fill, which becomes ``path`` when the body ends without error.

    Args:
        path: must not be there.
        explain: see `whole`.
        shared: another process may make the same folder; that of the first one stays.

    Raises:
        BasinscopeError: see `whole`.
    """
    with _draft(path.parent, path, explain) as draft:
        draft.mkdir()
        yield draft
        _sync_all(draft)
        try:
            draft.rename(path)
        except OSError:
            if not (shared and path.is_dir()):
                raise
        _sync(path.parent)


@contextmanager
def whole_files(folder: Path, explain: Explain = disk_error) -> Iterator[Path]:
    """A folder for the body to fill, whose files are then put into ``folder``, each of them whole.

    Raises:
        BasinscopeError: see `whole`.
    """
    with _draft(folder, folder, explain) as draft:
        draft.mkdir()
        yield draft
        _sync_all(draft)
        for file in draft.iterdir():
            file.replace(folder / file.name)
        _sync(folder)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of processes that were killed; nobody else may be writing there."""
    for draft in folder.glob(f"{DRAFT}*"):
        _remove(draft)


@contextmanager
def _draft(parent: Path, path: Path, explain: Explain) -> Iterator[Path]:
    """A name of a draft; what is there under it at the end is removed."""
    draft = parent / f"{DRAFT}{uuid.uuid4().hex}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
        finally:
            _remove(draft)
    except SafetensorError as error:
        raise explain(path, OSError(str(error))) from error
    except OSError as error:
        raise explain(path, error) from error


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _sync_all(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_path(word: str) -> bool:
    """Whether a word can be nothing but a path: no hub id looks like it."""
    named = word.endswith((".gguf", ".safetensors")) or word.startswith((".", "/", "~"))
    return named or word.count("/") > 1


def at_path(word: str, kind: str = "model", *, hub: bool = True) -> str:
    """A word for a file or folder, or a hub id; refused if it can only be a path to nothing.

    Args:
        word: as the user gave it.
        kind: what is looked for, for the message.
        hub: whether the word may be a hub id.

    >>> at_path("org/name")
    'org/name'
    """
    if (not hub or is_path(word)) and not Path(word).expanduser().exists():
        raise BasinscopeError(
            f"no {kind} at {word!r}",
            "a path that exists, or a hub id such as org/name" if hub else "a file",
            "check the path",
        )
    return word
