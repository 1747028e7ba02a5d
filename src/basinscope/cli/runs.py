"""Commands that look after run folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.cli.app import app, drawn, print_json, say
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.report.page import Page
    from basinscope.runs.store import Store


@app.command
def report(
    run: Path,
    /,
    *others: Path,
    level: float = 0.5,
    figure: Path | None = None,
    rms: bool = False,
    draws: bool = False,
    loss: bool = False,
) -> None:
    """Draw a run's figures and page again; with further runs, draw them over each other.

    Args:
        run: run folder; of widen: the tables and figures of compare.
        others: run folders to draw over it.
        level: as in landscape.
        figure: draw this figure alone; default for several runs, or with --rms, --draws or
            --loss, RUN/figures/overlay.png.
        rms: the axis is alpha / RMS(theta0) of each run's model, for models of different scale.
        draws: draw single draws as well.
        loss: draw T as well, below the score.
    """
    import basinscope as bs
    from basinscope.certify.sampling import read_certificate
    from basinscope.landscape.record import read_landscape
    from basinscope.report.certificates import plot_bounds
    from basinscope.runs.header import KINDS, kind_of

    kind = kind_of(run)
    styled = rms or draws or loss
    drawn = kind in ("landscape", "certificate") or (
        kind == "surface" and not styled and not figure
    )
    if (figure or styled or (others and kind != "widen")) and not drawn:
        raise BasinscopeError(
            f"--figure, --rms, --draws, --loss or further runs for {KINDS[kind].noun} ({run})",
            "for landscapes; --figure also for a certificate",
            f"basinscope compare {run} --figure NAME" if kind == "widen" else "leave it out",
        )
    if kind == "landscape" and (others or figure or styled):
        folders = (run, *others)
        names = [os.path.basename(os.path.realpath(folder)) for folder in folders]
        if len(set(names)) < len(names):
            names = [str(folder) for folder in folders]
        land, *rest = map(read_landscape, folders)
        path = figure or run / "figures" / "overlay.png"
        say(land.plot(path, *rest, names=names, level=level, per_rms=rms, draws=draws, loss=loss))
    elif kind == "certificate" and figure:
        say(plot_bounds(figure, [read_certificate(run)]))
    else:
        _print(bs.compare(run, *others) if kind == "widen" else bs.load_run(run), run, level)


def _print(record: object, run: Path, level: float) -> None:
    """Say what a record says, and write its page."""
    from basinscope.attack import Attack
    from basinscope.attack.record import COLLAPSE
    from basinscope.certify import Certificate
    from basinscope.check import Check
    from basinscope.cli import attack, finetune, landscape
    from basinscope.comparison import Comparison
    from basinscope.finetuning import FineTune
    from basinscope.landscape import Landscape, Surface
    from basinscope.landscape.record import read_landscape
    from basinscope.report import pages
    from basinscope.report.page import PAGE
    from basinscope.runs.header import exists

    if isinstance(record, Landscape):
        return landscape.show_landscape(record, run, level, as_json=False)
    page: Callable[[], Page] | None = None
    if isinstance(record, Attack):
        attack.show(record)
        trials = run / COLLAPSE
        measured = read_landscape(trials) if exists(trials / "run.json") else None
        page = partial(pages.attack_page, record, run, measured)
    elif isinstance(record, FineTune):
        finetune.show(record)
        page = partial(pages.finetune_page, record, run)
    elif isinstance(record, Comparison):
        say(record.text(brief=True))
        page = partial(pages.study_page, record, run, record.save(run / "figures"))
    elif isinstance(record, Surface):
        page = partial(pages.surface_page, record, run)
    else:
        say(record)
        if isinstance(record, Certificate):
            page = partial(pages.certificate_page, record, run)
        elif isinstance(record, Check):
            page = partial(pages.check_page, record, run)
    if page and (path := drawn("the page", lambda: page().write(run / PAGE))):
        say(f"report:  {path}")


@app.command
def status(run: Path, /, *, json: bool = False) -> None:
    """Say what a run folder holds.

    Args:
        run: run folder.
        json: print one JSON object.
    """
    from basinscope.check.run import read_check
    from basinscope.folders import progress
    from basinscope.landscape import Landscape
    from basinscope.landscape.surface import read_surface
    from basinscope.report.text import summary, surface_summary
    from basinscope.runs.header import KINDS, kind_of
    from basinscope.runs.store import Store

    kind = kind_of(run)
    if KINDS[kind].header != "run.json":
        _say(progress(run), json)
    elif not json:
        _count(Store(run))
    elif kind == "surface":
        print_json(surface_summary(read_surface(run)))
    elif kind == "check":
        print_json(read_check(run).to_json())
    else:
        store = Store(run)
        trials = Landscape(store.spec, store.trials(), store.set_aside)
        print_json(summary(trials, store.spec.level))


def _say(state: dict[str, Any], json: bool) -> None:
    if json:
        print_json(state)
        return
    rows = state.pop("rows", {})
    for key, value in {**state, **rows}.items():
        say(f"{key}: {value}")


def _count(store: Store) -> None:
    """Say what was planned, and how much of it is there."""
    from basinscope.engines.transformers import slower

    spec, trials = store.spec, tuple(store.trials())
    say(f"{spec.kind} of {spec.model.source} ({spec.model.d:,} parameters, {spec.model.dtype})")
    say(f"weights {spec.model.fingerprint}")
    if way := slower(spec.model.engine):
        say(f"rows that the quickest way does not serve go {way}")
    if spec.plane:
        say(f"plane of {spec.plane.x} and {spec.plane.y}")
    for task in spec.tasks:
        own = [t for t in trials if t.task == task.name]
        places = len({(t.direction, t.step) if spec.plane else t.step for t in own})
        where = "points" if spec.plane else "steps"
        some = "" if all(t.whole for t in own) else "up to "
        say(f"{task.name}: {len(own)} trials of {some}{task.n_items} items at {places} {where}")


@app.command
def strata(run: Path, task: str, /, *, step: float = 0.0, json: bool = False) -> None:
    """Print the scores of a task's strata (mmlu: subjects; xstest: types) and their mean.

    Args:
        run: run folder.
        task: name of a task of the run.
        step: position on the slice, in every direction and draw measured there.
        json: print one JSON object.
    """
    from basinscope.landscape.record import read_landscape

    rows = read_landscape(run).strata(task)
    there = rows[rows["step"] == step]
    if there.empty:
        steps = ", ".join(f"{s:g}" for s in sorted(set(rows["step"])))
        raise BasinscopeError(
            f"nothing of {task!r} was measured at {step:g}", steps, "another --step"
        )
    if json:
        print_json({"task": task, "strata": there.to_dict(orient="records")})
    else:
        say(there.to_string(index=False, float_format="{:.3f}".format))


@app.command
def verify(run: Path, /) -> None:
    """Check every record of a run against its address and checksum; bad ones are set aside.

    Args:
        run: run folder.
    """
    from basinscope.folders import verify as verified

    good, bad = verified(run)
    if bad:
        raise BasinscopeError(
            f"{len(bad)} of {len(bad) + good} records did not verify ({bad[0]})",
            "records as they were written",
            "run the line again: trials are measured anew; delete other files before",
        )
    say(f"{good} records verified")
