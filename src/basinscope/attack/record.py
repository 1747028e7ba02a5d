"""What an attack keeps in its run folder: where it is, so that it can go on, and what it found.

A state is one safetensors file: the vectors, and the rest as JSON in its metadata, so that it is
there whole or not at all.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from basinscope import files
from basinscope.attack.ascent import State
from basinscope.attack.vectors import norm
from basinscope.directions.saved import Saved
from basinscope.errors import BasinscopeError
from basinscope.runs import header
from basinscope.runs.spec import Frozen, Number, sha256

SPEC, STATE, DIRECTION, COLLAPSE = "attack.json", "state.safetensors", "worst.safetensors", "radius"


class Start(Frozen):
    """What one start came to."""

    start: int  # its number; 0 is the gradient at theta0, where that is not zero
    radius: float  # norm of the displacement: as given, or the least at which it had collapsed
    loss: Number  # the objective's at that point
    score: Number  # its 0-1 score there; NaN where it has none
    collapsed: bool  # whether that was below its threshold, where a radius was looked for
    steps: int  # gradients that it took
    ended: str  # why it ended before its steps were used up; empty if it did not
    # step, radius, loss and score of every gradient
    trace: tuple[tuple[int, float, Number, Number], ...] = Field(repr=False)

    @property
    def rank(self) -> tuple[bool, bool, float, float]:
        """Sorts the best first: a collapse at a small radius, then a high loss that was seen."""
        return not self.collapsed, math.isnan(self.loss), self.radius, -self.loss


class AttackRecord(Frozen):
    """What stands with the direction in its file: where it comes from."""

    spec: dict[str, Any]  # that of `AttackHeader`
    model: str  # as the user named it
    objective: str  # name
    zero: tuple[float, Number]  # the objective's loss and score at theta0
    best: int  # number of the start that the direction is from
    starts: tuple[Start, ...]
    versions: dict[str, str]


class AttackHeader(header.Header):
    """``attack.json``: everything that determines the direction, and its hash."""

    kind: Literal["attack"] = "attack"
    spec: dict[str, Any]
    hash: str


def read_header(file: Path) -> AttackHeader:
    """Header of an attack's folder, checked against its hash."""
    body = header.parse(file, AttackHeader)
    with suppress(ValueError):  # NaN has no hash
        if body.hash == sha256(body.spec):
            return body
    raise header.corrupt(file, ValueError("its hash does not fit its spec"))


def steps_done(folder: Path) -> int:
    """Gradients that an attack has taken, as far as it has kept them."""
    if (folder / DIRECTION).exists():
        return sum(start.steps for start in read_record(Saved(str(folder / DIRECTION))).starts)
    try:
        with safe_open(files.ordinary(folder / STATE, None), framework="pt") as shelf:
            body = json.loads(shelf.metadata()["state"])
        return sum(start["steps"] for start in [*body["done"], body["scalars"] or {"steps": 0}])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return 0  # none was kept yet, or what was kept cannot be gone on from


def read_record(direction: Saved) -> AttackRecord:
    """What stands with the direction of an attack in its file."""
    body = direction.metadata
    try:
        return AttackRecord.model_validate(body)
    except ValidationError as error:
        header.check_format(Path(direction.file), body, error)
        raise BasinscopeError(
            f"{direction.file} is no direction of an attack ({header.malformed(error)})",
            "a file whose metadata say how it was found",
            "delete that file: the attack then begins anew",
        ) from None


@dataclass
class Kept:
    """Where an attack is: the present start, the starts that are done, the best of their ends."""

    state: State | None = None
    winner: torch.Tensor | None = None
    best: int = 0
    done: list[Start] = field(default_factory=list)

    def finish(self, state: State) -> None:
        """Put a start to those that are done; keep its direction if it is the best so far."""
        x, at = state.x, (state.radius, state.loss, state.score)
        if state.best is not None and state.best_at is not None:
            x, at = state.best, state.best_at
        size = norm(x)
        if size < 1 - 1e-6:  # inside a ball
            at = (at[0] * size, *at[1:])
        start = Start(
            start=state.start, radius=at[0], loss=at[1], score=at[2],
            collapsed=state.best is not None, steps=state.steps, ended=state.ended,
            trace=tuple(state.trace),
        )  # fmt: skip
        self.done.append(start)
        self.state = None
        if self.winner is None or start.rank < self.done[self.best].rank:
            self.winner, self.best = x, len(self.done) - 1


class Folder:
    """Run folder of an attack; None keeps nothing.

    Args:
        path: folder; made where it is missing.
        spec: everything that determines the direction, in JSON's types.

    Raises:
        BasinscopeError: a folder of another attack or with something else in it; a disk that
            cannot be written.
    """

    def __init__(self, path: str | Path | None, spec: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.spec = spec
        if self.path is None:
            return
        old = self._read()
        if old is None:
            body = AttackHeader(spec=spec, hash=sha256(spec)).model_dump(mode="json")
            files.write(self.path / SPEC, json.dumps(body, indent=1, sort_keys=True))
        elif old != spec:
            raise BasinscopeError(
                f"{self.path} holds another attack ({'; '.join(header.differences(old, spec))})",
                "one attack in a run folder",
                "another --run, or run the old line again",
            )

    @property
    def direction(self) -> Path | None:
        """File of the direction that was found."""
        return None if self.path is None else self.path / DIRECTION

    @property
    def trials(self) -> Path | None:
        """Folder of the points that were measured along it."""
        return None if self.path is None else self.path / COLLAPSE

    def keep(self, kept: Kept) -> None:
        """Write where the attack is."""
        if self.path is None:
            return
        from safetensors.torch import save_file

        vectors = {} if kept.state is None else kept.state.vectors()
        same = kept.state is not None and kept.state.best is kept.state.x
        if same:  # a tensor stands in a file once
            del vectors["best"]
        if kept.winner is not None:
            vectors["winner"] = kept.winner
        scalars = None if kept.state is None else kept.state.scalars()
        done = [start.model_dump(mode="json") for start in kept.done]
        text = json.dumps({"scalars": scalars, "best_is_x": same, "done": done, "best": kept.best,
                           "hash": sha256(self.spec)})  # fmt: skip
        with files.whole(self.path / STATE) as draft:
            save_file(vectors, draft, metadata={"state": text})

    def resume(self, device: torch.device) -> Kept:
        """What was kept last, its vectors on a device; nothing if the attack is new."""
        if self.path is None:
            return Kept()
        files.remove_drafts(self.path)
        if not (self.path / STATE).exists():
            return Kept()
        file = self.path / STATE
        try:
            with safe_open(files.ordinary(file, None), framework="pt") as shelf:
                body = json.loads(shelf.metadata()["state"])
                vectors = {n: shelf.get_tensor(n).clone().to(device) for n in shelf.keys()}
            header.check_format(file, body)
            if body["hash"] != sha256(self.spec):
                raise ValueError("it is of another attack")
            winner = vectors.pop("winner", None)
            state = None
            if body["scalars"] is not None:
                state = State(**body["scalars"], **vectors)
                state.trace = [(n, r, loss, score) for n, r, loss, score in state.trace]
                if body["best_is_x"]:
                    state.best = state.x
            done = [Start.model_validate(start) for start in body["done"]]
            return Kept(state, winner, body["best"], done)
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise BasinscopeError(
                f"{file} cannot be read ({error})",
                "what the attack kept, as it was written",
                "delete that file: the attack then begins anew",
            ) from error

    def forget(self) -> None:
        """Remove the state, if the disk lets go of it: the direction is there."""
        if self.path is not None:
            with suppress(OSError):
                (self.path / STATE).unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        assert self.path is not None
        file = self.path / SPEC
        if not header.exists(file):
            header.check_free(self.path, "attack")
            return None
        return read_header(file).spec
