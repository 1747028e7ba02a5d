"""The gate and the fingerprints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope.cli.app import answer, app, print_json, progress, say
from basinscope.cli.options import (
    LOAD_ONLY,
    MODEL,
    RUN,
    TASKS,
    LoadOptions,
    ModelOptions,
    RunOptions,
    TaskOptions,
)
from basinscope.cli.plan import forecast_of, line_of, show
from basinscope.errors import BasinscopeError
from basinscope.files import write

if TYPE_CHECKING:
    from basinscope.check.record import Check


@app.command
def check(
    base: str,
    /,
    *tuned: str,
    allow: float = 0.02,
    on: list[str] | None = None,
    confidence: float = 0.95,
    margin: bool = False,
    beside: list[Path] | None = None,
    text: list[str] | None = None,
    logs: bool = False,
    junit: Path | None = None,
    markdown: Path | None = None,
    card: Path | None = None,
    scored: TaskOptions = TASKS,
    loaded: ModelOptions = MODEL,
    output: RunOptions = RUN,
) -> None:
    """Say whether a fine-tune, merge or quantised copy lost something that must be kept.

    The same items before and after, in a random order, until every verdict is decided. Exit code 0
    if all is kept, 1 if a task surely lost more than is allowed, 3 if that is undecided, 2 for an
    error.

    Args:
        base: smollm2, a hub id, a folder, or a .gguf file; with --logs a folder.
        tuned: what was made of it, one or several: a model, an adapter's folder, or a direction as
            in landscape that a model is behind (quantised:4, merge:A+B); with --logs folders.
        allow: loss of a task's score that is allowed.
        on: TASK=LOSS, the same for one task; repeats.
        confidence: of the whole gate: a false lost anywhere has at most the rest as probability,
            and so has a false kept.
        margin: say how much further each model could go on along its own way from the base before
            half of a task's score above chance is lost; a search, which takes as long again.
        beside: run folder of the base; repeats: of landscape BASE -d random of the same tasks, to
            say how far each model has gone of the width of that basin, or of certify, to say what
            the certificate promises for each.
        text: a text file, or wikitext2; repeats: say by how many nats a token (KL) each model's
            distributions of the next token differ from the base's there.
        logs: read logs of lm-eval (--log_samples) or Inspect in place of models; -t names them as
            NAME or NAME@METRIC, by default all.
        junit: write JUnit's XML here.
        markdown: write a comment for a pull request here.
        card: write the scores into this model card (README.md): its model-index and a section.
    """
    allowed = _allowed(on)
    if not tuned:
        raise BasinscopeError(
            f"{base} alone", "a base and one or more that were made of it", f"{base} quantised:8"
        )
    further = {"--margin": margin, "--beside": beside, "--text": text, "--track": output.track}
    if logs and any(further.values()):
        options = ", ".join(option for option, value in further.items() if value)
        raise BasinscopeError(f"{options} with --logs", "with models", "leave out --logs")
    if logs:
        from basinscope.check.logs import check_logs

        names = None if scored.tasks == TASKS.tasks else scored.tasks.split(",")
        gate = check_logs(base, tuned, names, allow=allow, on=allowed, confidence=confidence)
        folder = None
    else:
        import basinscope as bs
        from basinscope.check.stands import BLOCKS, asked
        from basinscope.directions.words import direction_of
        from basinscope.landscape.edges import OUTCOMES
        from basinscope.landscape.run import planned
        from basinscope.tasks import corpus

        lines, tasks = [direction_of(word) for word in tuned], scored.read()
        texts = [corpus.load(f"{corpus.PREFIX}{word.removeprefix(corpus.PREFIX)}", scored.data_dir)
                 for word in text or ()]  # fmt: skip
        runs = beside or ()
        wanted = asked(tasks, margin=margin, beside=runs, texts=texts, confidence=confidence)
        name = os.path.basename(os.path.realpath(base)).removesuffix(".gguf")
        others = "+".join(Path(word).name.replace(":", "-") for word in tuned)
        folder = output.run or Path("runs") / f"{name}-check-{others}"
        engine = loaded.engine(base, folder, "check", wanted.dtype)
        settings = [(line, 0, line.sits_at(engine) or 0.0) for line in lines]
        points = answers = None
        if margin:
            points, answers = planned(tasks, [1] * len(lines), OUTCOMES, False, sides=1)
            points += 1 + len(lines)
            answers += (1 + len(lines)) * sum(len(task.items) for task in tasks)
        forecast = forecast_of(
            engine, tasks, settings, points=points, answers=answers, workers=output.workers,
            dry_run=output.dry_run,
        )  # fmt: skip
        if output.dry_run:
            return show(forecast, searched=margin, as_json=output.json)
        plan = line_of(forecast, searched=margin) if margin else f"at most {line_of(forecast)}"
        if texts:
            blocks = sum(min(len(one.items), BLOCKS) for one in texts)
            plan += f"; KL on {blocks} blocks of text"
        with progress(plan, "trials", loaded.note(engine, *lines), output.track, folder) as report:
            gate = bs.check(
                engine, lines, tasks, allow=allow, on=allowed, confidence=confidence,
                margin=margin, beside=runs, texts=texts, run=folder, workers=output.workers,
                progress=report,
            )  # fmt: skip
    _write(gate, junit, markdown, card)
    place = {"run": None if folder is None else str(folder)}
    if not answer(lambda: gate.to_json() | place, output.json):
        say(gate)
    if gate.exit_code:
        sys.stdout.flush()
        sys.exit(gate.exit_code)


@app.command
def fingerprint(
    model: str,
    other: str | None = None,
    /,
    *,
    dtype: str = "bfloat16",
    json: bool = False,
    loaded: LoadOptions = LOAD_ONLY,
) -> None:
    """Print the sha256 of a model's weights; with a second model, say which tensors differ.

    Exit code 1 if they differ, as of cmp.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        other: a second one.
        dtype: that both are loaded in: bfloat16, float32 or float16.
        json: print one JSON object.
    """
    import basinscope as bs
    from basinscope.check.guards import differences
    from basinscope.weights import selection

    words = [model] if other is None else [model, other]
    engines = [bs.load(word, dtype=dtype, **loaded.arguments) for word in words]
    prints = {e.source: e.fingerprint() for e in engines}
    apart = (
        differences(*(selection.tensors(e.module) for e in engines)) if other is not None else []
    )
    if json:
        rows = [{"tensor": d.name, "elements": d.elements, "size": d.size} for d in apart]
        print_json({"dtype": dtype, "fingerprints": prints, "different": rows})
    else:
        lines = [f"{digest}  {source}" for source, digest in prints.items()]
        lines += [f"- {d}" for d in apart]
        lines += ["the same, bit for bit"] if other and not apart else []
        say(*lines, sep="\n")
    if apart:
        sys.stdout.flush()
        sys.exit(1)


def _allowed(on: list[str] | None) -> dict[str, float]:
    """Losses of single tasks, given as TASK=LOSS."""
    losses = {}
    for word in on or ():
        task, _, text = word.rpartition("=")
        try:
            losses[task] = float(text)
        except ValueError:
            task = ""
        if not task:
            raise BasinscopeError(f"--on {word}", "TASK=LOSS", "--on advbench=0.01")
    return losses


def _write(gate: Check, junit: Path | None, markdown: Path | None, card: Path | None) -> None:
    from basinscope.check import formats

    makers: Mapping[Path | None, Callable[[Check], str]] = {
        junit: formats.junit, markdown: formats.markdown,
    }  # fmt: skip
    for path, make in makers.items():
        if path is not None:
            write(path, make(gate))
    if card is not None:
        formats.write_card(gate, card)
