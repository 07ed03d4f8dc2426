"""Image ids land on the scan positions a raster visits, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.scan import MOST, ScanGrid, parse_shape


def walk(grid, rasters):
    """The positions in order of exposure, written as nested loops."""
    for raster in range(rasters):
        yield from [-1] * grid.lead_in
        for row in range(grid.rows):
            cols = range(grid.cols)
            for col in reversed(cols) if grid.serpentine and row % 2 else cols:
                yield raster * grid.size + row * grid.cols + col
            if row + 1 < grid.rows or grid.last_flyback:
                yield from [-1] * grid.flyback


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_every_image_lands_where_the_probe_was(
    rows, cols, serpentine, flyback, last_flyback, lead_in, rasters
):
    grid = ScanGrid(
        rows, cols, serpentine=serpentine, flyback=flyback, lead_in=lead_in, last_flyback=last_flyback
    )
    expected = list(walk(grid, rasters))
    assert len(expected) == rasters * grid.frames
    np.testing.assert_array_equal(grid.positions(np.arange(len(expected))), expected)


def test_ids_before_the_first_image_have_no_position():
    np.testing.assert_array_equal(ScanGrid(2, 3).positions(np.array([-1, -6])), [-1, -1])


@pytest.mark.parametrize(
    "bad",
    [
        {"rows": 0},
        {"cols": 2.5},
        {"flyback": -1},
        {"step": 0.0},
        {"step": (1, 2, 3)},
        {"serpentine": "no"},
        {"last_flyback": 0},
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ScanGrid(**{"rows": 4, "cols": 4, **bad})


@pytest.mark.parametrize(
    ("step", "steps"), [(0.5, (0.5, 0.5)), ((0.5, 2), (0.5, 2.0)), ([3, np.float32(0.25)], (3.0, 0.25))]
)
def test_steps_along_scan_y_and_scan_x_may_differ(step, steps):
    assert ScanGrid(2, 3, step=step).steps == steps
    assert {type(s) for s in ScanGrid(2, 3, step=step).steps} == {float}


@pytest.mark.parametrize("name", ["rows", "cols", "flyback", "lead_in"])
def test_sizes_reach_from_nothing_to_the_most(name):
    least = 0 if name in ("flyback", "lead_in") else 1
    for size in (least, MOST, np.int32(7)):
        grid = ScanGrid(**{"rows": 4, "cols": 4, name: size})
        assert getattr(grid, name) == size
        assert type(getattr(grid, name)) is int
    for size in (least - 1, MOST + 1, True):
        with pytest.raises(ValueError, match=rf"ScanGrid {name} is .*from {least} to {MOST}"):
            ScanGrid(**{"rows": 4, "cols": 4, name: size})


def test_positions_are_those_of_ids_of_any_kind():
    for ids in ([0, 5, 6], np.array([0, 5, 6], np.uint8), np.array([0.0, 5.0, 6.0])):
        positions = ScanGrid(2, 3).positions(ids)
        assert positions.dtype == np.int64
        assert positions.tolist() == [0, 5, 6]


def test_without_a_last_flyback_the_last_position_is_the_last_image():
    grid = ScanGrid(3, 4, flyback=2, last_flyback=False)
    assert grid.frames == 16
    assert grid.positions(np.array([15, 16])).tolist() == [11, 12]  # the next raster follows at once


def test_a_shape_is_written_rows_x_columns():
    assert parse_shape("3x256") == (3, 256)


@pytest.mark.parametrize("text", ["128", "4by4", "0x4", "4x-1", "4x4x4", " 4x4", ""])
def test_other_text_is_no_shape(text):
    with pytest.raises(ValueError, match="is not ROWSxCOLS, at least one of each, for example 256x256"):
        parse_shape(text)
