"""The run folder of a study: ``widen.json``, and a record and the weights of every row."""

from __future__ import annotations

import fcntl
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from basinscope.errors import BasinscopeError
from basinscope.files import DRAFT, disk_error, write
from basinscope.widening.plan import step_s
from basinscope.widening.study import Row, Study

FILE: Final = "widen.json"
PACE, PACE_TURNS = "pace.json", 3
TRAINED, DONE, STOPPED = "trained", "done", "stopped"
_FORMAT: Final = 1


def begin(folder: Path, study: Study, all_rows: Sequence[Row]) -> list[str]:
    """Claim a folder for a study, or find it claimed by the same one.

    Rows may be added to a study; nothing else of it may change.

    Returns:
        What must be said: versions or threads that differ from those it began with.

    Raises:
        BasinscopeError: a folder with something else, or another study (differences are listed).
    """
    new: dict[str, Any] = {
        "format": _FORMAT,
        "spec": {
            "recipe": _flat(
                study.recipe.model_dump(
                    mode="json", exclude={"methods", "seeds", "about", "hardware"}
                )
            ),
            "text": study.pretraining.digest,
            "text of finetune": study.tuning.digest if study.tuning is not None else None,
            "rows": {row.name: row.describe() | {"seed": row.seed} for row in all_rows},
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "threads": torch.get_num_threads(),
    }
    path = folder / FILE
    if not path.exists():
        _check_folder(folder)
        write(path, json.dumps(new, indent=1))
        return []
    old = _read(path)
    if differences := _differences(old["spec"], new["spec"]):
        raise BasinscopeError(
            f"{folder} holds another study ({'; '.join(differences)})",
            "a run folder holds one study, to which methods and seeds may be added",
            "give another --run, or the recipe that it began with",
        )
    rows = old["spec"]["rows"] | new["spec"]["rows"]
    if rows != old["spec"]["rows"]:
        old["spec"]["rows"] = rows
        write(path, json.dumps(old, indent=1))
    return [
        f"begun with {key} {old[key]}, now {new[key]}: weights need not be those of an "
        "uninterrupted run bit for bit"
        for key in ("versions", "threads")
        if old[key] != new[key]
    ]


def paces(folder: Path, study: Study, all_rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of a method's step over those of the recipe's first method, by label.

    Timed once, in turns with the first method, and kept: a row that is resumed has the length that
    it began with. Only where the recipe makes rows equal in wall clock.
    """
    if study.recipe.equal != "wall":
        return {}
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # of two processes at once, the second takes these
        return _paces(folder / PACE, study, all_rows)
    finally:
        os.close(handle)


def _paces(path: Path, study: Study, all_rows: Sequence[Row]) -> dict[str, float]:
    known: dict[str, float] = _read(path) if path.exists() else {}
    first = all_rows[0]
    missing = [r for r in all_rows if r.seed == first.seed and r.label not in known]
    for row in missing:
        turns = [step_s(study, row) / step_s(study, first) for _ in range(PACE_TURNS)]
        known[row.label] = 1.0 if row == first else statistics.median(turns)
    if missing:
        write(path, json.dumps(known))
    return known


def row_file(folder: Path, name: str) -> Path:
    """Where the record of a row lies."""
    return folder / "rows" / f"{name}.json"


def read_row(folder: Path, name: str) -> dict[str, Any] | None:
    """Record of a row, or None.

    Raises:
        BasinscopeError: if it is corrupt.
    """
    path = row_file(folder, name)
    return _read(path) if path.exists() else None


@contextmanager
def claimed(folder: Path, name: str, main: bool) -> Iterator[None]:
    """A row is this process's alone inside; the claim ends with the process, however that ends.

    Args:
        folder: run folder.
        name: of the row.
        main: whether this process writes; the others of a group claim nothing.

    Raises:
        BasinscopeError: another process is at work on it.
    """
    if not main:
        yield
        return
    own = folder / "rows" / name
    try:
        own.mkdir(parents=True, exist_ok=True)
        handle = os.open(own, os.O_RDONLY)
    except OSError as error:
        raise disk_error(own, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BasinscopeError(
            f"another process is at work on row {name} of {folder}",
            "one process trains a row",
            "wait for it, or do other rows with --only",
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def save_row(folder: Path, name: str, row: Mapping[str, Any]) -> None:
    """Write a row's record, whole or not at all."""
    write(row_file(folder, name), json.dumps(row, allow_nan=False))


def rows(folder: str | Path) -> list[dict[str, Any]]:
    """Every row of a run folder that is there, in the order of the recipe.

    Raises:
        BasinscopeError: no study there; a corrupt record.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise BasinscopeError(
            f"{folder} holds no study (it has no {FILE})",
            "allowed: the --run of a basinscope widen",
        )
    found = (read_row(Path(folder), name) for name in _read(path)["spec"]["rows"])
    return [row for row in found if row is not None]


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BasinscopeError(f"{folder} is a file", "--run names a folder", "give another --run")
    others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    foreign = [name for name in others if not name.startswith(DRAFT)]
    if foreign:
        raise BasinscopeError(
            f"{folder} is not empty and no study (it holds {foreign[0]!r})",
            "--run names a new folder, or one that a study has made",
            "give another --run",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise BasinscopeError(
            f"{path} cannot be read ({error})", "a record is read as it was written",
            "give another --run" if path.name == FILE else
            "delete it: what it tells is then measured again",
        ) from None  # fmt: skip
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of the study changed, each as ``key old, now new``."""
    found = []
    for key in sorted(old["recipe"].keys() | new["recipe"].keys()):
        a, b = old["recipe"].get(key), new["recipe"].get(key)
        if a != b:
            found.append(f"{key} {a!r:.60}, now {b!r:.60}")
    texts = ("text", "text of finetune")
    found += [f"{key} differs" for key in texts if old.get(key) != new.get(key)]
    before, after = old["rows"], new["rows"]
    found += [
        f"{name}: {key} {before[name].get(key)!r:.60}, now {after[name].get(key)!r:.60}"
        for name in sorted(before.keys() & after.keys())
        for key in sorted(before[name].keys() | after[name].keys())
        if before[name].get(key) != after[name].get(key)
    ]
    if gone := sorted(before.keys() - after.keys()):
        more = sorted(after.keys() - before.keys())
        found.append(f"row {gone[0]} is gone" + (f", {more[0]} is new" if more else ""))
    return found


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {at: value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(one, f"{at}.{key}".lstrip("."))
    return found
