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
from typing import Any, Final, Literal

import torch
from pydantic import ValidationError

from basinscope.errors import BasinscopeError
from basinscope.files import disk_error, read_json, write
from basinscope.runs import header
from basinscope.widening.plan import step_s
from basinscope.widening.rows import RowRecord
from basinscope.widening.study import Study, StudyRow

FILE: Final = "widen.json"
PACE, PACE_TURNS = "pace.json", 3


class StudyHeader(header.TrainingHeader):
    """``widen.json``; in its spec the recipe, digests of its texts, and its rows."""

    kind: Literal["widen"] = "widen"


def begin(folder: Path, study: Study, all_rows: Sequence[StudyRow]) -> tuple[str, ...]:
    """Claim a folder for a study, or find it claimed by the same one.

    Rows may be added to a study; nothing else of it may change.

    Returns:
        What must be said: versions or threads that differ from those it began with.

    Raises:
        BasinscopeError: a folder with something else, or another study (differences are listed).
    """
    new = StudyHeader(
        spec={
            "recipe": _flat(
                study.recipe.model_dump(
                    mode="json", exclude={"methods", "seeds", "about", "hardware"}
                )
            ),
            "text": study.pretraining.digest,
            "text of finetune": study.tuning.digest if study.tuning is not None else None,
            "rows": {row.name: row.describe() | {"seed": row.seed} for row in all_rows},
        },
        versions={name: version(name) for name in ("torch", "transformers", "accelerate")},
        threads=torch.get_num_threads(),
    )
    path = folder / FILE
    if not header.exists(path):
        header.check_free(folder, "widen")
        write(path, json.dumps(new.model_dump(mode="json"), indent=1))
        return ()
    old = read_header(folder)
    if differences := _differences(old.spec, new.spec):
        raise BasinscopeError(
            f"{folder} holds another study ({'; '.join(differences)})",
            "one study in a run folder, to which methods and seeds may be added",
            "another --run, or the recipe that it began with",
        )
    rows = old.spec["rows"] | new.spec["rows"]
    if rows != old.spec["rows"]:
        grown = old.model_copy(update={"spec": old.spec | {"rows": rows}})
        write(path, json.dumps(grown.model_dump(mode="json"), indent=1))
    return old.changes(new)


def paces(folder: Path, study: Study, all_rows: Sequence[StudyRow]) -> dict[str, float]:
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


def _paces(path: Path, study: Study, all_rows: Sequence[StudyRow]) -> dict[str, float]:
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


def read_row(folder: Path, name: str) -> RowRecord | None:
    """Record of a row, or None.

    Raises:
        BasinscopeError: if it is corrupt, or of a later version.
    """
    path = row_file(folder, name)
    if not path.exists():
        return None
    body = _read(path)
    try:
        return RowRecord.model_validate(body)
    except ValidationError as error:
        header.check_format(path, body, error)
        raise _unreadable(path, header.malformed(error)) from None


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
            "one process for a row",
            "wait for it, or do other rows with --only",
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def save_row(folder: Path, name: str, row: RowRecord) -> None:
    """Write a row's record, whole or not at all."""
    write(row_file(folder, name), json.dumps(row.model_dump(mode="json"), allow_nan=False))


def read_header(folder: str | Path) -> StudyHeader:
    """Header of a study.

    Raises:
        BasinscopeError: no study there, or a corrupt one.
    """
    path = Path(folder) / FILE
    if not header.exists(path):
        raise header.missing(Path(folder), "widen")
    body = header.parse(path, StudyHeader)
    recipe, rows = body.spec.get("recipe"), body.spec.get("rows")
    parts = [recipe, rows, *(rows.values() if isinstance(rows, dict) else ())]
    if not all(isinstance(part, dict) for part in parts):
        raise header.corrupt(path, ValueError("its spec has no recipe or no rows"))
    return body


def rows(folder: str | Path) -> list[RowRecord]:
    """Every row of a run folder that is there, in the order of the recipe.

    Raises:
        BasinscopeError: no study there; a corrupt record.
    """
    every = (read_row(Path(folder), name) for name in read_header(folder).spec["rows"])
    return [row for row in every if row is not None]


def _read(path: Path) -> dict[str, Any]:
    try:
        body = read_json(path)
        if not isinstance(body, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    return body


def _unreadable(path: Path, reason: str) -> BasinscopeError:
    return BasinscopeError(
        f"{path} cannot be read ({reason})",
        "a record as it was written",
        "delete it: what it tells is then measured again",
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of the study changed, each as ``key old, now new``."""
    changes = header.differences(old["recipe"], new["recipe"])
    changes += [f"{key} differs" for key in ("text", "text of finetune")
                if old.get(key) != new.get(key)]  # fmt: skip
    before, after = old["rows"], new["rows"]
    changes += [
        f"{name}: {change}"
        for name in sorted(before.keys() & after.keys())
        for change in header.differences(before[name], after[name])
    ]
    if gone := sorted(before.keys() - after.keys()):
        more = sorted(after.keys() - before.keys())
        changes.append(f"row {gone[0]} is gone" + (f", {more[0]} is new" if more else ""))
    return changes


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {at: value}
    flat: dict[str, Any] = {}
    for key, one in value.items():
        flat |= _flat(one, f"{at}.{key}".lstrip("."))
    return flat
