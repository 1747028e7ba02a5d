"""The dry run: what a recipe will take, without training, and without a network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.widening import loop, measure, study
from basinscope.widening.loop import Alone, Job
from basinscope.widening.recipe import Recipe
from basinscope.widening.recipe import read as read_recipe
from basinscope.widening.study import Study, StudyRow

TIMED_STEPS = 6
_STATE_BYTES = 16  # float32 weight, gradient, and two moments of AdamW
_COPY_BYTES = 4  # a float32 copy of the weights
_LAYER_BYTES = (
    34  # activations a token, in units of the width, at 2 bytes (arXiv 2205.05198, eq. 2)
)
_LOGIT_BYTES = 10  # a logit: 2 bytes, its float32 copy and the gradient of that
_EVALUATIONS = 9  # of the width's windows, a direction


@dataclass(frozen=True)
class Plan:
    """What a recipe will take.

    Attributes:
        recipe: as it was given.
        parameters: of the model, tied tensors once.
        steps: optimiser steps of a row that costs one pass a step.
        tokens: that such a row sees.
        text_tokens: that there are to train on; None where the text was not read.
        rows: for each row its label, seed, steps, passes a step, and seconds.
        memory_bytes: of one process: weights, gradients, moments, a copy, and activations.
        seconds: of all rows one after another.
        gpu_hours: None without ``hardware`` in the recipe.
        basis: what the seconds rest on.
        notes: what was not looked at.
    """

    recipe: Recipe
    parameters: int
    steps: int
    tokens: int
    text_tokens: int | None
    rows: tuple[dict[str, Any], ...]
    memory_bytes: int
    seconds: float
    gpu_hours: float | None
    basis: str
    notes: tuple[str, ...]

    def text(self) -> str:
        """The plan in words, for a person."""
        recipe, lines = self.recipe, []
        hardware = recipe.hardware
        lines.append(f"{self.parameters:,} parameters, context {recipe.context}")
        lines.append(
            f"{self.tokens:,} tokens a row ({self.tokens / self.parameters:.3g} a parameter): "
            f"{self.steps:,} steps of {recipe.batch * recipe.context:,}"
        )
        if self.text_tokens is not None:
            over = self.tokens / self.text_tokens
            lines.append(f"text: {self.text_tokens:,} tokens, read {over:.2f} times")
        lines.append(f"memory of a process: about {_size(self.memory_bytes)}")
        if hardware is not None and self.memory_bytes > hardware.memory_gb * 1e9:
            lines.append(f"- more than the {hardware.memory_gb:g} GB of the recipe's hardware")
        lines.append("")
        lines.append(f"{'row':<32} {'steps':>9} {'passes':>7} {'time':>10}")
        for row in self.rows:
            label = f"{row['label']} seed {row['seed']}"
            time_ = _time(row["seconds"])
            lines.append(f"{label:<32} {row['steps']:>9,} {row['passes']:>7g} {time_:>10}")
        total = f"all rows: about {_time(self.seconds)}"
        if self.gpu_hours is not None:
            total += f", {self.gpu_hours:,.0f} GPU-hours"
        lines += ["", f"{total} ({self.basis})"]
        return "\n".join(lines + [f"- {note}" for note in self.notes])

    def summary(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            "parameters": self.parameters,
            "steps": self.steps,
            "tokens": self.tokens,
            "tokens_of_step": self.recipe.batch * self.recipe.context,
            "text_tokens": self.text_tokens,
            "rows": list(self.rows),
            "memory_bytes": self.memory_bytes,
            "seconds": self.seconds,
            "gpu_hours": self.gpu_hours,
            "basis": self.basis,
            "notes": list(self.notes),
        }


def plan(given: Any, data_dir: str | Path | None = None, only: Sequence[str] | None = None) -> Plan:
    """Reckon what the rows of a recipe will take.

    With ``hardware`` in the recipe from its floating-point operations, and nothing is read; without
    it by timing a few steps of every method on this machine.

    Args:
        given: as `basinscope.widen` takes it.
        data_dir: as there.
        only: as there.

    Raises:
        BasinscopeError: a bad recipe, a row that it does not have; without ``hardware``, bad or
            small texts.
    """
    recipe, beside = read_recipe(given)
    rows = study.select(study.rows(recipe), only)
    study.check_methods(recipe)
    if recipe.hardware is None:
        return _timed(study.prepare(recipe, data_dir, beside), rows)
    vocabulary = recipe.tokenizer if isinstance(recipe.tokenizer, int) else recipe.vocabulary
    if vocabulary is None:
        raise BasinscopeError(
            f"a dry run with the tokenizer {recipe.tokenizer!r}, which is not loaded for it",
            "a recipe that says its vocabulary",
            "add a line such as vocabulary: 50257",
        )
    return _reckoned(recipe, rows, vocabulary)


def _reckoned(recipe: Recipe, rows: tuple[StudyRow, ...], vocabulary: int) -> Plan:
    hardware = recipe.hardware
    assert hardware is not None
    parameters = recipe.model.parameters(vocabulary, recipe.context)
    steps = study.steps_of(recipe, parameters)
    rate = hardware.flops * hardware.utilisation * hardware.gpus
    described = []
    for row in rows:
        passes = study.passes(row, recipe)
        own = study.equal_steps(recipe, row, steps, pace=passes)
        tokens = own * recipe.batch * recipe.context
        flops = tokens * passes * flops_of_token(recipe, parameters)
        if recipe.finetune is not None:
            tuned = recipe.finetune.steps * recipe.finetune.batch * recipe.context
            flops += tuned * flops_of_token(recipe, parameters)
        described.append(_row(row, own, passes, flops / rate))
    seconds = sum(row["seconds"] for row in described)
    micro = max(1, recipe.batch // (recipe.accumulate * hardware.gpus))
    notes = ["measuring is not counted"]
    if recipe.text.about_tokens is not None:
        over = steps * recipe.batch * recipe.context / recipe.text.about_tokens
        notes.append(f"about {over:.2g} times over the text (the recipe's about_tokens)")
        if over > recipe.repeat:
            raise study.too_small("the text", recipe.text.about_tokens, over, recipe.repeat)
    return Plan(
        recipe=recipe,
        parameters=parameters,
        steps=steps,
        tokens=steps * recipe.batch * recipe.context,
        text_tokens=None,
        rows=tuple(described),
        memory_bytes=memory_bytes(recipe, parameters, vocabulary, micro),
        seconds=seconds,
        gpu_hours=seconds * hardware.gpus / 3600,
        basis=f"{hardware.gpus} GPUs of {hardware.flops:.3g} FLOP/s at "
        f"{100 * hardware.utilisation:g}% utilisation",
        notes=("the text and the tokenizer were not loaded", *notes),
    )


def _timed(ready: Study, rows: tuple[StudyRow, ...]) -> Plan:
    recipe = ready.recipe
    look_s = _evaluation_s(ready)
    first, pace = study.rows(recipe)[0], {}
    for row in (first, *rows):
        if row.label not in pace:
            pace[row.label] = step_s(ready, row)
    reference = pace[first.label]
    described = []
    for row in rows:
        passes = study.passes(row, recipe)
        own = study.equal_steps(recipe, row, ready.steps, pace[row.label] / reference)
        study.check_size(row.name, ready.pretraining, recipe, own, recipe.batch, recipe.repeat)
        seconds = own * pace[row.label] + look_s
        if recipe.finetune is not None:
            seconds += recipe.finetune.steps * reference * recipe.finetune.batch / recipe.batch
        described.append(_row(row, own, passes, seconds))
    threads = torch.get_num_threads()
    return Plan(
        recipe=recipe,
        parameters=ready.parameters,
        steps=ready.steps,
        tokens=ready.steps * recipe.batch * recipe.context,
        text_tokens=len(ready.pretraining.train),
        rows=tuple(described),
        memory_bytes=memory_bytes(
            recipe, ready.parameters, len(ready.tokenizer), recipe.batch // recipe.accumulate
        ),
        seconds=sum(row["seconds"] for row in described),
        gpu_hours=None,
        basis=f"{TIMED_STEPS} timed steps of each method on {threads} "
        f"thread{'s' if threads > 1 else ''}",
        notes=(),
    )


def step_s(ready: Study, row: StudyRow) -> float:
    """Median seconds of a step of a row on this machine's CPU, of a model that is thrown away."""
    recipe = ready.recipe
    module = ready.module(0)
    method = study.build(
        row.entry, recipe, module,
        betas=recipe.betas, seed=0, steps=TIMED_STEPS, backward=torch.Tensor.backward,
    )  # fmt: skip
    job = Job(
        tokens=ready.pretraining.train, context=recipe.context, batch=recipe.batch,
        accumulate=recipe.accumulate, steps=TIMED_STEPS, lr=recipe.lr, lr_schedule="constant",
        warmup=0.0, clip=recipe.clip, compute=recipe.compute, seed=0, every=TIMED_STEPS, marks={},
    )  # fmt: skip
    return statistics.median(loop.train(module, module, method, job, Alone(), None).step_s[1:])


def _evaluation_s(ready: Study) -> float:
    """Seconds of all measuring of a row."""
    recipe = ready.recipe
    module = ready.module(0)
    cast = loop.autocast(torch.device("cpu"), recipe.compute)
    seen = measure.windows(ready.pretraining, recipe.context, recipe.measure.windows)
    engine = Engine(module, source="timing")
    took = []
    for _ in range(3):
        start = time.perf_counter()
        measure.evaluate(engine.module, seen, cast)
        took.append(time.perf_counter() - start)
    times = recipe.measure
    looks = _EVALUATIONS * (times.draws + times.over_draws * len(times.over_training))
    looks += (1 + len(times.over_training)) * times.validation // times.windows
    looks += 2 * recipe.finetune.points if recipe.finetune is not None else 0
    return statistics.median(took) * looks


def flops_of_token(recipe: Recipe, parameters: int) -> float:
    """Floating-point operations of a token's forward and backward pass.

    6 N + 12 layers x width x context: arXiv 2204.02311, appendix B.
    """
    return 6.0 * parameters + 12.0 * recipe.model.layers * recipe.model.width * recipe.context


def memory_bytes(recipe: Recipe, parameters: int, vocabulary: int, windows: int) -> int:
    """Bytes of one process with ``windows`` in a micro-batch: states and activations.

    States are 16 bytes a parameter and 4 for each copy that a method keeps (the clean weights of
    GO, an average). Activations are 34 bytes a token, layer and unit of width in bfloat16, the
    scores of eager attention, and the logits.
    """
    copies = max((study.copies(row) for row in study.rows(recipe)), default=0)
    states = parameters * (_STATE_BYTES + _COPY_BYTES * copies)
    shape, tokens = recipe.model, windows * recipe.context
    of_layer = _LAYER_BYTES * shape.width
    if recipe.attention == "eager":
        of_layer += 5 * shape.heads * recipe.context
    wide = 2 if recipe.compute == "float32" else 1
    return states + tokens * (wide * shape.layers * of_layer + _LOGIT_BYTES * vocabulary)


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _row(row: StudyRow, steps: int, passes: float, seconds: float) -> dict[str, Any]:
    return {
        "label": row.label, "seed": row.seed, "steps": steps, "passes": passes, "seconds": seconds,
    }  # fmt: skip
