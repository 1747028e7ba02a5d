"""The likelihood landscape beside the 0-1 landscape, from the same trials (method of §8a).

Is a basin there because a 0-1 oracle puts a threshold on a likelihood that falls smoothly? Every
trial of a task that ranks or reads likelihoods holds the negative log-likelihood of each item's
reference answer and the margin by which the item was right or wrong. `likelihood_table` averages
both, `thresholding_table` asks whether the margins at zero foretell the 0-1 curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from basinscope import stats
from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape
    from basinscope.runs.store import Trial

Column = NDArray[np.float64]


THRESHOLDING = (
    "task", "direction", "step", "draws", "items", "score", "shift", "shift_error", "shift_low",
    "shift_high", "spread", "spread_error", "spread_low", "spread_high", "margin_shift",
    "margin_sd", "auc", "auc_low", "auc_high", "auc_draws",
)  # fmt: skip


NOTHING = stats.Interval(math.nan, math.nan, math.nan, 0.95, "nothing was measured")


def likelihood_table(run: Landscape, confidence: float = 0.95) -> pd.DataFrame:
    """One row for each task that has likelihoods, direction and step.

    Columns: task, direction, step, draws, items, unit, nll, nll_low, nll_high, margin, margin_low,
    margin_high, missing, score. ``nll`` is the mean negative log-likelihood in nats: of a token,
    where items say how many tokens they hold (a corpus), else of an item's reference answer, whole.
    ``margin`` is the mean over items, in nats.

    Items without a value at step 0 (a prompt that is too long) are left out at every step. Where an
    item has none at another step (non-finite logits), the mean is NaN and ``missing`` counts them:
    what remains would look too good.

    The intervals are Student's t, over draws where there are several (the draw is the unit; at step
    0 the value on these items is known exactly), over items for one draw. They are approximate: the
    quantities have no bounds, so no interval holds whatever the distribution.
    """
    import pandas as pd

    rows = []
    for task in (spec.name for spec in run.spec.tasks):
        for direction in run.directions(task) or [""]:
            curve = run.at_steps(task, direction)
            zero = curve.get(0.0, [None])[0]
            kept = {name: _kept(zero, name) for name in ("nlls", "margins")}
            several = any(len(trials) > 1 for trials in curve.values())
            for step, asked in curve.items() if any(map(len, kept.values())) else ():
                trials = [t for t in asked if t.whole or run.crossed(task, direction)]
                if not trials:
                    continue
                known = several and step == 0.0
                nll, lost = _mean(run, trials, "nlls", kept["nlls"], known, confidence)
                margin, gone = _mean(run, trials, "margins", kept["margins"], known, confidence)
                unit = "token" if any(t.tokens for t in trials) else "answer"
                score = sum(map(run.score, trials)) / len(trials)
                rows.append((task, direction, step, len(trials), max(map(len, kept.values())), unit,
                             nll.estimate, nll.low, nll.high, margin.estimate, margin.low,
                             margin.high, max(lost, gone), score))  # fmt: skip
    names = ["task", "direction", "step", "draws", "items", "unit", "nll", "nll_low", "nll_high",
             "margin", "margin_low", "margin_high", "missing", "score"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def thresholding_table(run: Landscape, task: str, confidence: float = 0.95) -> pd.DataFrame:
    r"""Do the margins at zero foretell which items are lost, and the 0-1 curve?

    With :math:`m_i(\alpha)` the margin of item i along one draw, :math:`s` and :math:`\tau` the
    mean and the standard deviation over items of :math:`m_i(\alpha) - m_i(0)`:

    - ``auc``: the chance that an item which is still right has had a larger margin at zero than one
      that is lost, among those right at zero. 1: the smallest margins go first; 1/2: they say
      nothing. Mean over the draws in which some items are lost and some are not (``auc_draws``).
    - ``shift``: the score if every margin moved by the same :math:`s`: the share of items with
      :math:`m_i(0) + s > 0`.
    - ``spread``: the score if each margin moved by a normal number of its own besides, independent
      of :math:`m_i(0)`: the mean of :math:`\Phi((m_i(0) + s)/\tau)`.
    - ``shift_error`` and ``spread_error``: what they are above the observed ``score``.

    So an error of 0 says that the curve follows from thresholding margins that move smoothly; a
    large one that the items are lost in another way. :math:`s` and :math:`\tau` are taken from the
    same trials: this is a decomposition, not a forecast.

    Columns: task, direction, step, draws, items, score, shift, shift_error, shift_low, shift_high,
    spread, spread_error, spread_low, spread_high, margin_shift, margin_sd, auc, auc_low, auc_high,
    auc_draws. Items without a margin at zero are left out, also in ``score``; a draw in which one
    of the others has none (non-finite logits) is left out, and not counted in ``draws``.

    The intervals hold the mean over draws, on these items, whatever the distribution over draws
    (betting bounds, the draw as the unit; wide for few draws). That of the AUC is given that some
    items are lost and some are not.

    Raises:
        BasinscopeError: for a task that was not measured, or has no margins.
    """
    import pandas as pd

    run.task(task)
    rows = _thresholding(run, task, confidence)
    if not rows:
        raise BasinscopeError(
            f"task {task!r} has no margins beside step 0",
            "a task that ranks choices or reads a corpus, at steps where it has answers",
            "measure mmlu, basic or nll:FILE",
        )
    return pd.DataFrame(rows, columns=THRESHOLDING)


def thresholding_tables(run: Landscape, confidence: float = 0.95) -> pd.DataFrame:
    """Rows of `thresholding_table` for every task that has them."""
    import pandas as pd

    rows = [row for spec in run.spec.tasks for row in _thresholding(run, spec.name, confidence)]
    return pd.DataFrame(rows, columns=THRESHOLDING)


def _column(trial: Trial, name: str) -> Column:
    """Values of a trial; NaN where there is none."""
    return np.array([math.nan if v is None else v for v in getattr(trial, name)], dtype=np.float64)


def _kept(zero: Trial | None, name: str) -> NDArray[np.intp]:
    """Places of the items that have a value at step 0."""
    return np.flatnonzero(~np.isnan(_column(zero, name))) if zero else np.empty(0, dtype=np.intp)


def _mean(
    run: Landscape, trials: Sequence[Trial], name: str, kept: NDArray[np.intp], known: bool,
    confidence: float,
) -> tuple[stats.Interval, int]:  # fmt: skip
    """Mean of a column with its interval, and how many values are missing."""
    if not len(kept):
        return NOTHING, 0
    zero = run.at_steps(trials[0].task, "")[0.0][0]
    wanted = {zero.items[place] for place in kept}
    values, sizes = [], []
    for trial in trials:
        own = np.array([item in wanted for item in trial.items])
        weights = np.array(run.weights(trial))[own]
        tokens = name == "nlls" and bool(trial.tokens)
        values.append(weights * _column(trial, name)[own])
        sizes.append(weights * (_column(trial, "tokens")[own] if tokens else 1.0))
    missing = int(sum(np.isnan(own).sum() for own in values))
    if missing:
        return NOTHING, missing
    means = [own.sum() / size.sum() for own, size in zip(values, sizes, strict=True) if size.sum()]
    if known:
        return stats.Interval(means[0], means[0], means[0], confidence), 0
    if len(trials) > 1 and run.crossed(trials[0].task, trials[0].direction or ""):
        # a mean of ratios over a few items each is not the ratio of all of them
        totals = np.array(
            [[own.sum(), size.sum()] for own, size in zip(values, sizes, strict=True)]
        )
        return stats.student_ratio(totals[:, 0], totals[:, 1], confidence), 0
    if len(trials) > 1:
        return stats.student(means, confidence), 0
    return stats.student_ratio(values[0], sizes[0], confidence), 0


def _thresholding(run: Landscape, task: str, confidence: float) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for direction in run.directions(task):
        curve = run.at_steps(task, direction)
        zero = curve.get(0.0, [None])[0]
        kept = _kept(zero, "margins")
        if zero is None or not len(kept):
            continue
        before = _column(zero, "margins")[kept]
        right = np.asarray(zero.correct, dtype=bool)[kept]
        for step, trials in curve.items():
            whole = [t for t in trials if t.direction is not None and t.whole]
            per_draw = [_draw(before, right, t, kept) for t in whole]
            draws = [numbers for numbers in per_draw if numbers is not None]
            if draws:
                head = (task, direction, step, len(draws), len(kept))
                rows.append((*head, *_over_draws(draws, confidence)))
    return rows


def _draw(
    before: Column, right: NDArray[np.bool_], trial: Trial, kept: NDArray[np.intp]
) -> tuple[float, ...] | None:
    """Score, both predictions, shift, its spread and the AUC of one draw."""
    after = _column(trial, "margins")[kept]
    if np.isnan(after).any():
        return None
    still = np.asarray(trial.correct, dtype=bool)[kept]
    moved = after - before
    shift, spread = float(moved.mean()), float(moved.std())
    by_shift = float((before + shift > 0).mean())
    by_spread = (
        float(scipy.stats.norm.cdf((before + shift) / spread).mean()) if spread else by_shift
    )
    return (
        float(still.mean()), by_shift, by_spread, shift, spread,
        stats.auc(before[right], still[right]),
    )  # fmt: skip


def _over_draws(draws: Sequence[tuple[float, ...]], confidence: float) -> tuple[float, ...]:
    """Means of the draws' numbers, with intervals for those that have bounds."""
    table = np.array(draws)
    score, by_shift, by_spread, shift, spread, area = table.T
    defined = area[~np.isnan(area)]
    numbers = [float(score.mean())]
    for predicted in (by_shift, by_spread):
        # an error lies in [-1, 1]
        half = stats.mean_over_draws((predicted - score + 1) / 2, confidence)
        numbers += [
            float(predicted.mean()),
            *(2 * x - 1 for x in (half.estimate, half.low, half.high)),
        ]
    area_over = stats.mean_over_draws(defined, confidence)
    return (*numbers, float(shift.mean()), float(spread.mean()), area_over.estimate, area_over.low,
            area_over.high, len(defined))  # fmt: skip
