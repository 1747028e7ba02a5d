"""The command that looks for worst-case directions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from basinscope.cli.app import answer, app, progress, say, screen
from basinscope.cli.options import ATTACKED, MODEL, OUTPUT, Attacked, ModelOptions, Output
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.attack import Attack


@app.command
def attack(
    model: str,
    /,
    *,
    measure: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    radius: float | None = None,
    starts: int | None = None,
    method: Literal["pga", "proxy"] = "pga",
    inside: bool = False,
    level: float = 0.5,
    compute: Literal["bfloat16", "float32"] = "bfloat16",
    lr: float | None = None,
    pull: float | None = None,
    scored: Attacked = ATTACKED,
    loaded: ModelOptions = MODEL,
    output: Output = OUTPUT,
) -> None:
    """Look for the direction along which a task collapses first, and measure how near that is.

    Running the same line again resumes it. Weights are float32, with --dtype auto from the
    checkpoint; a model in 16 bits is attacked through a copy in float32.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        measure: further tasks whose collapse radius is measured along the direction; by commas.
        steps: gradients in all, shared by the starts; default 200, 10 for the proxy.
        seed: of the Gaussian starts and of the attacked sample.
        radius: norm of the displacement; without it the smallest that collapses the score is
            looked for.
        starts: the first is the gradient, the others are Gaussian; default 2, for the proxy 1.
        method: pga (projected gradient ascent) or proxy (AdamW steps with a pull, as the authors).
        inside: the ball of that radius instead of the sphere.
        level: fraction of the way down to chance that counts as collapse.
        compute: for the products of the ascent; weights are float32 anyway.
        lr: learning rate of the proxy; default 1e-5.
        pull: weight of the proxy's pull towards the weights; default 1.
    """
    import basinscope as bs
    from basinscope.attack import Proxy
    from basinscope.attack.run import checked

    idle = [
        option
        for option, value, works in (
            ("--lr", lr, method == "proxy"),
            ("--pull", pull, method == "proxy"),
            ("--starts", starts, method == "pga"),
        )
        if value is not None and not works
    ]
    if idle:
        raise BasinscopeError(
            f"{' and '.join(idle)} with --method {method}",
            f"with --method {'proxy' if method == 'pga' else 'pga'}",
            f"leave {' and '.join(idle)} out",
        )
    settings = {name: value for name, value in (("lr", lr), ("pull", pull)) if value is not None}
    plan: dict[str, Any] = {
        "steps": steps, "seed": seed, "radius": radius, "starts": 2 if starts is None else starts,
        "method": method, "limit": scored.limit, "level": level, "compute": compute,
    }  # fmt: skip
    target, further = checked(scored.tasks, measure or (), **plan, **scored.source)
    proxy = Proxy(**settings)
    folder = output.folder(model, "attack")
    engine = loaded.engine(model, folder, "attack", dtype="float32")
    line = f"{method} attack on {scored.tasks}, in {folder}"
    with progress(line, "steps", loaded.note(engine), output.track, folder) as report:
        worst = bs.attack(
            engine, target, measure=further, inside=inside, proxy=proxy, run=folder,
            progress=report, **plan,
        )  # fmt: skip
    file = folder / "worst.safetensors"
    places = {"run": str(folder), "direction": str(file)}
    if answer(lambda: worst.summary() | places, output.json):
        return
    show(worst)
    say(f"direction: {file}")
    say(f"to draw it: basinscope landscape {model} -d saved:{file} --dtype float32")


def show(worst: Attack) -> None:
    """Print the table of collapse radii and what the ascent came to."""
    from basinscope.report.text import collapse_table

    best, edges = worst.starts[worst.best], worst.summary()["collapse"]
    loss = "not seen (one more step)" if math.isnan(best.loss) else f"{best.loss:.4g}"
    if edges:
        Console(width=max(screen.width, 106)).print(collapse_table(edges, worst.level))
    say(
        f"- {worst.objective}: loss {worst.loss_at_zero:.4g} at theta0, {loss} at norm "
        f"{best.radius:.4g} (start {best.start} of {len(worst.starts)})"
    )
    for row in worst.collapse:
        if row.reason:
            say(f"- {row.task} {row.sign:+d}: {row.reason}")
    for reason in worst.ended:
        say(f"- {reason}")
    say("- a local maximum: the worst direction may be worse, so these radii are upper bounds")
