"""The command that certifies: what is guaranteed of a task under noise and displacement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from basinscope.cli.app import app, parse_steps, print_json, progress
from basinscope.cli.plan import foretell, line_of, show
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.runs.forecast import Forecast
    from basinscope.tasks.base import Task


@app.command
def certify(
    model: str,
    /,
    *,
    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "basic",
    sigma: float = 0.005,
    draws: int | None = None,
    items_per_draw: int = 8,
    confidence: float = 0.99,
    seed: int = 0,
    claim: float | None = None,
    target: float | None = None,
    antithetic: bool = False,
    per_item: bool = False,
    geometry: str = "isotropic",
    against: list[str] | None = None,
    against_draws: int = 0,
    strict: bool = False,
    sweep: str | None = None,
    share: float = 0.9,
    tau: float = 0.0,
    lost: Literal["score", "items"] = "score",
    failures: int = 0,
    tokens: Literal["position", "row"] | None = None,
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
    """Certify a task's score under Gaussian weight noise, and so around displaced weights.

    Prints what is guaranteed, with which confidence, and what is not covered. Running the same
    line again resumes it; another plan needs another --run.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        tasks: one task, named as in landscape.
        sigma: standard deviation of the noise, in the geometry's unit (with --tokens: on each
            coordinate of an embedding).
        draws: noise draws; default 200, with --strict the fewest for the claim.
        items_per_draw: fresh random items under each draw; 1 gives the exact binomial bound.
        confidence: of each one-sided statement.
        seed: of the noise and of the samples of items.
        claim: stop as soon as "smoothed score >= CLAIM" is accepted or refuted.
        target: level whose radius is wanted; default half of the way from chance to the score.
        antithetic: draw pairs of opposite noise.
        per_item: bound every item by itself, all at once (every draw answers all items).
        geometry: isotropic, rms, params:REGEX, subspace:FILE, random-subspace:K[:SEED],
            lora:FOLDER or lora-xs:RANK[:REGEX].
        against: another checkpoint, an adapter's folder, or a direction's word, to be judged and
            scored; may be given several times.
        against_draws: noise draws under which each of them is scored as well.
        strict: test instead in how many directions the score is kept at --sigma.
        sweep: sigmas by commas (or LO:HI:N) for the strict test, in rising order.
        share: proportion of directions that the strict test claims.
        tau: how much of the score a direction may lose in the strict test.
        lost: score (gains make up for losses) or items.
        failures: draws of each sigma that may fail in the strict test.
        tokens: certify instead against replaced tokens of the prompts, position-wise or row-wise.
        limit: most items of the task.
        data_dir: folder with published data; default $BASINSCOPE_DATA, else the Hugging Face hub.
        allow_code_execution: run code that the model writes, in a bubblewrap sandbox.
        run: run folder; default runs/MODEL-certificate (-strict, -tokens).
        workers: processes of one thread each; default one for each core.
        dtype: bfloat16, float32 or float16.
        device: auto, cpu, cuda, cuda:N.
        params: regular expression; only matching parameters are perturbed.
        trust_remote_code: let a hub checkpoint run its own code.
        dry_run: as in landscape; noise is counted as isotropic, and no draw as spared.
        json: print one JSON object instead of text.
    """
    import basinscope as bs

    chosen = bs.tasks(
        tasks, limit=limit, data_dir=data_dir, allow_code_execution=allow_code_execution
    )
    if len(chosen) != 1:
        raise BasinscopeError(
            f"{len(chosen)} tasks", "allowed: one for each certificate", "-t basic"
        )
    kind = "tokens" if tokens else "strict" if strict or sweep else "certificate"
    _refuse_idle(kind, {
        "--strict or --sweep": (strict or sweep is not None, ("strict",)),
        "--against": (against, ("certificate",)),
        "--against-draws": (against_draws and not against, ()),
        "--claim": (claim is not None, ("certificate",)),
        "--antithetic": (antithetic, ("certificate",)),
        "--per-item": (per_item, ("certificate",)),
        "--target": (target is not None, ("certificate", "tokens")),
        "--geometry": (geometry != "isotropic", ("certificate", "strict")),
        "--tau": (tau != 0, ("strict",)),
        "--failures": (failures != 0, ("strict",)),
    })  # fmt: skip
    most = 200 if draws is None else draws
    stem = Path(model).resolve().name.removesuffix(".gguf") or "run"
    folder = run or Path("runs") / f"{stem}-{kind}"
    engine = bs.load(
        model, dtype=dtype, device=device, params=params, trust_remote_code=trust_remote_code
    )
    task = chosen[0]
    common: dict[str, Any] = {"confidence": confidence, "seed": seed, "run": folder}
    found: Any
    sigmas = parse_steps(sweep) if sweep else [sigma]
    drawn = len(sigmas) * (draws or 44) if kind == "strict" else most
    told = _foretell(
        engine, task, [0.0] if kind == "tokens" else sigmas, drawn,
        items_per_draw if kind == "certificate" and not per_item else None,
        workers=1 if kind == "tokens" else workers, dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        return show(told, as_json=json)
    plan = "at most " + line_of(told).replace("settings of the weights", "draws")
    if kind == "tokens":
        given: Any = bs.untied(engine) if tokens == "row" else engine  # type: ignore[arg-type]
        with progress(plan) as report:
            found = bs.certify_tokens(
                given, task, mode=tokens or "position",
                sigma=sigma, draws=most, target=0.5 if target is None else target,
                progress=report, **common,
            )  # fmt: skip
    elif kind == "strict":
        with progress(plan) as report:
            found = bs.strict_basin(
                engine, task, sigmas=sigmas, share=share, tau=tau, lost=lost, failures=failures,
                draws=draws, geometry=geometry, workers=workers, progress=report, **common,
            )  # fmt: skip
    else:
        with progress(plan) as report:
            found = bs.certify(
                engine, task, sigma=sigma, draws=most, items_per_draw=items_per_draw,
                claim=claim, target=target, antithetic=antithetic, per_item=per_item,
                geometry=geometry, workers=workers, progress=report, **common,
            )  # fmt: skip
    judged = [found.verdict(other, task=task, draws=against_draws) for other in against or []]
    figures = _draw(found, judged, folder) if kind == "certificate" else []
    if json:
        print_json({
            **found.to_json(), "verdicts": [v.to_json() for v in judged], "run": str(folder),
            "figures": [str(path) for path in figures],
        })  # fmt: skip
        return
    print(found)
    for verdict in judged:
        print(verdict)
    for path in figures:
        print(f"picture: {path}")


def _refuse_idle(kind: str, options: dict[str, tuple[object, tuple[str, ...]]]) -> None:
    """Refuse options that would say nothing in this kind of run: nobody should think they did."""
    for option, (given, kinds) in options.items():
        if given and kind not in kinds:
            allowed = {
                "certificate": "without --strict, --sweep and --tokens",
                "strict": "with --strict or --sweep, and without --tokens",
                "tokens": "with --tokens",
            }
            raise BasinscopeError(
                f"{option} does nothing here",
                "allowed: " + (" or ".join(allowed[k] for k in kinds) or "with --against"),
            )


def _draw(found: Any, judged: list[Any], folder: Path) -> list[Path]:
    from basinscope.report.certificates import plot_bounds, plot_measured

    paths = [plot_bounds(folder / "figures" / "certificate.png", [found], judged)]
    if judged:
        paths.append(plot_measured(folder / "figures" / "measured.png", judged))
    return paths


def _foretell(
    engine: Engine,
    task: Task,
    sigmas: list[float],
    draws: int,
    items: int | None,
    *,
    workers: int | None,
    dry_run: bool,
) -> Forecast:
    """Forecast of so many draws, as if all were made."""
    from basinscope.directions.base import Random

    settings = [(Random(0), 0, sigma) for sigma in sorted(sigmas) if sigma]
    return foretell(
        engine, [task], settings, points=draws, items=items, workers=workers, dry_run=dry_run
    )
