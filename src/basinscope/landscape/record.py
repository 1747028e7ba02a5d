"""A landscape as records: pure tables, widths and pictures, with or without a model at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope import stats
from basinscope.errors import BasinscopeError
from basinscope.landscape import choice, paired, readouts, tables
from basinscope.landscape import rises as of_rises
from basinscope.landscape import spread as over_directions
from basinscope.landscape.edges import LOOKS
from basinscope.landscape.trials import Trials
from basinscope.runs.store import Store, Trial

if TYPE_CHECKING:
    import pandas as pd


def read_landscape(run: str | Path) -> Landscape:
    """Landscape of a run folder, without its model; see `basinscope.load_run`."""
    store = Store(run).of_kind("landscape")
    return Landscape(store.spec, store.trials(), store.set_aside)


class Landscape(Trials):
    """Records of a run, as tables, widths and pictures."""

    def to_pandas(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """One row for each task, direction, draw and step.

        Columns: task, direction, draw, step, n (items), correct, score, low, high. The interval is
        exact (Clopper-Pearson) for the score on items like these *along this draw*; it says
        nothing of other draws (see `means`). Where a search stopped before all items were asked
        (n), it is the wider betting interval, which allows that. In a crossed design the score
        weighs the draw's items by what they stand for, and one draw says next to nothing. Step 0 is
        the same record in every draw.
        """
        return tables.points(self, confidence)

    def items(self) -> pd.DataFrame:
        """One row for each item besides.

        Columns: task, direction, draw, step, item, outcome (0 or 1), label, margin and nll (nats),
        tokens that the nll sums over (each NaN where a task defines none). In a crossed design the
        items of a draw do not weigh alike: see `weights`.
        """
        return tables.items(self)

    def strata(self, task: str, *, confidence: float = 0.95) -> pd.DataFrame:
        """Scores of the strata of a task, and their mean; see `basinscope.landscape.strata`."""
        from basinscope.landscape.strata import strata

        return strata(self, task, confidence=confidence)

    def means(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """One row for each task, direction and step: the mean over draws, the draw as the unit.

        Columns: task, direction, step, draws, score, low, high, T. Low and high hold the mean
        score over all directions of the family, on these items, with at least the confidence and
        whatever the distribution over directions (betting bound; wide for few draws); at step 0
        all directions give the same score on these items, which is then known exactly. For a
        single draw the interval is the exact one over items, at step 0 as well. Where a search
        stopped early, it is one that allows that, on the items that were asked. A task measured at
        step 0 alone has one row, with no direction. T is the loss of arXiv 2505.17646, normalised
        over one curve.
        """
        return tables.means(self, confidence)

    def compare(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Paired comparison of every point with step 0, item by item.

        Columns: task, direction, step, draws, difference, low, high, gained, lost, p_value. For
        one draw the items are the unit (exact bounds on the discordant proportions, McNemar's
        exact p-value); for several, the draw is (gained, lost and p_value are then NaN). Where a
        search stopped before all items were asked, those asked are compared, by betting bounds.
        """
        return paired.compare(self, confidence)

    def likelihood(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Mean NLL and margin of every task that has them, at each step, beside its score.

        See `basinscope.landscape.likelihood.likelihood_table`.
        """
        from basinscope.landscape.likelihood import likelihood_table

        return likelihood_table(self, confidence)

    def thresholding(self, task: str, *, confidence: float = 0.95) -> pd.DataFrame:
        """Whether the margins at zero foretell which items are lost, and the 0-1 curve.

        See `basinscope.landscape.likelihood.thresholding_table`.
        """
        from basinscope.landscape.likelihood import thresholding_table

        return thresholding_table(self, task, confidence)

    def width(
        self,
        task: str,
        level: float = 0.5,
        *,
        direction: str | None = None,
        draw: int | None = None,
        sign: int = 1,
        confidence: float = 0.95,
    ) -> stats.Width:
        """Half-width of the basin on one side of zero, in units of step.

        The first step at which the score falls below ``chance + (1 - level) (S(0) - chance)``.
        With several draws it is the mean curve over the family of directions that crosses, and
        the draw is the unit; for one draw (or ``draw=k``) that direction's own curve, and the
        items are the unit. Points where a search stopped early count with the items that were
        asked there. See `basinscope.stats.width` for the guarantee.

        Args:
            task: name of a task of this run.
            level: fraction of the way from the score at zero down to chance, in (0, 1).
            direction: label; may be left out if the run has one.
            draw: one draw alone.
            sign: +1 or -1.
            confidence: of the interval.

        Returns:
            ``.low .estimate .high``; ``.unresolved`` with a ``.reason`` if it is not bracketed.

        Raises:
            BasinscopeError: for a task, direction or draw that was not measured.
        """
        label = self.one_direction(task, direction)
        zero = self._zero.get(task)
        spec = self._tasks[task]
        if zero is None:
            raise BasinscopeError(
                f"task {task!r} was not measured at step 0",
                "a task with a score at step 0",
                "run the same line again: it resumes",
            )
        points = {
            abs(step): trials
            for step, trials in self.at_steps(task, label).items()
            if step * sign > 0
        }
        if draw is not None:
            points = {a: [t for t in trials if t.draw == draw] for a, trials in points.items()}
        points = {a: points[a] for a in sorted(points) if points[a]}
        if not points:
            raise BasinscopeError(
                f"nothing of {task!r} was measured along {label!r}, draw {draw}, sign {sign:+d}",
                "steps of that draw and sign",
                "measure some, or take another draw or sign",
            )
        complete = max(len(trials) for trials in points.values())
        crossed = self.crossed(task, label)
        if crossed and draw is not None:
            raise BasinscopeError(
                f"draw {draw} of {task!r}, which answered {points[max(points)][0].n} items",
                "draws that answered all items",
                "--draws 12, in another run folder",
            )
        if not crossed:  # else each point has the draws that decided it
            points = {a: trials for a, trials in points.items() if len(trials) == complete}
        at_zero = dict(zip(zero.items, zero.correct, strict=True))
        place = {item: n for n, item in enumerate(zero.items)}
        in_parts = self.spec.steps is None or not all(
            t.whole for trials in points.values() for t in trials
        )
        common = {"chance": spec.chance, "level": level, "confidence": confidence, "sign": sign}
        try:
            if complete > 1:
                return stats.width_over_draws(
                    list(points),
                    [list(map(self.score, trials)) for trials in points.values()],
                    score_at_zero=zero.score,
                    n_items=zero.n,
                    looks=LOOKS if in_parts and not crossed else 1,
                    matched=None
                    if crossed
                    else [[_at_zero(t, at_zero) for t in trials] for trials in points.values()],
                    **common,  # type: ignore[arg-type]
                )
            return stats.width_over_items(
                list(points),
                [trials[0].correct for trials in points.values()],
                correct_at_zero=zero.correct,
                asked=[[place[item] for item in ts[0].items] for ts in points.values()],
                **common,  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise BasinscopeError(
                f"level={level}, confidence={confidence}, sign={sign}",
                "level and confidence between 0 and 1, sign 1 or -1",
                "level=0.5, confidence=0.95",
            ) from error

    def widths(self, *, level: float = 0.5, confidence: float = 0.95) -> pd.DataFrame:
        """One row for each task, direction and sign: the summary that the command line prints.

        Columns: task, chance, score (at zero), score_low, score_high, direction, sign, draws,
        width, low, high (in alpha), width_rms, low_rms, high_rms (in alpha / RMS(theta0)), reason,
        sits_at (see `sits_at`; NaN where no other model is behind the direction).
        A task measured at step 0 alone has one row, with no direction and sign 0.
        """
        return tables.widths(self, level, confidence)

    def bands(
        self, task: str, direction: str | None = None, *, confidence: float = 0.95
    ) -> pd.DataFrame:
        """One row for each step: the pointwise interval and the band that holds at all of them.

        Columns: step, draws, score, low, high (`means`), band_low, band_high. With the confidence
        the whole mean curve over directions, on these items, lies within the band at every
        measured step at once (Bonferroni over the steps; the draw is the unit). For a single draw
        the band holds for that direction over items like these. The steps must not have been
        chosen in the light of the results, as a search for the edges does.
        """
        label = self.one_direction(task, direction)
        return over_directions.bands(self, task, label, confidence)

    def variance(
        self,
        task: str,
        direction: str | None = None,
        *,
        half_width: float = 0.05,
        confidence: float = 0.95,
    ) -> pd.DataFrame:
        """One row for each step with two draws or more: where the variance of outcomes comes from.

        Columns: step, draws, items, score, total (score (1 - score), but for the bias),
        between_directions, between_items, residual (which items fail differs from direction to
        direction): unbiased estimates that add up to the total and may fall below zero by chance,
        without intervals, for the reason in `basinscope.stats.variance`. Then se,
        the standard error of the score for directions and items both drawn anew; draws_needed,
        for the mean over directions on these items to be known to ``half_width``; items_needed,
        for the score over all items along these directions. The last three are for planning.

        Raises:
            BasinscopeError: if no step was measured in two draws.
        """
        label = self.one_direction(task, direction)
        return over_directions.variance(self, task, label, half_width, confidence)

    def draw_widths(
        self,
        task: str,
        level: float = 0.5,
        *,
        direction: str | None = None,
        confidence: float = 0.95,
    ) -> pd.DataFrame:
        """One row for each side and draw: the width of that direction alone.

        Columns: sign, draw, width, low, high, reason, as `width` gives them for ``draw=k``.
        """
        label = self.one_direction(task, direction)
        return over_directions.draw_widths(self, task, label, level, confidence)

    def spread(
        self, task: str | None = None, *, level: float = 0.5, confidence: float = 0.95
    ) -> pd.DataFrame:
        """One row for each task, direction and sign: how much the widths of single draws differ.

        Columns: task, direction, sign, draws, crossed (draws that fell below the threshold where
        it was measured; the others count as infinitely wide), least, median, greatest; share, of
        which one may be confident that at least so many of all directions have a width between
        least and greatest on these items; median_low, median_high (exact); relative, the standard
        deviation of log width, with an interval that assumes log-normal widths; reason.
        """
        return over_directions.spread(self, task, level, confidence)

    def rises(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """One row for each task: whether the mean rises above S(0) anywhere, as one test.

        Columns: task, points (that were tested), direction, step, draws, score_at_zero, score,
        rise, low, p_value, of the point with the most evidence. A model that does better under
        noise is a sign of sandbagging (noise has undone what held it back), or of luck: p_value is
        at most p with probability p where the mean rises at no point, whatever the number of
        points, which share the error (Bonferroni; betting bounds, so the number of draws may have
        been decided in their light). ``low`` is the lower bound of the rise at that point, with the
        confidence that it holds at all points; above 0 where p_value < 1 - confidence. Draws are
        the units, for these items; of one draw items are, for items like these along it. The steps
        must not have been chosen in the light of the results: of a search this holds nearly.
        """
        return of_rises.rises(self, confidence)

    def best(
        self,
        task: str,
        *,
        direction: str | None = None,
        step: float | None = None,
        seed: int = 0,
        confidence: float = 0.95,
    ) -> choice.Choice:
        """The best of the draws at a step (default: of all steps), judged by other items.

        A half of the items, by the seed, chooses; ``held_out`` and ``gain`` are of the other half,
        and ``curse`` is what of the rise is not there (see `basinscope.landscape.choice.Choice`).
        Whoever tries several seeds or steps chooses again.

        Raises:
            BasinscopeError: no draw answered all items, as in a crossed design; a task or direction
                that was not measured, or a task of one item.
        """
        label = self.one_direction(task, direction)
        return choice.best(self, task, label, step, seed, confidence)

    def visage(
        self, task: str, direction: str | None = None, *, confidence: float = 0.95
    ) -> stats.Interval:
        """VISAGE of arXiv 2405.17374 over the measured steps, in [0, 1]; interval over draws.

        Of each draw the mean score of the points where any item is right; then the mean over
        draws, with a betting bound. As published (there in percent) it is of a safety task along
        ``layerwise``, with 21 steps from -a to a, a = RMS(theta0) / 2. Along ``random`` it is of
        noise that is equal in all tensors. NaN with a reason where the steps are not spread evenly
        about 0 or no draw answered all items. See `basinscope.landscape.readouts`.
        """
        return readouts.visage(self, task, self.one_direction(task, direction), confidence)

    def nll_sigma(
        self,
        task: str,
        direction: str | None = None,
        *,
        sign: int = 1,
        rise: float = 0.01,
        confidence: float = 0.95,
    ) -> stats.Interval:
        """Sigma at which the NLL has risen by a share (1%) for half of the draws, on these items.

        Of each draw the first crossing, interpolated; then the median over draws. The ends are
        exact whatever the distribution over directions: order statistics of the last step before
        the crossing and of the first after it. Infinite where draws rise less, NaN where there are
        no likelihoods or no draw answered all items; with the reason.
        """
        label = self.one_direction(task, direction)
        return readouts.nll_sigma(self, task, label, sign, rise, confidence)

    def plot(
        self,
        path: str | Path,
        *others: Landscape,
        names: Sequence[str] = (),
        level: float = 0.5,
        per_rms: bool = False,
        draws: bool = False,
        loss: bool = False,
    ) -> Path:
        """Draw this landscape, and others over it, a panel for each task, with its CSV beside it.

        See `basinscope.report.figures.plot_landscapes`: half-widths at ``level``; ``per_rms`` has
        alpha / RMS(theta0) of each run's own model as its axis; ``draws`` adds single draws, and
        ``loss`` T.
        """
        from basinscope.report.figures import plot_landscapes

        return plot_landscapes(
            Path(path), [self, *others], names,
            level=level, per_rms=per_rms, draws=draws, loss=loss,
        )  # fmt: skip


def _at_zero(trial: Trial, at_zero: Mapping[str, int]) -> float:
    """Score at step 0 of the items of a trial."""
    return sum(at_zero[item] for item in trial.items) / trial.n
