"""Maximum, standard deviation and last pattern: masked pixels, large counts, and what is switched off."""

import pickle

import numpy as np
import pytest

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.pattern_statistics import LastPattern, MaxPattern, StdPattern
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

GRID = ScanGrid(10, 10)
ALL = (MaxPattern(), StdPattern(), LastPattern())


def taken(method, frames, **known):
    series = SeriesInfo((1, 0), FrameFormat(*frames.shape[1:], frames.dtype), **known)
    accumulator = method.accumulator(series, GRID, None)
    for part in np.array_split(np.arange(len(frames)), 3):
        accumulator.add(part, frames[part])
    return method.results(series, GRID, [accumulator])[method.name]


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_masked_pixels_are_nan_and_others_are_not(method):
    frames = np.random.default_rng(1).integers(0, 9, (100, 6, 7)).astype(np.uint16)
    mask = np.zeros((6, 7), bool)
    mask[2, 3] = True
    np.testing.assert_array_equal(np.isnan(taken(method, frames, pixel_mask=mask)), mask)


def test_the_standard_deviation_of_large_counts_is_that_of_their_noise():
    """A difference of sums of squares would have lost it."""
    noise = np.random.default_rng(2).integers(-2, 3, (100, 4, 5))
    frames = (3_000_000_000 + noise).astype(np.uint32)
    np.testing.assert_allclose(taken(StdPattern(), frames), noise.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_floats_are_taken_and_nan_is_no_count(method):
    frames = np.random.default_rng(3).normal(size=(100, 4, 5)).astype(np.float32)
    frames[:50, 1, 2] = np.nan
    found = taken(method, frames)
    assert np.isfinite(found).all()
    half = frames[50:, 1, 2]
    expected = {"max_pattern": half.max(), "std_pattern": half.std(dtype=float), "last_pattern": half[-1]}
    assert found[1, 2] == pytest.approx(expected[method.name], rel=1e-6)


def test_what_is_not_enabled_gives_nothing():
    for kind in (MaxPattern, StdPattern, LastPattern):
        assert kind(enabled=False).outputs(None, GRID) == {}
        with pytest.raises(ValueError, match=r"enabled of .*_pattern is 2; expected True or False"):
            kind(enabled=2)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_what_it_has_so_far_goes_to_another_process(method):
    frames = np.random.default_rng(5).integers(0, 99, (100, 4, 5)).astype(np.uint16)
    series = SeriesInfo((1, 0), FrameFormat(4, 5, frames.dtype))
    parts = [method.accumulator(series, GRID, None) for _ in range(3)]  # one without a frame
    for part, here in zip(parts, np.array_split(np.arange(100), 2)):
        part.add(here, frames[here])
    sent = pickle.loads(pickle.dumps(parts))
    np.testing.assert_allclose(
        method.results(series, GRID, sent)[method.name], taken(method, frames), rtol=1e-12
    )
