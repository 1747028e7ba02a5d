"""Certificates are sound: how often a lower bound exceeds the truth, over thousands of runs.

Null hypothesis of every test: the bound misses with probability at most the claimed error. A test
counts misses over R independent runs and fails if their number is above the 1 - 1e-6 quantile of
Bin(R, error): so it fails by chance with probability at most 1e-6. Named bug: a bound computed with
twice the error (one-sided where two-sided was meant, or an error that was not shared). Each case is
one where an honest bound comes so close to its error that this bug is caught, which the test shows
on the same data. Seeds are fixed and nothing is retried.
"""

import math

import numpy as np
import pytest
from misses import limit
from scipy import stats as scipy_stats
from scipy.stats import norm

from basinscope import stats
from basinscope.stats import smoothing as formulas
from basinscope.stats.bounds import log_capitals

FALSE_ALARM = 1e-6
ERROR = 0.2


def most(runs, error=ERROR):
    return limit(runs, error)


class TestOneItemPerDraw:
    """Exact bound; the truth lies just below the bound of a count, where the error is all used."""

    RUNS, N = 4000, 60

    @pytest.mark.parametrize("k", [30, 40, 50, 56])
    def test_misses_as_often_as_claimed(self, k):
        p = stats.lower_proportion(k, self.N, 1 - ERROR).low * (1 - 1e-9)
        counts = np.random.default_rng(k).binomial(self.N, p, size=self.RUNS)
        low = {c: stats.lower_proportion(int(c), self.N, 1 - ERROR).low for c in set(counts)}
        missed = sum(low[c] > p for c in counts)
        assert missed <= most(self.RUNS)
        assert missed > 0.85 * ERROR * self.RUNS, "the case is tight"
        twice = {c: stats.lower_proportion(int(c), self.N, 1 - 2 * ERROR).low for c in set(counts)}
        assert sum(twice[c] > p for c in counts) > most(self.RUNS), "twice the error is caught"


def _half_spaces(rng, runs, draws):
    """Eight half-spaces in six dimensions that share every draw: mean score of each."""
    theta, x = rng.normal(size=6), rng.normal(size=(8, 6))
    x *= np.sign(x @ theta)[:, None]
    truth = norm.cdf(x @ theta / np.linalg.norm(x, axis=1)).mean()
    noise = theta + rng.normal(size=(runs, draws, 6))
    return ((noise @ x.T) > 0).mean(-1), float(truth)


def _ball(rng, runs, draws):
    """One ball in five dimensions."""
    theta = np.full(5, 0.4)
    truth = scipy_stats.ncx2.cdf(2.6**2, 5, theta @ theta)
    noise = theta + rng.normal(size=(runs, draws, 5))
    return ((noise**2).sum(-1) < 2.6**2).astype(float), float(truth)


def _mixture(rng, runs, draws):
    """Draws that keep nearly all items, and some that lose nearly all."""
    lost = rng.random((runs, draws)) < 0.2
    scores = np.where(lost, rng.choice([0.0, 0.1], lost.shape), rng.choice([0.9, 1.0], lost.shape))
    return scores, 0.8 * 0.95 + 0.2 * 0.05


def _sampled_items(rng, runs, draws):
    """Half-spaces of which each draw answers three of eight, without replacement."""
    theta, x = rng.normal(size=6), rng.normal(size=(8, 6))
    x *= np.sign(x @ theta)[:, None]
    truth = norm.cdf(x @ theta / np.linalg.norm(x, axis=1)).mean()
    right = ((theta + rng.normal(size=(runs, draws, 6))) @ x.T) > 0
    chosen = rng.permuted(np.broadcast_to(np.arange(8) < 3, right.shape), axis=-1)
    return (right & chosen).sum(-1) / 3, float(truth)


CASES = {
    "half-spaces": _half_spaces, "ball": _ball, "mixture": _mixture, "sampled": _sampled_items
}  # fmt: skip


class TestSeveralItemsPerDraw:
    """Betting bound at every look: a run misses if the bound is ever above the truth."""

    RUNS, DRAWS = 2000, 400

    @pytest.mark.parametrize("name", list(CASES))
    def test_misses_at_no_look_more_often_than_claimed(self, name):
        scores, truth = CASES[name](np.random.default_rng(11), self.RUNS, self.DRAWS)
        # the bound exceeds the truth exactly where the capital against the truth exceeds 1/error
        peak = np.array([log_capitals(run, truth).max() for run in scores])
        assert (peak >= -math.log(ERROR)).sum() <= most(self.RUNS)
        assert (peak >= -math.log(2 * ERROR)).sum() > most(self.RUNS), "twice the error is caught"

    @pytest.mark.parametrize("name", list(CASES))
    def test_the_bound_itself_misses_no_more_often(self, name):
        scores, truth = CASES[name](np.random.default_rng(12), 2000, 40)
        missed = sum(stats.lower_mean(run, ERROR) > truth for run in scores)
        assert missed <= most(2000)

    def test_items_pooled_over_draws_would_miss_more_often(self):
        # method defect: n draws x m items taken for n m independent trials
        scores, truth = _mixture(np.random.default_rng(13), 2000, 40)
        pooled = [
            stats.lower_proportion(round(run.sum() * 10), 400, 1 - ERROR).low for run in scores
        ]
        assert sum(low > truth for low in pooled) > most(2000)


class TestItemsTogether:
    """Per-item bounds: a run misses if any item's bound is above its truth."""

    RUNS, N, ITEMS = 3000, 500, 5

    def test_all_items_hold_together(self):
        each = 1 - ERROR / self.ITEMS
        ks = np.array([250, 300, 350, 400, 440])
        p = np.array([stats.lower_proportion(int(k), self.N, each).low for k in ks]) * (1 - 1e-9)
        rng = np.random.default_rng(5)
        counts = rng.binomial(self.N, p, size=(self.RUNS, self.ITEMS))  # the worst: independent
        missed, twice = (
            sum(
                bool((formulas.item_lower_bounds(run, self.N, 1 - error) > p).any())
                for run in counts
            )
            for error in (ERROR, 2 * ERROR)
        )
        assert missed <= most(self.RUNS)
        assert twice > most(self.RUNS), "twice the error is caught"

    def test_and_so_does_the_mean_of_their_bounds_at_any_distance(self):
        rng = np.random.default_rng(6)
        theta, x = rng.normal(size=6), rng.normal(size=(12, 6))
        x *= np.sign(x @ theta)[:, None]
        norms = np.linalg.norm(x, axis=1)
        aim = -(x / norms[:, None]).mean(0)
        aim /= np.linalg.norm(aim)  # hurts the items on average
        missed = 0
        for _ in range(2000):
            right = ((theta + rng.normal(size=(60, 6))) @ x.T > 0).sum(0)
            low = formulas.item_lower_bounds(right, 60, 1 - ERROR)
            missed += any(
                formulas.mean_lower_bound(low, r, 1.0)
                > norm.cdf((x @ (theta + r * aim)) / norms).mean()
                for r in (0.0, 0.5, 1.5)
            )
        assert missed <= most(2000)


class TestDecisions:
    RUNS = 2000

    @pytest.mark.parametrize("claim", [0.5, 0.8])
    def test_neither_side_errs_more_often_than_claimed_at_the_edge(self, claim):
        rng = np.random.default_rng(8)
        x = (rng.random((self.RUNS, 400)) < claim).astype(float)
        decided = [formulas.decide(run, claim, ERROR)[1] for run in x]
        # at the edge both hypotheses hold, so that either decision counts as wrong
        assert sum(d is True for d in decided) <= most(self.RUNS)
        assert sum(d is False for d in decided) <= most(self.RUNS)
        doubled = [formulas.decide(run, claim, 2 * ERROR)[1] for run in x]
        wrong = max(sum(d is True for d in doubled), sum(d is False for d in doubled))
        assert wrong > most(self.RUNS), "twice the error is caught"

    def test_economy_of_a_clear_claim(self):
        # p = 0.8 against 0.5 at error 1e-3: at most 60 draws on average is asked for; no test of
        # that error takes fewer than log(1000) / KL(0.8, 0.5) = 35.8 (Wald)
        rng = np.random.default_rng(9)
        x = (rng.random((self.RUNS, 600)) < 0.8).astype(float)
        found = [formulas.decide(run, 0.5, 1e-3) for run in x]
        needed = np.array([n for n, _ in found])
        assert all(verdict is not None for _, verdict in found)
        assert sum(verdict is False for _, verdict in found) <= most(self.RUNS, 1e-3)
        assert needed.mean() + 5 * needed.std() / math.sqrt(self.RUNS) < 48
        assert needed.mean() > 35.8

    def test_several_items_per_draw_are_cheaper_still(self):
        rng = np.random.default_rng(10)
        x = rng.binomial(8, 0.8, size=(500, 200)) / 8
        needed = [formulas.decide(run, 0.5, 1e-3)[0] for run in x]
        assert np.mean(needed) < 25
