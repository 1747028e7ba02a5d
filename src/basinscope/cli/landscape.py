"""Commands that draw landscapes and look after run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from basinscope.cli.app import app, parse_steps, print_json, progress, run_folder, screen
from basinscope.cli.plan import foretell, line_of, show
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.landscape import Landscape
    from basinscope.tasks.base import Task


@app.command
def landscape(
    model: str,
    /,
    *,
    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "mini",
    direction: Annotated[list[str] | None, Parameter(name=["--direction", "-d"])] = None,
    draws: int | None = None,
    steps: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    interpolate: int | None = None,
    grid: bool = False,
    outcomes: int | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    allow_code_execution: bool = False,
    level: float = 0.5,
    run: Path | None = None,
    workers: int | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    params: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Score tasks along directions in weight space and measure how wide their basins are.

    Running the same line again resumes it; more draws, steps or tasks extend it.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        tasks: mini (basic, math, code, safety), one of these, overrefusal, mmlu, mmlu:SUBJECT,
            mmlu-gen, gsm8k, gsm8k-flexible, either with -chat, advbench, advbench-substring,
            xstest, xstest-unsafe, humaneval, humaneval-instruct, lm-eval:NAME, or the likelihood of
            a text: nll:FILE or nll:wikitext2; by commas.
        direction: random[:SEED], to:MODEL, adapter:FOLDER, saved:FILE,
            quantised:BITS[:GROUP][:asymmetric], pruned:FRACTION, merge:A+B or merge:0.3*A+0.7*B;
            may be given several times.
        draws: independent draws of each random direction; the others have one. Default 4 with
            --steps, 12 where the edges are searched.
        steps: LO:HI:N (inclusive) or a list by commas; without it the edges are searched, each
            point on as many items as decide it.
        interpolate: instead of steps: so many from the model to the one that the direction
            leads to (to:MODEL), both included, and a quarter of the way beyond.
        grid: after the search, measure the full curve on all items too: 41 points on both sides,
            out to twice the widest edge.
        outcomes: of the search: most answers of a task at one point, over all draws; default 256.
        limit: most items of each task, the same ones at every setting.
        data_dir: folder with the data of mmlu, gsm8k, advbench, xstest, humaneval and wikitext2;
            default $BASINSCOPE_DATA, else the Hugging Face hub.
        allow_code_execution: run code that the model writes, in a bubblewrap sandbox (needed by
            humaneval).
        level: fraction of the way down to chance at which the width is taken.
        run: run folder; default runs/MODEL.
        workers: processes of one thread each; default one for each core.
        dtype: bfloat16, float32 or float16.
        device: auto, cpu, cuda, cuda:N.
        params: regular expression; only matching parameters are perturbed.
        trust_remote_code: let a hub checkpoint run its own code.
        dry_run: measure nothing; say how many evaluations and tokens that is and how long it takes,
            from short real batches.
        json: print one JSON object instead of the table.
    """
    import basinscope as bs
    from basinscope.directions.words import parse
    from basinscope.landscape.edges import OUTCOMES
    from basinscope.landscape.run import SEARCH_DRAWS, STEPS_DRAWS, planned

    if interpolate is not None and (steps is not None or len(direction or ()) != 1):
        raise BasinscopeError(
            f"--interpolate with {len(direction or ())} directions and --steps {steps}",
            "allowed: with one -d to:MODEL (or another that a model is behind), without --steps",
        )
    points = None if steps is None else parse_steps(steps)
    lines = [parse(word) for word in direction or ["random"]]
    chosen = bs.tasks(
        tasks, limit=limit, data_dir=data_dir, allow_code_execution=allow_code_execution
    )
    folder = run or run_folder(model)
    engine = bs.load(
        model, dtype=dtype, device=device, params=params, trust_remote_code=trust_remote_code
    )
    if interpolate is not None:
        points = bs.interpolation_steps(engine, lines[0], interpolate)
    if outcomes is not None and points is not None:
        raise BasinscopeError(
            f"--outcomes {outcomes} with fixed steps",
            "allowed: where the edges are searched, without --steps and --interpolate",
        )
    draws = draws if draws is not None else (STEPS_DRAWS if points is not None else SEARCH_DRAWS)
    most = OUTCOMES if outcomes is None else outcomes
    slices = [line.draws_among(draws) for line in lines]
    # a search asks for steps over as wide a range as a curve of these
    curve = points or [engine.rms * k / SEARCHED for k in range(1, SEARCHED)]
    settings = [
        (line, draw, step)
        for step in sorted(set(curve) - {0.0}, key=abs)
        for line, own in zip(lines, slices, strict=True)
        for draw in range(own)
    ]
    count, answers = (None, None) if points else planned(chosen, slices, most, grid)
    told = foretell(
        engine, chosen, settings, points=count, answers=answers, workers=workers, dry_run=dry_run
    )
    if dry_run:
        return show(told, searched=points is None, as_json=json)
    plan = line_of(told, searched=points is None) + _without_template(engine, chosen)
    with progress(plan) as report:
        found = bs.landscape(
            engine, chosen, directions=lines, steps=points, draws=draws, grid=grid, outcomes=most,
            level=level, run=folder, workers=workers, progress=report,
        )  # fmt: skip
    _show(found, folder, level, json)


@app.command
def demo(*, run: Path = Path("runs/demo"), json: bool = False) -> None:
    """Draw the landscape of SmolLM2-135M-Instruct on the shipped tasks (a few minutes).

    Args:
        run: run folder.
        json: print one JSON object instead of the table.
    """
    landscape("smollm2", tasks="mini", draws=DEMO_DRAWS, steps=DEMO_STEPS, limit=DEMO_LIMIT,
              run=run, json=json)  # fmt: skip


SEARCHED = 21  # steps over a range such as a search covers, to probe times at
DEMO_DRAWS, DEMO_LIMIT = 14, 24
DEMO_STEPS = "-0.04,-0.02,-0.01,-0.005,0,0.005,0.01,0.02,0.04"


def _without_template(engine: Engine, tasks: Sequence[Task]) -> str:
    """Which tasks this model gets as plain text for want of a chat template."""
    if getattr(engine.tokenizer, "chat_template", None):
        return ""
    requests = {task.name: (r for item in task.items for r in item.requests) for task in tasks}
    names = [name for name, own in requests.items() if any(getattr(r, "chat", 0) for r in own)]
    return f"; no chat template: plain prompts for {', '.join(names)}" if names else ""


def _show(found: Landscape, folder: Path, level: float, as_json: bool) -> None:
    """Print the table or the JSON object, and write figures and page beside it.

    What was measured is printed even where the folder cannot be written to.
    """
    from basinscope.report.page import write_report
    from basinscope.report.sections import attempt
    from basinscope.report.text import notes, summary, widths_table

    missing: list[str] = []
    page = attempt("the page", lambda: write_report(found, folder, level), missing)
    figure = folder / "figures" / "landscape.png"
    if as_json:
        summed = summary(found, level)
        summed["missing"] += missing
        print_json(
            {**summed, "run": str(folder), "figure": str(figure) if figure.exists() else None}
        )
    else:
        Console(width=max(screen.width, 106)).print(widths_table(found, level))
        for note in notes(found, level) + missing:
            print(f"- {note}")
        if figure.exists():
            print(f"picture: {figure}")
        if page:
            print(f"report:  {page}")
