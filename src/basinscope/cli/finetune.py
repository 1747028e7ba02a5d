"""The command that fine-tunes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from basinscope.cli.app import app, print_json, progress


@app.command
def finetune(
    model: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    data: str | None = None,
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
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_targets: str = "all-linear",
    data_dir: Path | None = None,
    resume: Annotated[bool, Parameter(negative="--no-resume")] = True,
    dtype: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    json: bool = False,
) -> None:
    """Fine-tune on chats or instructions; the result loads like any model and is a direction.

    Running the same line again resumes it.

    Args:
        model: smollm2, a hub id, a folder, or a .gguf file.
        output: folder for the result, its checkpoints and training.json.
        data: a .json, .jsonl or .csv file or a hub id; default the recipe's own.
        recipe: safety, benign, normal or adversarial.
        method: full or lora.
        epochs: passes over the data; default 1.
        steps: optimiser steps, instead of epochs.
        batch: examples in a forward pass; default 8.
        accumulate: forward passes in an optimiser step; default 1.
        lr: peak learning rate; default 3e-5, for LoRA ten times that.
        warmup: steps of warm-up, or, below 1, their share of all; default 0.
        weight_decay: of matrices; default 0.
        seed: names the order of the examples and a recipe's choices.
        save_every: steps between checkpoints; default a quarter of all.
        limit: most examples.
        max_tokens: longer examples are left out; default 1024.
        compute: bfloat16 (default) or float32 forward passes.
        lora_r: rank of the adapter.
        lora_alpha: its scale, over the rank.
        lora_targets: layers that get an adapter, by commas.
        data_dir: folder with advbench/ and instruct/ for the recipes; default $BASINSCOPE_DATA,
            else the Hugging Face hub.
        resume: go on from the last checkpoint; --no-resume starts over.
        dtype: precision of the weights it begins with: bfloat16 (default), float32 or float16.
        device: auto, cpu, cuda, cuda:N.
        trust_remote_code: let a hub checkpoint run its own code.
        json: print one JSON object instead of the summary.
    """
    import basinscope as bs

    with progress(unit="steps") as report:
        found = bs.finetune(
            model, data, output=output, recipe=recipe, method=method, epochs=epochs, steps=steps,
            batch=batch, accumulate=accumulate, lr=lr, warmup=warmup, weight_decay=weight_decay,
            seed=seed, save_every=save_every, limit=limit, max_tokens=max_tokens, compute=compute,
            lora_r=lora_r, lora_alpha=lora_alpha, lora_targets=lora_targets, data_dir=data_dir,
            resume=resume, dtype=dtype, device=device, trust_remote_code=trust_remote_code,
            progress=report,
        )  # fmt: skip
    if json:
        print_json(found.summary())
        return
    print(f"{found.method} fine-tune of {model}: {found.steps} steps, {found.folder}")
    print(f"displacement {found.displacement:.4g}, loss {found.losses[0]:.3f} -> "
          f"{found.losses[-1]:.3f}")  # fmt: skip
    for note in found.notes:
        print(f"- {note}")
    print(f"direction: {found.direction.label}")
