"""Coverage of the ratio of paired means, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from misses import limit
from scipy.stats import binom, norm, t

from basinscope.stats import paired_ratio

RUNS, ERROR = 10_000, 0.05
LIMIT = limit(RUNS, ERROR)


def simulated(n, cv, shared, seed):
    """Pairs of normals with means 0.5 and 1, one share of their spread in common."""
    rng = np.random.default_rng(seed)
    both, own, other = rng.normal(size=(3, RUNS, n))
    x = 1.0 + cv * (np.sqrt(shared) * both + np.sqrt(1 - shared) * own)
    y = 0.5 * (1.0 + cv * (np.sqrt(shared) * both + np.sqrt(1 - shared) * other))
    return y, x


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_misses_at_most_at_its_nominal_rate(n, shared):
    """Null: a 95% interval misses the ratio of the means at most 5% of the time, for normal pairs.

    Fails on a correct interval with probability below 1e-6. Bug caught with probability > 0.999:
    the normal quantile in place of Student's (three pairs: it misses about 19% of the time; see
    the test below).
    """
    y, x = simulated(n, 0.1, shared, seed=0)
    missed = 0
    for one, base in zip(y, x, strict=True):
        found = paired_ratio(one, base)
        # without ends it claims nothing and so cannot miss; at this spread it is rare
        missed += bool(found.low > 0.5 or found.high < 0.5)
    assert missed <= LIMIT
    # and it is no wider than it needs: exact for normal pairs
    assert missed >= int(binom.ppf(1e-6, RUNS, 0.045))


def test_the_named_bug_would_be_seen():
    """The normal quantile misses beyond the limit, simulated as the paired test that it is."""
    y, x = simulated(3, 0.1, 0.0, seed=1)
    d = y - 0.5 * x
    score = np.abs(d.mean(axis=1)) / (d.std(axis=1, ddof=1) / np.sqrt(3))
    assert (score > norm.ppf(0.975)).sum() > LIMIT
    assert (score > t.ppf(0.975, 2)).sum() <= LIMIT
