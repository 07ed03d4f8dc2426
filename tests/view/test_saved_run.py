"""Patterns and images of recorded frames, as pages ask for them."""

import numpy as np
import pytest
from recorded_file import recorded_file

pytest.importorskip("bokeh")

from live4d_ophyd import Annulus, Disk, ScanGrid
from live4d_ophyd.view.saved_run import make_image, recorded_pattern

ROWS, COLS = 4, 6


@pytest.fixture(scope="module")
def frames():
    found = np.random.default_rng(4).integers(0, 50, (ROWS * COLS, 16, 12)).astype(np.uint16)
    found[9, 3, 5] = 65535
    return found


@pytest.fixture(scope="module")
def path(frames, tmp_path_factory):
    return recorded_file(
        tmp_path_factory.mktemp("frames") / "a.h5", frames, ScanGrid(ROWS, COLS), lost=[7], corrupt=[8]
    )


def test_a_pattern_is_that_of_its_position(path, frames):
    for row, col in ((0, 0), (3, 5), (2, 4)):
        pattern = recorded_pattern(path, row, col)
        np.testing.assert_array_equal(pattern.values, frames[row * COLS + col])
        assert pattern.label == f"pattern at row {row}, col {col}"


def test_what_is_not_there_is_nan_and_said(path):
    for col, why in ((1, "lost"), (2, "corrupt")):
        pattern = recorded_pattern(path, 1, col)
        assert np.isnan(pattern.values).all()
        assert pattern.label.endswith(why)
    holds_no_count = np.isnan(recorded_pattern(path, 1, 3).values)
    assert np.argwhere(holds_no_count).tolist() == [[3, 5]]


def test_another_file_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"b\.h5 is no file of frames"):
        recorded_pattern(tmp_path / "b.h5", 0, 0)


def test_a_drawn_detector_gives_the_sums_of_the_frames(path, frames):
    told = []
    image, units = make_image(path, Disk("drawn", center=(7.0, 6.0), radius=2.5), told.append)
    assert units == "counts"
    y, x = np.mgrid[:16, :12]
    under = (y - 7) ** 2 + (x - 6) ** 2 <= 2.5**2
    expected = (frames.astype(float) * under).sum(axis=(1, 2)).reshape(ROWS, COLS)
    missing = [7, 8, *([9] if under[3, 5] else [])]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(image)), missing)
    np.testing.assert_array_equal(image.ravel()[[0, 10, 23]], expected.ravel()[[0, 10, 23]])
    assert told == sorted(told)
    assert 0 < told[-1] <= 1


def test_who_goes_away_ends_it(path):
    def gone(fraction):
        raise RuntimeError("nobody looks")

    with pytest.raises(RuntimeError, match="nobody looks"):
        make_image(path, Annulus("drawn", center=(7.0, 6.0), inner=1, outer=3), gone)
