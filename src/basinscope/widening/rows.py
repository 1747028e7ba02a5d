"""What a study keeps of a row, a line for each field (docs/how-to/widen.md explains them)."""

from __future__ import annotations

from typing import Any, Literal

from basinscope.runs.spec import Frozen

Loss = Literal["score", "nll"]
LOSSES: tuple[Loss, ...] = ("score", "nll")
"""What a width is measured of: the 0-1 score of the next token, and its likelihood."""

CurvePoint = tuple[float, int, float, float | None]
"""Alpha, draw, score, NLL (None where not finite)."""


class BasinWidth(Frozen):
    """Median of the half-width over directions, in alpha, and its exact interval."""

    low: float | None
    estimate: float | None
    high: float | None
    reason: str = ""  # why any of them is None


class Place(Frozen):
    """Where in pre-training something was measured."""

    step: int
    tokens: int


class Basins(Frozen):
    """NLL, score and basins of some weights; all None where the NLL is not finite."""

    nll: float | None = None  # of the validation text, nats a token
    rms: float | None = None
    rms_of: dict[str, float] | None = None  # by group of tensors
    score: float | None = None  # of the windows that widths are measured on
    nll_at_zero: float | None = None  # of those windows
    floor: dict[Loss, float] | None = None
    width: dict[Loss, BasinWidth] | None = None
    widths: dict[Loss, tuple[float | None, ...]] | None = None  # of each direction
    curves: tuple[CurvePoint, ...] | None = None

    def estimate(self, loss: Loss) -> float | None:
        """Estimate of a width; None where there is none."""
        return None if self.width is None else self.width[loss].estimate

    def in_rms(self, loss: Loss) -> float | None:
        """That estimate over RMS(theta), which is free where a scale is free."""
        width = self.estimate(loss)
        return None if width is None or not self.rms else width / self.rms


class TrainingPoint(Basins, Place):
    """The basins in the course of pre-training."""


class TuningPoint(Frozen):
    """What is learnt and forgotten after some steps of fine-tuning; None where not finite."""

    step: int
    new_nll: float | None
    new_score: float | None
    old_nll: float | None
    old_score: float | None


class RowRecord(Basins):
    """``rows/NAME.json``: one row, trained by one method from one seed."""

    method: dict[str, Any]  # its name and options, and settings that are not the recipe's
    label: str
    seed: int
    state: Literal["trained", "done", "stopped"]
    stopped: str  # why training ended early; empty where it did not
    size: int  # parameters
    tokens: int
    steps: int
    passes: float  # forward and backward passes a step
    train_s: float
    step_s: float | None  # median; None where no step was timed
    losses: tuple[tuple[int, float], ...]  # step, training loss
    over_training: tuple[TrainingPoint, ...]
    finetune: tuple[TuningPoint, ...]
    finetune_stopped: str = ""
    finetune_s: float | None = None
