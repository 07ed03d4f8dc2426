"""Simulated counts are Poisson numbers: mean, variance, distribution against SciPy's, for each way they are drawn."""

import numpy as np
import pytest
from scipy import stats

from live4d_ophyd.sim.poisson import TABLES, frame_seeds, poisson_counts

#: fractions, whole means and what is between, on both sides of the end of the tables
MEANS = [1e-4, 0.08, 0.35, 0.999, 1.0, 1.0001, 2.5, 9.99, 25.3, 66.7, TABLES - 0.01, TABLES, 200.5, 5e3]


def draws(mean, count=400_000, key=1, dtype=np.uint32):
    """Poisson numbers of one mean, ``(count,)``."""
    edge = 200
    frames = count // edge**2
    amplitudes = np.ones((frames, edge, edge), np.uint16)
    out = np.empty(amplitudes.shape, dtype)
    poisson_counts(amplitudes, np.full(frames, float(mean)), frame_seeds(key, 0, frames), out)
    return out.ravel()


@pytest.mark.parametrize("mean", MEANS)
def test_mean_and_variance(mean):
    counts = draws(mean).astype(float)
    # five standard errors; the variance of a sample variance is (mean + 2 mean**2) / n
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / counts.size))
    assert counts.var() == pytest.approx(mean, abs=5 * np.sqrt((mean + 2 * mean**2) / counts.size))


@pytest.mark.parametrize("mean", MEANS)
def test_distribution(mean):
    counts = draws(mean, key=2)
    low, high = stats.poisson.ppf([1e-4, 1 - 1e-4], mean).astype(int)
    edges = np.unique(np.linspace(low, high + 1, 40).astype(int))
    seen = np.histogram(counts, [-0.5, *(edges + 0.5), np.inf])[0]
    expected = np.diff(stats.poisson.cdf([-1, *edges, np.inf], mean)) * counts.size
    enough = expected > 8
    seen = np.append(seen[enough], seen[~enough].sum())
    expected = np.append(expected[enough], expected[~enough].sum())
    chi2 = ((seen - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 8].sum()
    assert stats.chi2.sf(chi2, max(int((expected > 8).sum()) - 1, 1)) > 1e-4


def test_rare_large_counts_of_small_means_are_there():
    counts = draws(0.9, 4_000_000, key=3)
    for k in (4, 5, 6, 7):
        expected = stats.poisson.pmf(k, 0.9) * counts.size
        assert (counts == k).sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_pixels_and_frames_are_independent():
    counts = draws(3.3, 4_000_000, key=4).astype(float).reshape(100, 200, 200) - 3.3
    for other in (np.roll(counts, 1, axis) for axis in (0, 1, 2)):
        # the standard error of a correlation of n numbers is 1 / sqrt(n)
        assert abs((counts * other).mean() / 3.3) < 5 / np.sqrt(counts.size)


def test_a_frame_depends_on_its_seed_only():
    amplitudes = np.random.default_rng(0).integers(0, 50, (6, 20, 20)).astype(np.uint16)
    scales = np.full(6, 0.1)
    all_of_them, part = np.empty((6, 20, 20), np.uint16), np.empty((2, 20, 20), np.uint16)
    poisson_counts(amplitudes, scales, frame_seeds(9, 0, 6), all_of_them)
    poisson_counts(amplitudes[3:5], scales[3:5], frame_seeds(9, 3, 2), part)
    assert np.array_equal(part, all_of_them[3:5])
    poisson_counts(amplitudes[3:5], scales[3:5], frame_seeds(10, 3, 2), part)
    assert not np.array_equal(part, all_of_them[3:5])


def test_counts_end_where_they_are_told_to_and_leave_the_rest_alone():
    amplitudes = np.full((1, 4, 4), 1000, np.uint16)
    for scale in (1e-3, 1.0, 1e12):
        out = np.full((1, 8, 9), 7, np.uint8)
        poisson_counts(amplitudes, np.array([scale]), frame_seeds(1, 0, 1), out, (2, 3), 254)
        assert (out[0, 2:6, 3:7] == 254).all()
        out[0, 2:6, 3:7] = 7
        assert (out == 7).all()


def test_no_electrons_no_counts():
    assert not draws(0.0).any()
