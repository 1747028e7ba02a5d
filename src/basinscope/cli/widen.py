"""The command that trains by several methods and measures their basins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from basinscope.cli.app import app, print_json, progress

if TYPE_CHECKING:
    from basinscope.widening.plan import Plan


@app.command
def widen(
    recipe: str,
    /,
    *,
    run: Path | None = None,
    dry_run: bool = False,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    data_dir: Path | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train a model by several methods; measure its basins and what fine-tuning makes it forget.

    Running the same line again resumes it.

    Args:
        recipe: gpt2-owt, twin-0.2m, twin-1m, twin-3m, twin-10m, or a .yaml file.
        run: folder of the study; default runs/widen-RECIPE.
        dry_run: say what it takes (parameters, tokens, steps, memory, time), and train nothing.
        only: do only these rows: a method, a label or a row; repeats.
        data_dir: folder in which the recipe's texts lie; default $BASINSCOPE_DATA.
        device: auto or cpu.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs

    if dry_run:
        _print_plan(bs.widen_plan(recipe, data_dir=data_dir), json)
        return
    folder = Path("runs") / f"widen-{Path(recipe).stem}" if run is None else run
    with progress(unit="steps") as report:
        found = bs.widen(
            recipe, run=folder, only=only, data_dir=data_dir, device=device, progress=report
        )
    if json:
        print_json(found.summary() | {"comparison": bs.compare(found.folder).summary()})
        return
    print(found.table())
    print(f"\n{bs.compare(found.folder).text(brief=True)}\n")
    for note in found.notes:
        print(f"- {note}")
    print(f"run: {found.folder}")


def _print_plan(plan: Plan, json: bool) -> None:
    if json:
        print_json(plan.summary())
        return
    print(plan.text())
