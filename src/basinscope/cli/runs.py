"""Commands that look after run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.cli.app import app, print_json
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.landscape import Landscape
    from basinscope.landscape.surface import Surface

KINDS = ("certificate", "strict-basin")
"""Kinds of runs that `report` describes again from their raw counts."""


@app.command
def report(
    run: Path,
    /,
    *others: Path,
    level: float = 0.5,
    figure: Path | None = None,
    rms: bool = False,
) -> None:
    """Draw a run's figures and page again; with further runs, draw them over each other.

    Args:
        run: run folder; of widen: the tables and figures of compare.
        others: run folders to draw over it.
        level: as in landscape.
        figure: draw this figure alone; default for several runs RUN/figures/overlay.png.
        rms: the axis is alpha / RMS(theta0) of each run's model, for models of different scale.
    """
    import basinscope as bs
    from basinscope.landscape import Surface
    from basinscope.widening.record import FILE as WIDENING

    if (run / WIDENING).is_file():
        if figure or rms:
            raise BasinscopeError(
                f"--figure or --rms for {run}, a run of widen",
                "its figures are drawn all, in alpha / RMS",
                f"basinscope compare {run} --output FOLDER --figure NAME",
            )
        print(*bs.compare(run, *others).save(run / "figures"), sep="\n")
        return
    first = _load(run)
    if first.spec.kind in KINDS:
        _certified(run, first.spec.kind, figure)
    elif others or figure or rms:
        path = figure or run / "figures" / "overlay.png"
        folders = (run, *others)
        names = [folder.resolve().name for folder in folders]
        if len(set(names)) < len(names):
            names = [str(folder) for folder in folders]
        land, *rest = (bs.load_run(folder) for folder in folders)
        print(land.plot(path, *rest, names=names, per_rms=rms))
    elif isinstance(first, Surface):
        from basinscope.report.surfaces import write_surface

        print(*filter(None, write_surface(first, run)), sep="\n")
    else:
        from basinscope.report.page import write_report

        print(write_report(first, run, level))


@app.command
def status(run: Path, /, *, json: bool = False) -> None:
    """Say what a run folder holds.

    Args:
        run: run folder.
        json: print one JSON object.
    """
    from basinscope.landscape import Surface
    from basinscope.report.text import summary, surface_summary

    found = _load(run)
    if json:
        if isinstance(found, Surface):
            print_json(surface_summary(found))
        else:
            print_json(summary(found, found.spec.level))
        return
    spec = found.spec
    print(f"{spec.kind} of {spec.model.source} ({spec.model.d:,} parameters, {spec.model.dtype})")
    print(f"weights {spec.model.fingerprint}")
    if isinstance(found, Surface):
        print(f"plane of {found.plane.x} and {found.plane.y}")
    for task in spec.tasks:
        own = [t for t in found.trials if t.task == task.name]
        places = len({(t.direction, t.step) if spec.plane else t.step for t in own})
        where = "points" if spec.plane else "steps"
        some = "" if all(t.whole for t in own) else "up to "
        print(f"{task.name}: {len(own)} trials of {some}{task.n_items} items at {places} {where}")


@app.command
def strata(run: Path, task: str, /, *, step: float = 0.0, json: bool = False) -> None:
    """Print the scores of a task's strata (mmlu: subjects; xstest: types) and their mean.

    Args:
        run: run folder.
        task: name of a task of the run.
        step: position on the slice, in every direction and draw measured there.
        json: print one JSON object.
    """
    import basinscope as bs

    rows = bs.load_run(run).strata(task)
    found = rows[rows["step"] == step]
    if found.empty:
        steps = ", ".join(f"{s:g}" for s in sorted(set(rows["step"])))
        raise BasinscopeError(f"nothing of {task!r} was measured at step {step:g}", f"at: {steps}")
    if json:
        print_json({"task": task, "strata": found.to_dict(orient="records")})
    else:
        print(found.to_string(index=False, float_format="{:.3f}".format))


@app.command
def verify(run: Path, /) -> None:
    """Check every record of a run against its address and checksum; bad ones are set aside.

    Args:
        run: run folder.
    """
    found = _load(run)
    if found.set_aside:
        raise BasinscopeError(
            f"{len(found.set_aside)} records did not verify ({found.set_aside[0]})",
            f"{len(found.trials)} did; the bad ones are set aside as .bad",
            "run the line again: they are measured anew",
        )
    print(f"{getattr(found, 'records', len(found.trials))} records verified")


def _load(run: Path) -> Landscape | Surface:
    """Landscape or surface, whichever the folder holds."""
    import basinscope as bs
    from basinscope.landscape import load_surface
    from basinscope.runs.store import Store

    return bs.load_run(run) if Store(run).spec.plane is None else load_surface(run)


if TYPE_CHECKING:
    pass


def _certified(run: Path, kind: str, figure: Path | None) -> None:
    """Print what a run folder certifies, and draw its figure."""
    from basinscope.certify import load_certificate, load_strict_basin
    from basinscope.report.certificates import plot_bounds

    if kind == "strict-basin":
        print(load_strict_basin(run))
        return
    found = load_certificate(run)
    print(found)
    print(f"picture: {plot_bounds(figure or run / 'figures' / 'certificate.png', [found])}")
