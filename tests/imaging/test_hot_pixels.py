"""Hot pixels stand out of a mean pattern; the disk, its edge, gaps and shot noise do not."""

from __future__ import annotations

import numpy as np
import pytest

from live4d_ophyd.imaging.bright_field import fit_disk
from live4d_ophyd.imaging.hot_pixels import find_hot_pixels

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


def test_a_pattern_of_nothing_has_none():
    assert not find_hot_pixels(np.full(SHAPE, np.nan), 1).any()
    assert not find_hot_pixels(np.zeros(SHAPE), 1).any()
    with pytest.raises(ValueError, match="of 0 frames"):
        find_hot_pixels(np.zeros(SHAPE), 0)
