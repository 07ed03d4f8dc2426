"""The bright-field disk is found to a few hundredths of a pixel, hot pixels or not, if there is one."""

from __future__ import annotations

import numpy as np
import pytest

from live4d_ophyd.imaging.bright_field import fit_disk


def soft_disk(center, radius, shape):
    rows, cols = np.indices(shape)
    return np.clip(radius - np.hypot(rows - center[0], cols - center[1]) + 0.5, 0, 1)


def pattern(center, radius, mean, frames, rng, shape=(192, 192)):
    """Mean of Poisson patterns: a disk, six weak diffracted ones that overlap nothing, a background."""
    counts = 0.006 * mean + mean * soft_disk(center, radius, shape)
    for angle in np.arange(6) * np.pi / 3:
        at = np.array(center) + 2.6 * radius * np.array([np.sin(angle), np.cos(angle)])
        counts += 0.05 * mean * soft_disk(at, radius, shape)
    return rng.poisson(counts * frames) / frames


def spoil(counts, rng):
    """Hot, saturated and dead pixels all over the pattern."""
    counts = counts.copy()
    bright = counts.max()
    for value in (4294967295.0, 20 * bright, 3 * bright, 0.0):
        counts.flat[rng.integers(0, counts.size, 10)] = value
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("hot", [False, True])
def test_centre_and_radius_of_a_mean_pattern(seed, hot):
    rng = np.random.default_rng(seed)
    center, radius = rng.uniform(70, 120, 2), rng.uniform(10, 32)
    counts = pattern(center, radius, 7, 192, rng)
    fit = fit_disk(spoil(counts, rng) if hot else counts)
    np.testing.assert_allclose(fit.center, center, atol=0.05)
    assert fit.radius == pytest.approx(radius, abs=0.05)
    assert fit.intensity == pytest.approx(7, rel=0.02)
    assert fit.edge_width < 1
    assert fit.residual < 0.05


def test_one_frame_of_few_counts():
    rng = np.random.default_rng(5)
    fit = fit_disk(spoil(pattern((90.3, 99.8), 30, 7, 1, rng), rng))
    np.testing.assert_allclose(fit.center, (90.3, 99.8), atol=0.2)
    assert fit.radius == pytest.approx(30, abs=0.2)


def test_a_disk_that_reaches_over_the_edge_of_the_frame():
    fit = fit_disk(pattern((20.4, 12.2), 25, 7, 100, np.random.default_rng(6)))
    np.testing.assert_allclose(fit.center, (20.4, 12.2), atol=0.05)
    assert fit.radius == pytest.approx(25, abs=0.05)


def test_pixels_left_out():
    rng = np.random.default_rng(7)
    counts = pattern((90, 100), 30, 7, 100, rng)
    valid = np.ones(counts.shape, bool)
    counts[80:84] = 5000.0  # a module gap that holds rubbish
    valid[80:84] = False
    counts[10:12] = np.nan
    fit = fit_disk(counts, valid)
    np.testing.assert_allclose(fit.center, (90, 100), atol=0.05)


def test_a_binned_detector():
    fit = fit_disk(pattern((47.1, 48.6), 15, 28, 100, np.random.default_rng(8), shape=(96, 96)))
    np.testing.assert_allclose(fit.center, (47.1, 48.6), atol=0.05)
    assert fit.radius == pytest.approx(15, abs=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: np.zeros((64, 64)),
        lambda rng: np.full((64, 64), np.nan),
        lambda rng: np.ones((64, 64)),
        lambda rng: rng.poisson(8, (64, 64)),
        lambda rng: rng.poisson(0.05, (192, 192)),
        lambda rng: np.where(rng.random((64, 64)) < 0.002, 1e6, 0),
        lambda rng: np.tile(np.arange(64.0), (64, 1)),
    ],
    ids=["dark", "nan", "flat", "noise", "sparse", "hot pixels", "ramp"],
)
def test_no_disk(make):
    with pytest.raises(ValueError, match="no bright-field disk: "):
        fit_disk(make(np.random.default_rng(9)))


def test_patterns_that_cannot_be_fitted():
    with pytest.raises(ValueError, match=r"pattern of shape \(3,\)"):
        fit_disk(np.zeros(3))
    with pytest.raises(ValueError, match=r"valid of shape \(4, 4\)"):
        fit_disk(np.zeros((64, 64)), np.ones((4, 4), bool))
