"""Write files and folders whole, or not at all: draft, fsync, rename, fsync of the folder."""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from basinscope.errors import BasinscopeError

SEAL = "sha256.json"
"""Hashes of a checkpoint's files: a damaged one would train on in silence."""
DRAFT = ".draft-"
"""How the names of drafts begin; one is left behind where a process was killed."""

MOST_BYTES = 1 << 29
"""Of a file that is read whole into memory."""

_FOREIGN = re.compile(
    r"\..*|__MACOSX|(eh)?thumbs.*\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information|@eaDir|"
    r"lost\+found",
    re.IGNORECASE,
)
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "name a folder on another disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EEXIST: "move away what is in the way",
    errno.ENOTDIR: "move away what is in the way",
}

Explain = Callable[[Path, OSError], BasinscopeError]
"""What to say where a path cannot be written."""


def disk_error(path: Path, error: OSError) -> BasinscopeError:
    """What to say when a file of the run folder cannot be written."""
    parents = (p for p in path.parents if os.path.lexists(p) and not os.path.isdir(p))
    obstacle = next(parents, None)
    reason = error.strerror or error if obstacle is None else f"{obstacle} is {describe(obstacle)}"
    advice = _ADVICE.get(error.errno or 0, "mend the permissions")
    return BasinscopeError(
        f"cannot write {path} ({reason})",
        "a path that can be written to; what was measured before is kept",
        f"{advice}, then run the same line again",
    )


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, sorted, but for drafts and what other systems leave (``.DS_Store``).

    Args:
        folder: it may be missing.
        pattern: as `pathlib.Path.glob` takes it.
    """
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(map(_FOREIGN.fullmatch, path.relative_to(folder).parts))
    )


def describe(path: str | Path) -> str:
    """What is at a path where something else was looked for, for a message.

    >>> describe("/no/such/file")
    "nothing: / has no 'no'"
    """
    path = Path(path).expanduser()
    try:
        if path.is_symlink() and not path.exists():
            return f"a link to {os.readlink(path)}, which is not there"
        if path.is_dir():
            names = [entry.name for entry in entries(path)]
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            return f"a folder of {shown}" if names else "an empty folder"
        if path.exists():
            return "a file" if path.is_file() else "neither a file nor a folder"
        parent = next(place for place in path.parents if os.path.lexists(place))
        if not parent.is_dir():
            return f"nothing: {parent} is {describe(parent)}"
        absent = path.parts[len(parent.parts)]
        names = [entry.name for entry in entries(parent)]
        near = "".join(f", but {name!r}" for name in difflib.get_close_matches(absent, names, 1))
        return f"nothing: {parent} has no {absent!r}{near}"
    except OSError as error:  # a name that is too long, no right to look
        return f"out of reach: {error.strerror or error}"


def split_at(mark: str, text: str, path_of: Callable[[str], str] = str) -> list[str]:
    """Parts of a text between marks; one in the name of a file or folder that exists parts nothing.

    Args:
        mark: that parts.
        text: what is parted.
        path_of: the path in a part, which may be nothing.
    """
    pieces, parts = text.split(mark), []
    while pieces:
        joined = (mark.join(pieces[:n]) for n in range(len(pieces), 1, -1))
        parts.append(next((p for p in joined if os.path.exists(path_of(p))), pieces[0]))
        del pieces[: parts[-1].count(mark) + 1]
    return parts


def ordinary(path: Path, most_bytes: int | None = MOST_BYTES) -> Path:
    """The path, if reading it comes to an end: a FIFO waits for a writer, a device has no end.

    Args:
        path: to be opened by whoever asks.
        most_bytes: that the file may have.

    Raises:
        OSError: nothing there; no file; a larger one.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        is_folder = stat.S_ISDIR(status.st_mode)
        kind, reason = (errno.EISDIR, "a folder") if is_folder else (errno.EINVAL, "no file")
        raise OSError(kind, f"it is {reason}", str(path))
    if most_bytes is not None and status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes", str(path))
    return path


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError: as `ordinary`.
        ValueError: no UTF-8, or no JSON.
    """
    try:
        return json.loads(ordinary(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8, halves of characters as escapes) or bytes; folders are made.

    The file has the permissions of any other new file, so that a group can share a run folder.
    """
    with whole(path) as draft:
        draft.write_bytes(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


def seal(folder: Path) -> None:
    """Write down the hash of every file in a folder, for `check_seal`."""
    (folder / SEAL).write_text(json.dumps(_hashes(folder)), encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Read a folder's files against the hashes of its `seal`; one without a seal passes.

    Raises:
        OSError: as `ordinary`.
        ValueError: the first file that is missing, or not what it was.
    """
    if not (folder / SEAL).exists():
        return
    sealed, now = read_json(folder / SEAL), _hashes(folder)
    if name := next((name for name in sealed if now.get(name) != sealed[name]), None):
        raise ValueError(f"{name} is {'damaged' if name in now else 'missing'}")


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in entries(folder):
        if path.name != SEAL and not path.is_dir():
            with ordinary(path, None).open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


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
    return named or word.count("/") > 1 or len(word) > 96  # the most that the hub allows


def at_path(word: str, kind: str = "model", *, hub: bool = True) -> str:
    """A word for a file or folder, or a hub id; refused if it can only be a path to nothing.

    Args:
        word: as the user gave it.
        kind: what is looked for, for the message.
        hub: whether the word may be a hub id.

    >>> at_path("org/name")
    'org/name'
    """
    path = os.path.expanduser(word)
    nothing = not (os.path.isfile(path) or os.path.isdir(path))
    nameless = not word.strip()
    if nothing and (nameless or not hub or is_path(word) or os.path.lexists(path)):
        raise BasinscopeError(
            f"no {kind} at {word!r}: there is {'no name' if nameless else describe(word)}",
            f"{'a path that exists, or a hub id such as org/name' if hub else 'a file'}",
            "name what is there",
        )
    return word
