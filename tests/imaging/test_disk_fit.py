"""The bright-field disk is found to a few hundredths of a pixel, hot pixels or not, if there is one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.special import erfc

from live4d_ophyd.imaging.disk_fit import fit_disk


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


def ideal(center, radius, width, intensity, background, shape):
    """A disk as `DiskFit` describes it, without noise."""
    rows, cols = np.indices(shape)
    distance = np.hypot(rows - center[0], cols - center[1])
    return intensity / 2 * erfc((distance - radius) / width) + background


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_every_number_of_an_ideal_disk(scale):
    """Whatever the unit of counts."""
    counts = ideal((40.25, 61.5), 17.3, 1.6, 7.0 * scale, 0.4 * scale, (90, 120))
    fit = fit_disk(counts)
    np.testing.assert_allclose(fit.center, (40.25, 61.5), atol=1e-6)
    assert fit.radius == pytest.approx(17.3, abs=1e-6)
    assert fit.edge_width == pytest.approx(1.6, abs=1.1e-3)
    assert fit.intensity == pytest.approx(7.0 * scale, rel=1e-6)
    assert fit.background == pytest.approx(0.4 * scale, rel=1e-6)
    assert fit.residual < 1e-6


def test_the_residual_is_the_median_deviation_as_a_part_of_the_intensity():
    counts = ideal((40, 40), 15, 1.0, 10.0, 2.0, (80, 80))
    counts[::2] += 0.5
    counts[1::2] -= 0.5
    assert fit_disk(counts).residual == pytest.approx(0.05, abs=0.005)


def test_a_disk_on_a_frame_of_millions_of_pixels():
    """Of which a part is fitted."""
    counts = ideal((700.4, 820.7), 300.2, 2.0, 50.0, 1.0, (1500, 1600))
    fit = fit_disk(counts)
    np.testing.assert_allclose(fit.center, (700.4, 820.7), atol=0.01)
    assert fit.radius == pytest.approx(300.2, abs=0.01)


def test_the_largest_bright_region_is_the_disk_also_with_a_hole():
    counts = ideal((60, 50), 20, 1.0, 10.0, 0.1, (128, 128))
    counts[100:108, 100:108] = 12.0  # brighter, and smaller
    valid = np.ones(counts.shape, bool)
    valid[56:65, 46:55] = False  # a beam stop
    counts[56:65, 46:55] = 0
    fit = fit_disk(counts, valid)
    np.testing.assert_allclose(fit.center, (60, 50), atol=0.05)
    assert fit.radius == pytest.approx(20, abs=0.05)


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (
            ((-40, 60), 50, 1.0, 10.0, 0.1),
            "of the edge at row -40.0, col 60.0 with radius 50.0 px, 20 % lies on the pattern of 120 x 130 px",
        ),
        (
            ((60, 40), 20, 1.0, 2.9, 7.1),
            "row 60.0, col 40.0 with radius 20.0 px is 2.9 counts above a background of 7.1",
        ),
        (
            ((60, 70), 8, 9.0, 10.0, 0.0),
            "the edge at row 60.0, col 70.0 with radius 8.0 px is 9.0 px wide, wider than the disk",
        ),
    ],
    ids=["mostly outside", "little contrast", "all edge"],
)
def test_what_is_no_disk_is_said_with_what_was_found(disk, words):
    with pytest.raises(ValueError, match=f"^no bright-field disk: {re.escape(words)}$"):
        fit_disk(ideal(*disk, (120, 130)))


def test_what_is_left_out_may_look_like_the_disk():
    counts = ideal((40, 30), 12, 1.0, 10.0, 1.0, (80, 120))
    valid = np.ones(counts.shape, bool)
    valid[:, 45:] = False
    counts[:, 45:] = 11.0
    np.testing.assert_allclose(fit_disk(counts, valid).center, (40, 30), atol=1e-6)


def test_hot_pixels_beside_a_disk_of_a_twentieth_of_a_count():
    counts = ideal((40, 50), 15, 1.0, 0.05, 0.0, (90, 100))
    counts[[5, 70, 80], [90, 20, 60]] = 3.0
    fit = fit_disk(counts)
    np.testing.assert_allclose(fit.center, (40, 50), atol=0.01)
    assert fit.radius == pytest.approx(15, abs=0.01)


@pytest.mark.parametrize("usable", ["inside", "around"])
def test_pixels_inside_and_around_the_disk_are_needed(usable):
    counts = ideal((40, 40), 12, 1.0, 10.0, 1.0, (80, 80))
    distance = np.hypot(*(np.indices(counts.shape) - 40))
    valid = distance < 13 if usable == "inside" else distance > 11
    with pytest.raises(ValueError, match="no bright-field disk: "):
        fit_disk(counts, valid)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_a_quarter_of_the_edge_must_lie_on_the_pattern(side):
    """Of a circle of 50 px, 27 % lie above a line 33 px from its centre, and 24 % above one at 36 px."""

    def fit(away):
        center = {
            "top": (-away, 60),
            "bottom": (119 + away, 60),
            "left": (60, -away),
            "right": (60, 129 + away),
        }
        return center[side], fit_disk(ideal(center[side], 50, 1.0, 10.0, 0.1, (120, 130)))

    center, found = fit(33)
    np.testing.assert_allclose(found.center, center, atol=1e-6)
    with pytest.raises(ValueError, match="24 % lies on the pattern of 120 x 130 px"):
        fit(36)


def test_a_third_of_the_level_is_contrast_enough():
    counts = ideal((60, 60), 20, 1.0, 4.0, 6.0, (120, 120))
    fit = fit_disk(counts)
    assert fit.intensity == pytest.approx(4.0, rel=0.01)
    assert fit.background == pytest.approx(6.0, rel=0.01)


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
    for shape in ((4, 64), (64, 4)):
        with pytest.raises(ValueError, match="at least 5 px each"):
            fit_disk(np.ones(shape))
    with pytest.raises(ValueError, match="no bright-field disk: "):
        fit_disk(np.ones((5, 5)))
    with pytest.raises(ValueError, match=r"valid of shape \(4, 4\)"):
        fit_disk(np.zeros((64, 64)), np.ones((4, 4), bool))


# Ellipses ------------------------------------------------------------------------------------------------


def ideal_ellipse(center, axes, degrees, shape=(128, 144)):
    """``axes`` (major, minor); the major one is turned from the rows towards the columns."""
    rows, cols = np.indices(shape)
    y, x, turn = rows - center[0], cols - center[1], np.radians(degrees)
    major, minor = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    stretch = np.sqrt(axes[0] / axes[1])
    return 5.0 * erfc(np.hypot(major / stretch, minor * stretch) - np.sqrt(axes[0] * axes[1])) + 0.2


@pytest.mark.parametrize(
    ("axes", "degrees"), [((31, 28), 20), ((20.5, 20), 0), ((24, 20), 135), ((26, 22), 90)]
)
def test_an_ellipse_is_found_with_its_axes_and_angle(axes, degrees):
    fit = fit_disk(ideal_ellipse((60.3, 70.8), axes, degrees))
    np.testing.assert_allclose(fit.center, (60.3, 70.8), atol=1e-5)
    np.testing.assert_allclose(fit.semiaxes, axes, atol=1e-4)
    assert fit.radius == pytest.approx(np.sqrt(axes[0] * axes[1]), abs=1e-4)
    turn = np.radians(degrees)
    ends = np.array(fit.center) + axes[0] * np.array([np.cos(turn), np.sin(turn)])
    assert fit.distance(*ends) == pytest.approx(fit.radius, abs=1e-3)
    assert (fit.ellipse_angle - degrees + 90) % 180 - 90 == pytest.approx(0, abs=1e-3)


def test_the_ellipticity_is_not_known_where_much_of_the_edge_is_off_the_pattern():
    fit = fit_disk(ideal((10, 60), 25, 1.0, 10.0, 0.1, (120, 130)))
    assert np.isnan([fit.ellipticity, fit.ellipse_angle, *fit.semiaxes]).all()
    np.testing.assert_allclose(fit.center, (10, 60), atol=1e-5)
