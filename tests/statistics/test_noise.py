"""The noise as a sample: standard normal, and independent wherever a user could tell.

Every test states its null hypothesis, has a fixed seed and size, and would fail under the null with
a probability of at most 1e-6 over seeds: with k statistics each is allowed ``Z = isf(1e-6/(2k))``
standard errors (or the exact distribution at 1e-6/k). Never retried.

Power is stated against a named bug; where the bug is a line of code, it is implemented here.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from basinscope.weights import noise

FALSE_ALARM = 1e-6
N = 1 << 20


def errors(k=1):
    """Return how many standard errors each of k statistics may be off."""
    return float(stats.norm.isf(FALSE_ALARM / (2 * k)))


def sample(name="w", n=N, **names):
    return noise.normals(name, n, **names).double().numpy()


@pytest.fixture(scope="module")
def z():
    return sample(seed=20)


class TestDistribution:
    """H0: every value is N(0, 1)."""

    def test_moments(self, z):
        # E z^k of N(0, 1) and the variance of its mean, k = 1..4 (higher ones are not yet normal)
        for k in range(1, 5):
            mean = stats.norm.moment(k)
            error = math.sqrt((stats.norm.moment(2 * k) - mean**2) / N)
            assert abs(np.mean(z**k) - mean) < errors(4) * error, k

    def test_the_moments_would_show_defect_9(self, z):
        error = math.sqrt(2 / N)
        assert abs(np.mean((z * math.sqrt(1.17)) ** 2) - 1) > 20 * errors(4) * error

    def test_whole_distribution(self, z):
        # Kolmogorov-Smirnov; power: a shift or scale error of 0.01 is found almost surely
        assert stats.kstest(z, "norm").pvalue > FALSE_ALARM
        assert stats.kstest(z + 0.01, "norm").pvalue < FALSE_ALARM
        assert stats.kstest(z * 1.02, "norm").pvalue < FALSE_ALARM

    def test_each_lane(self, z):
        # the four lanes come from four words through sine and cosine: one bad branch shows here
        for lane in range(4):
            assert stats.kstest(z[lane::4], "norm").pvalue > FALSE_ALARM / 4

    def test_quarters_of_the_circle(self, z):
        # angle of a pair is uniform: 64 equal sectors, chi-square with 63 degrees of freedom
        angle = np.arctan2(z[1::2], z[::2])
        counts, _ = np.histogram(angle, 64, (-math.pi, math.pi))
        assert stats.chisquare(counts).pvalue > FALSE_ALARM

    def test_radius_of_a_pair(self, z):
        # z0^2 + z1^2 is exponential with mean 2
        assert stats.kstest(z[::2] ** 2 + z[1::2] ** 2, "expon", args=(0, 2)).pvalue > FALSE_ALARM

    def test_counts_in_the_tail(self):
        # H0: P(|z| > t); 2^24 values, exact binomial two-sided; power: a tail that is cut at t
        # gives 0 where 957 (4 sigma) and 9.6 (5 sigma) are expected
        z, n = noise.normals("tail", 1 << 24), 1 << 24
        for t in (3.0, 4.0, 5.0):
            count, p = int((z.abs() > t).sum()), 2 * stats.norm.sf(t)
            assert stats.binomtest(count, n, p).pvalue > FALSE_ALARM / 3, t

    def test_tail_beyond_5_9_sigma_can_be_reached(self):
        # 24-bit uniforms end at 5.89: the first word's 256 least values alone go beyond it
        x = torch.arange(256)
        values = noise._box_muller_torch(x, torch.full_like(x, 0x20000000))[0]
        exact = torch.sqrt(-2 * torch.log((x.double() + 0.5) / 2**32))
        assert float(values.max()) > 6.75
        assert (values.double() - exact).abs().max() < 1e-5
        assert int((values > 5.9).sum()) > 60

    def test_small_first_words_become_large_radii(self):
        # 2^32 values would be slow to search; the integers of 2^19 blocks are searched for small
        # first words instead (64 expected below 2^19), which the stream must turn into radii
        blocks = torch.arange(1 << 19)
        words = noise.philox_torch(blocks, noise.stream("tail", 0, 0))
        places = int((words[0] < 1 << 19).sum())
        assert stats.poisson.cdf(places, 64) > FALSE_ALARM / 2
        assert stats.poisson.sf(places - 1, 64) > FALSE_ALARM / 2
        block = int(words[0].argmin())
        pair = noise.normals("tail", 2, start=4 * block).double()
        assert float(pair.square().sum().sqrt()) == pytest.approx(
            math.sqrt(-2 * math.log((int(words[0].min()) + 0.5) / 2**32)), abs=1e-5
        )


def correlations(rows):
    """Largest of the off-diagonal sample correlations, in standard errors, and their number."""
    table = np.corrcoef(rows)
    off = table[np.triu_indices(len(rows), 1)]
    return np.abs(off).max() * math.sqrt(rows.shape[1]), len(off)


class TestIndependence:
    """H0: two values with different (name, seed, draw, position) are independent.

    A sample correlation of n independent pairs has standard error 1/sqrt(n). Power: equal noise
    (defect 1) has correlation 1, hundreds of standard errors; one shared word in four gives 1/4.
    """

    @pytest.mark.parametrize("power", [1, 2])
    def test_of_lanes(self, z, power):
        # squares as well: two lanes may share a radius without being correlated
        rows = z.reshape(-1, 4).T ** power
        worst, k = correlations(rows)
        assert worst < errors(2 * k)

    @pytest.mark.parametrize("power", [1, 2])
    def test_of_neighbours(self, z, power):
        lags = [1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 4 * 64, 1024, 4 * noise.CHUNK_BLOCKS]
        x = z**power - np.mean(z**power)
        for lag in lags:
            r = np.mean(x[lag:] * x[:-lag]) / np.var(x) * math.sqrt(N - lag)
            assert abs(r) < errors(2 * len(lags)), lag

    def test_of_tensors(self):
        names = [f"layers.{i}.{w}.weight" for i in range(8) for w in ("q", "k", "v", "up")]
        worst, k = correlations(np.stack([sample(name, 1 << 15) for name in names]))
        assert worst < errors(k)

    def test_of_draws_and_seeds(self):
        rows = [sample("w", 1 << 15, seed=s, draw=d) for s in range(5) for d in range(6)]
        worst, k = correlations(np.stack(rows))
        assert worst < errors(k)

    def test_would_show_defect_1(self):
        # the bug: a generator reseeded with the same seed for every tensor
        rows = [torch.randn(256, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
        worst, _ = correlations(torch.stack(rows).numpy())
        assert worst > 2 * errors()

    def test_of_shifted_tensors(self):
        # the same noise a few positions further on would escape an aligned correlation
        a, b = sample("a", 1 << 16), sample("b", 1 << 16)
        spectrum = np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(b)), len(a))
        assert np.abs(spectrum).max() / math.sqrt(len(a)) < errors(len(a))

    def test_of_positions_beyond_the_second_counter_word(self):
        near, far = sample("w", 1 << 16), sample("w", 1 << 16, start=1 << 34)
        worst, _ = correlations(np.stack([near, far]))
        assert worst < errors()

    def test_of_bits(self):
        # H0: each of 128 bits of a block is 1 in half the blocks, and any two are independent
        blocks = torch.arange(1 << 16)
        words = noise.philox_torch(blocks, noise.stream("w", 0, 0))
        bits = torch.stack([(w >> k) & 1 for w in words for k in range(32)]).double().numpy()
        ones = np.abs(bits.mean(1) - 0.5) * 2 * math.sqrt(bits.shape[1])
        assert ones.max() < errors(2 * len(bits))
        worst, k = correlations(bits)
        assert worst < errors(2 * k)

    def test_norm_of_a_direction(self):
        # E ||delta||^2 = d with variance 2d, draw by draw: 200 draws, Kolmogorov-Smirnov on chi2
        d = 1 << 12
        norms = [float(np.square(sample("w", d, draw=k)).sum()) for k in range(200)]
        assert stats.kstest(norms, "chi2", args=(d,)).pvalue > FALSE_ALARM

    def test_projection_on_a_fixed_vector(self):
        # half-spaces see delta only through x . delta ~ N(0, ||x||^2)
        x = np.linspace(-1, 2, 1 << 10)
        seen = [float(x @ sample("w", len(x), draw=k)) / np.linalg.norm(x) for k in range(500)]
        assert stats.kstest(seen, "norm").pvalue > FALSE_ALARM
