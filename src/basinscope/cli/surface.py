"""Commands for planes of weights and angles between directions."""

from __future__ import annotations

from math import hypot
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from basinscope.cli.app import answer, app, drawn, parse_steps, print_json, progress, say
from basinscope.cli.options import MODEL, RUN, TASKS, ModelOptions, RunOptions, TaskOptions
from basinscope.cli.plan import forecast_of, line_of, show


@app.command
def surface(
    model: str,
    /,
    *,
    x: Annotated[str, Parameter(name=["--x", "-x"])] = "random",
    y: Annotated[str, Parameter(name=["--y", "-y"])] = "random:1",
    xs: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-0.03:0.03:7",
    ys: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-0.03:0.03:7",
    orthogonal: bool = False,
    trajectory: list[Path] | None = None,
    scored: TaskOptions = TASKS,
    loaded: ModelOptions = MODEL,
    output: RunOptions = RUN,
) -> None:
    """Score tasks over a plane of weights that two directions span.

    Running the same line again resumes it; more positions or tasks extend it.

    Args:
        model: as in landscape.
        x: direction along x, a word as landscape takes.
        y: direction along y.
        xs: positions along x, LO:HI:N (inclusive) or a list by commas.
        ys: positions along y.
        orthogonal: take of y only what is orthogonal to x.
        trajectory: checkpoints to be drawn as a path, or a folder that finetune or another
            training run has left its checkpoints in; repeats.
    """
    import basinscope as bs
    from basinscope.directions.planes import Plane
    from basinscope.landscape import trajectory as projected
    from basinscope.report.page import PAGE
    from basinscope.report.pages import surface_page
    from basinscope.runs.plan import check

    grid = {"xs": parse_steps(xs, "xs"), "ys": parse_steps(ys, "ys")}
    a, b = bs.direction(x), bs.direction(y)
    tasks = scored.read()
    check(tasks, [a, b], None, 1, 0.5, output.workers)
    folder = output.folder(model, "surface")
    engine = loaded.engine(model, folder, "surface")
    path = None
    if trajectory:  # before the long part: a checkpoint that does not fit is said at once
        path = projected(engine, a, b, trajectory, orthogonal=orthogonal)
    plane, cells = Plane(a, b, orthogonal), {(u, v) for u in grid["xs"] for v in grid["ys"]}
    away = sorted(cells - {(0.0, 0.0)}, key=lambda place: (hypot(*place), place))
    settings = [(plane.at(u, v), 0, 1.0) for u, v in away]
    forecast = forecast_of(
        engine, tasks, settings,
        points=len(cells), workers=output.workers, dry_run=output.dry_run,
    )  # fmt: skip
    if output.dry_run:
        return show(forecast, as_json=output.json)
    plan = line_of(forecast).replace("settings of the weights", "points of the plane")
    with progress(plan, "trials", loaded.note(engine, a, b), output.track, folder) as report:
        measured = bs.surface(
            engine, tasks, a, b, **grid, orthogonal=orthogonal, run=folder,
            workers=output.workers, progress=report,
        )  # fmt: skip
    page = drawn("the page", lambda: surface_page(measured, folder, path).write(folder / PAGE))
    figure = folder / "figures" / "surface.png"
    table = measured.to_pandas()
    rows = {"points": table.to_dict(orient="records")}
    if path is not None:
        rows["trajectory"] = path.to_dict(orient="records")
    drawing = str(figure) if figure.exists() else None
    places = {"run": str(folder), "figure": drawing, "page": page and str(page)}
    if answer(lambda: {"cosine": measured.plane.cosine, **rows, **places}, output.json):
        return
    for task, part in table.groupby("task", sort=False):
        best, worst = part["score"].max(), part["score"].min()
        say(f"{task}: {worst:.3f} to {best:.3f} over {len(part)} points of one plane")
    if path is not None:
        say(path.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    if figure.exists():
        say(f"picture: {figure}")
    if page:
        say(f"report:  {page}")


@app.command
def cosines(
    model: str,
    /,
    *,
    direction: Annotated[list[str] | None, Parameter(name=["--direction", "-d"])] = None,
    run: Path | None = None,
    figure: Path | None = None,
    loaded: ModelOptions = MODEL,
    json: bool = False,
) -> None:
    """Print the cosines between directions, and draw them.

    Args:
        model: as in landscape.
        direction: a word as landscape takes; repeats.
        run: run folder; its directions are taken as well, its report shows the figure.
        figure: where to draw; default RUN/figures/cosines.png, without --run nowhere.
        json: print one JSON object instead of the table.
    """
    from basinscope.directions.words import directions
    from basinscope.landscape.record import read_landscape
    from basinscope.landscape.surface import cosines, labels_of
    from basinscope.report.cosines import plot_cosines

    words = list(direction or [])
    if run is not None:
        words += [word for word in read_landscape(run).spec.directions if word not in words]
        figure = figure or run / "figures" / "cosines.png"
    lines = directions(words)
    labels_of(lines)
    engine = loaded.engine(model)
    table = cosines(engine, lines)
    if figure is not None:
        plot_cosines(figure, table)
    reference = table.attrs["reference"]
    if json:
        rows = table.to_numpy().tolist()
        where = None if figure is None else str(figure)
        return print_json({
            "directions": list(table.index), "cosines": rows, "reference": reference,
            "figure": where,
        })  # fmt: skip
    say(table.to_string(float_format=lambda v: f"{v:.4f}"))
    say(f"independent random directions: 0 ± {reference:.2g} (1/sqrt(d), d = {engine.d:,})")
    if figure is not None:
        say(f"picture: {figure}")
