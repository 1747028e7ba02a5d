"""Commands that draw landscapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from basinscope.cli.app import answer, app, parse_steps, print_json, progress, say, screen
from basinscope.cli.options import MODEL, RUN, TASKS, ModelOptions, RunOptions, TaskOptions
from basinscope.cli.plan import forecast_of, line_of, show
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.landscape import Landscape
    from basinscope.tasks.base import Task

SEARCHED = 21  # steps over a range such as a search covers, to probe times at
DEMO_TASKS, DEMO_BUDGET_S = "basic,math,code", 300.0


@app.command
def landscape(
    model: str,
    /,
    *,
    direction: Annotated[list[str] | None, Parameter(name=["--direction", "-d"])] = None,
    draws: int | None = None,
    budget: str | None = None,
    precision: float | None = None,
    steps: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    interpolate: int | None = None,
    grid: bool = False,
    outcomes: int | None = None,
    level: float = 0.5,
    scored: TaskOptions = TASKS,
    loaded: ModelOptions = MODEL,
    output: RunOptions = RUN,
) -> None:
    """Score tasks along directions in weight space and measure how wide their basins are.

    Running the same line again resumes it; more draws, steps or tasks extend it.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        direction: random[:SEED], layerwise[:SEED] (noise in proportion to each tensor's RMS),
            to:MODEL, adapter:FOLDER, saved:FILE, quantised:BITS[:GROUP][:asymmetric],
            pruned:FRACTION, merge:A+B or merge:0.3*A+0.7*B; repeats.
        draws: so many independent draws of each random direction, each on all items; without it,
            as many as fit, each on a few items of its own, which gives the narrowest intervals.
            Other directions have one draw, on all items.
        budget: time for the whole, such as 90s or 5m, in place of --draws.
        precision: half-width of the interval that is wanted at every step, in place of --draws;
            with neither, 5m or 0.05, whichever comes first.
        steps: LO:HI:N (inclusive) or a list by commas; without it the edges are searched, each
            point on as many answers as decide it.
        interpolate: instead of steps: so many from the model to the one that the direction
            leads to (to:MODEL), both included, and a quarter of the way beyond.
        grid: after a search with --draws, measure the full curve on all items too: 41 points on
            both sides, out to twice the widest edge.
        outcomes: of a search with --draws: most answers of a task at one point, over all draws;
            default 256.
        level: fraction of the way down to chance at which the width is taken.
    """
    import basinscope as bs
    from basinscope.directions.words import directions
    from basinscope.landscape import interpolation_steps
    from basinscope.landscape.edges import OUTCOMES
    from basinscope.landscape.run import (
        check_crossed,
        check_search,
        is_crossed,
        planned,
        planned_design,
    )
    from basinscope.runs.plan import check

    lines = directions(direction or ["random"])
    if interpolate is not None and (steps is not None or len(lines) != 1 or interpolate < 2):
        raise BasinscopeError(
            f"--interpolate {interpolate} with {len(lines)} directions and --steps {steps}",
            "at least 2, with one -d to:MODEL (or another that a model is behind), without --steps",
            "-d to:MODEL --interpolate 11",
        )
    searched = steps is None and interpolate is None
    points = None if steps is None else parse_steps(steps)
    if outcomes is not None and not searched:
        raise BasinscopeError(
            f"--outcomes {outcomes} with fixed steps",
            "where the edges are searched, without --steps and --interpolate",
            "leave --outcomes out",
        )
    most = OUTCOMES if outcomes is None else outcomes
    tasks = scored.read()
    check(tasks, lines, points, 1 if draws is None else draws, level, output.workers)
    check_search(points or (None if searched else [0.0]), grid, most)
    seconds = check_crossed(lines, draws, budget, precision, most, grid)
    folder = output.folder(model)
    engine = loaded.engine(model, folder)
    if interpolate is not None:
        points = interpolation_steps(engine, lines[0], interpolate)
    design = forecast = None
    if is_crossed(lines, draws, points):
        design = planned_design(
            engine, tasks, lines, points, budget=seconds, precision=precision,
            workers=output.workers, run=folder,
        )  # fmt: skip
        plan = str(design)
    else:
        slices = [line.draws_among(draws or 1) for line in lines]
        # a search asks for steps over as wide a range as a curve of these
        curve = points or [engine.rms * k / SEARCHED for k in range(1, SEARCHED)]
        settings = [
            (line, draw, step)
            for step in sorted(set(curve) - {0.0}, key=abs)
            for line, n in zip(lines, slices, strict=True)
            for draw in range(n)
        ]
        count, answers = planned(tasks, slices, most, grid) if searched else (None, None)
        forecast = forecast_of(
            engine, tasks, settings,
            points=count, answers=answers, workers=output.workers, dry_run=output.dry_run,
        )  # fmt: skip
        plan = line_of(forecast, searched=searched)
    if output.dry_run and design is not None:
        return print_json(design.to_json()) if output.json else say(plan)
    if output.dry_run and forecast is not None:
        return show(forecast, searched=searched, as_json=output.json)
    plan += _without_template(engine, tasks)
    with progress(plan, "trials", loaded.note(engine, *lines), output.track, folder) as report:
        land = bs.landscape(
            engine, tasks, directions=lines, steps=points, draws=draws, grid=grid, outcomes=most,
            level=level, plan=design, run=folder, workers=output.workers, progress=report,
        )  # fmt: skip
    show_landscape(land, folder, level, output.json)


@app.command
def demo(*, run: Path = Path("runs/demo"), json: bool = False) -> None:
    """Find how far SmolLM2-135M-Instruct may move before it loses what it knows (5 minutes).

    Basic knowledge, math and code; on a slow machine those of them that the time is enough for.

    Args:
        run: run folder.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs
    from basinscope.landscape.design import bracketing
    from basinscope.runs.models import check_folder

    begun = check_folder(run, "landscape")
    engine = MODEL.engine("smollm2", run)
    line, known = bs.Random(), begun.crossed if begun else None
    design, tasks = bracketing(engine, bs.tasks(DEMO_TASKS), line, DEMO_BUDGET_S, known)
    with progress(str(design), note=MODEL.note(engine)) as report:
        land = bs.landscape(engine, tasks, directions=[line], plan=design, run=run, progress=report)
    show_landscape(land, run, 0.5, json)


def _without_template(engine: Engine, tasks: Sequence[Task]) -> str:
    """Which tasks this model gets as plain text for want of a chat template."""
    if getattr(engine.tokenizer, "chat_template", None):
        return ""
    names = [
        task.name
        for task in tasks
        if any(getattr(request, "chat", 0) for item in task.items for request in item.requests)
    ]
    return f"; no chat template: plain prompts for {', '.join(names)}" if names else ""


def show_landscape(land: Landscape, folder: Path, level: float, as_json: bool) -> None:
    """Print the table or the JSON object, and write figures and page beside it.

    What was measured is printed even where the folder cannot be written to.
    """
    from basinscope.report.landscapes import landscape_page
    from basinscope.report.page import PAGE
    from basinscope.report.sections import attempt
    from basinscope.report.text import notes, summary, widths_table

    missing: list[str] = []
    page = attempt(
        "the page", lambda: landscape_page(land, folder, level).write(folder / PAGE), missing
    )
    figure = folder / "figures" / "landscape.png"

    def result() -> dict[str, object]:
        summed = summary(land, level)
        summed["missing"] += missing
        return {**summed, "run": str(folder), "figure": str(figure) if figure.exists() else None}

    if not answer(result, as_json):
        table = attempt("the table of widths", lambda: widths_table(land, level), missing)
        if table is not None:
            Console(width=max(screen.width, 120)).print(table)
        said = attempt("the notes", lambda: notes(land, level), missing) or []
        for note in dict.fromkeys(said + missing):
            say(f"- {note}")
        if figure.exists():
            say(f"picture: {figure}")
        if page:
            say(f"report:  {page}")
