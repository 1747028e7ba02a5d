"""The header of a run folder: what kind of run it holds, and in which version of the format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from basinscope.errors import BasinscopeError
from basinscope.files import entries, read_json
from basinscope.runs.spec import Frozen

FORMAT = 1
"""Of all run folders; one more with a change that an earlier version would misread.

A record beside the header that an earlier version would misread says so in a field ``format``.
"""


class Kind(NamedTuple):
    """A kind of run: the file that its header is, and what to call it."""

    header: str
    noun: str


KINDS = {
    "landscape": Kind("run.json", "a landscape"),
    "surface": Kind("run.json", "a surface"),
    "check": Kind("run.json", "a gate"),
    "certificate": Kind("run.json", "a certificate"),
    "strict-basin": Kind("run.json", "a strict-basin test"),
    "token-certificate": Kind("run.json", "a certificate against replaced tokens"),
    "attack": Kind("attack.json", "an attack"),
    "finetune": Kind("training.json", "a fine-tune"),
    "widen": Kind("widen.json", "a study of training methods"),
}


REPAIR = {
    "run.json": "delete run.json and run the same line again",
    "attack.json": "another --run, or delete the folder",
    "training.json": "another --run",
    "widen.json": "another --run",
}
"""What helps where a header is corrupt."""


class LaterVersionError(BasinscopeError):
    """A header or record is whole, but this version cannot read it."""


class Header(Frozen):
    """What every header holds; kinds add their own fields."""

    kind: str = ""  # of `KINDS`; empty in a run.json that was written before headers had it
    format: int = FORMAT


class TrainingHeader(Header):
    """Header of a run that trains: its bits depend on versions and threads as well."""

    spec: dict[str, Any]  # everything that determines the weights that come out
    versions: dict[str, str]
    threads: int

    def changes(self, now: TrainingHeader) -> tuple[str, ...]:
        """What must be said where this run goes on under another header."""
        changes = differences(
            {"versions": self.versions, "threads": self.threads},
            {"versions": now.versions, "threads": now.threads},
        )
        return tuple(
            f"begun with {change}: weights need not be those of an uninterrupted run bit for bit"
            for change in changes
        )


AnyHeader = TypeVar("AnyHeader", bound=Header)


def header_of(folder: Path) -> Path | None:
    """Header of a run folder of any kind; None where there is none."""
    names = dict.fromkeys(kind.header for kind in KINDS.values())
    return next((folder / name for name in names if exists(folder / name)), None)


def kind_of(folder: Path) -> str:
    """Kind of run that a folder holds.

    Raises:
        BasinscopeError: it is no run folder; a corrupt header, or one of a later version.
    """
    path = header_of(folder)
    if path is None:
        raise missing(folder, "landscape")
    body = read(path)
    known = [name for name, kind in KINDS.items() if kind.header == path.name]
    kind = body.get("kind")
    if kind is None:  # written before headers had a kind; run.json has it in its spec
        spec = body.get("spec")
        kind = known[0] if len(known) == 1 else spec.get("kind") if isinstance(spec, dict) else ""
    if kind not in known:
        raise corrupt(path, ValueError(f"its kind is {kind!r}"))
    return str(kind)


def read(path: Path) -> dict[str, Any]:
    """A header.

    Raises:
        BasinscopeError: it cannot be read, is corrupt, or was written by a later version.
    """
    try:
        body = read_json(path)
        if not isinstance(body, dict):
            raise ValueError("it is not a JSON object")
        version = body.get("format", 1)
        if not isinstance(version, int):
            raise ValueError(f"its format is {version!r}")
    except (OSError, ValueError) as error:
        raise corrupt(path, error) from None
    check_format(path, body)
    return body


def check_format(path: Path, body: Any, error: ValidationError | None = None) -> None:
    """Refuse a header or record that is whole, and of a later version.

    Args:
        path: of its file.
        body: what it holds; of a later version, a ``format`` beyond `FORMAT`.
        error: what its model says of it; of a later version, that there are more fields.

    Raises:
        LaterVersionError: it is of a later version.
    """
    version = body.get("format") if isinstance(body, dict) else None
    if isinstance(version, int) and version > FORMAT:
        reason = f"format {version}, known here: up to {FORMAT}"
    elif error is not None and {one["type"] for one in error.errors()} == {"extra_forbidden"}:
        reason = f"its field {_place(error)} is not known here"
    else:
        return
    raise LaterVersionError(
        f"{path} was written by a later version of basinscope ({reason})",
        "runs of this version and earlier ones",
        "pip install --upgrade basinscope",
    )


def parse(path: Path, model: type[AnyHeader]) -> AnyHeader:
    """A header of one kind, every field of which is checked; raises as `read` does."""
    body = read(path)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        check_format(path, body, error)
        raise corrupt(path, error) from None


def corrupt(path: Path, error: Exception) -> BasinscopeError:
    """What to say of a header that cannot be understood."""
    reason = malformed(error) if isinstance(error, ValidationError) else str(error) or "empty"
    return BasinscopeError(
        f"{path} is corrupt ({reason.splitlines()[0]})", "the header as written", REPAIR[path.name]
    )


def malformed(error: ValidationError) -> str:
    """The first field that is not as it should be, in words."""
    return f"{_place(error)} is missing or malformed"


def _place(error: ValidationError) -> str:
    return repr(".".join(map(str, error.errors()[0]["loc"])))


def missing(folder: Path, kind: str) -> BasinscopeError:
    """What to say of a folder that does not hold a run of this kind."""
    if header_of(folder) is None:
        return BasinscopeError(
            f"{folder} is not a run folder (it has no {KINDS[kind].header})",
            "what --run named",
            "another",
        )
    return BasinscopeError(
        f"{folder} holds {KINDS[kind_of(folder)].noun}, not {KINDS[kind].noun}",
        f"the folder of {KINDS[kind].noun}",
        "bs.load_run or basinscope report, which read every kind",
    )


def check_free(folder: Path, kind: str, parts: Collection[str] = (), option: str = "--run") -> None:
    """Refuse a folder without a header of this kind that holds something else.

    Args:
        folder: that a run of this kind is to begin in; it need not be there.
        kind: of `KINDS`.
        parts: names of what a run of this kind may have left there without its header.
        option: what names the folder on the command line.

    Raises:
        BasinscopeError: a file, a run of another kind, anything else; a folder that cannot be read.
    """
    allowed = "a new folder, or one that such a run has made"
    try_ = f"another {option}"
    if str(folder).encode(errors="ignore").decode() != str(folder):
        raise BasinscopeError(f"{folder} is no UTF-8, as safetensors needs it", allowed, try_)
    if not exists(folder):
        return
    if not folder.is_dir():
        raise BasinscopeError(f"{folder} is a file", allowed, try_)
    other = header_of(folder)
    if other is not None:
        raise BasinscopeError(
            f"{folder} holds {KINDS[kind_of(folder)].noun}, not {KINDS[kind].noun}", allowed, try_
        )
    for name in (path.name for path in entries(folder)):
        if name not in parts:
            raise BasinscopeError(
                f"{folder} is not empty and not a run folder (it holds {name!r})", allowed, try_
            )


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], hidden: Collection[str] = ()
) -> list[str]:
    """What of a plan changed, each as ``key old, now new``; of hidden keys no values are shown."""
    return [
        f"{key} differs"
        if key in hidden
        else f"{key} {old.get(key)!r:.60}, now {new.get(key)!r:.60}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def exists(path: Path) -> bool:
    """Whether something is there.

    Raises:
        BasinscopeError: nobody can say: no right to look, or a name that is too long.
    """
    try:
        return path.exists()
    except OSError as error:
        raise BasinscopeError(
            f"cannot read {path} ({error.strerror or error})",
            "a folder that can be read",
            "another --run or mend the permissions",
        ) from error
