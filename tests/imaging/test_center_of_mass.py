"""CenterOfMass: against the definition in float64 NumPy, NaN where there are no counts."""

import numpy as np
import pytest

from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.imaging.weights import combined_weights
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

SHAPE = (24, 32)
GRID = ScanGrid(2, 3)
SERIES = SeriesInfo((1, 0), FrameFormat(*SHAPE, np.dtype("uint16")))


def taken(method, frames, **mask_and_gain):
    weights = combined_weights([method.demand(SERIES, GRID)], SHAPE, **mask_and_gain)
    sums = np.array([weights.project_pixels(frame, NODATA)[0] for frame in frames])
    accumulator = method.accumulator(SERIES, GRID, None)
    accumulator.add(np.arange(len(frames)), sums)
    return method.results(SERIES, GRID, [accumulator]), weights


@pytest.mark.parametrize(
    "within",
    [
        Disk("d", (11.25, 15.5), radius=7.5),
        Disk("d", radius=9),
        Disk("d", (11.25, 15.5), radius=7.5, soft=True),
        Annulus("a", (12, 14), inner=3, outer=9),
    ],
    ids=["disk", "in the middle", "soft", "ring"],
)
def test_it_is_the_mean_position_of_the_counts_from_the_centre(within):
    frames = np.random.default_rng(5).poisson(4.0, (GRID.size, *SHAPE)).astype(np.uint16)
    results, weights = taken(CenterOfMass("com", within), frames)
    w = within.weights(SHAPE)
    row, col = within.center or (11.5, 15.5)
    y, x = np.indices(SHAPE)
    total = (frames * w).sum(axis=(1, 2))
    np.testing.assert_allclose(results["com_sum"].reshape(-1), total, rtol=1e-12)
    np.testing.assert_allclose(
        results["com_y"].reshape(-1), (frames * w * (y - row)).sum(axis=(1, 2)) / total, atol=1e-12
    )
    np.testing.assert_allclose(
        results["com_x"].reshape(-1), (frames * w * (x - col)).sum(axis=(1, 2)) / total, atol=1e-12
    )
    assert weights.integer == (not within.soft)


def test_a_shifted_spot_is_found_where_it_is():
    frames = np.zeros((GRID.size, *SHAPE), np.uint16)
    for n in range(GRID.size):
        frames[n, 10 + n, 20 - n] = 1000
    results, _ = taken(CenterOfMass("com", Disk("d", (12, 16), radius=11)), frames)
    np.testing.assert_array_equal(results["com_y"].reshape(-1), np.arange(6) - 2)
    np.testing.assert_array_equal(results["com_x"].reshape(-1), 4 - np.arange(6))


def test_without_counts_there_is_no_centre():
    frames = np.zeros((GRID.size, *SHAPE), np.uint16)
    frames[0, 12, 16] = 3
    frames[1, 0, 0] = 9  # outside
    results, _ = taken(CenterOfMass("com", Disk("d", (12, 16), radius=5)), frames)
    np.testing.assert_array_equal(results["com_sum"].reshape(-1), [3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(np.isnan(results["com_x"]).reshape(-1), [False, *[True] * 5])


def test_masked_pixels_do_not_pull():
    frames = np.ones((GRID.size, *SHAPE), np.uint16)
    mask = np.zeros(SHAPE, bool)
    frames[:, 12, 20], mask[12, 20], mask[12, 12] = 60_000, True, True
    results, _ = taken(CenterOfMass("com", Disk("d", (12, 16), radius=5)), frames, pixel_mask=mask)
    np.testing.assert_allclose(results["com_x"], 0, atol=1e-12)


def test_what_is_no_virtual_detector_is_refused():
    with pytest.raises(ValueError, match="within of com is 5; expected a Disk or an Annulus"):
        CenterOfMass("com", 5)


@pytest.mark.parametrize("center", [(0, 16), (12, 0), (0, 0), (23, 31), (5, 7)])
def test_a_detector_of_one_pixel_anywhere_has_its_centre(center):
    frames = np.full((GRID.size, *SHAPE), 7, np.uint16)
    results, _ = taken(CenterOfMass("com", Disk("d", center, radius=0.5)), frames)
    np.testing.assert_array_equal(results["com_sum"], 7)
    np.testing.assert_array_equal(results["com_y"], 0)
    np.testing.assert_array_equal(results["com_x"], 0)


@pytest.mark.parametrize(("radius", "exact"), [(900, True), (2000, False)])
def test_on_18_megapixels_sums_are_exact_as_long_as_they_fit_and_never_refused(radius, exact):
    series = SeriesInfo((1, 0), FrameFormat(4362, 4148, np.dtype("uint32")))
    demand = CenterOfMass("com", Disk("d", radius=radius)).demand(series, GRID)
    weights = combined_weights([demand], series.format.shape)
    assert weights.integer == exact
    weights.sums_of(series.format)
