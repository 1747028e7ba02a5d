"""The command that lays training methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from basinscope.cli.app import app, print_json, say


@app.command
def compare(
    run: Path,
    /,
    *others: Path,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    figure: list[str] | None = None,
    reference: str | None = None,
    confidence: float = 0.95,
    json: bool = False,
) -> None:
    """Compare the methods of widen's run folders, with intervals over seeds.

    Rows are compared where the recipes agree in all but methods and seeds.

    Args:
        run: run folder of widen.
        others: further ones.
        output: write the tables and the figures into this folder.
        figure: draw only this one: frontier, curves, over_training, scale or forgetting; repeats.
        reference: method that the others are compared with, by its name in the table; plain adamw.
        confidence: of each interval.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs

    comparison = bs.compare(run, *others, confidence=confidence, reference=reference)
    written = []
    if output is not None:
        written = comparison.save(output, figure) if figure else comparison.save(output)
    if json:
        print_json(comparison.summary() | {"written": [str(path) for path in written]})
        return
    say(comparison.text(brief=True))
    for path in written:
        say(path)
