"""Write a file whole, or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from basinscope.errors import BasinscopeError

DRAFT = ".draft-"


def write(path: Path, text: str) -> None:
    """Write to a temporary file, fsync, rename, fsync the folder.

    The file has the permissions of any other new file, so that a group can share a run folder.
    """
    draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> BasinscopeError:
    """What to say when a file of the run folder cannot be written."""
    return BasinscopeError(
        f"cannot write {path} ({error.strerror or error})",
        "what was measured before is kept",
        "free some space or mend the permissions, then run the same line again",
    )
