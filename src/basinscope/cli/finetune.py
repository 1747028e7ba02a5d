"""The command that fine-tunes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from basinscope.cli.app import answer, app, progress, say
from basinscope.cli.options import MODEL, OUTPUT, ModelOptions, Output, pairs
from basinscope.errors import BasinscopeError

SETTINGS: dict[str, Callable[[str], Any]] = {
    "accumulate": int,
    "warmup": float,
    "weight_decay": float,
    "save_every": int,
    "max_tokens": int,
    "compute": str,
    "lora_r": int,
    "lora_alpha": int,
    "lora_targets": str,
}
"""Arguments of `basinscope.finetune` that ``--set`` takes."""

if TYPE_CHECKING:
    from basinscope.finetuning import FineTune


@app.command
def finetune(
    model: str,
    /,
    *,
    data: str | None = None,
    recipe: str | None = None,
    method: Literal["full", "lora"] = "full",
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    seed: int = 0,
    limit: int | None = None,
    stay_within: Path | None = None,
    target: float | None = None,
    data_dir: Path | None = None,
    resume: Annotated[bool, Parameter(negative="--no-resume")] = True,
    loaded: ModelOptions = MODEL,
    output: Output = OUTPUT,
) -> None:
    """Fine-tune on chats or instructions; the result loads like any model and is a direction.

    Running the same line again resumes it. The run folder holds the model, its checkpoints and
    training.json.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        data: a .json, .jsonl or .csv file or a hub id; default the recipe's own.
        recipe: safety, benign, normal or adversarial.
        method: all weights, or an adapter.
        epochs: passes over the data; default 1.
        steps: optimiser steps, instead of epochs.
        batch: examples in a forward pass; default 8.
        lr: peak learning rate; default 3e-5, for LoRA ten times that.
        set_: KEY=VALUE, repeats: any other setting of basinscope.finetune, which are accumulate
            (forward passes in an optimiser step; default 1), warmup (steps or, below 1, their share
            of all; 0), weight_decay (of matrices; 0), save_every (steps between checkpoints; a
            quarter of all), max_tokens (longer examples are left out; 1024), compute (bfloat16 or
            float32 forward passes), lora_r (rank of the adapter; 16), lora_alpha (its scale, over
            the rank; 32) and lora_targets (layers that get one, by commas; all-linear).
        seed: names the order of the examples and a recipe's choices.
        limit: most examples.
        stay_within: run folder of a certificate of this model: the weights are kept in its ball.
        target: level of the smoothed score to be kept certified; default the certificate's.
        data_dir: folder with advbench/ and instruct/ for the recipes; default $BASINSCOPE_DATA,
            else the Hugging Face hub.
        resume: go on from the last checkpoint; --no-resume starts over.
    """
    import basinscope as bs
    from basinscope.certify.sampling import read_certificate
    from basinscope.finetuning.record import dtype_of
    from basinscope.finetuning.run import checked

    chosen = pairs("--set", set_, SETTINGS)
    lora = [key for key in chosen if key.startswith("lora_")]
    if lora and method != "lora":
        raise BasinscopeError(
            f"{' and '.join(lora)} with --method {method}",
            "with --method lora",
            f"leave {' and '.join(lora)} out",
        )
    folder = output.folder(model, "finetune")
    settings: dict[str, Any] = {
        "recipe": recipe, "method": method, "epochs": epochs, "steps": steps, "batch": batch,
        "lr": lr, "seed": seed, "limit": limit, "target": target,
        "stay_within": None if stay_within is None else read_certificate(stay_within), **chosen,
    }  # fmt: skip
    checked(data, run=folder, **settings)
    engine = loaded.engine(model, dtype=dtype_of(folder) or "")
    with progress("", "steps", loaded.note(engine), output.track, folder) as report:
        tuned = bs.finetune(
            engine, data, run=folder, data_dir=data_dir, resume=resume, progress=report, **settings
        )
    if not answer(tuned.summary, output.json):
        show(tuned)


def show(tuned: FineTune) -> None:
    """Print what a fine-tune came to."""
    say(f"{tuned.method} fine-tune of {tuned.model}: {tuned.steps} steps, {tuned.folder}")
    say("data: " + ", ".join(f"{n:,} {name}" for name, n in tuned.counts.items() if n))
    say(f"displacement {tuned.displacement:.4g}, loss {tuned.losses[0]:.3f} -> "
          f"{tuned.losses[-1]:.3f}")  # fmt: skip
    if tuned.guarantee is not None:
        held = tuned.guarantee
        say(f"guarantee: {held.task} {held.word}: {held.reason}")
        say(f"- confidence {held.confidence:g}, sigma {held.sigma:g}, {held.geometry}")
        for text in held.does_not_cover:
            say(f"- not covered: {text}")
    for note in tuned.notes:
        say(f"- {note}")
    say(f"direction: {tuned.direction.label}")
