"""The command that trains by several methods and measures their basins."""

from __future__ import annotations

from pathlib import Path

from basinscope.cli.app import answer, app, print_json, progress, say


@app.command
def widen(
    recipe: str,
    /,
    *,
    only: list[str] | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    run: Path | None = None,
    dry_run: bool = False,
    json: bool = False,
    track: str | None = None,
) -> None:
    """Train a model by several methods; measure its basins and what fine-tuning makes it forget.

    Running the same line again resumes it.

    Args:
        recipe: gpt2-owt, twin-0.2m, twin-1m, twin-3m, twin-10m, or a .yaml file.
        only: do only these rows: a method, a label or a row; repeats.
        data_dir: folder in which the recipe's texts lie; default $BASINSCOPE_DATA.
        device: auto or cpu.
        run: folder of the study; default runs/widen-RECIPE.
        dry_run: say what it takes (parameters, tokens, steps, memory, time), and train nothing.
        json: print one JSON object instead of the table.
        track: as in landscape.
    """
    import basinscope as bs

    if track is not None:
        from basinscope.tracking import check_tracker

        check_tracker(track)
    if dry_run:
        plan = bs.widen(recipe, only=only, data_dir=data_dir, device=device, dry_run=True)
        print_json(plan.summary()) if json else say(plan.text())
        return
    name = run or f"runs/widen-{Path(recipe).stem}"
    with progress(unit="steps", tracker=track, run=name) as report:
        study = bs.widen(
            recipe, run=run, only=only, data_dir=data_dir, device=device, progress=report
        )
    comparison = bs.compare(study.folder)
    if answer(lambda: study.summary() | {"comparison": comparison.summary()}, json):
        return
    say(study.table())
    say(f"\n{comparison.text(brief=True)}\n")
    for note in study.notes:
        say(f"- {note}")
    say(f"run: {study.folder}")
