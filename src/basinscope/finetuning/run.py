"""Supervised fine-tuning that yields a direction: full-parameter or LoRA, from data or a recipe."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope import files, points
from basinscope.certify import Certificate
from basinscope.directions.adapters import Adapter
from basinscope.directions.toward import Toward
from basinscope.engines.base import Engine
from basinscope.engines.loading import cast
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError, nearest, typed
from basinscope.finetuning import checkpoint, guarantee, lora, record
from basinscope.finetuning.data import Chat, Rows
from basinscope.finetuning.examples import Example, fitting
from basinscope.finetuning.recipes import RECIPES, Material, given_data, material, sample
from basinscope.finetuning.record import Guarantee, TrainingRecord
from basinscope.finetuning.settings import (
    AfterStep,
    OptimizerChoice,
    Plan,
    Settings,
    plan,
    resolve,
)
from basinscope.runs.models import Model, engine_of
from basinscope.runs.session import Progress
from basinscope.weights import selection
from basinscope.weights.parts import chunks
from basinscope.weights.surroundings import fixed

METHODS = ("full", "lora")


@dataclass(frozen=True)
class FineTune:
    """What a fine-tuning run left behind.

    Attributes:
        folder: model folder (float32), or adapter folder for LoRA; ``training.json`` beside it.
        model: what it began from, as the user named it.
        method: ``full`` or ``lora``.
        displacement: ``||theta' - theta0||`` over the trained parameters, of a LoRA the norm of
            its merged BA; summed in float64.
        steps: optimiser steps behind the weights.
        losses: mean loss of the answers' tokens, in nats, before each step.
        checkpoints: folders of the weights on the way, in order; the end is ``folder`` itself.
        counts: rows of the data, those left out for want of a prompt or an answer, examples in the
            others, and of these how many were not drawn (``limit``), too long, and used.
        notes: what was left out, and whatever else must not pass in silence.
        diverged: why training stopped early; empty where it did not.
        guarantee: of ``stay_within``: the verdict on these weights (r, bound, R, target), and what
            the certificate does not cover; None without.
    """

    folder: Path
    model: str
    method: str
    displacement: float
    steps: int
    losses: tuple[float, ...]
    checkpoints: tuple[Path, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]
    diverged: str = ""
    guarantee: Guarantee | None = None

    @cached_property
    def direction(self) -> Toward | Adapter:
        """From theta0 toward the fine-tuned weights, with ``||delta||^2 = d``."""
        return (Adapter if self.method == "lora" else Toward)(str(self.folder))

    def summary(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            **asdict(self),
            "folder": str(self.folder),
            "checkpoints": [str(path) for path in self.checkpoints],
            "guarantee": self.guarantee and self.guarantee.model_dump(mode="json"),
            "direction": self.direction.label,
        }


class DivergedError(BasinscopeError):
    """Training met a loss, gradient or weight that is not finite.

    Attributes:
        result: the last good state, which the output folder holds; None if there is none.
    """

    result: FineTune | None = None


@typed
@fixed()
def finetune(
    model: Model,
    data: Rows | None = None,
    *,
    run: str | Path,
    recipe: str | None = None,
    method: str = "full",
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    warmup: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    save_every: int | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    compute: str | None = None,
    optimizer: OptimizerChoice | None = None,
    after_step: AfterStep | None = None,
    stay_within: Certificate | None = None,
    target: float | None = None,
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_targets: str | list[str] = "all-linear",
    data_dir: str | Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> FineTune:
    """Fine-tune a model on chats or instructions, with loss on the answers only.

    Minimises the mean of ``-log p(token | prompt, answer so far)`` over the answers' tokens of
    each batch, on Hugging Face's Trainer: AdamW, linear decay to 0, gradients clipped to norm 1,
    float32 master weights that begin at exactly the model's theta0 (as loaded), so that
    ``theta' - theta0`` is what training did and no rounding.

    Args:
        model: an engine, whose weights stay untouched, or what `basinscope.load` takes.
        data: JSON, JSON Lines or CSV file, hub id, or rows (`basinscope.finetuning.data` says which
            keys); default the recipe's own.
        run: folder for the result, the checkpoints and ``training.json``.
        recipe: ``safety``, ``benign``, ``normal`` or ``adversarial``; gives data and settings
            that were not given (`basinscope.finetuning.recipes`).
        method: ``full`` or ``lora``.
        epochs: passes over the data (default 1).
        steps: optimiser steps, instead of ``epochs``.
        batch: examples in a forward pass (default 8).
        accumulate: forward passes in an optimiser step (default 1).
        lr: peak learning rate (default 3e-5, for LoRA ten times that).
        warmup: steps of linear warm-up, or, below 1, their share of all.
        weight_decay: of matrices (default 0).
        seed: names the order of the examples, dropout and a recipe's choices.
        save_every: optimiser steps between checkpoints (default a quarter of all).
        limit: most examples, a sample drawn by hashing.
        max_tokens: longer examples are left out and counted in the notes (default 1024, at most the
            model's context).
        compute: forward passes in ``bfloat16`` (autocast, the default) or ``float32``.
        optimizer: ``(class, keyword arguments)``; made with named parameters in groups, ``lr``
            where the keywords have none. Where it has a ``perturbed()`` context manager, each
            forward and backward pass runs inside.
        after_step: called with the module after every optimiser step, without gradients; may
            change the weights in place (a run that resumes calls it for the remaining steps only).
            ``optimizer`` and ``after_step`` are told apart by name, or by their ``identity``.
        stay_within: after every step (and ``after_step``) the weights are projected into the ball
            in which this certificate, made for this model, holds the old capability's smoothed
            score at ``target`` or more.
        target: level; default the certificate's.
        lora_r: rank.
        lora_alpha: scale; BA is multiplied by ``lora_alpha / lora_r``.
        lora_targets: names of the layers that get an adapter (a list, or by commas).
        data_dir: folder with ``advbench/`` and ``instruct/`` for the recipes; default
            BASINSCOPE_DATA, else the Hugging Face hub.
        resume: go on from the last checkpoint in ``run``; False starts over.
        progress: called with steps done, steps planned, and a line on what is going on: first the
            plan.

    Raises:
        BasinscopeError: bad settings or data (file, line and reason), a run folder that
            holds something else or another fine-tune.
        DivergedError: a loss, gradient or weight was not finite; the folder holds the last
            checkpoint whose weights gave a finite loss and gradient, if there is one.

    Guarantee: on the CPU, the same call with the same number of threads and versions gives the
        same weights bit for bit, interrupted or not; so the global generators are left as they
        were found. Nothing is pickled: tensors are safetensors, the rest is JSON.
    Cost: 16 bytes for each trained parameter (weights, gradient, two moments), 4 for each other,
        and the activations of a batch; a checkpoint writes 12 bytes for each trained parameter,
        of which 4 stay.
    """
    folder = Path(run)
    settings, read = checked(
        data, run=folder, recipe=recipe, method=method, seed=seed,
        stay_within=stay_within, target=target, lora_r=lora_r, lora_alpha=lora_alpha,
        lora_targets=lora_targets,
        epochs=epochs, steps=steps, batch=batch, accumulate=accumulate, lr=lr, warmup=warmup,
        weight_decay=weight_decay, save_every=save_every, limit=limit, max_tokens=max_tokens,
        compute=compute,
    )  # fmt: skip
    engine = _engine(model, folder)
    engine.check_untouched()
    if read is not None:
        learnt = replace(read, chats=sample(read.chats, settings.limit, seed))
    else:
        assert recipe is not None
        learnt = material(recipe, engine, folder, data_dir, seed, settings.limit)
    fit, rows, notes = _fitting(engine, learnt, settings.max_tokens)
    counts = learnt.counts or {"examples": len(learnt.chats)}
    counts |= {
        "not drawn": counts["examples"] - len(learnt.chats),
        "too long": len(learnt.chats) - len(fit),
        "used": len(fit),
    }
    within = None
    if stay_within is not None:
        within = guarantee.stay_within(stay_within, target, engine)
        after_step = guarantee.Both(after_step, within) if after_step else within
    todo = plan(settings, rows, seed, optimizer, after_step)
    spec: dict[str, Any] = {
        "model": engine.fingerprint(),
        "params": engine.params,
        "method": method,
    }
    if method == "lora":
        spec["lora"] = [lora_r, lora_alpha, lora_targets]
    new = TrainingRecord(
        spec=spec | todo.spec(),
        model=engine.source,
        recipe=recipe,
        dtype=engine.dtype,
        source=learnt.source,
        prompts=record.prompts(chat.prompt for chat in fit),
        counts=counts,
        notes=tuple(notes),
        versions=record.versions(),
        threads=torch.get_num_threads(),
    )
    training = record.begin(folder, new, resume)
    if training.state == "running":
        from basinscope.finetuning.trainer import own_generators

        with own_generators(seed):
            module = _copy(engine)
            if method == "lora":
                module = lora.attach(module, engine.source, lora_r, lora_alpha, lora_targets)
            training = _train(engine, module, todo, folder, training, progress)
    for path in checkpoint.found(folder):  # of a run too that was killed when it was done
        checkpoint.forget(path)
    if within is not None and training.state == "done" and training.guarantee is None:
        earned = guarantee.earned(within, str(folder))
        training = training.model_copy(update={"guarantee": earned})
        record.save(folder, training)
    result = _result(folder, training)
    if training.state == "diverged":
        error = _diverged(training, folder, settings.lr)
        error.result = result
        raise error
    assert result is not None
    return result


def read_finetune(folder: str | Path) -> FineTune:
    """Result of a fine-tuning folder; of one that diverged, the last good weights.

    Raises:
        BasinscopeError: no fine-tune there, one that is not finished, or one without weights.
    """
    training = record.read(Path(folder))
    if training.state == "running":
        raise BasinscopeError(
            f"the fine-tune in {folder} is not finished",
            "a fine-tune that has ended",
            "run the same line again: it resumes",
        )
    result = _result(Path(folder), training)
    if result is None:
        raise BasinscopeError(
            f"the fine-tune in {folder} diverged before a checkpoint ({training.diverged})",
            "a fine-tune with a good checkpoint",
            "a lower learning rate, in another folder",
        )
    return result


def checked(
    data: Rows | None, *, run: Path, recipe: str | None, method: str, seed: int,
    stay_within: Certificate | None, target: float | None, lora_r: int = 16, lora_alpha: int = 32,
    lora_targets: str | list[str] = "all-linear", **settings: Any,
) -> tuple[Settings, Material | None]:  # fmt: skip
    """Refuse what is wrong without a model; give the settings, and what the data hold."""
    if method not in METHODS:
        raise BasinscopeError(f"method {method!r}", ", ".join(METHODS), nearest(method, METHODS))
    if recipe is not None and recipe not in RECIPES:
        raise BasinscopeError(f"recipe {recipe!r}", ", ".join(RECIPES), nearest(recipe, RECIPES))
    if data is None and recipe is None:
        raise BasinscopeError(
            "neither data nor a recipe",
            f"a file, a hub id, or one of the recipes {', '.join(RECIPES)}",
            "--data FILE or --recipe safety",
        )
    if not 0 <= seed < 2**63:
        raise BasinscopeError(f"seed={seed}", "0 <= seed < 2**63", "0")
    if stay_within is None and target is not None:
        raise BasinscopeError(
            f"target={target} without stay_within", "both or none", "leave it out"
        )
    if method == "lora":
        lora.check(lora_r, lora_alpha, lora_targets)
        if stay_within is not None:
            raise BasinscopeError(
                f"stay_within with method {method!r}",
                "full; an adapter's displacement is a product, whose ball is not convex",
                "method='full'",
            )
    defaults = RECIPES[recipe].settings if recipe else Settings()
    record.check_folder(run)
    return resolve(defaults, method, **settings), None if data is None else given_data(data)


def _engine(word: Model, run: Path) -> TransformersEngine:
    model = engine_of(word, dtype=record.dtype_of(run) or "auto")
    if not isinstance(model, TransformersEngine) or not hasattr(model.module, "config"):
        raise BasinscopeError(
            f"{model.source!r} is not a language model of transformers with its tokenizer",
            "what bs.load makes of an alias, a hub id, a folder or a .gguf file",
            "smollm2",
        )
    if selection.added(model.module):
        raise BasinscopeError(f"{model.source!r} carries adapters", "a bare model", "merge them")
    return model


def _copy(engine: Engine) -> nn.Module:
    """Float32 copy of the module, of which the parameters that the engine perturbs are trained."""
    module = copy.deepcopy(engine.module)
    for name, parameter in selection.checkpoint_parameters(module).items():
        parameter.requires_grad_(name in engine.shapes)
    cast(module, torch.float32)
    config: Any = module.config
    config.dtype = torch.float32
    return module


def _fitting(
    engine: TransformersEngine, learnt: Material, most: int
) -> tuple[list[Chat], list[Example], list[str]]:
    """What fits into the model's context, and what is to be said of the rest."""
    context = getattr(engine.module.config, "max_position_embeddings", None)
    most = min(most, context) if isinstance(context, int) else most
    fit, rows, dropped = fitting(engine.tokens, learnt.chats, engine.ends, most)
    notes = list(learnt.notes)
    if dropped:
        notes.append(
            f"{len(dropped)} of {len(learnt.chats)} examples left out: longer than {most} tokens "
            f"({dropped[0].where}{', ...' if len(dropped) > 1 else ''})"
        )
    return fit, rows, notes


def _train(
    engine: TransformersEngine,
    module: Any,
    plan: Plan,
    folder: Path,
    training: TrainingRecord,
    progress: Progress | None,
) -> TrainingRecord:
    """Train from the last checkpoint on, write the result, and the record last of all."""
    from basinscope.finetuning.trainer import NotFiniteError, train

    for place in (folder, folder / "checkpoints"):
        files.remove_drafts(place)
    ready = [path for path in checkpoint.found(folder) if checkpoint.can_resume(path)]
    start = ready[-1] if ready else None
    done = checkpoint.step_of(start) if start else 0
    if progress is not None:
        from basinscope.finetuning.trainer import estimate_s

        minutes = estimate_s(module, plan) * (plan.steps - done) / 60
        line = f"{plan}, about {max(minutes, 0.1):.1f} min on {_threads(module)}"
        progress(done, plan.steps, line)

    def report(step: int, loss: float) -> None:
        points.send({"loss": loss}, step)
        if progress is not None:
            progress(step, plan.steps, f"training (loss {loss:.2f})")

    good, why = plan.steps, ""
    try:
        losses = train(module, engine.tokenizer, plan, folder, resume=start, report=report)
    except NotFiniteError as error:
        losses = error.losses
        why = f"{error.what} not finite after {error.step} of {plan.steps} steps"
        # weights are good if a finite loss and gradient were taken at them
        for path in checkpoint.found(folder):
            if checkpoint.step_of(path) >= error.step:
                shutil.rmtree(path)
        left = checkpoint.found(folder)
        good = checkpoint.step_of(left[-1]) if left else 0
        if left:
            checkpoint.read_weights(left[-1], module)
    displacement = None
    if good:
        checkpoint.write_result(folder, module, engine.tokenizer)
        displacement = _displacement(engine, module)
    ended = training.model_copy(update={
        "state": "diverged" if why else "done", "steps": good, "losses": tuple(losses),
        "diverged": why, "displacement": displacement,
    })  # fmt: skip
    record.save(folder, ended)
    return ended


def _displacement(engine: Engine, module: nn.Module) -> float:
    """``||theta' - theta0||`` over the trained parameters, summed in float64."""
    if hasattr(module, "peft_config"):
        return lora.displacement(module)
    trained, total = selection.checkpoint_parameters(module), 0.0
    for name in engine.shapes:
        new, old = (t.detach().reshape(-1) for t in (trained[name], engine.pristine(name)))
        for start, stop in chunks(new.numel()):
            before = old[start:stop].to(new.device).double()  # a Trainer takes a card of its own
            total += float((new[start:stop].double() - before).square().sum())
    return math.sqrt(total)


def _threads(module: nn.Module) -> str:
    device = next(module.parameters()).device
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _result(folder: Path, training: TrainingRecord) -> FineTune | None:
    """Result as the record tells it; None where no weights came out."""
    if training.displacement is None:
        return None
    return FineTune(
        folder=folder,
        model=training.model,
        method=training.spec["method"],
        displacement=training.displacement,
        steps=training.steps,
        losses=training.losses,
        checkpoints=tuple(checkpoint.found(folder)),
        counts=training.counts,
        notes=training.notes,
        diverged=training.diverged,
        guarantee=training.guarantee,
    )


def _diverged(training: TrainingRecord, folder: Path, lr: float) -> DivergedError:
    good = (
        f"{folder} holds the last good checkpoint, of step {training.steps}"
        if training.steps
        else "no good checkpoint had been saved"
    )
    return DivergedError(
        f"training diverged: {training.diverged} ({good})",
        "finite losses, gradients and weights",
        f"a lower learning rate than {lr:g}, more warm-up, or a smaller save_every; in another "
        "folder, or start over with resume=False (--no-resume)",
    )
