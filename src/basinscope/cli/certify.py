"""Commands that certify: what is guaranteed of a task under noise and displacement."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from basinscope.cli.app import answer, app, drawn, parse_steps, print_json, progress, say
from basinscope.cli.options import (
    LOAD_ONLY,
    MODEL,
    ONE_TASK,
    PLANNED,
    RUN,
    LoadOptions,
    ModelOptions,
    OneTask,
    PlannedOutput,
    RunOptions,
)
from basinscope.cli.plan import forecast_of, line_of, show

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.runs.forecast import Forecast
    from basinscope.tasks.base import Task


@app.command
def certify(
    model: str,
    /,
    *,
    sigma: float = 0.005,
    draws: int = 200,
    items_per_draw: int = 8,
    confidence: float = 0.99,
    seed: int = 0,
    claim: float | None = None,
    target: float | None = None,
    antithetic: bool = False,
    per_item: bool = False,
    geometry: str = "isotropic",
    scored: OneTask = ONE_TASK,
    loaded: ModelOptions = MODEL,
    output: RunOptions = RUN,
) -> None:
    """Certify a task's score under Gaussian weight noise, and so around displaced weights.

    Prints what is guaranteed, with which confidence, and what is not covered; `basinscope verdict`
    then judges other weights by it. Another plan needs another --run.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        sigma: standard deviation of the noise, in the geometry's unit.
        draws: noise draws; with --claim the most that are taken.
        items_per_draw: fresh random items under each draw; 1 gives the exact binomial bound.
        confidence: of each one-sided statement.
        seed: of the noise and of the samples of items.
        claim: stop as soon as "smoothed score >= CLAIM" is accepted or refuted.
        target: level whose radius is wanted; default half of the way from chance to the score.
        antithetic: draw pairs of opposite noise.
        per_item: bound every item by itself, all at once (every draw answers all items).
        geometry: isotropic, rms, params:REGEX, subspace:FILE, random-subspace:K[:SEED],
            lora:FOLDER or lora-xs:RANK[:REGEX].
    """
    import basinscope as bs
    from basinscope.certify.sampling import KIND, checked
    from basinscope.geometries.words import builder
    from basinscope.report.page import PAGE
    from basinscope.report.pages import certificate_page

    builder(geometry)
    task = scored.one()
    plan: dict[str, Any] = {
        "sigma": sigma, "draws": draws, "items_per_draw": items_per_draw, "confidence": confidence,
        "seed": seed, "claim": claim, "target": target, "antithetic": antithetic,
        "per_item": per_item, "workers": output.workers,
    }  # fmt: skip
    each = checked(task, **plan)
    folder = output.folder(model, "certify")
    engine = loaded.engine(model, folder, KIND)
    forecast = _forecast(engine, task, [sigma], draws * (2 if antithetic else 1), each, output)
    if output.dry_run:
        return show(forecast, as_json=output.json)
    with progress(
        _at_most(forecast), "trials", loaded.note(engine), output.track, folder
    ) as report:
        cert = bs.certify(engine, task, geometry=geometry, run=folder, progress=report, **plan)
    page = drawn("the page", lambda: certificate_page(cert, folder).write(folder / PAGE))
    figure = folder / "figures" / "certificate.png"
    drawing = str(figure) if figure.exists() else None
    places = {"run": str(folder), "figure": drawing, "page": page and str(page)}
    if answer(lambda: cert.to_json() | places, output.json):
        return
    say(cert)
    if page:
        say(f"report:  {page}")


@app.command
def strict_basin(
    model: str,
    /,
    *,
    sigmas: str = "0.005",
    share: float = 0.9,
    confidence: float = 0.99,
    tau: float = 0.0,
    lost: Literal["score", "items"] = "score",
    failures: int = 0,
    draws: int | None = None,
    seed: int = 0,
    geometry: str = "isotropic",
    scored: OneTask = ONE_TASK,
    loaded: ModelOptions = MODEL,
    output: RunOptions = RUN,
) -> None:
    """Test in how many directions a task's score is kept at a sigma, or up to which of several.

    Args:
        model: as in certify.
        sigmas: standard deviations of the noise, by commas or LO:HI:N, tested in rising order.
        share: proportion of directions that is claimed.
        confidence: of all that is claimed.
        tau: how much of the score a direction may lose.
        lost: score (gains make up for losses) or items.
        failures: draws of each sigma that may fail.
        draws: of each sigma; default the fewest for the claim.
        seed: of the noise.
        geometry: as in certify.
    """
    import basinscope as bs
    from basinscope.certify.strict import KIND, checked
    from basinscope.geometries.words import builder

    builder(geometry)
    grid, task = parse_steps(sigmas, "sigmas"), scored.one()
    plan: dict[str, Any] = {
        "share": share, "confidence": confidence, "tau": tau, "lost": lost, "failures": failures,
        "draws": draws, "seed": seed, "workers": output.workers,
    }  # fmt: skip
    planned, _ = checked(task, grid, **plan)
    folder = output.folder(model, "strict-basin")
    engine = loaded.engine(model, folder, KIND)
    forecast = _forecast(engine, task, grid, len(grid) * planned, None, output)
    if output.dry_run:
        return show(forecast, as_json=output.json)
    with progress(
        _at_most(forecast), "trials", loaded.note(engine), output.track, folder
    ) as report:
        basin = bs.strict_basin(
            engine, task, sigmas=grid, geometry=geometry, run=folder, progress=report, **plan
        )
    if not answer(lambda: basin.to_json() | {"run": str(folder)}, output.json):
        say(basin)


@app.command
def certify_tokens(
    model: str,
    /,
    *,
    mode: Literal["position", "row"] = "position",
    sigma: float = 0.05,
    draws: int = 200,
    confidence: float = 0.99,
    target: float = 0.5,
    seed: int = 0,
    scored: OneTask = ONE_TASK,
    loaded: ModelOptions = MODEL,
    output: PlannedOutput = PLANNED,
) -> None:
    """Certify a task's prompts against replaced tokens, and list replacements that are covered.

    Args:
        model: as in certify.
        mode: noise on each place of a prompt, or on the rows of the embedding matrix (of a copy
            whose output head is not tied to it).
        sigma: standard deviation of the noise on each coordinate of an embedding.
        draws: noise draws of each item.
        confidence: of all items' bounds together.
        target: smoothed score that an item shall keep.
        seed: of the noise.
    """
    from basinscope.certify import certify_tokens, untied
    from basinscope.certify.tokens import checked, kind

    task = scored.one()
    plan: dict[str, Any] = {
        "mode": mode, "sigma": sigma, "draws": draws, "confidence": confidence, "target": target,
        "seed": seed,
    }  # fmt: skip
    checked(task, **plan)
    folder = output.folder(model, "certify-tokens")
    engine = loaded.engine(model, folder, kind(mode))
    forecast = _forecast(engine, task, [0.0], draws, None, output, workers=1)
    if output.dry_run:
        return show(forecast, as_json=output.json)
    with progress(
        _at_most(forecast), "trials", loaded.note(engine), output.track, folder
    ) as report:
        bounds = certify_tokens(
            untied(engine) if mode == "row" else engine, task, run=folder, progress=report, **plan
        )
    if not answer(lambda: bounds.to_json() | {"run": str(folder)}, output.json):
        say(bounds)


@app.command
def verdict(
    run: Path,
    /,
    *others: str,
    draws: int = 0,
    target: float | None = None,
    data_dir: Path | None = None,
    allow_code_execution: bool = False,
    loaded: LoadOptions = LOAD_ONLY,
    json: bool = False,
) -> None:
    """Judge other weights by a certificate, and score them: certified, outside it, or vacuous.

    Args:
        run: run folder of certify; its model and task are loaded again.
        others: checkpoints, adapters' folders, or directions' words such as quantised:8.
        draws: noise draws under which each of them is scored as well.
        target: level; default the certificate's.
        data_dir: as in landscape.
        allow_code_execution: as in landscape.
        json: print one JSON object instead of text.
    """
    import basinscope as bs
    from basinscope.certify.sampling import read_certificate
    from basinscope.directions.words import direction_of
    from basinscope.errors import BasinscopeError
    from basinscope.report.certificates import plot_bounds, plot_measured
    from basinscope.tasks.words import one

    cert = read_certificate(run, target=target)
    if draws < 0 or not others:
        raise BasinscopeError(
            f"draws={draws}, {len(others)} others", "draws >= 0, others to judge", "quantised:8"
        )
    lines = [direction_of(other) for other in others]
    task = one(
        cert.task.name, limit=cert.task.n_items, data_dir=data_dir,
        allow_code_execution=allow_code_execution,
    )  # fmt: skip
    source, revision = cert.model.source, None
    if "@" in source and not Path(source).exists():  # of a hub id, which has none of its own
        source, _, revision = source.partition("@")
    options: dict[str, Any] = {"params": cert.model.params, "revision": revision}
    engine = bs.load(source, dtype=cert.model.dtype, **options | loaded.arguments)
    judged = [cert.verdict(line, engine, task, draws=draws) for line in lines]
    pictures = {
        "certificate": lambda path: plot_bounds(path, [cert], judged),
        "measured": lambda path: plot_measured(path, judged),
    }
    figures = [
        path
        for name, draw in pictures.items()
        if (path := drawn(f"the picture {name}", partial(draw, run / "figures" / f"{name}.png")))
    ]
    if json:
        return print_json({
            "verdicts": [judgement.to_json() for judgement in judged], "run": str(run),
            "figures": [str(path) for path in figures],
        })  # fmt: skip
    for judgement in judged:
        say(judgement)
    for path in figures:
        say(f"picture: {path}")


def _at_most(forecast: Forecast) -> str:
    """The plan in a line: a claim or a failure may be decided before its last draw."""
    return "at most " + line_of(forecast).replace("settings of the weights", "draws")


def _forecast(
    engine: Engine,
    task: Task,
    sigmas: list[float],
    draws: int,
    items: int | None,
    output: PlannedOutput,
    *,
    workers: int | None = None,
) -> Forecast:
    """Forecast of so many draws, as if all were made and noise were isotropic."""
    from basinscope.directions.base import Random

    settings = [(Random(0), 0, sigma) for sigma in sorted(sigmas) if sigma]
    team = output.workers if isinstance(output, RunOptions) else workers
    return forecast_of(
        engine, [task], settings, points=draws, items=items, workers=team, dry_run=output.dry_run
    )
