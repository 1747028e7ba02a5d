"""Directions toward other models of the same shape: one checkpoint, or a merge of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from basinscope.directions.displaced import Displaced, Moves
from basinscope.errors import BasinscopeError
from basinscope.weights.checkpoints import opened
from basinscope.weights.parts import Device, Parts, Weights


@dataclass(frozen=True)
class Toward(Displaced):
    """From the model toward another checkpoint: Delta = theta' - theta0 (arXiv 2505.17646, SFT).

    Args:
        model: folder, hub id, alias, ``.gguf`` file, or one ``.safetensors`` file. Names and
            shapes must be the model's; float32, bfloat16, float16 and float64 are read as they
            are stored.

    *Guarantee*: at ``step = displacement / sqrt(d)`` each live weight is theta' up to float32
    rounding, 2^-20 max(|theta0|, |theta'|), then rounded once to the model's dtype. So where model
    and checkpoint are bfloat16, it is theta' bit for bit wherever |theta'| > 2^-10 |theta0|.
    *Cost*: reads the checkpoint once when fitted and once in each ``at``; memory of a few chunks.
    """

    model: str
    share_of_theta0 = 1.0

    def __post_init__(self) -> None:
        """Take a path for a string."""
        object.__setattr__(self, "model", str(self.model))

    @property
    def label(self) -> str:
        """``to:MODEL``."""
        return f"to:{self.model}"

    def _read(self, engine: Weights) -> Moves:
        return Checkpoint(self.label, self.model, engine)


@dataclass(frozen=True)
class Merge(Displaced):
    """From the model toward a linear merge: Delta = sum_i w_i (theta_i - theta0).

    With weights that sum to 1 the other model is the weighted average (a model soup, arXiv
    2203.05482); with others it is task arithmetic (arXiv 2212.04089).

    Args:
        models: at least two, each as in `Toward`.
        weights: one for each model, finite; None gives each the same share of 1.
    """

    models: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def __init__(self, models: Sequence[str], weights: Sequence[float] | None = None) -> None:
        object.__setattr__(self, "models", tuple(str(m) for m in models))
        shares = None if weights is None else tuple(float(w) for w in weights)
        object.__setattr__(self, "weights", shares)
        object.__setattr__(self, "share_of_theta0", sum(shares or (1.0,)))
        if len(self.models) < 2:
            raise BasinscopeError(
                f"a merge of {list(self.models)}", "at least two models", "to:MODEL"
            )
        if shares is not None and (
            len(shares) != len(self.models) or not all(math.isfinite(w) for w in shares)
        ):
            raise BasinscopeError(
                f"weights {list(shares)} of {len(self.models)} models",
                "one finite number for each",
                "leave the weights out",
            )

    @property
    def label(self) -> str:
        """``merge:A+B``, or ``merge:0.3*A+0.7*B``."""
        if self.weights is None:
            return f"merge:{'+'.join(self.models)}"
        return "merge:" + "+".join(
            f"{w!r}*{m}" for w, m in zip(self.weights, self.models, strict=True)
        )

    def _read(self, engine: Weights) -> Moves:
        shares = self.weights or (1 / len(self.models),) * len(self.models)
        return _Sum([Checkpoint(self.label, m, engine) for m in self.models], shares)


class Checkpoint:
    """Displacement to a checkpoint.

    Args:
        label: says in messages who asks.
        model: as in `Toward`.
        engine: the engine that it must fit.
    """

    def __init__(self, label: str, model: str, engine: Weights) -> None:
        self.shelf, self.names = opened(label, model, engine)

    def parts(self, engine: Weights, name: str, device: Device) -> Parts:
        """Theta' - theta0 of one parameter."""
        key, theta = self.names[name], engine.pristine(name).reshape(-1)
        return lambda a, b: difference(self.shelf.read(key, a, b), theta[a:b].to(device))

    def identity(self) -> str:
        """Hash of the checkpoint's tensors."""
        return f"toward/1 {self.shelf.sha256(self.names)}"


class _Sum:
    def __init__(self, ends: Sequence[Checkpoint], weights: Sequence[float]) -> None:
        self.ends, self.weights = ends, weights

    def parts(self, engine: Weights, name: str, device: Device) -> Parts:
        return weighted([end.parts(engine, name, device) for end in self.ends], self.weights)

    def identity(self) -> str:
        each = [f"{w!r} {e.identity()}" for e, w in zip(self.ends, self.weights, strict=True)]
        return f"merge/1 {' '.join(each)}"


def weighted(terms: Sequence[Parts], factors: Sequence[float]) -> Parts:
    """Sum of terms times factors, at least one."""

    def parts(start: int, stop: int) -> torch.Tensor:
        total = terms[0](start, stop).mul_(factors[0])
        for term, factor in zip(terms[1:], factors[1:], strict=True):
            total.add_(term(start, stop), alpha=factor)
        return total

    return parts


def difference(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """New - old in float32 (rounded from float64 where one of them is); may use new's memory."""
    wide = torch.float64 if torch.float64 in (new.dtype, old.dtype) else torch.float32
    return new.to(device=old.device, dtype=wide).sub_(old).to(torch.float32)
