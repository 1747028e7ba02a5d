"""Coverage of every interval by simulation.

Every test states the null hypothesis that it checks, has a fixed seed and size, and fails on a
correct interval with probability at most 1e-6: the number of misses is at most binomial with the
nominal error, and the limit is that distribution's 1 - 1e-6 quantile. Beside it stands a named
bug, implemented in the test, that the limit must catch (with the probability stated).

Which factor of two in ``error`` would be seen. The exact bounds: anywhere, for they are tried
where they miss at the nominal rate. The betting bounds: at a mean a hair below the bound from
scores that are all 1, where they miss at 0.56 to 0.62 of the nominal rate. Not on scattered
scores, nor through a width or a paired difference: a betting bound holds for every sample size at
once and misses scattered scores at 0.01 to 0.1 of its error, a paired difference adds up two
bounds. There the unit tests stand in: the expected capital is exactly 1, and the bound is the
root of the printed formula.
"""

import functools

import numpy as np
import pytest
from misses import FALSE_ALARM, limit
from scipy.optimize import brentq
from scipy.stats import binom, norm, t

from basinscope.stats import (
    clopper_pearson,
    lower_mean,
    lower_proportion,
    mean_over_draws,
    paired_difference,
    paired_difference_over_draws,
    upper_mean,
    upper_proportion,
    width,
    width_over_draws,
    width_over_items,
)


def power(runs: int, error: float, rate: float) -> float:
    """Return the probability that a bound which misses at that rate exceeds the limit."""
    return float(binom.sf(limit(runs, error), runs, rate))


def half_spaces(n_items: int, shared: float, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors x, any two with cosine ``shared``, and theta with x . theta = margins."""
    x = np.hstack([np.full((n_items, 1), np.sqrt(shared)), np.sqrt(1 - shared) * np.eye(n_items)])
    theta = np.concatenate(([0.0], margins / np.sqrt(1 - shared)))
    return x, theta


# Cached, since simulated counts repeat.
cp = functools.cache(clopper_pearson)
cp_lower = functools.cache(lower_proportion)
cp_upper = functools.cache(upper_proportion)


class TestExactProportions:
    """Null: the exact bounds miss a binomial proportion at most at their nominal error.

    n = 4000, at a proportion a hair outside the end that belongs to one count, where the bound
    misses at the nominal rate; 100,000 runs. Bug: twice the error. Power > 0.9999.
    """

    n, runs = 4000, 100_000

    @pytest.mark.parametrize("count", [80, 1200, 3920])
    def test_two_sided(self, count) -> None:
        rng = np.random.default_rng(1)
        for p, side in (
            (cp(count, self.n, 0.95).low - 1e-9, "low"),
            (cp(count, self.n, 0.95).high + 1e-9, "high"),
        ):
            counts, times = np.unique(rng.binomial(self.n, p, self.runs), return_counts=True)

            def misses(confidence, counts=counts, times=times, p=p, side=side):
                intervals = [cp(int(k), self.n, confidence) for k in counts]
                wrong = [i.low > p if side == "low" else i.high < p for i in intervals]
                return int(times @ np.array(wrong))

            assert misses(0.95) <= limit(self.runs, 0.025)
            assert misses(0.90) > limit(self.runs, 0.025)

    @pytest.mark.parametrize("count", [80, 1200, 3920])
    def test_one_sided(self, count) -> None:
        rng = np.random.default_rng(2)
        p = cp_lower(count, self.n, 0.95).low - 1e-9
        counts, times = np.unique(rng.binomial(self.n, p, self.runs), return_counts=True)
        for confidence, honest in ((0.95, True), (0.90, False)):
            lows = np.array([cp_lower(int(k), self.n, confidence).low for k in counts])
            assert (times @ (lows > p) <= limit(self.runs, 0.05)) == honest
        # The upper bound of the wrong answers is the same event.
        highs = np.array([cp_upper(int(self.n - k), self.n, 0.95).high for k in counts])
        assert times @ (highs < 1 - p) <= limit(self.runs, 0.05)

    def test_one_fresh_item_for_each_draw(self) -> None:
        """Null: exact bounds hold for i.i.d. (noise, item) pairs, however items differ.

        Half-spaces with margins from -1 to 3 sigma; 60 draws with one random item each; 20,000
        runs. Bug: one-sided bounds used as a two-sided interval; power > 0.99.
        """
        rng = np.random.default_rng(3)
        margins = np.linspace(-1.0, 3.0, 50)
        x, theta = half_spaces(50, 0.5, margins)
        p = norm.cdf(margins).mean()
        runs, draws = 20_000, 60
        item = rng.integers(50, size=(runs, draws))
        # x . noise of the one item looked at: its two non-zero coordinates.
        noise = np.sqrt(0.5) * rng.standard_normal((runs, draws)) + np.sqrt(
            0.5
        ) * rng.standard_normal((runs, draws))
        correct = ((x @ theta)[item] + noise > 0).sum(axis=1)
        intervals = [cp(int(k), draws, 0.95) for k in correct]
        missed = sum(not i.low <= p <= i.high for i in intervals)
        assert missed <= limit(runs, 0.05)
        bug = sum(
            cp_lower(int(k), draws, 0.95).low > p or cp_upper(int(k), draws, 0.95).high < p
            for k in correct
        )
        assert bug > limit(runs, 0.05)


class TestBettingBounds:
    """Null: P(lower_mean > mean) <= error and P(upper_mean < mean) <= error."""

    @pytest.mark.parametrize("n", [2, 8, 32, 128])
    @pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9, 0.98])
    @pytest.mark.parametrize(("bottom", "top"), [(0.0, 1.0), (0.0, 0.05), (0.95, 1.0), (0.3, 0.9)])
    def test_two_point_distributions(self, bottom, top, p, n) -> None:
        """Skewed near 0 and near 1, and not; 100,000 runs at error 0.025.

        No bug is named: the bounds miss here at 0 to 0.4 of the nominal rate, so that only gross
        errors would show. The next two tests have the power.
        """
        rng = np.random.default_rng(4)
        runs, error = 100_000, 0.025
        mean = bottom + p * (top - bottom)
        counts, times = np.unique(rng.binomial(n, p, runs), return_counts=True)
        samples = [np.repeat([top, bottom], [k, n - k]) for k in counts]
        above = np.array([lower_mean(x, error) > mean for x in samples])
        below = np.array([upper_mean(x, error) < mean for x in samples])
        assert times @ above <= limit(runs, error)
        assert times @ below <= limit(runs, error)

    @pytest.mark.parametrize("n", [1, 2, 8, 32])
    @pytest.mark.parametrize("bound", [lower_mean, upper_mean])
    def test_twice_the_error_is_seen_where_all_scores_agree(self, bound, n) -> None:
        """The mean is a hair beyond the bound from n ones (or zeros); 1,000,000 runs.

        The bound misses when all scores are 1 (or 0), at 0.56 to 0.68 of the nominal rate.
        Bug: twice the error; it misses at 1.13 times the nominal rate or more; power > 0.9999.
        """
        rng = np.random.default_rng(5)
        runs, error = 1_000_000, 0.025
        agreeing = np.ones(n) if bound is lower_mean else np.zeros(n)
        for used, honest in ((error, True), (2 * error, False)):
            end = bound(agreeing, used)
            p = (end if bound is lower_mean else 1 - end) * (1 - 1e-6)  # P(one score agrees)
            missed = int((rng.binomial(n, p, runs) == n).sum())
            assert (missed <= limit(runs, error)) == honest
            assert honest or power(runs, error, p**n) > 0.9999

    def test_normal_theory_fails_where_the_betting_bound_holds(self) -> None:
        """Scores 1 with probability 0.98, else 0; 20 scores; 20,000 runs.

        Bug: mean -+ t quantile * standard error. It misses whenever all scores are 1 (67%).
        """
        rng = np.random.default_rng(6)
        runs, n, p, error = 20_000, 20, 0.98, 0.025
        counts, times = np.unique(rng.binomial(n, p, runs), return_counts=True)
        samples = [np.repeat([1.0, 0.0], [k, n - k]) for k in counts]
        ours = np.array([lower_mean(x, error) > p for x in samples])
        assert times @ ours <= limit(runs, error)
        quantile = t.isf(error, n - 1)
        bug = np.array([x.mean() - quantile * x.std(ddof=1) / n**0.5 > p for x in samples])
        assert times @ bug > limit(runs, error)
        assert power(runs, error, p**n) > 0.9999

    def test_looking_after_every_draw(self) -> None:
        """Null: the lower bounds after 1, 2, ..., 100 scores *all* hold with probability 0.95.

        Scores 1 with probability 1/2, else 0; 20,000 runs. Bug: the exact bound, made for one n,
        looked at 100 times (it misses in 20% of the runs); power > 0.9999.
        """
        rng = np.random.default_rng(7)
        runs, longest, p, error = 20_000, 100, 0.5, 0.05
        ours = np.zeros((longest + 1, longest + 1))
        for n in range(1, longest + 1):
            for k in range(n + 1):
                ours[n, k] = lower_mean(np.repeat([1.0, 0.0], [k, n - k]), error)
        counts = np.cumsum(rng.uniform(size=(runs, longest)) < p, axis=1)
        n = np.arange(1, longest + 1)
        assert int((ours[n, counts] > p).any(axis=1).sum()) <= limit(runs, error)
        # The exact lower bound exceeds p just when P(X >= k) is below the error.
        bug = int((binom.sf(counts - 1, n, p) < error).any(axis=1).sum())
        assert bug > limit(runs, error)
        assert power(runs, error, 0.1) > 0.9999

    def test_single_half_space(self) -> None:
        """Null, with the closed form p = Phi(x . theta / (sigma ||x||)) as the mean.

        One half-space score 1[x . (theta + noise) > 0] in 8 dimensions, sigma = 0.7, 30 draws;
        10,000 runs, both sides, error 0.05. Bug: ||x|| left out of p; power > 0.9999.
        """
        rng = np.random.default_rng(8)
        runs, draws, error, sigma = 10_000, 30, 0.05, 0.7
        x, theta = rng.standard_normal((2, 8))
        theta *= 1.2 * sigma * np.linalg.norm(x) / (x @ theta)  # 1.2 standard deviations inside
        p = norm.cdf(x @ theta / (sigma * np.linalg.norm(x)))
        noise = sigma * rng.standard_normal((runs, draws, 8))
        counts = (((theta + noise) @ x) > 0).sum(axis=1)
        low = np.array([lower_mean(np.arange(draws) < k, error) for k in range(draws + 1)])
        high = np.array([upper_mean(np.arange(draws) < k, error) for k in range(draws + 1)])
        assert int((low[counts] > p).sum()) <= limit(runs, error)
        assert int((high[counts] < p).sum()) <= limit(runs, error)
        bug = norm.cdf(x @ theta / sigma)
        assert int((high[counts] < bug).sum()) > limit(runs, error)


def shared_draws(rng, runs, draws, margin=0.8416, n_items=50, shared=0.5):
    """Return outcomes (runs, draws, items) of half-spaces under shared noise, and their mean p."""
    x, theta = half_spaces(n_items, shared, np.full(n_items, margin))
    p = float(norm.cdf(margin))
    noise = rng.standard_normal((runs * draws, theta.size)).astype(np.float32)
    outcomes = noise @ x.T.astype(np.float32) > -(x @ theta).astype(np.float32)
    return outcomes.reshape(runs, draws, n_items), p


class TestItemsThatShareADraw:
    """Null: for several items under each noise draw the mean score is covered at 95%.

    50 half-spaces with cosine 0.5 and p = 0.8, 20 draws; 2000 runs.
    Bug: pooling the 20 x 50 outcomes as 1000 Bernoulli trials; power > 0.9999.
    """

    runs, draws = 2000, 20

    def test_pooling_misses_and_the_draw_as_the_unit_does_not(self) -> None:
        outcomes, p = shared_draws(np.random.default_rng(9), self.runs, self.draws)
        by_draw = outcomes.mean(axis=2)
        assert by_draw.mean() == pytest.approx(p, abs=0.01)
        ours = sum(lower_mean(scores, 0.05) > p for scores in by_draw)
        assert ours <= limit(self.runs, 0.05)
        pooled = sum(
            cp_lower(int(k), outcomes[0].size, 0.95).low > p for k in outcomes.sum(axis=(1, 2))
        )
        # Measured: 0.36 (nominally 0.05).
        assert 0.30 < pooled / self.runs < 0.42
        assert power(self.runs, 0.05, 0.30) > 0.9999

    @pytest.mark.parametrize("draws", [2, 5, 20])
    def test_mean_over_draws_covers_on_each_side(self, draws) -> None:
        outcomes, p = shared_draws(np.random.default_rng(10), self.runs, draws)
        intervals = [mean_over_draws(scores, 0.95) for scores in outcomes.mean(axis=2)]
        assert sum(i.low > p for i in intervals) <= limit(self.runs, 0.025)
        assert sum(i.high < p for i in intervals) <= limit(self.runs, 0.025)
        pooled = [cp(int(k), outcomes[0].size, 0.95) for k in outcomes.sum(axis=(1, 2))]
        assert sum(i.low > p for i in pooled) > limit(self.runs, 0.025)

    def test_paired_difference_over_draws_covers(self) -> None:
        """All items are right at zero, so the true mean difference is p - 1."""
        runs = 500
        outcomes, p = shared_draws(np.random.default_rng(11), runs, self.draws)
        truth = p - 1.0
        ours = [paired_difference_over_draws(1.0, scores, 0.95) for scores in outcomes.mean(axis=2)]
        assert sum(not i.low <= truth <= i.high for i in ours) <= limit(runs, 0.05)
        # Bug: every (draw, item) as one pair of its own; power > 0.9999.
        before = np.ones(outcomes[0].size)
        pooled = [paired_difference(before, one.ravel(), 0.95).difference for one in outcomes]
        bug = sum(not i.low <= truth <= i.high for i in pooled)
        assert bug > limit(runs, 0.05)


class TestPairedDifference:
    """Null: the difference over items under one draw is covered at 95%; 20,000 runs."""

    runs = 20_000

    @staticmethod
    @functools.cache
    def compare(gained: int, lost: int, n: int):
        before = np.repeat([0, 1, 1], [gained, lost, n - gained - lost])
        after = np.repeat([1, 0, 1], [gained, lost, n - gained - lost])
        return paired_difference(before, after, 0.95)

    @pytest.mark.parametrize(
        ("gain", "loss", "n"), [(0.0, 0.02, 40), (0.02, 0.05, 60), (0.2, 0.3, 30), (0.0, 0.9, 20)]
    )
    def test_covers(self, gain, loss, n) -> None:
        """Bonferroni over two proportions is conservative: twice the error is not seen here."""
        rng = np.random.default_rng(12)
        counts = rng.multinomial(n, [gain, loss, 1 - gain - loss], self.runs)
        truth = gain - loss
        changes = [self.compare(int(g), int(k), n).difference for g, k, _ in counts]
        assert sum(i.low > truth for i in changes) <= limit(self.runs, 0.025)
        assert sum(i.high < truth for i in changes) <= limit(self.runs, 0.025)

    def test_normal_theory_fails_on_rare_losses(self) -> None:
        """Bug: mean -+ 1.96 standard errors: [0, 0] when no item is lost (45% of the runs)."""
        rng = np.random.default_rng(13)
        n, loss = 40, 0.02
        lost = rng.binomial(n, loss, self.runs) / n
        bug = np.abs(lost - loss) > 1.96 * np.sqrt(lost * (1 - lost) / n)
        assert int(bug.sum()) > limit(self.runs, 0.05)
        assert power(self.runs, 0.05, (1 - loss) ** n) > 0.9999

    @pytest.mark.parametrize(("discordant", "n"), [(0.05, 40), (0.4, 100)])
    def test_p_value_under_no_change(self, discordant, n) -> None:
        """Null: without a change P(p <= 0.05) <= 0.05.

        Bug: the one-sided p-value reported as two-sided; at n = 100 power > 0.999.
        """
        rng = np.random.default_rng(14)
        counts = rng.multinomial(n, [discordant / 2, discordant / 2, 1 - discordant], self.runs)
        p_values = np.array([self.compare(int(g), int(k), n).p_value for g, k, _ in counts])
        assert int((p_values <= 0.05).sum()) <= limit(self.runs, 0.05)
        if n == 100:
            assert int((p_values / 2 <= 0.05).sum()) > limit(self.runs, 0.05)


class TestWidthOverDraws:
    """Null: low <= w, and w <= high, each with probability 0.975 at 95% confidence.

    40 half-spaces with cosine 0.5 under shared noise, 20 draws (each draw's noise serves all the
    steps, as a direction does), 8 steps of which one lies a hair before w and one a hair past it:
    the tests that can err are as close to their null as can be. 400 runs.
    Bug: pooled exact bounds as the pointwise tests; power > 0.9999.
    """

    runs, draws, n_items = 400, 20, 40

    def curves(self, rng, margins):
        """Return the steps, w, S(0) and scores (runs, n_steps, draws)."""
        x, theta = half_spaces(self.n_items, 0.5, margins)
        at_zero = float((x @ theta > 0).mean())
        s_star = 0.5 + 0.5 * (at_zero - 0.5)
        w = brentq(lambda a: norm.cdf(margins / a).mean() - s_star, 1e-3, 1e3)
        steps = w * np.array([0.2, 0.5, 0.8, 1 - 1e-9, 1 + 1e-9, 1.5, 3.0, 10.0])
        noise = rng.standard_normal((self.runs, self.draws, theta.size)) @ x.T
        scores = np.stack([(margins + a * noise > 0).mean(axis=2) for a in steps], axis=1)
        return steps, w, at_zero, scores

    def widths(self, steps, at_zero, scores):
        return [
            width_over_draws(
                steps, one, score_at_zero=at_zero, n_items=self.n_items, chance=0.5, level=0.5
            )
            for one in scores
        ]

    @pytest.mark.parametrize("kind", ["closed form", "numeric root"])
    def test_covers_the_crossing(self, kind, monkeypatch) -> None:
        rng = np.random.default_rng(15)
        if kind == "closed form":
            margins = np.ones(self.n_items)
        else:  # a tenth of the items is wrong at zero
            margins = np.linspace(-0.1, 2.0, self.n_items) + 0.05
        steps, w, at_zero, scores = self.curves(rng, margins)
        if kind == "closed form":  # p(a) = Phi(1/a) = 3/4
            assert w == pytest.approx(1 / norm.ppf(0.75))
        ours = self.widths(steps, at_zero, scores)
        assert not any(one.low > one.estimate or one.estimate > one.high for one in ours)
        assert sum(one.low > w for one in ours) <= limit(self.runs, 0.025)
        assert sum(one.high < w for one in ours) <= limit(self.runs, 0.025)

        def pooled(bound):
            def test(x, error):
                trials = x.size * self.n_items
                interval = cp(round(float(x.sum()) * self.n_items), trials, 1 - 2 * error)
                return getattr(interval, bound)

            return test

        monkeypatch.setattr(width, "lower_mean", pooled("low"))
        monkeypatch.setattr(width, "upper_mean", pooled("high"))
        bug = self.widths(steps, at_zero, scores)
        assert sum(one.low > w for one in bug) > limit(self.runs, 0.025)
        assert sum(one.high < w for one in bug) > limit(self.runs, 0.025)
        assert power(self.runs, 0.025, 0.2) > 0.9999

    def test_no_correction_is_needed_for_many_steps(self) -> None:
        """Null as above, on a plateau a hair below s* = 0.5 with 60 steps; 7 draws; 400 runs.

        The test errs at one step with probability 0.5^7 = 0.008. Bug: ``low`` as the outermost
        step that passes, wherever it lies: it errs with probability 0.37; power > 0.9999.
        """
        rng = np.random.default_rng(16)
        n_steps, draws = 60, 7
        steps = np.arange(1.0, n_steps + 1)
        assert lower_mean(np.ones(draws), 0.025) > 0.5
        scores = (rng.uniform(size=(self.runs, n_steps, draws)) < 0.5 - 1e-9).astype(float)
        lows = [
            width_over_draws(steps, one, score_at_zero=1.0, n_items=50, chance=0.0).low
            for one in scores
        ]
        assert sum(low > 0.0 for low in lows) <= limit(self.runs, 0.025)
        bug = scores.all(axis=2).any(axis=1)
        assert int(bug.sum()) > limit(self.runs, 0.025)
        assert power(self.runs, 0.025, 1 - (1 - 0.5**draws) ** n_steps) > 0.9999


class TestWidthOverItems:
    """Null: low <= w, and w <= high, each with probability 0.975, over items.

    One direction orthogonal to theta and as long; items x ~ N(0, I), right if x lies on the same
    side of theta + a delta as of theta, with a share of the labels flipped. Then
    p(a) = flip + (1 - 2 flip) (1 - arctan(a)/pi), chance is 1/2, and at level 0.5 the crossing is
    at arctan(w) = pi/4, w = 1, for every share. Steps a hair before and past w; 400 runs.
    Bug: chance taken as 0; power > 0.9999.
    """

    runs = 400

    @pytest.mark.parametrize(("flip", "n_items"), [(0.0, 100), (0.05, 200)])
    def test_covers_the_crossing(self, flip, n_items) -> None:
        rng = np.random.default_rng(17)
        w = 1.0
        steps = w * np.array([0.1, 0.4, 0.8, 1 - 1e-9, 1 + 1e-9, 2.0, 8.0, 100.0])
        missed_low = missed_high = bug = 0
        for _ in range(self.runs):
            along, across = rng.standard_normal((2, n_items))
            label = (along > 0) ^ (rng.uniform(size=n_items) < flip)
            at_zero = (along > 0) == label
            correct = np.stack([(along + a * across > 0) == label for a in steps])
            ours = width_over_items(steps, correct, correct_at_zero=at_zero, chance=0.5)
            missed_low += ours.low > w
            missed_high += ours.high < w
            wrong = width_over_items(steps, correct, correct_at_zero=at_zero, chance=0.0)
            bug += wrong.low > w
        assert missed_low <= limit(self.runs, 0.025)
        assert missed_high <= limit(self.runs, 0.025)
        assert bug > limit(self.runs, 0.025)


def test_false_alarm_limits_are_what_they_claim() -> None:
    """The limit itself: exceeded with probability at most 1e-6, and not much less."""
    for runs, error in ((400, 0.025), (2000, 0.05), (1_000_000, 0.025)):
        most = limit(runs, error)
        assert binom.sf(most, runs, error) <= FALSE_ALARM < binom.sf(most - 1, runs, error)
