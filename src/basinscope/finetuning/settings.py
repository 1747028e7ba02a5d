"""Settings of a fine-tune, and the plan that they make of some data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import nn

from basinscope.errors import BasinscopeError
from basinscope.finetuning import examples
from basinscope.finetuning.examples import Example

AfterStep = Callable[[nn.Module], object]
OptimizerChoice = tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]

LORA_RATE: Final = 10.0  # the best rate is about ten times that of full training (Schulman 2025)


@dataclass(frozen=True)
class Settings:
    """Defaults of a fine-tune; ``steps`` counts optimiser steps and goes before ``epochs``.

    Weight decay is 0: shrinking every weight would mix a displacement that has nothing to do with
    the data into the direction. LoRA takes `LORA_RATE` times the learning rate.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch: int = 8
    accumulate: int = 1
    lr: float = 3e-5
    warmup: float = 0.0  # steps, or below 1 their share of all
    weight_decay: float = 0.0
    save_every: int | None = None  # steps; default a quarter of all
    limit: int | None = None
    max_tokens: int = 1024
    compute: str = "bfloat16"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("steps", "batch", "accumulate", "save_every", "limit", "max_tokens"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise BasinscopeError(f"{name}={count}", "at least 1", f"leave {name} out")
        for name in ("epochs", "lr"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise BasinscopeError(
                    f"{name}={getattr(self, name)}", "finite, above 0", f"leave {name} out"
                )
        for name in ("warmup", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BasinscopeError(
                    f"{name}={getattr(self, name)}", "finite, at least 0", f"leave {name} out"
                )
        if self.compute not in ("bfloat16", "float32"):
            raise BasinscopeError(f"compute={self.compute!r}", "bfloat16, float32", "float32")


def resolve(defaults: Settings, method: str, **given: Any) -> Settings:
    """Defaults with what was given (not None) instead.

    Raises:
        BasinscopeError: a value that is not allowed; both epochs and steps.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if {"epochs", "steps"} <= given.keys():
        raise BasinscopeError(
            f"epochs={given['epochs']} and steps={given['steps']}", "only one", "leave one out"
        )
    if "epochs" in given:
        given["steps"] = None
    if method == "lora":
        given.setdefault("lr", defaults.lr * LORA_RATE)
    return replace(defaults, **given)


@dataclass(frozen=True)
class Plan:
    """Everything that the training loop needs to know.

    The learning rate decays linearly to 0 after ``warmup`` steps; gradients are clipped to norm 1.
    """

    settings: Settings
    rows: Sequence[Example]  # each once
    examples: Sequence[Example]  # in the order in which they are learnt
    steps: int
    warmup: int
    save_every: int
    seed: int
    optimizer: OptimizerChoice | None
    after_step: AfterStep | None

    def __str__(self) -> str:
        """One line for the user."""
        size = self.settings.batch * self.settings.accumulate
        passes = len(self.examples) / len(self.rows)
        return (
            f"{self.steps} steps of {min(size, len(self.examples))} examples: "
            f"{passes:.3g} times over {len(self.rows):,}"
        )

    def spec(self) -> dict[str, Any]:
        """What of it determines the weights that come out."""
        chosen: list[Any] = []
        if self.optimizer is not None:
            made, options = self.optimizer
            chosen = [word(made), {k: word(v) for k, v in sorted(options.items())}]
        own = self.settings
        return {
            "data": examples.digest(self.rows),
            "steps": self.steps,
            "examples_seen": len(self.examples),
            "batch": own.batch,
            "accumulate": own.accumulate,
            "lr": own.lr,
            "warmup": self.warmup,
            "weight_decay": own.weight_decay,
            "seed": self.seed,
            "compute": own.compute,
            "optimizer": chosen,
            "after_step": None if self.after_step is None else word(self.after_step),
        }


def plan(
    settings: Settings,
    rows: Sequence[Example],
    seed: int,
    optimizer: OptimizerChoice | None,
    after_step: AfterStep | None,
) -> Plan:
    """Plan for some examples."""
    size = settings.batch * settings.accumulate
    total = settings.steps * size if settings.steps else max(1, round(settings.epochs * len(rows)))
    steps = -(-total // size)
    warmup = settings.warmup if settings.warmup >= 1 else math.ceil(settings.warmup * steps)
    return Plan(
        settings=settings,
        rows=rows,
        examples=[rows[i] for i in examples.order(len(rows), total, seed)],
        steps=steps,
        warmup=int(warmup),
        save_every=settings.save_every or -(-steps // 4),
        seed=seed,
        optimizer=optimizer,
        after_step=after_step,
    )


def word(value: Any) -> str:
    """Text that names a setting alike in every process: no address of an object stands in it."""
    if value is None or isinstance(value, (bool, int, float, str, tuple, list)):
        return repr(value)
    own = getattr(value, "identity", None)  # what a hook says of itself
    if isinstance(own, str):
        return own
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
