"""The command that looks for worst-case directions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from basinscope.cli.app import app, print_json, progress, screen
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.attack.run import Attack
    from basinscope.tasks.base import Task


@app.command
def attack(
    model: str,
    /,
    *,
    on: str,
    tasks: Annotated[str | None, Parameter(name=["--tasks", "-t"])] = None,
    steps: int | None = None,
    seed: int = 0,
    radius: float | None = None,
    starts: int = 2,
    method: str = "pga",
    inside: bool = False,
    limit: int = 48,
    level: float = 0.5,
    compute: str = "bfloat16",
    lr: float = 1e-5,
    pull: float = 1.0,
    data_dir: Path | None = None,
    run: Path | None = None,
    dtype: str = "float32",
    device: str = "auto",
    params: str | None = None,
    trust_remote_code: bool = False,
    json: bool = False,
) -> None:
    """Look for the direction along which a task collapses first, and measure how near that is.

    Running the same line again resumes it.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        on: what is attacked: a task of choices (basic, math, code, mmlu), nll:FILE, or a text file.
        tasks: further tasks whose collapse radius is measured along the direction; by commas.
        steps: gradients in all, shared by the starts; default 200, 10 for the proxy.
        seed: of the Gaussian starts and of the attacked sample.
        radius: norm of the displacement; without it the smallest that collapses the score is
            looked for.
        starts: the first is the gradient, the others are Gaussian.
        method: pga (projected gradient ascent) or proxy (AdamW steps with a pull, as the authors).
        inside: the ball of that radius instead of the sphere.
        limit: most items, or blocks of a text, that are attacked; the others are held out.
        level: fraction of the way down to chance that counts as collapse.
        compute: bfloat16 or float32, for the products of the ascent; weights are float32 anyway.
        lr: learning rate of the proxy.
        pull: weight of the proxy's pull towards the weights.
        data_dir: as in landscape.
        run: run folder; default runs/MODEL-attack.
        dtype: float32; a model in 16 bits is attacked through a copy in float32.
        device: auto, cpu, cuda, cuda:N.
        params: regular expression; only matching parameters are perturbed.
        trust_remote_code: let a hub checkpoint run its own code.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs

    target = _target(on, data_dir)
    many = bs.tasks(tasks, data_dir=data_dir) if tasks else []
    name = Path(model).resolve().name.removesuffix(".gguf") or "run"
    folder = run or Path("runs") / f"{name}-attack"
    engine = bs.load(
        model, dtype=dtype, device=device, params=params, trust_remote_code=trust_remote_code
    )
    with progress(f"{method} attack on {on}, in {folder}", unit="steps") as report:
        found = bs.attack(
            engine, target, tasks=many, steps=steps, seed=seed, radius=radius, starts=starts,
            method=method, inside=inside, limit=limit, level=level, compute=compute,
            proxy=bs.Proxy(lr=lr, pull=pull), run=folder, progress=report,
        )  # fmt: skip
    file = folder / "worst.safetensors"
    if json:
        print_json({**found.summary(), "run": str(folder), "direction": str(file)})
        return
    _show(found, level)
    print(f"direction: {file}")
    print(f"to draw it: basinscope landscape {model} -d saved:{file} --dtype float32")


def _target(on: str, data_dir: Path | None) -> Task | Path:
    """Task of that name, else the file."""
    import basinscope as bs

    if Path(on).is_file():
        return Path(on)
    try:
        found = bs.tasks(on, data_dir=data_dir)
    except BasinscopeError as error:
        raise BasinscopeError(f"--on {on}: no such file, and {error}") from None
    if len(found) != 1:
        raise BasinscopeError(
            f"--on {on} names {len(found)} tasks",
            "allowed: one task, or a text file",
            "measure the others along the direction with --tasks",
        )
    return found[0]


def _show(found: Attack, level: float) -> None:
    """Print the table of collapse radii and what the ascent came to."""
    from basinscope.report.text import collapse_table

    best, edges = found.starts[found.best], found.summary()["collapse"]
    loss = "not seen (one more step)" if math.isnan(best.loss) else f"{best.loss:.4g}"
    if edges:
        Console(width=max(screen.width, 106)).print(collapse_table(edges, level))
    print(
        f"- {found.objective}: loss {found.loss_at_zero:.4g} at theta0, {loss} at norm "
        f"{best.radius:.4g} (start {best.start} of {len(found.starts)})"
    )
    for row in found.collapse:
        if row.reason:
            print(f"- {row.task} {row.sign:+d}: {row.reason}")
    for reason in found.ended:
        print(f"- {reason}")
    print("- a local maximum: the worst direction may be worse, so these radii are upper bounds")
