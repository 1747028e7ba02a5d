"""The store: one immutable record per trial, under the hash of what determines it.

A record is written by `files.write`, so it is there whole or not at all:
killing the program at any instant loses the trial in flight and nothing else (defect 3 of earlier
code: saving only at the end). A record that does not verify is set aside, not believed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from basinscope import points
from basinscope.errors import BasinscopeError
from basinscope.files import disk_error, entries, ordinary, write
from basinscope.runs import header
from basinscope.runs.spec import MODEL, Frozen, RunSpec, canonical, conflicts, merged, sha256

MOVED = "moved.json"  # of a gate: how far each kind of tensor moved
STANDS, MARGIN = "stands.json", "margin"  # where its models stand; the landscape along their slices
OWN = ("trials", "figures", "report.html", "replacements.json", MOVED, STANDS, MARGIN)


class Trial(Frozen):
    """Outcomes of one task at one point of one slice.

    Columns are parallel: item ``items[i]`` was answered ``correct[i]`` (0 or 1).
    """

    address: str
    key: dict[str, Any]
    task: str
    direction: str | None  # label; None at step 0
    draw: int
    step: float
    items: tuple[str, ...]
    correct: tuple[int, ...]
    labels: tuple[str, ...]
    margins: tuple[float | None, ...]  # nats
    nlls: tuple[float | None, ...]  # nats
    tokens: tuple[int | None, ...] = ()  # that nlls sum over; () where no item says so
    failed: tuple[int, ...] = ()  # places of items without an answer: wrong, labelled with why

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def whole(self) -> bool:
        """Whether all items of the task were asked; a search stops where fewer decide a point."""
        return bool(self.n == self.key["task"]["n_items"])

    @property
    def score(self) -> float:
        """Mean of the 0-1 outcomes."""
        return sum(self.correct) / self.n

    def verify(self) -> None:
        """Raise ValueError unless the record is consistent with its address."""
        if sha256(self.key) != self.address:
            raise ValueError("its address is not the hash of its key")
        columns = [self.items, self.correct, self.labels, self.margins, self.nlls]
        columns += [self.tokens] if self.tokens else []
        if not self.items or len({len(column) for column in columns}) != 1:
            raise ValueError("its columns differ in length")
        if not set(self.correct) <= {0, 1}:
            raise ValueError("an outcome is neither 0 nor 1")
        if not all(0 <= i < self.n and not self.correct[i] for i in self.failed):
            raise ValueError("an item without an answer is not one of its wrong items")
        if (self.step, self.draw) != (self.key["step"], self.key["draw"]):
            raise ValueError("its step or draw is not that of its key")
        chosen = self.key.get("items")
        asked = self.key["task"]["n_items"] if chosen is None else len(chosen)
        if self.task != self.key["task"]["name"] or self.n != asked:
            raise ValueError("its task is not that of its key")
        if chosen is not None and list(self.items) != chosen:
            raise ValueError("its items are not those of its key")


class RunHeader(header.Header):
    """``run.json``: the plan, its hash, and what it was made with."""

    spec: RunSpec
    hash: str
    fingerprint: str
    versions: dict[str, str]
    machine: str


class Store:
    """Trials of one run, in a folder or (``folder=None``) in memory.

    Args:
        folder: run folder; made where it is missing.
        spec: what will be measured into it; None to read only.

    Raises:
        BasinscopeError: a folder with something else in it, a corrupt or foreign ``run.json``, a
            disk that cannot be written.
    """

    def __init__(self, folder: str | Path | None, spec: RunSpec | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[str, Trial] = {}
        self.set_aside: list[str] = []
        if self.folder is None:
            assert spec is not None
            self.spec = spec
            return
        path = self.folder / "run.json"
        old = _read_spec(path) if header.exists(path) else None
        if spec is None:
            if old is None:
                raise header.missing(self.folder, "landscape")
            self.spec = old
            return
        if old is None:
            header.check_free(self.folder, spec.kind, OWN)
        if old is not None and (differences := conflicts(old, spec)):
            raise BasinscopeError(
                f"{self.folder} holds another run ({'; '.join(differences)})",
                "one model, one set of items and, of a certificate, one plan in a run folder",
                "another --run, or run the old line again",
            )
        self.spec = spec if old is None else merged(old, spec)
        if old != self.spec:
            body = RunHeader(
                kind=self.spec.kind,
                spec=self.spec,
                hash=self.spec.hash,
                fingerprint=self.spec.model.fingerprint,
                versions=versions(),
                machine=platform.machine(),
            )
            write(path, json.dumps(body.model_dump(mode="json"), indent=1, sort_keys=True))

    def of_kind(self, kind: str) -> Store:
        """The store itself, if it holds a run of this kind."""
        if self.spec.kind != kind:
            assert self.folder is not None
            raise header.missing(self.folder, kind)
        return self

    def get(self, address: str) -> Trial | None:
        """Verified record at an address, or None; one that fails is set aside.

        Raises:
            BasinscopeError: it cannot be read, or is of a later version.
        """
        if self.folder is None:
            return self._memory.get(address)
        path = self._path(address)
        try:
            text = ordinary(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (IsADirectoryError, UnicodeDecodeError) as error:
            self._set_aside(path, str(error))
            return None
        except OSError as error:  # not the record's fault: nothing is set aside
            raise BasinscopeError(
                f"cannot read {path} ({error.strerror or error})",
                "records that can be read",
                "mend the permissions, or delete that record: it is then measured again",
            ) from error
        try:
            trial = _parse(text, path)
            if trial.address != address:
                raise ValueError("it lies at another's address")
        except (ValueError, RecursionError) as error:
            self._set_aside(path, str(error))
            return None
        return trial

    def put(self, trial: Trial) -> None:
        """Keep a record for good; writing the same one twice is harmless."""
        trial.verify()
        if self.folder is None:
            self._memory[trial.address] = trial
        else:
            body = trial.model_dump(mode="json")
            write(self._path(trial.address), canonical({**body, "checksum": sha256(body)}))
        place = f"{trial.task}/{trial.direction or 'theta0'}"
        figures = {"alpha": trial.step, "draw": trial.draw, "score": trial.score}
        points.send({f"{place}/{name}": figure for name, figure in figures.items()})

    def trials(self) -> Iterator[Trial]:
        """Every verified record of the spec's tasks, ordered by task, direction, draw and step."""
        if self.folder is None:
            records = list(self._memory.values())
        else:
            names = [path.stem for path in entries(self.folder / "trials", "*.json")]
            records = [trial for name in names if (trial := self.get(name)) is not None]
        tasks = {task.name: (n, task.model_dump()) for n, task in enumerate(self.spec.tasks)}
        mine = [
            trial
            for trial in records
            if trial.task in tasks
            and trial.key["task"] == tasks[trial.task][1]
            and all(trial.key.get(field) == getattr(self.spec.model, field) for field in MODEL)
        ]
        mine.sort(key=lambda t: (tasks[t.task][0], t.direction or "", t.draw, t.step))
        yield from mine

    def _path(self, address: str) -> Path:
        assert self.folder is not None
        return self.folder / "trials" / f"{address}.json"

    def _set_aside(self, path: Path, reason: str) -> None:
        """Move a bad record out of the way; its point is then measured again."""
        self.set_aside.append(f"{path.name}: {(reason.splitlines() or ['unreadable'])[0]}")
        bad = path.with_suffix(".bad")
        n = 0
        while bad.exists():
            n += 1
            bad = path.with_suffix(f".bad{n}")
        try:
            path.rename(bad)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(path, error) from error


def _parse(text: str, path: Path) -> Trial:
    """Trial from its file, verified; raises ValueError with a reason, as `header.check_format`."""
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("it is not a JSON object")
    checksum = body.pop("checksum", None)
    header.check_format(path, body)
    try:
        trial = Trial.model_validate(body)
    except ValidationError as error:
        if sha256(body) == checksum:
            header.check_format(path, body, error)
        raise ValueError(f"{error.error_count()} of its fields are malformed") from None
    if sha256(body) != checksum:
        raise ValueError("its checksum does not match")
    try:
        trial.verify()
    except (KeyError, TypeError):
        raise ValueError("its key is incomplete") from None
    return trial


def _read_spec(path: Path) -> RunSpec:
    body = header.parse(path, RunHeader)
    with suppress(ValueError):  # NaN has no hash
        if body.hash == body.spec.hash and body.kind in ("", body.spec.kind):
            return body.spec
    raise header.corrupt(path, ValueError("its hash or kind does not fit its spec"))


def versions() -> dict[str, str]:
    """Versions of everything that outcomes may depend on."""
    installed = {"python": platform.python_version()}
    for package in ("basinscope", "torch", "transformers", "numpy", "numba"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "unknown"
    return installed
