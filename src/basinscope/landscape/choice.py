"""The best of many draws, judged by items that did not choose it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from basinscope import stats
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.landscape.record import Landscape
    from basinscope.runs.store import Trial


@dataclass(frozen=True)
class Choice:
    """The best of many neighbours, and what is left of it on other items.

    Attributes:
        task: its name.
        direction: label of the direction.
        draw: number of the draw.
        step: where on it.
        candidates: points that it is the best of.
        n_chosen_on: items that chose it.
        score: on these; too good, because it was chosen for it.
        at_zero: the score of theta0 on these.
        held_out: score on the other items, exact interval over items like these, along this draw.
        held_out_at_zero: the score of theta0 on those.
        gain: of the held-out items, against theta0, paired.
    """

    task: str
    direction: str
    draw: int
    step: float
    candidates: int
    n_chosen_on: int
    score: float
    at_zero: float
    held_out: stats.Interval
    held_out_at_zero: float
    gain: stats.PairedDifference

    @property
    def curse(self) -> float:
        """The winner's curse: what of the rise above theta0 is not there on the other items."""
        return (self.score - self.at_zero) - (self.held_out.estimate - self.held_out_at_zero)

    def __str__(self) -> str:
        """One line."""
        other, gain = self.held_out, self.gain.difference
        return (
            f"{self.task}: draw {self.draw} of {self.direction} at {self.step:g}, the best of "
            f"{self.candidates} on {self.n_chosen_on} items: {self.score:.3f} there "
            f"({self.at_zero:.3f} at zero); on the {self.gain.n_items} others "
            f"{other.estimate:.3f} [{other.low:.3f}, {other.high:.3f}] "
            f"({self.held_out_at_zero:.3f} at zero), a gain of {gain.estimate:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}]; winner's curse {self.curse:+.3f}"
        )


def best(
    land: Landscape, task: str, direction: str, step: float | None, seed: int, confidence: float
) -> Choice:
    """What `Landscape.best` gives."""
    points = land.at_steps(task, direction)
    zero = points.pop(0.0)[0]
    candidates = [
        trial
        for at, trials in points.items()
        for trial in trials
        if trial.whole and (step is None or at == step)
    ]
    if not candidates:
        raise BasinscopeError(
            f"no draw of {task!r} along {direction!r} answered all items"
            + ("" if step is None else f" at {step:g}"),
            "draws that did, at a step that was measured",
            "--draws 12 --steps=0.005, in another run folder",
        )
    if zero.n < 2:
        raise BasinscopeError(
            f"task {task!r} of one item", "two items or more: some choose, the others judge", "more"
        )
    mixed = sorted(zero.items, key=lambda item: sha256(f"best/1 {seed} {item}".encode()).digest())
    choosing = frozenset(mixed[: zero.n // 2])

    def on(trial: Trial, chosen: bool) -> list[int]:
        columns = zip(trial.items, trial.correct, strict=True)
        return [correct for item, correct in columns if (item in choosing) == chosen]

    winner = max(candidates, key=lambda trial: sum(on(trial, True)))
    before, after = on(zero, False), on(winner, False)
    return Choice(
        task=task,
        direction=direction,
        draw=winner.draw,
        step=winner.step,
        candidates=len(candidates),
        n_chosen_on=len(choosing),
        score=sum(on(winner, True)) / len(choosing),
        at_zero=sum(on(zero, True)) / len(choosing),
        held_out=stats.clopper_pearson(sum(after), len(after), confidence),
        held_out_at_zero=sum(before) / len(before),
        gain=stats.paired_difference(before, after, confidence),
    )
