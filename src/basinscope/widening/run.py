"""Train one model by several methods, and measure how wide its basins become and what it keeps."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from basinscope import files, points
from basinscope.engines import sources
from basinscope.errors import BasinscopeError, typed
from basinscope.finetuning import checkpoint
from basinscope.runs.session import Progress
from basinscope.widening import loop, measure, record, study
from basinscope.widening.loop import Job
from basinscope.widening.measure import Windows, evaluate
from basinscope.widening.plan import Plan, plan, step_s
from basinscope.widening.recipe import Recipe
from basinscope.widening.recipe import read as read_recipe
from basinscope.widening.rows import LOSSES, Basins, RowRecord, TrainingPoint, TuningPoint
from basinscope.widening.study import Study, StudyRow


@dataclass(frozen=True)
class Widening:
    """A study's rows, as far as they are there.

    Attributes:
        folder: run folder.
        rows: records, in the order of the recipe (docs/how-to/widen.md says what they hold).
        notes: what must not pass in silence.
    """

    folder: Path
    rows: tuple[RowRecord, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """A line for each row: NLL, score, basin width in alpha / RMS(theta), and the cost."""
        head = ("row", "NLL", "score", "width", "width of NLL", "RMS", "passes", "train")
        lines = [f"{head[0]:<36}" + "".join(f"{word:>14}" for word in head[1:])]
        for row in self.rows:
            name = f"{row.label} seed {row.seed}"
            if row.stopped:
                lines.append(f"{name:<36}  {row.stopped}")
                continue
            widths = [row.in_rms(loss) for loss in LOSSES]
            cells = [
                f"{row.nll:.3f}", f"{row.score:.3f}",
                *("-" if width is None else f"{width:.3f}" for width in widths),
                f"{row.rms:.4f}", f"{row.passes:g}", f"{row.train_s:.0f} s",
            ]  # fmt: skip
            lines.append(f"{name:<36}" + "".join(f"{cell:>14}" for cell in cells))
        lines.append("widths: half-width at T = level of the score and of the NLL, alpha / RMS")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON takes it, without curves."""
        long = {"curves", "losses", "over_training", "finetune"}
        rows = [row.model_dump(mode="json", exclude=long) for row in self.rows]
        return {"run": str(self.folder), "rows": rows, "notes": list(self.notes)}


@typed
@overload
def widen(
    given: str | Path | Mapping[str, Any] | Recipe,
    *,
    run: str | Path | None = None,
    only: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    dry_run: Literal[False] = False,
    progress: Progress | None = None,
) -> Widening: ...


@overload
def widen(
    given: str | Path | Mapping[str, Any] | Recipe,
    *,
    run: str | Path | None = None,
    only: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    dry_run: Literal[True],
    progress: Progress | None = None,
) -> Plan: ...


def widen(
    given: str | Path | Mapping[str, Any] | Recipe,
    *,
    run: str | Path | None = None,
    only: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Widening | Plan:
    """Train the rows of a recipe (each a method and a seed), and measure each of them.

    A row is trained on the recipe's text, then measured under its evaluated weights (the clean
    ones, or their average): validation NLL, next-token score, width of both basins along random
    directions (`basinscope.widening.measure`); then fine-tuned on another text, with the new and
    the old NLL along the way, so that forgetting can be read at matched new-task loss. Rows of one
    seed begin at the same weights and see the same windows in the same order.

    Args:
        given: name of a recipe that comes with the program, path of a YAML file, or its content.
        run: folder of the study, default ``runs/widen-RECIPE``. Running it again goes on where it
            stopped; methods and seeds may be added, nothing else may change.
        only: rows to do now, by the method's name or label or the row's name; default all.
        data_dir: folder in which the recipe's files lie; default BASINSCOPE_DATA.
        device: ``auto`` (CUDA where there is one) or ``cpu``.
        dry_run: train nothing; reckon what it takes (parameters, tokens, steps, memory, time).
        progress: called with steps done, steps planned, and a line on what is going on.

    Returns:
        The rows; of a dry run the plan (`basinscope.widening.Plan`).

    Raises:
        BasinscopeError: a bad recipe, a text too small for the asked tokens, a folder that holds
            another study (the differences are listed).

    Guarantee: on the CPU, with one number of threads and versions, the same recipe gives the same
        weights and numbers (but the seconds) bit for bit, interrupted or not. A row whose loss is
        not finite ends there, and its record says why. Nothing is pickled.
    Cost: what a dry run says.
    """
    if device not in ("auto", "cpu"):
        raise BasinscopeError(f"device={device!r}", "auto, cpu", "cpu")
    if dry_run:
        return plan(given, data_dir, only)
    if run is None and not isinstance(given, str | Path):
        raise BasinscopeError(
            "a recipe without a name, and no run", "a run folder, or a recipe's path", "run=FOLDER"
        )
    chosen, beside = read_recipe(given)
    everything = study.rows(chosen)
    todo = study.select(everything, only)
    folder = Path("runs") / f"widen-{Path(str(given)).stem}" if run is None else Path(run)
    accelerator = _accelerator(device)
    loop.check_batch(chosen.batch, chosen.accumulate, accelerator.num_processes)
    if chosen.finetune is not None:
        loop.check_batch(chosen.finetune.batch, 1, accelerator.num_processes)
    with accelerator.main_process_first():
        ready = study.prepare(chosen, data_dir, beside)
        notes = record.begin(folder, ready, everything)
        pace = record.paces(folder, ready, everything)
        steps = {
            row.name: study.equal_steps(chosen, row, ready.steps, pace.get(row.label, 1.0))
            for row in todo
        }
        for row in todo:  # a method faster than the first one reads more of the text
            study.check_size(
                row.name,
                ready.pretraining,
                chosen,
                steps[row.name],
                chosen.batch,
                chosen.repeat,
            )
    bar = _Bar(progress, ready, todo)
    for row in todo:
        with record.claimed(folder, row.name, accelerator.is_main_process):
            before = record.read_row(folder, row.name)
            if before is None or before.state == "trained":
                _row(ready, row, steps[row.name], folder, accelerator, before, bar)
            if accelerator.is_main_process:  # of a row too that was killed when it was done
                for stage in ("training", "tuning"):
                    shutil.rmtree(folder / "rows" / row.name / stage, ignore_errors=True)
        bar.finished(row)
    done = [record.read_row(folder, row.name) for row in todo]
    return Widening(folder, tuple(row for row in done if row is not None), notes)


def read_widening(run: str | Path) -> Widening:
    """A study's rows from its run folder, as far as they are there.

    Raises:
        BasinscopeError: no study there; a corrupt record.
    """
    return Widening(Path(run), tuple(record.rows(run)))


def _accelerator(device: str) -> Any:
    from accelerate import Accelerator, InitProcessGroupKwargs  # type: ignore[import-untyped]
    from accelerate.state import is_initialized  # type: ignore[import-untyped]

    # the recipe says what is computed in what; a process has one state, which a Trainer before us
    # may have settled otherwise: one process asks nothing of it that depends on the precision
    given = {} if is_initialized() else {"mixed_precision": "no"}
    accelerator = Accelerator(
        cpu=device == "cpu" or not torch.cuda.is_available(),
        **given,
        # the first process tokenises while the others wait
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    if accelerator.num_processes > 1 and accelerator.mixed_precision != "no":
        raise BasinscopeError(
            f"several processes in which Accelerate was set to {accelerator.mixed_precision}",
            "a process that has not used Accelerate before",
            "run `basinscope widen` by itself under torchrun",
        )
    return accelerator


def _prepared(accelerator: Any, module: nn.Module) -> tuple[nn.Module, Callable[..., Any]]:
    """The module as it is called in training, and what goes back through its loss."""
    if accelerator.num_processes == 1:
        return module, torch.Tensor.backward
    return accelerator.prepare_model(module, evaluation_mode=False), accelerator.backward


class _Bar:
    """Steps done over all rows."""

    def __init__(self, progress: Progress | None, ready: Study, todo: Sequence[StudyRow]) -> None:
        self.progress = progress
        tuned = ready.recipe.finetune.steps if ready.recipe.finetune is not None else 0
        self.each = ready.steps + tuned
        self.total, self.before = self.each * len(todo), 0
        self.line = f"{len(todo)} rows of {ready.steps:,} steps" + (
            f" and {tuned:,} of fine-tuning" if tuned else ""
        )
        if progress is not None and not torch.cuda.is_available():
            minutes = step_s(ready, todo[0]) * self.total / 60
            self.line += f", about {max(minutes, 0.1):.1f} min and what measuring takes"
        self._say(0, self.line)

    def _say(self, done: int, line: str) -> None:
        if self.progress is not None:
            self.progress(done, self.total, line)

    def step(self, done: int, name: str, loss: float) -> None:
        """``done`` steps of the row under way."""
        done = min(self.before + done, self.total)
        points.send({f"{name}/loss": loss}, done)
        self._say(done, f"{name} {loss:.2f}")

    def finished(self, row: StudyRow) -> None:
        """A row is there."""
        self.before += self.each
        self._say(self.before, row.name)


def _row(
    ready: Study,
    row: StudyRow,
    steps: int,
    folder: Path,
    accelerator: Any,
    trained: RowRecord | None,
    bar: _Bar,
) -> None:
    """Train, measure and fine-tune one row, from wherever it stands."""
    own = folder / "rows" / row.name
    module = ready.module(row.seed).to(accelerator.device)
    main = accelerator.is_main_process
    if trained is None:
        trained = _pretrain(ready, row, steps, own, accelerator, module, bar)
        if main:
            if not trained.stopped:
                _save_model(module, ready.tokenizer, own / "model")
            record.save_row(folder, row.name, trained)
        accelerator.wait_for_everyone()
    else:
        checkpoint.read_weights(own / "model", module)
    end: dict[str, Any] = {"state": "stopped" if trained.stopped else "done"}
    if ready.recipe.finetune is not None and not trained.stopped:
        end |= _tune(ready, row, own, accelerator, module, bar)
    if main:
        record.save_row(folder, row.name, trained.model_copy(update=end))
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it keeps hold of every model that it has prepared


def _pretrain(
    ready: Study,
    row: StudyRow,
    steps: int,
    own: Path,
    accelerator: Any,
    module: nn.Module,
    bar: _Bar,
) -> RowRecord:
    """First stage: the record, and in ``module`` the evaluated weights."""
    recipe = ready.recipe
    cast = loop.autocast(accelerator.device, recipe.compute)
    seen = measure.windows(ready.pretraining, recipe.context, recipe.measure.windows)
    held_out = measure.windows(ready.pretraining, recipe.context, recipe.measure.validation)
    wrapped, backward = _prepared(accelerator, module)

    def along(step: int) -> dict[str, Any]:
        # where they are not finite the loss of the next step will end the row
        basins = _basins(module, held_out, seen, recipe, recipe.measure.over_draws, cast)
        tokens = step * recipe.batch * recipe.context
        return TrainingPoint(step=step, tokens=tokens, **dict(basins)).model_dump(mode="json")

    method = study.build(
        row.entry, recipe, module,
        betas=recipe.betas, seed=row.seed, steps=steps, backward=backward,
    )  # fmt: skip
    job = Job(
        tokens=ready.pretraining.train,
        context=recipe.context,
        batch=recipe.batch,
        accumulate=recipe.accumulate,
        steps=steps,
        lr=study.setting(row.entry, recipe, "lr"),
        lr_schedule=study.setting(row.entry, recipe, "lr_schedule"),
        warmup=study.setting(row.entry, recipe, "warmup"),
        clip=recipe.clip,
        compute=recipe.compute,
        seed=row.seed,
        every=recipe.checkpoint_every,
        marks=dict.fromkeys(loop.shares(steps, recipe.measure.over_training), along),
    )
    done = loop.train(
        module, wrapped, method, job, accelerator, own / "training",
        lambda step, loss: bar.step(round(step * ready.steps / steps), row.name, loss),
    )  # fmt: skip
    stopped, basins = done.stopped, Basins()
    if not stopped:
        with method.evaluated(), torch.no_grad():
            kept = {n: p.detach().clone() for n, p in module.named_parameters()}
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(kept[name])
        basins = _basins(module, held_out, seen, recipe, recipe.measure.draws, cast)
        if basins.nll is None:
            stopped = "the validation NLL was not finite after the last step"
    return RowRecord.model_validate({
        **dict(basins),
        "method": row.describe(),
        "label": row.label,
        "seed": row.seed,
        "state": "trained",
        "stopped": stopped,
        "size": ready.parameters,
        "tokens": done.step * recipe.batch * recipe.context,
        "steps": done.step,
        "passes": method.passes,
        "train_s": done.seconds,
        "step_s": statistics.median(done.step_s) if done.step_s else None,
        "losses": done.losses,
        "over_training": done.records,
        "finetune": [],
    })  # fmt: skip


def _basins(
    module: nn.Module,
    held_out: Windows,
    seen: Windows,
    recipe: Recipe,
    draws: int,
    cast: Callable[[], Any],
) -> Basins:
    """NLL and basins of the live weights; nothing where they are not finite."""
    nll, _ = evaluate(module, held_out, cast)
    if not math.isfinite(nll):
        return Basins()
    basins = measure.measure(module, seen, recipe.measure, draws, cast)
    return basins.model_copy(update={"nll": nll})


def _tune(
    ready: Study, row: StudyRow, own: Path, accelerator: Any, module: nn.Module, bar: _Bar
) -> dict[str, Any]:
    """Fine-tuning stage: what is learnt and what is forgotten along the way."""
    recipe, stage = ready.recipe, ready.recipe.finetune
    assert stage is not None
    assert ready.tuning is not None
    cast = loop.autocast(accelerator.device, recipe.compute)
    old = measure.windows(ready.pretraining, recipe.context, recipe.measure.windows)
    new = measure.windows(ready.tuning, recipe.context, recipe.measure.windows)
    wrapped, backward = _prepared(accelerator, module)

    def forgotten(step: int) -> dict[str, Any]:
        old_nll, old_score = evaluate(module, old, cast)
        new_nll, new_score = evaluate(module, new, cast)
        numbers = {
            "new_nll": new_nll, "new_score": new_score, "old_nll": old_nll, "old_score": old_score,
        }  # fmt: skip
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return TuningPoint(step=step, **finite).model_dump(mode="json")

    start = forgotten(0)
    method = study.build(
        stage.method, stage, module,
        betas=recipe.betas, seed=row.seed, steps=stage.steps, backward=backward,
    )  # fmt: skip
    job = Job(
        tokens=ready.tuning.train,
        context=recipe.context,
        batch=stage.batch,
        accumulate=1,
        steps=stage.steps,
        lr=study.setting(stage.method, stage, "lr"),
        lr_schedule=study.setting(stage.method, stage, "lr_schedule"),
        warmup=study.setting(stage.method, stage, "warmup"),
        clip=recipe.clip,
        compute=recipe.compute,
        seed=row.seed,
        every=recipe.checkpoint_every,
        marks=dict.fromkeys(loop.log_spaced(stage.steps, stage.points), forgotten),
    )
    done = loop.train(
        module, wrapped, method, job, accelerator, own / "tuning",
        lambda step, loss: bar.step(ready.steps + step, f"{row.name} fine-tuning", loss),
    )  # fmt: skip
    return {
        "finetune": tuple(map(TuningPoint.model_validate, [start, *done.records])),
        "finetune_stopped": done.stopped,
        "finetune_s": done.seconds,
    }


def _save_model(module: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Model folder, which loads like any other."""
    files.remove_drafts(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    with files.whole_folder(folder) as draft:
        sources.save(module, tokenizer, draft)
