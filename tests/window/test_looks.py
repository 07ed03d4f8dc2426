"""What is read off an image: profiles, spectra, lost positions, levels, against definitions."""

import numpy as np
import pytest

from live4d_ophyd.window.looks import SPECTRUM_SIDE, levels, lost, profile, spectrum


def test_a_profile_of_a_plane_is_the_plane_along_the_line():
    rows, cols = np.mgrid[:20, :30]
    distances, values = profile(3.0 * rows + 2.0 * cols, (2, 4), (14, 20), (0.5, 0.25))
    assert len(distances) == 21  # 20 positions apart
    assert distances[-1] == pytest.approx(np.hypot(12 * 0.5, 16 * 0.25))
    assert values == pytest.approx(3 * np.linspace(2, 14, 21) + 2 * np.linspace(4, 20, 21))


def test_a_wide_profile_is_the_mean_of_the_lines_that_are_known():
    image = np.tile(np.arange(9.0)[:, np.newaxis], (1, 12))
    image[5] = np.nan
    _, values = profile(image, (4, 2), (4, 9), (1, 1), width=3)
    assert values == pytest.approx(np.full(8, 3.5))  # rows 3 and 4; row 5 is not known


def test_a_profile_is_unknown_off_the_image_and_where_nothing_came():
    image = np.ones((6, 6))
    image[:, 3] = np.nan
    _, values = profile(image, (2, -2), (2, 5), (1, 1))
    assert np.isnan(values[:2]).all()
    assert np.isnan(values[5])
    assert values[2:4] == pytest.approx([1, 1])


def test_a_spectrum_has_its_peak_at_the_frequency_of_a_wave():
    step = 0.2  # nm
    x = np.arange(64) * step
    image = np.tile(np.sin(2 * np.pi * x / 1.6), (32, 1)) + 100
    image[3:5, 10:20] = np.nan
    power, (per_y, per_x) = spectrum(image, (step, step))
    assert (per_y, per_x) == pytest.approx((1 / (32 * step), 1 / (64 * step)))
    row, col = np.unravel_index(np.argmax(power), power.shape)
    assert row == 16
    assert abs(col - 32) * per_x == pytest.approx(1 / 1.6)


def test_of_a_large_image_the_middle_has_a_spectrum():
    power, per_px = spectrum(np.random.default_rng(1).normal(size=(SPECTRUM_SIDE + 10, 40)), (1.0, 1.0))
    assert power.shape == (SPECTRUM_SIDE, 40)
    assert per_px == (1 / SPECTRUM_SIDE, 1 / 40)


def test_an_image_without_values_has_no_spectrum():
    power, _ = spectrum(np.full((8, 8), np.nan), (1, 1))
    assert np.isnan(power).all()


def test_positions_still_to_come_are_not_lost():
    image = np.full((5, 4), np.nan)
    image[:3] = 1
    image[1, 2] = np.nan
    image[2, 3] = np.nan  # of the row that is under way
    assert np.argwhere(lost(image, preview=True)).tolist() == [[1, 2]]
    assert lost(image, preview=False).sum() == 2 + 2 * 4
    assert not lost(np.full((5, 4), np.nan), preview=True).any()


def test_levels_leave_outliers_out_and_know_nothing_of_nothing():
    image = np.tile(np.linspace(0, 1, 300), (300, 1))
    image[0, 0] = 1e9
    low, high = levels(image)
    assert (low, high) == pytest.approx((0.005, 0.995), abs=0.01)
    assert levels(np.full((4, 4), np.nan)) is None
    low, high = levels(np.full((4, 4), 7.0))
    assert low < high
