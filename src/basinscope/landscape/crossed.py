r"""The crossed design: many draws, and a few items of the task's own under each.

A bound over K draws cannot be narrower than about :math:`\log(2/\text{error})/K`, however many
items each of them answers; so the same answers say more as many draws of a few items. Which items
a draw answers is settled by its number and by step 0, where every item is answered: a stratum holds
the items that are right there, another those that are wrong, each in the order of the margin. Of a
stratum's N items a draw takes the n at the places :math:`\lfloor (u + j) N / n \rfloor`, j < n,
with a u in [0, 1) of its own: a systematic sample, in which every item has the chance n/N.

A draw's score is the mean of its samples' means, weighted by the sizes of the strata:

.. math:: X = \frac{1}{N} \sum_s N_s \bar z_s \in [0, 1], \qquad
          E[X \mid \delta] = S(\theta_0 + \alpha \delta)

over *all* items of the task. So draws are the units of a bound for the mean over directions, for
all items, whatever the number of items under each; nothing of the choice at step 0 biases it, since
step 0 has no error. (Cochran, "Sampling Techniques", 1977, chapters 5 and 8.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from basinscope.runs.bench import ZERO, Unit
from basinscope.runs.session import Session
from basinscope.runs.store import Trial

FEWEST = 8  # draws at a point before the first look


def samples(
    tasks: Mapping[int, tuple[Strata, int]], draw: int
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Items of several tasks that a draw answers, from the strata and the number of each."""
    return tuple((t, strata.sample(draw, each)) for t, (strata, each) in tasks.items())


def strata_of(session: Session, items: Sequence[int]) -> dict[int, tuple[Strata, int]]:
    """Strata of every task that is measured at step 0, and how many items a draw answers."""
    zeros = {t: session.trial(ZERO, t) for t in range(len(items))}
    return {t: (Strata.of(zero), items[t]) for t, zero in zeros.items() if zero is not None}


def score_of(session: Session, strata: Strata, unit: Unit, task: int) -> float:
    """Score of a draw that is measured; see `Strata.score`."""
    outcomes = session.outcomes(unit, task)
    return strata.score(tuple(outcomes), tuple(outcomes.values()))


@dataclass(frozen=True)
class Strata:
    """Items of a task by what they did at step 0.

    Attributes:
        items: all ids, in the task's order.
        right: ids of those that were right, from the smallest margin to the largest.
        wrong: of those that were wrong.
    """

    items: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    @classmethod
    def of(cls, zero: Trial) -> Strata:
        """Strata of the record of step 0; items without a margin keep the task's order."""
        margin = {item: m or 0.0 for item, m in zip(zero.items, zero.margins, strict=True)}
        ordered = sorted(zip(zero.items, zero.correct, strict=True), key=lambda row: margin[row[0]])
        right, wrong = (tuple(i for i, z in ordered if z == outcome) for outcome in (1, 0))
        return cls(zero.items, right, wrong)

    def shares(self, n: int) -> tuple[int, int]:
        """How many of n items are taken of those right and of those wrong: in proportion.

        At least one of each that is not empty, and no more than there are.
        """
        right, wrong = len(self.right), len(self.wrong)
        n = max(min(n, right + wrong), min(right, 1) + min(wrong, 1))
        most, least = min(right, n - min(wrong, 1)), max(min(right, 1), n - wrong)
        of_right = max(least, min(round(n * right / (right + wrong)), most))
        return of_right, n - of_right

    def sample(self, draw: int, n: int) -> tuple[str, ...]:
        """The n items that a draw answers, in the task's order."""
        if (draw, n) in self._samples:
            return self._samples[draw, n]
        taken = set()
        for stratum, share in zip((self.right, self.wrong), self.shares(n), strict=True):
            digest = sha256(f"crossed/1 {draw} {stratum is self.right}".encode()).digest()
            u = int.from_bytes(digest[:6]) / 2**48
            taken |= {stratum[int((u + j) * len(stratum) / share)] for j in range(share)}
        items = tuple(sorted(taken, key=self._place.__getitem__))
        return self._samples.setdefault((draw, n), items)

    def weights(self, items: Sequence[str]) -> list[float]:
        """Share of all items that each of a draw's items stands for."""
        key, right = tuple(items), self._right
        if key not in self._weights:
            n_right = sum(item in right for item in items)
            of_right = len(self.right) / max(n_right, 1) / len(self.items)
            of_wrong = len(self.wrong) / max(len(items) - n_right, 1) / len(self.items)
            self._weights[key] = [of_right if item in right else of_wrong for item in items]
        return self._weights[key]

    def score(self, items: Sequence[str], correct: Sequence[int]) -> float:
        """X of the module, from the outcomes of a draw's items."""
        return min(sum(w * z for w, z in zip(self.weights(items), correct, strict=True)), 1.0)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {item: n for n, item in enumerate(self.items)}

    @cached_property
    def _right(self) -> frozenset[str]:
        return frozenset(self.right)

    @cached_property
    def _samples(self) -> dict[tuple[int, int], tuple[str, ...]]:
        return {}  # the same at every step

    @cached_property
    def _weights(self) -> dict[tuple[str, ...], list[float]]:
        return {}
