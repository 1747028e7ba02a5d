"""Run folders of every kind: read, counted and verified, each kind in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from basinscope.attack import record as attacks
from basinscope.attack.run import Attack, read_attack
from basinscope.certify.certificate import Certificate
from basinscope.certify.sampling import read_certificate
from basinscope.certify.strict import StrictBasin, read_strict_basin
from basinscope.certify.tokens import TokenCertificate, read_tokens
from basinscope.check.record import Check
from basinscope.check.run import read_check
from basinscope.errors import BasinscopeError, typed
from basinscope.files import entries, ordinary
from basinscope.finetuning import checkpoint
from basinscope.finetuning import record as finetunes
from basinscope.finetuning.run import FineTune, read_finetune
from basinscope.landscape.record import Landscape, read_landscape
from basinscope.landscape.surface import Surface, read_surface
from basinscope.runs import header
from basinscope.runs.store import MARGIN, Store
from basinscope.widening import record as studies
from basinscope.widening.run import Widening, read_widening

Record = (
    Landscape | Surface | Check | Certificate | StrictBasin | TokenCertificate
    | Attack | FineTune | Widening
)  # fmt: skip

READERS: dict[str, Callable[[str | Path], Record]] = {
    "landscape": read_landscape,
    "surface": read_surface,
    "check": read_check,
    "certificate": read_certificate,
    "strict-basin": read_strict_basin,
    "token-certificate": read_tokens,
    "attack": read_attack,
    "finetune": read_finetune,
    "widen": read_widening,
}


@typed
def load_run(folder: str | Path) -> Record:
    """What a run folder holds, without its model.

    Args:
        folder: of a `basinscope.landscape`, `surface`, `check`, `certify`, `strict_basin`,
            `certify_tokens`, `attack`, `finetune` or `widen`.

    Returns:
        What that function returned. A landscape, a surface or a study may be unfinished: it then
        holds what is there. A certificate against replaced tokens row by row is a `Certificate`
        of noise on the embeddings.

    Raises:
        BasinscopeError: no run folder; a corrupt header or record, or one of a later version; a
            certificate, an attack or a fine-tune that is not finished.

    Cost: every record is read and verified.
    """
    return READERS[header.kind_of(Path(folder))](folder)


def verify(folder: str | Path) -> tuple[int, list[str]]:
    """Check every record of a run against its address and checksum, and open its weight files.

    Returns:
        How many are good; each of the others, with the reason. A trial that is not good is set
        aside, to be measured again.

    Raises:
        BasinscopeError: no run folder; a corrupt header, or one of a later version.
    """
    path = Path(folder)
    kind = header.kind_of(path)
    good, bad = 0, []
    for trials in (path, path / attacks.COLLAPSE, path / MARGIN):
        if header.exists(trials / "run.json"):
            store = Store(trials)
            good += sum(1 for _ in store.trials())
            bad += store.set_aside
    if kind == "finetune":
        finetunes.read(path)
        good += 1
    elif kind == "widen":
        for name in studies.read_header(path).spec["rows"]:
            try:
                good += studies.read_row(path, name) is not None
            except header.LaterVersionError:
                raise
            except BasinscopeError as error:
                bad.append(str(error))
    for file in entries(path, "**/*.safetensors"):
        try:
            with safe_open(ordinary(file, None), framework="pt"):
                good += 1
        except (SafetensorError, OSError) as error:
            bad.append(f"{file.relative_to(path)}: {error}")
    return good, bad


def progress(folder: str | Path) -> dict[str, Any]:
    """How far a run that trains or attacks is, as JSON takes it.

    Raises:
        BasinscopeError: as `load_run`, but for a run that is not finished.
    """
    path = Path(folder)
    kind = header.kind_of(path)
    if kind == "attack":
        spec = attacks.read_header(path / attacks.SPEC).spec
        done = (path / attacks.DIRECTION).exists()
        state = {"state": "done" if done else "running", "steps": attacks.steps_done(path)}
        return {"kind": kind, "method": spec["method"], **state, "planned": spec["steps"]}
    if kind == "finetune":
        training = finetunes.read(path)
        newest = [checkpoint.step_of(place) for place in checkpoint.found(path)][-1:]
        return {
            "kind": kind, "model": training.model, "method": training.spec["method"],
            "data": training.source, "state": training.state,
            "steps": training.steps or sum(newest), "planned": training.spec["steps"],
            "displacement": training.displacement,
        }  # fmt: skip
    if kind == "widen":
        rows = {
            name: "missing" if row is None else row.state
            for name in studies.read_header(path).spec["rows"]
            for row in [studies.read_row(path, name)]
        }
        return {"kind": kind, "rows": rows}
    raise AssertionError(kind)
