"""The training loop: a model of Hugging Face, a method, windows of tokens, and Accelerate.

Where a run stands determines what comes next: the windows of a step are a function of (seed, step),
the learning rate of the step alone, and everything random in a method is in its state. So a run
that was killed goes on, on the CPU, to the bytes of one that was not.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from basinscope import files
from basinscope.errors import BasinscopeError
from basinscope.optim.methods import Method
from basinscope.runs import header
from basinscope.weights import selection
from basinscope.widening.tokens import batch, order

TENSORS, REST = "state.safetensors", "state.json"
_WEIGHT, _STATE = "weight.", "method."


@dataclass(frozen=True)
class Job:
    """One stage of training of one row.

    Attributes:
        tokens: int32, all training tokens.
        context: tokens of a window.
        batch: windows of a step, over all processes.
        accumulate: micro-batches of a step.
        steps: optimiser steps in all.
        lr: peak learning rate.
        lr_schedule: word of `basinscope.widening.recipe.check_schedule`.
        warmup: steps, or below 1 their share.
        clip: greatest norm of the gradient, or None.
        compute: ``float32`` or ``bfloat16`` (autocast).
        seed: names the order of the windows.
        every: steps between two checkpoints.
        marks: step -> what is measured after it.
    """

    tokens: torch.Tensor
    context: int
    batch: int
    accumulate: int
    steps: int
    lr: float
    lr_schedule: str
    warmup: float
    clip: float | None
    compute: str
    seed: int
    every: int
    marks: Mapping[int, Callable[[int], dict[str, Any]]]


@dataclass(frozen=True)
class Alone:
    """What the loop asks of an Accelerator, for one process that keeps nothing."""

    num_processes: int = 1
    process_index: int = 0


@dataclass
class Progressed:
    """How far a stage is, and what it has seen: everything that a checkpoint keeps beside tensors.

    Attributes:
        step: optimiser steps done.
        losses: mean training loss between two checkpoints' worth of steps (nats a token).
        records: what was measured at the marks.
        seconds: spent training, without measuring.
        step_s: seconds of single steps; of this process only.
        stopped: why training ended early; empty where it did not.
    """

    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    step_s: list[float] = field(default_factory=list)
    stopped: str = ""


LOSSES: Final = 100
"""Points of the training-loss curve that are kept."""


def factor(job: Job, step: int) -> float:
    """Learning rate of a step as a share of the peak."""
    warmup = job.warmup if job.warmup >= 1 else job.warmup * job.steps
    up = min(1.0, (step + 1) / (warmup + 1)) if warmup > 0 else 1.0
    done = (step - warmup) / max(1.0, job.steps - warmup) if step > warmup else 0.0
    kind, _, share = job.lr_schedule.partition(":")
    if kind == "linear":
        return up * (1.0 - done)
    if kind == "cosine":
        return up * 0.5 * (1.0 + math.cos(math.pi * done))
    if kind == "wsd":
        left = (job.steps - step) / (float(share) * job.steps)
        return up * min(1.0, left)
    return up


def autocast(device: torch.device, compute: str) -> Callable[[], AbstractContextManager[Any]]:
    """Context of a forward pass."""
    if compute == "bfloat16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def train(
    module: nn.Module,
    wrapped: nn.Module,
    method: Method,
    job: Job,
    accelerator: Any,
    folder: Path | None,
    report: Callable[[int, float], None] | None = None,
) -> Progressed:
    """Train in place, from the checkpoint in ``folder`` if there is one.

    Args:
        module: the model; its live weights end as the last step leaves them.
        wrapped: the same model as Accelerate has prepared it.
        method: steps it.
        job: what to do.
        accelerator: of Hugging Face.
        folder: for checkpoints; None keeps none.
        report: called with the steps done and the last loss.

    Returns:
        What was seen; ``stopped`` says why it ended early (a loss that was not finite).
    """
    device = next(module.parameters()).device
    cast = autocast(device, job.compute)
    done = _resumed(folder, module, method) if folder is not None else None
    done = Progressed() if done is None else done
    world, rank = accelerator.num_processes, accelerator.process_index
    check_batch(job.batch, job.accumulate, world)
    module.train()
    every = max(1, job.steps // LOSSES)
    while done.step < job.steps and not done.stopped:
        start = time.perf_counter()
        for group in method.optimizer.param_groups:
            group["lr"] = job.lr * factor(job, done.step)
        rows = windows_of(job, done.step, rank, world)
        micro = rows.to(device).chunk(max(job.accumulate, method.pieces))
        losses = [
            _loss(wrapped, part, cast, accelerator, last=i == len(micro) - 1)
            for i, part in enumerate(micro)
        ]
        seen = method.step(losses, job.clip)
        if world > 1:
            seen = float(accelerator.reduce(torch.tensor(seen, device=device), "mean"))
        done.step += 1
        took = time.perf_counter() - start
        done.seconds += took
        done.step_s.append(took)
        if not math.isfinite(seen):
            done.stopped = f"the loss was {seen} at step {done.step} of {job.steps}"
            break
        if done.step % every == 0 or done.step == job.steps:
            done.losses.append([done.step, seen])
        if done.step in job.marks:
            with method.evaluated():
                done.records.append(job.marks[done.step](done.step))
            module.train()  # whatever measuring did
        if report is not None:
            report(done.step, seen)
        if folder is not None and done.step % job.every == 0 and done.step < job.steps:
            if accelerator.is_main_process:
                save(folder, module, method, done)
            accelerator.wait_for_everyone()
    return done


def check_batch(batch: int, accumulate: int, world: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        BasinscopeError: it is no multiple of processes times micro-batches.
    """
    if batch % (world * accumulate):
        raise BasinscopeError(
            f"batch {batch} with accumulate {accumulate} on {world} processes",
            "a batch that is a multiple of both together",
            f"a batch of {accumulate * world}",
        )


def windows_of(job: Job, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
    """Windows of one process in a step, counted from 0."""
    windows = (len(job.tokens) - 1) // job.context
    chosen = order(windows, step * job.batch, job.batch, job.seed)
    return batch(job.tokens, chosen.tolist(), job.context)[rank::world]


def _loss(
    wrapped: nn.Module,
    rows: torch.Tensor,
    cast: Callable[[], AbstractContextManager[Any]],
    accelerator: Any,
    *,
    last: bool,
) -> Callable[[], torch.Tensor]:
    """Forward pass of one micro-batch; gradients are exchanged after the last one of a step."""

    def forward() -> torch.Tensor:
        alone = accelerator.num_processes == 1
        with nullcontext() if last or alone else accelerator.no_sync(wrapped), cast():
            logits = wrapped(input_ids=rows[:, :-1]).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    return forward


def save(folder: Path, module: nn.Module, method: Method, done: Progressed) -> None:
    """Write the checkpoint beside its place, and put it there whole."""
    from safetensors.torch import save_file

    target = folder / f"step-{done.step:08d}"
    state = method.state_dict()
    tensors = {f"{_STATE}{n}": _plain(t) for n, t in state["tensors"].items()}
    tensors |= {f"{_WEIGHT}{n}": _plain(t) for n, t in selection.tensors(module).items()}
    rest = {
        "method": state["values"],
        "step": done.step,
        "losses": done.losses,
        "records": done.records,
        "seconds": done.seconds,
    }
    with files.whole_folder(target) as draft:
        save_file(tensors, draft / TENSORS)
        (draft / REST).write_text(json.dumps(rest), encoding="utf-8")
        files.seal(draft)
    for older in _checkpoints(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)


def _resumed(folder: Path, module: nn.Module, method: Method) -> Progressed | None:
    """State of the newest checkpoint, put into model and method; None where there is none."""
    from safetensors.torch import load_file

    files.remove_drafts(folder)
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    try:
        rest = files.read_json(checkpoints[-1] / REST)
        header.check_format(checkpoints[-1] / REST, rest)
        files.check_seal(checkpoints[-1])
        tensors = load_file(files.ordinary(checkpoints[-1] / TENSORS, None))
        live = selection.tensors(module)
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(tensors[f"{_WEIGHT}{name}"])
        state = {n.removeprefix(_STATE): t for n, t in tensors.items() if n.startswith(_STATE)}
        method.load_state_dict({"tensors": state, "values": rest["method"]})
        return Progressed(rest["step"], rest["losses"], rest["records"], rest["seconds"])
    except BasinscopeError:
        raise
    except Exception as error:  # whatever the file was cut to
        raise BasinscopeError(
            f"{checkpoints[-1]} cannot be resumed from ({' '.join(str(error).split())[:160]})",
            "a checkpoint as it was written",
            "delete it: the row then begins at the one before, or anew",
        ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def log_spaced(steps: int, points: int) -> list[int]:
    """About ``points`` different steps from 1 to ``steps``, evenly in their logarithm.

    >>> log_spaced(100, 5)
    [1, 3, 10, 32, 100]
    """
    ratio = steps ** (1 / max(1, points - 1))
    return sorted({min(steps, max(1, round(ratio**i))) for i in range(points)} | {steps})


def shares(steps: int, wanted: tuple[float, ...]) -> Iterator[int]:
    """Steps at the given shares of all, each once."""
    yield from sorted({max(1, round(share * steps)) for share in wanted})
