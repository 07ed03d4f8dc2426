"""Segments: every pixel of the annulus in exactly one, by angle and radius in the scan's frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

SHAPE = (48, 64)
GRID = ScanGrid(2, 3)
SERIES = SeriesInfo((1, 0), FrameFormat(*SHAPE, np.dtype("uint16")))


def whole_maps(segments):
    demand = segments.demand(SERIES, GRID)
    maps = np.zeros((len(demand.bands), *SHAPE), int)
    for whole, (first, band) in zip(maps, demand.bands):
        whole[first : first + len(band)] = band
    return maps


@given(
    center=st.tuples(st.floats(15, 30), st.floats(20, 40)),
    inner=st.floats(0.5, 6),
    width=st.floats(2, 12),
    rings=st.integers(1, 4),
    sectors=st.integers(1, 9),
    rotation=st.floats(-400, 400),
)
def test_each_pixel_of_the_annulus_is_in_exactly_one_segment(center, inner, width, rings, sectors, rotation):
    outer = inner + width
    segments = Segments(
        "s", center, inner=inner, outer=outer, rings=rings, sectors=sectors, rotation=rotation
    )
    ring = Annulus("a", center, inner=inner, outer=outer)
    np.testing.assert_array_equal(whole_maps(segments).sum(axis=0), ring.weights(SHAPE))


def test_segments_without_a_hole_are_a_disk():
    segments = Segments("s", (24, 32), outer=9, rings=2, sectors=5)
    np.testing.assert_array_equal(
        whole_maps(segments).sum(axis=0), Disk("d", (24, 32), radius=9).weights(SHAPE)
    )


def test_sector_0_lies_between_the_columns_direction_and_the_rows():
    maps = whole_maps(Segments("s", (24, 32), inner=3, outer=9, sectors=4))
    assert [int(m[24 + 4, 32 + 4]) for m in maps] == [1, 0, 0, 0]  # +y, +x
    assert [int(m[24 + 4, 32 - 4]) for m in maps] == [0, 1, 0, 0]
    assert [int(m[24 - 4, 32 - 4]) for m in maps] == [0, 0, 1, 0]
    assert [int(m[24 - 4, 32 + 4]) for m in maps] == [0, 0, 0, 1]


def test_a_detector_that_is_turned_into_the_scan_by_90_degrees_has_its_rows_along_the_columns():
    """As of DPC, 90 degrees takes the detector's +y to the scan's +x: its second quadrant is the scan's first."""
    straight = whole_maps(Segments("s", (24, 32), inner=3, outer=9, sectors=4))
    turned = whole_maps(Segments("s", (24, 32), inner=3, outer=9, sectors=4, rotation=90))
    np.testing.assert_array_equal(turned[0], straight[1])


def test_ring_0_is_the_innermost_and_rings_have_one_width():
    maps = whole_maps(Segments("s", (24, 32), inner=2, outer=8, rings=3, sectors=1))
    for number, m in enumerate(maps):
        expected = Annulus("a", (24, 32), inner=2 + 2 * number, outer=4 + 2 * number).weights(SHAPE)
        np.testing.assert_array_equal(m, expected)


def test_its_images_are_the_sums_of_the_segments():
    segments = Segments("dpc", (24, 32), outer=8, rings=2, sectors=2)
    frames = np.random.default_rng(1).integers(0, 50, (GRID.size, *SHAPE))
    maps = whole_maps(segments)
    accumulator = segments.accumulator(SERIES, GRID, None)
    accumulator.add(np.arange(GRID.size), np.einsum("nyx,myx->nm", frames, maps))
    results = segments.results(SERIES, GRID, [accumulator])
    assert list(results) == ["dpc_0_0", "dpc_0_1", "dpc_1_0", "dpc_1_1"] == list(segments.outputs(None, GRID))
    for image, m in zip(results.values(), maps):
        np.testing.assert_array_equal(image.reshape(-1), (frames * m).sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"inner": 9}, "s reaches from inner = 9 px to outer = 8 px; expected 0 <= inner < outer"),
        ({"rings": 0}, "s.rings is 0; expected a whole number from 1 to 64"),
        ({"sectors": 2.5}, "s.sectors is 2.5; expected a whole number"),
        ({"rotation": float("nan")}, "s.rotation is nan; expected a finite number"),
        ({"center": (1, "b")}, "s.center is 'b'; expected a finite number"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong, words):
    with pytest.raises(ValueError, match=words):
        Segments("s", **{"outer": 8, **wrong})
