"""Commands for planes of weights and angles between directions."""

from __future__ import annotations

from math import hypot
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from basinscope.cli.app import app, parse_steps, print_json, progress
from basinscope.cli.plan import foretell, line_of, show


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
    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "mini",
    limit: int | None = None,
    data_dir: Path | None = None,
    allow_code_execution: bool = False,
    run: Path | None = None,
    workers: int | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    params: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    json: bool = False,
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
            training run has left its checkpoints in; may be given several times.
        tasks: as in landscape.
        limit: most items of each task, the same ones at every point.
        data_dir: folder with the data of published tasks.
        allow_code_execution: run code that the model writes, in a bubblewrap sandbox.
        run: run folder; default runs/MODEL-surface.
        workers: processes of one thread each; default one for each core.
        dtype: bfloat16, float32 or float16.
        device: auto, cpu, cuda, cuda:N.
        params: regular expression; only matching parameters are perturbed.
        trust_remote_code: let a hub checkpoint run its own code.
        dry_run: as in landscape.
        json: print one JSON object instead of the paths.
    """
    import basinscope as bs
    from basinscope.cli.app import run_folder
    from basinscope.directions.planes import Plane
    from basinscope.directions.words import parse
    from basinscope.report.surfaces import write_surface

    grid = {"xs": parse_steps(xs), "ys": parse_steps(ys)}
    a, b = parse(x), parse(y)
    chosen = bs.tasks(
        tasks, limit=limit, data_dir=data_dir, allow_code_execution=allow_code_execution
    )
    folder = run or run_folder(model, "-surface")
    engine = bs.load(
        model, dtype=dtype, device=device, params=params, trust_remote_code=trust_remote_code
    )
    path = None
    if trajectory:  # before the long part: a checkpoint that does not fit is said at once
        path = bs.trajectory(engine, a, b, trajectory, orthogonal=orthogonal)
    plane, cells = Plane(a, b, orthogonal), {(u, v) for u in grid["xs"] for v in grid["ys"]}
    away = sorted(cells - {(0.0, 0.0)}, key=lambda place: (hypot(*place), place))
    settings = [(plane.at(u, v), 0, 1.0) for u, v in away]
    told = foretell(engine, chosen, settings, points=len(cells), workers=workers, dry_run=dry_run)
    if dry_run:
        return show(told, as_json=json)
    plan = line_of(told).replace("settings of the weights", "points of the plane")
    with progress(plan) as report:
        found = bs.surface(
            engine, chosen, a, b, **grid, orthogonal=orthogonal, run=folder, workers=workers,
            progress=report,
        )  # fmt: skip
    figure, page = write_surface(found, folder, trajectory=path)
    table = found.to_pandas()
    if json:
        rows = {"points": table.to_dict(orient="records")}
        if path is not None:
            rows["trajectory"] = path.to_dict(orient="records")
        places = {"figure": str(figure), "page": None if page is None else str(page)}
        print_json({"cosine": found.plane.cosine, **rows, "run": str(folder), **places})
        return
    for task, own in table.groupby("task", sort=False):
        best, worst = own["score"].max(), own["score"].min()
        print(f"{task}: {worst:.3f} to {best:.3f} over {len(own)} points of one plane")
    if path is not None:
        print(path.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    print(f"picture: {figure}")
    print(f"3-D:     {page or 'needs the extra html: pip install basinscope[html]'}")


@app.command
def cosines(
    model: str,
    /,
    *,
    direction: Annotated[list[str] | None, Parameter(name=["--direction", "-d"])] = None,
    run: Path | None = None,
    figure: Path | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    params: str | None = None,
    trust_remote_code: bool = False,
    json: bool = False,
) -> None:
    """Print the cosines between directions, and draw them.

    Args:
        model: as in landscape.
        direction: words as landscape takes; may be given several times.
        run: run folder; its directions are taken as well, its report shows the figure.
        figure: where to draw; default RUN/figures/cosines.png, without --run nowhere.
        dtype: bfloat16, float32 or float16.
        device: auto, cpu, cuda, cuda:N.
        params: regular expression; only matching parameters count.
        trust_remote_code: let a hub checkpoint run its own code.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs
    from basinscope.directions.words import parse
    from basinscope.report.cosines import plot_cosines

    words = list(direction or [])
    if run is not None:
        words += [word for word in bs.load_run(run).spec.directions if word not in words]
        figure = figure or run / "figures" / "cosines.png"
    lines = [parse(word) for word in words]
    engine = bs.load(
        model, dtype=dtype, device=device, params=params, trust_remote_code=trust_remote_code
    )
    table = bs.cosines(engine, lines)
    if figure is not None:
        plot_cosines(figure, table)
    reference = table.attrs["reference"]
    if json:
        rows = table.to_numpy().tolist()
        where = None if figure is None else str(figure)
        print_json({"directions": list(table.index), "cosines": rows, "reference": reference,
                    "figure": where})  # fmt: skip
        return
    print(table.to_string(float_format=lambda v: f"{v:.4f}"))
    print(f"independent random directions: 0 ± {reference:.2g} (1/sqrt(d), d = {engine.d:,})")
    if figure is not None:
        print(f"picture: {figure}")
