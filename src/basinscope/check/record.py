"""What a gate found: a row for each task and model, and the verdict of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from basinscope import stats
from basinscope.errors import BasinscopeError, nearest
from basinscope.stats.rounded import finite

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["kept", "lost", "undecided"]

FIRST_LOOK, LAST_SHARE = 64, 0.9

SIDES: dict[int, Verdict] = {1: "kept", -1: "lost"}


@dataclass(frozen=True)
class Pairs:
    """Answers of one task before and after one change of the weights.

    Attributes:
        task: its name.
        tuned: what was changed, as the user named it.
        items: ids, in the order in which they were asked.
        before: 0 or 1 for each of them.
        after: the same.
        whole: items that the task has.
        allow: loss of the score that is allowed.
        looks: at how many of the items a verdict was or will be sought; the last is `whole`.
        nll: mean change of the reference answers' negative log-likelihood, in nats; None for none.
    """

    task: str
    tuned: str
    items: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    whole: int
    allow: float
    looks: tuple[int, ...]
    nll: float | None = None


@dataclass(frozen=True)
class Change:
    """One task before and after one change of the weights.

    Attributes:
        task: its name.
        tuned: what was changed.
        verdict: *kept*: surely lost no more than allowed; *lost*: surely more; else *undecided*.
        allow: loss of the score that is allowed.
        before: score of the items asked.
        after: the same after the change.
        difference: after - before.
        low: the difference is higher than this with the check's confidence, this row by itself.
        high: it is lower than this, in the same way.
        n: items asked.
        whole: items that the task has.
        lost: ids of the items that were right before and are wrong after.
        gained: ids of those that were wrong before and are right after.
        needed: where undecided, about how many items would decide, four times in five, if the
            change is what it seems: an estimate. Infinite where it seems to be what is allowed.
        p_value: McNemar's exact test of any change on the items asked; for one look alone.
        nll: mean change of the reference answers' negative log-likelihood (nats); None for none.
    """

    task: str
    tuned: str
    verdict: Verdict
    allow: float
    before: float
    after: float
    difference: float
    low: float
    high: float
    n: int
    whole: int
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    needed: float | None
    p_value: float
    nll: float | None = None

    @property
    def says(self) -> str:
        """The verdict as a sentence."""
        asked = f"all {self.n} items" if self.n == self.whole else f"{self.n} of {self.whole} items"
        if self.verdict == "undecided":
            assert self.needed is not None
            more = (
                f"about {self.needed:,.0f} items would decide (an estimate)"
                if math.isfinite(self.needed)
                else "the loss seen is just what is allowed: no number of items decides"
            )
            return f"undecided on {asked}: {more}"
        side = "no more" if self.verdict == "kept" else "more"
        return f"lost {side} than the {self.allow:g} allowed, on {asked}"


@dataclass(frozen=True)
class Standing:
    """Where one model stands in one respect, for reading: it decides no verdict.

    Attributes:
        kind: *margin*: where half of the base's score above chance is lost along the model's own
            slice, in units of its displacement. *random*: its displacement in units of the random
            basin's half-width. *kl*: KL(base || model) in nats a token. *certificate*: the bound.
        tuned: the model.
        of: task or text.
        low: end of the interval, or a bound; NaN where there is none, as for the two below.
        estimate: the number.
        high: the other end.
        confidence: of the interval, this one by itself.
        says: all of it as a line, and what it means.
    """

    kind: Literal["margin", "random", "kl", "certificate"]
    tuned: str
    of: str
    low: float
    estimate: float
    high: float
    confidence: float
    says: str


@dataclass(frozen=True)
class Check:
    """A gate: did any of the models lose more of any of the tasks than is allowed?

    *What it says*: "this loss" is that of the score on **items like these**, the population from
    which a task's items are a random sample; where all items of a task were asked, the loss on
    those themselves is `Change.difference`, without any error. *Kept* and *lost* are sure in this
    sense: the probability that any row says *lost* and has lost no more than is allowed is at most
    1 - confidence, and so is the probability that any row says *kept* and has lost more.

    The models share each of these two errors equally (Bonferroni); the tasks of a model share its
    part by Hochberg's step-up, for their items are drawn independently (where all rows of a model
    pass by themselves, all pass). The looks at a task share a row's error: the last has 9 tenths.

    Attributes:
        base: the model that the others are compared with, as the user named it.
        confidence: of the two statements above, each.
        changes: a row for each model and task.
        displacements: ||theta' - theta0|| by model; empty where logs were read.
        moved: the same by model and kind of tensor, over the norm of theta0 in that kind.
        stands: margins, widths beside, divergences and certificates, as far as they were asked for.
    """

    base: str
    confidence: float
    changes: tuple[Change, ...]
    displacements: dict[str, float] = field(default_factory=dict)
    moved: dict[str, dict[str, float]] = field(default_factory=dict)
    stands: tuple[Standing, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """*lost* if any row is; *kept* if all are; else *undecided*."""
        verdicts = {change.verdict for change in self.changes}
        return "lost" if "lost" in verdicts else "kept" if verdicts <= {"kept"} else "undecided"

    @property
    def exit_code(self) -> int:
        """0 kept, 1 lost, 3 undecided."""
        return {"kept": 0, "lost": 1, "undecided": 3}[self.verdict]

    def to_pandas(self) -> pd.DataFrame:
        """One row for each model and task, with the columns of `Change`; ids as tuples."""
        import pandas as pd

        return pd.DataFrame([asdict(change) for change in self.changes])

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it: what is not finite is null."""
        changes, stands = (
            [{k: finite(v) for k, v in asdict(row).items()} for row in rows]
            for rows in (self.changes, self.stands)
        )
        return asdict(self) | {
            "verdict": self.verdict, "exit_code": self.exit_code, "changes": changes,
            "stands": stands,
        }  # fmt: skip

    def __str__(self) -> str:
        """The table, and what it cannot say."""
        from basinscope.check.formats import text

        return text(self)


def looks(n: int) -> tuple[int, ...]:
    """At how many of n items a verdict is sought: 64, twice that, and so on, and all of them.

    >>> looks(50), looks(300)
    ((50,), (64, 128, 300))
    """
    sizes = [FIRST_LOOK]
    while sizes[-1] * 1.5 < n:
        sizes.append(2 * sizes[-1])
    return (*sizes[:-1], n)


def verdicts(pairs: Sequence[Pairs], confidence: float) -> list[Verdict]:
    """Verdict of each of the pairs; for the guarantee see `Check`.

    Args:
        pairs: of every task and model of the gate, as far as they were asked.
        confidence: of the whole gate.
    """
    error = (1 - confidence) / len({pair.tuned for pair in pairs})
    words: list[Verdict] = ["undecided"] * len(pairs)
    for model in {pair.tuned for pair in pairs}:
        rows = [i for i, pair in enumerate(pairs) if pair.tuned == model]
        for sign in SIDES:
            passed = stats.hochberg([_p_value(pairs[i], sign) for i in rows], error)
            for i, is_so in zip(rows, passed, strict=True):
                words[i] = SIDES[sign] if is_so else words[i]
    return words


def judged(pairs: Sequence[Pairs], confidence: float) -> tuple[Change, ...]:
    """A row for each of the pairs, in their order; see `verdicts`."""
    models = [pair.tuned for pair in pairs]
    shares = [(1 - confidence) / len(set(models)) / models.count(model) for model in models]
    words = verdicts(pairs, confidence)
    return tuple(
        _change(pair, word, confidence, share)
        for pair, word, share in zip(pairs, words, shares, strict=True)
    )


def allowances(
    tasks: Sequence[str], allow: float, on: Mapping[str, float] | None
) -> dict[str, float]:
    """Loss that is allowed of every task.

    Raises:
        BasinscopeError: a loss below 0 or from 1 on, or of a task that there is not.
    """
    for name, loss in {"allow": allow, **(on or {})}.items():
        if name != "allow" and name not in tasks:
            raise BasinscopeError(
                f"a loss that is allowed on {name!r}, which is not asked",
                ", ".join(tasks),
                nearest(name, tasks),
            )
        if not 0.0 <= loss < 1.0:
            raise BasinscopeError(
                f"{name}={loss}", "a loss of the score, from 0 to below 1", "0.02"
            )
    return {task: float((on or {}).get(task, allow)) for task in tasks}


def check_confidence(confidence: float) -> None:
    """Refuse a confidence out of range."""
    if not 0.5 <= confidence < 1.0:
        raise BasinscopeError(f"confidence={confidence}", "from 0.5 to below 1", "0.95")


def _counted(pair: Pairs) -> list[tuple[int, int, int, float]]:
    """Items, gained and lost at each look so far, and the look's share of the error."""
    early = (1 - LAST_SHARE) / max(1, len(pair.looks) - 1)
    last = LAST_SHARE if len(pair.looks) > 1 else 1.0
    changes = [b - a for a, b in zip(pair.before, pair.after, strict=True)]
    return [
        (n, changes[:n].count(1), changes[:n].count(-1), last if n == pair.looks[-1] else early)
        for n in pair.looks
        if n <= len(changes)
    ]


def _p_value(pair: Pairs, sign: int) -> float:
    """P-value against *lost more than allowed* (sign 1) or *no more* (-1); valid at every look."""
    return min(
        stats.exceeds(*(gained, lost)[::sign], n, -sign * pair.allow) / share
        for n, gained, lost, share in _counted(pair)
    )


def _change(pair: Pairs, verdict: Verdict, confidence: float, each: float) -> Change:
    seen = _counted(pair)
    ends = [
        stats.loss_bounds(gained, lost, n, (1 - confidence) * share)
        for n, gained, lost, share in seen
    ]
    n, gained, lost, share = seen[-1]
    before, after = pair.before[:n], pair.after[:n]
    ids: Mapping[int, list[str]] = {-1: [], 0: [], 1: []}
    for item, was, now in zip(pair.items, before, after, strict=False):
        ids[now - was].append(item)
    needed = None
    if verdict == "undecided":
        needed = stats.items_to_decide(gained, lost, n, pair.allow, each * share)
    return Change(
        task=pair.task, tuned=pair.tuned, verdict=verdict, allow=pair.allow,
        before=sum(before) / n, after=sum(after) / n, difference=(gained - lost) / n,
        low=max(low for low, _ in ends), high=min(high for _, high in ends),
        n=n, whole=pair.whole, lost=tuple(ids[-1]), gained=tuple(ids[1]), needed=needed,
        p_value=stats.paired_difference(before, after).p_value, nll=pair.nll,
    )  # fmt: skip
