"""Hot and dead pixels stand out of a mean pattern; the disk, its edge, gaps and shot noise do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.imaging.bad_pixels import find_dead_pixels, find_hot_pixels
from live4d_ophyd.imaging.disk_fit import DiskFit, fit_disk

SHAPE = (96, 96)


def mean_pattern(frames, rng, center=(47.2, 48.6), radius=15.3, mean=28):
    """Poisson: a disk and a weak background."""
    rows, cols = np.indices(SHAPE)
    disk = np.clip(radius - np.hypot(rows - center[0], cols - center[1]) + 0.5, 0, 1)
    return rng.poisson((0.005 * mean + mean * disk) * frames) / frames


@pytest.mark.parametrize("frames", [64, 256, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_all_hot_pixels_and_no_other(frames, seed):
    rng = np.random.default_rng(seed)
    pattern = mean_pattern(frames, rng)
    away = np.abs(np.hypot(*(np.indices(SHAPE) - np.array([47.2, 48.6])[:, None, None])) - 15.3) > 3
    places = rng.choice(np.flatnonzero(away), 10, replace=False)
    pattern.flat[places] += rng.uniform(50, 60_000, 10)
    found = find_hot_pixels(pattern, frames, fit_disk(pattern))
    assert sorted(np.flatnonzero(found)) == sorted(places)


def test_gaps_and_the_edge_of_the_frame_are_not_hot():
    rng = np.random.default_rng(3)
    pattern = rng.poisson(5 * 500, SHAPE) / 500
    pattern[40:44] = pattern[:, 60:66] = np.nan
    pattern[0, 0] = pattern[39, 59] = pattern[95, 30] = 12.0
    found = find_hot_pixels(pattern, 500)
    assert np.argwhere(found).tolist() == [[0, 0], [39, 59], [95, 30]]


def test_neighbours_in_a_pair_are_both_found():
    pattern = np.full(SHAPE, 2.0)
    pattern[20, 20:22] = 500
    assert np.argwhere(find_hot_pixels(pattern, 100)).tolist() == [[20, 20], [20, 21]]


@pytest.mark.parametrize(
    ("level", "frames", "limit"),
    [
        # 8 standard deviations of shot noise and of a structure of 10 % above the level
        (4.0, 100, 4 + 8 * np.sqrt(4 / 100 + 0.4**2)),
        (4.0, 1, 4 + 8 * np.sqrt(4 / 1 + 0.4**2)),
        (100.0, 10, 100 + 8 * np.sqrt(100 / 10 + 10**2)),
        # where nothing is, as if there were half a count in all frames
        (0.0, 100, 8 * np.sqrt(0.5 / 100 / 100)),
    ],
)
def test_how_far_above_its_neighbours_a_pixel_is_hot(level, frames, limit):
    pattern = np.full((20, 30), level)
    pattern[10, 12], pattern[15, 20] = limit * 1.001, limit * 0.999
    assert np.argwhere(find_hot_pixels(pattern, frames)).tolist() == [[10, 12]]


def test_on_the_edge_of_the_disk_nothing_is_judged():
    disk = DiskFit((30.0, 40.0), 10.0, 0.5, 4.0, 4.0, 0.0)
    pattern = np.full((60, 80), 4.0)
    cols = {30: 50, 28: 52, 32: 53, 34: 57, 26: 47}
    for row, col in cols.items():
        pattern[row, col] = 1000.0
    near = {row for row, col in cols.items() if abs(np.hypot(row - 30, col - 40) - 10) <= 2.5}
    assert near == {30, 28, 26}
    assert not find_hot_pixels(pattern, 100, replace(disk, radius=7.5))[30, 50]  # 2.5 px away
    found = find_hot_pixels(pattern, 100, disk)
    assert {int(row) for row, _ in np.argwhere(found)} == set(cols) - near
    assert found.dtype == bool
    assert len(np.argwhere(find_hot_pixels(pattern, 100))) == len(cols)


def test_the_edge_of_an_ellipse_is_that_of_its_axes():
    disk = DiskFit((50.0, 50.0), 24.0, 0.5, 4.0, 4.0, 0.0, ellipticity=1.44, ellipse_angle=90.0)
    np.testing.assert_allclose(disk.semiaxes, (28.8, 20.0))
    on_edge, apart = (
        [(50, 79), (50, 21), (30, 50), (70, 50)],
        [(50, 74), (26, 50)],
    )  # the major axis is along a row
    pattern = np.full((100, 100), 4.0)
    for at in on_edge + apart:
        pattern[at] = 1000.0
    assert np.argwhere(find_hot_pixels(pattern, 100, disk)).tolist() == [[26, 50], [50, 74]]


def test_half_of_the_neighbourhood_may_be_hot_too():
    pattern = np.full((20, 20), 2.0)
    pattern[8:11, 8:12] = 500.0  # 12 of 25
    assert find_hot_pixels(pattern, 100)[9, 9]
    assert find_hot_pixels(pattern.astype(np.uint16), 100).sum() == 12
    assert find_hot_pixels(pattern.tolist(), 100).sum() == 12


def test_a_pattern_of_nothing_has_none():
    assert not find_hot_pixels(np.full(SHAPE, np.nan), 1).any()
    assert not find_hot_pixels(np.zeros(SHAPE), 1).any()
    with pytest.raises(ValueError, match="of 0 frames"):
        find_hot_pixels(np.zeros(SHAPE), 0)
    with pytest.raises(ValueError, match=r"pattern of shape \(3,\)"):
        find_hot_pixels(np.zeros(3), 1)
    assert not find_hot_pixels(np.ones((1, 1)), 1).any()


# Dead pixels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [64, 4096])
def test_dead_pixels_inside_the_disk_and_no_other(frames):
    rng = np.random.default_rng(61)
    pattern = mean_pattern(frames, rng)
    distance = np.hypot(*(np.indices(SHAPE) - np.array([47.2, 48.6])[:, None, None]))
    inside = rng.choice(np.flatnonzero(distance < 12), 4, replace=False)
    outside = rng.choice(np.flatnonzero(distance > 18), 16, replace=False)
    pattern.flat[[*inside, *outside]] = 0
    found = find_dead_pixels(pattern, frames, fit_disk(pattern))
    # Outside nothing is expected in so few counts.
    judged = sorted([*inside, *outside]) if frames == 4096 else sorted(inside)
    assert np.flatnonzero(found).tolist() == judged


def test_a_dead_pixel_counts_less_than_a_fifth_of_its_neighbours():
    pattern = np.full((20, 20), 10.0)
    pattern[5, 5], pattern[10, 10], pattern[0, 19] = 1.9, 2.1, 0.0
    pattern[5, 6] = np.nan  # masked beside it
    assert np.argwhere(find_dead_pixels(pattern, 10)).tolist() == [[0, 19], [5, 5]]
    assert not find_dead_pixels(pattern, 2).any()  # 20 counts: it may be chance
