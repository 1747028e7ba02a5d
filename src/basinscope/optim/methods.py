"""Every way to train that is compared, by name, behind one interface."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from basinscope.errors import BasinscopeError, nearest
from basinscope.optim import sharpness
from basinscope.optim.anti_pgd import AntiPGD
from basinscope.optim.averaging import parse_average
from basinscope.optim.base import BASES, Loss, Method, Setup
from basinscope.optim.dropout import ContinuousDropout
from basinscope.optim.gaussian import check_relative
from basinscope.optim.noisy import Gaussian, TwoPoint
from basinscope.optim.schedules import schedule

__all__ = ["METHODS", "Loss", "Method", "MethodSpec", "build"]

Option = float | str | bool | None


@dataclass(frozen=True)
class Kind:
    """One method: how it is made, and the options it takes.

    ``options`` have the defaults that are shown; ``required`` are numbers that have none.
    """

    make: Callable[..., Method]
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()


_COMMON: dict[str, Any] = {"base": "adamw", "average": None}


def _adamw(setup: Setup, *, base: str, average: str | None, identity: Mapping[str, Any]) -> Method:
    kind, options = setup.base(base)
    return Method(setup, kind(setup.groups(), **options), identity=identity, average=average)


METHODS: dict[str, Kind] = {
    "adamw": Kind(_adamw, "the base optimiser alone"),
    "averaged": Kind(
        _adamw, "the base optimiser, evaluated at an average of its weights",
        {"average": "tail:0.25"},
    ),
    "go": Kind(
        Gaussian, "gradients at theta + noise (arXiv 2505.17646)",
        {"relative": False, "select": None, "schedule": "constant", "antithetic": False},
        ("sigma",),
    ),
    "nso": Kind(
        TwoPoint, "mean gradient at theta + noise and theta - noise (arXiv 2306.08553)",
        {"relative": False, "select": None, "schedule": "constant"}, ("sigma",),
    ),
    "anti-pgd": Kind(
        AntiPGD, "anticorrelated noise on the weights themselves (arXiv 2202.02831)",
        {"select": None, "schedule": "constant"}, ("sigma",),
    ),
    "dropout": Kind(
        ContinuousDropout, "Gaussian factors on activations (Srivastava et al. 2014, section 10)",
        required=("std",),
    ),
    "sam": Kind(sharpness.sam, "sharpness-aware (arXiv 2010.01412)", {"rho": 0.05}),
    "asam": Kind(sharpness.asam, "adaptive SAM (arXiv 2102.11600)", {"rho": 0.5}),
    "looksam": Kind(
        sharpness.look_sam, "a SAM step every k steps (arXiv 2203.02714)",
        {"rho": 0.1, "k": 10.0, "alpha": 0.7},
    ),
    "friendly-sam": Kind(
        sharpness.friendly_sam, "SAM against the batch's own noise (arXiv 2403.12350)",
        {"rho": 0.05, "sigma": 1.0, "lmbda": 0.9},
    ),
    "wsam": Kind(
        sharpness.weighted_sam, "weighted sharpness (arXiv 2305.15817)", {"rho": 0.05, "gamma": 0.9}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class MethodSpec:
    """A method by name, with its options: what stands in a recipe.

    Args:
        name: one of `METHODS`.
        options: those of the method, and ``base`` (a word of `basinscope.optim.base.BASES`) and
            ``average`` (``ema:DECAY`` or ``tail:SHARE``), which all take. Options that equal their
            default are dropped, so that equal methods are equal values.

    Raises:
        BasinscopeError: an unknown method or option, an option of another type, a missing sigma, a
            number that is negative or not finite.

    >>> MethodSpec("go", {"sigma": 0.01, "relative": False}).label
    'go sigma=0.01'
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise BasinscopeError(
                f"method {self.name!r}", ", ".join(METHODS), nearest(self.name, METHODS)
            )
        required, defaults = METHODS[self.name].required, self._defaults()
        allowed = (*required, *defaults)
        for key, value in self.options.items():
            option = f"method {self.name} with {key}={value!r}"
            if key not in allowed:
                raise BasinscopeError(option, ", ".join(allowed), nearest(key, allowed))
            if key != "relative":
                _check(option, defaults.get(key, 0.0), value)
            if key in _WORDS and value is not None:
                _WORDS[key](value)
        for key in required:
            if key not in self.options:
                raise BasinscopeError(
                    f"method {self.name} without {key}",
                    "a value: it has no default",
                    f"{key}=NUMBER",
                )
        unlike_defaults = {
            k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v
            for k, v in sorted(self.options.items())
            if k in required
            or v != defaults[k]
            or isinstance(v, bool) != isinstance(defaults[k], bool)
        }
        object.__setattr__(self, "options", unlike_defaults)

    @classmethod
    def of(cls, entry: str | Mapping[str, Any]) -> MethodSpec:
        """From a recipe: a bare name, or one mapping of ``name`` and options."""
        if isinstance(entry, str):
            return cls(entry)
        if not isinstance(entry.get("name"), str):
            raise BasinscopeError(f"method {dict(entry)!r}", "a name, or `name` and options", "go")
        return cls(entry["name"], {k: v for k, v in entry.items() if k != "name"})

    @property
    def label(self) -> str:
        """Short name for tables."""
        words = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" if v is not True else k
                 for k, v in self.options.items()]  # fmt: skip
        return " ".join([self.name, *words])

    def to_json(self) -> dict[str, Option]:
        """The mapping that `of` takes back."""
        return {"name": self.name, **self.options}

    def complete(self) -> dict[str, Option]:
        """All options, the defaults among them."""
        return {**self._defaults(), **self.options}

    def _defaults(self) -> dict[str, Any]:
        options = METHODS[self.name].options
        return {**options, **{k: v for k, v in _COMMON.items() if k not in options}}


def build(
    spec: MethodSpec,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    seed: int = 0,
    total_steps: int,
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
) -> Method:
    """Make a method for a model.

    Args:
        spec: which method.
        model: what is trained (its parameters that require gradients).
        lr: learning rate; schedules of torch act on the result's ``optimizer``.
        weight_decay: for parameters of two dimensions and more; the others have none.
        betas: of the base optimiser; for SGD the first is the momentum.
        seed: names the randomness of the method; the same run again has the same bits on a CPU.
        total_steps: optimiser steps of the whole run.
        backward: what replaces ``loss.backward()``, such as ``accelerator.backward``.

    Raises:
        BasinscopeError: a method that cannot train this model, or whose package is missing.

    >>> model = nn.Linear(2, 1)
    >>> method = build(MethodSpec("go", {"sigma": 0.1}), model, lr=0.1, total_steps=1)
    >>> method.passes, method.step([lambda: model(torch.ones(2)).square().mean()]) > 0
    (1.0, True)
    """
    setup = Setup(model, lr, weight_decay, (betas[0], betas[1]), seed, total_steps, backward)
    identity = {**spec.to_json(), "lr": lr, "weight_decay": weight_decay, "betas": list(betas)}
    return METHODS[spec.name].make(setup, identity=identity, **spec.complete())


def _base(word: str) -> None:
    if word not in BASES:
        raise BasinscopeError(f"base={word!r}", ", ".join(BASES), nearest(word, BASES))


def _pattern(word: str) -> None:
    try:
        re.compile(word)
    except re.error as error:
        raise BasinscopeError(
            f"select={word!r} ({error})", "a regular expression", "'mlp|norm'"
        ) from error


_WORDS: dict[str, Callable[[Any], Any]] = {
    "average": parse_average,
    "base": _base,
    "relative": check_relative,
    "schedule": lambda word: schedule(word, 1),
    "select": _pattern,
}
"""Checks of the options that are words, or may be."""


def _check(option: str, default: Any, value: Any) -> None:
    """Refuse a value that is not of the kind of its default."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BasinscopeError(option, "true or false", "leave it out")
    elif isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise BasinscopeError(option, "a finite number of at least 0", "0.01")
    elif value is not None and not isinstance(value, str):
        raise BasinscopeError(option, "a string", "put it in quotes")
