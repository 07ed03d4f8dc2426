"""Lengths in mrad and in radii of the bright-field disk: one calibration moves all that are in them."""

import numpy as np
import pytest

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.drawn_detectors import Points, Polygon
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import ABF, ADF, BF, HAADF, Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

SHAPE = (64, 80)
GRID = ScanGrid(2, 3)
KNOWN = Calibration(center=(30.5, 41), bf_radius=10.0, mrad_per_px=0.5)


def series(calibration=KNOWN):
    return SeriesInfo((1, 0), FrameFormat(*SHAPE, np.dtype("uint16")), calibration=calibration)


@pytest.mark.parametrize(
    ("method", "in_px"),
    [
        (Disk("d", radius=1.1, unit="bf"), Disk("d", (30.5, 41), radius=11)),
        (Disk("d", (20, 21), radius=1, unit="bf"), Disk("d", (20, 21), radius=10)),
        (Annulus("a", inner=2, outer=6, unit="mrad"), Annulus("a", (30.5, 41), inner=4, outer=12)),
        (Disk("d", radius=7), Disk("d", (30.5, 41), radius=7)),  # the centre is calibrated, whatever the unit
        (BF(), Disk("bf", (30.5, 41), radius=10)),
        (ABF(), Annulus("abf", (30.5, 41), inner=5, outer=10)),
        (ADF("x", soft=True), Annulus("x", (30.5, 41), inner=12, outer=30, soft=True)),
        (HAADF(outer=4), Annulus("haadf", (30.5, 41), inner=30, outer=40)),
        (
            Segments("s", inner=0.5, outer=1, unit="bf", rings=2),
            Segments("s", (30.5, 41), inner=5, outer=10, rings=2),
        ),
        (CenterOfMass("c", BF()), CenterOfMass("c", Disk("x", (30.5, 41), radius=10))),
        (
            Points("p", [(0, 1), (0, -1.5)], radius=0.2, unit="bf"),
            Points("p", [(30.5, 51), (30.5, 26)], radius=2),
        ),
        (
            Polygon("p", [(0, 0), (5, 0), (0, 5)], unit="mrad"),
            Polygon("p", [(30.5, 41), (40.5, 41), (30.5, 51)]),
        ),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_method_in_a_unit_has_the_weights_of_one_in_px(method, in_px):
    found, expected = method.demand(series(), GRID), in_px.demand(series(Calibration()), GRID)
    assert found.names == expected.names
    for (first, weights), (expected_first, expected_weights) in zip(found.bands, expected.bands, strict=True):
        assert first == expected_first
        np.testing.assert_array_equal(weights, expected_weights)


def test_what_was_used_is_among_the_outputs_in_px():
    for method, used in (
        (ABF(), {"abf_inner_px": 5, "abf_outer_px": 10, "abf_center_row_px": 30.5, "abf_center_col_px": 41}),
        (
            CenterOfMass("com", BF()),
            {"com_radius_px": 10, "com_center_row_px": 30.5, "com_center_col_px": 41},
        ),
        (
            Segments("seg", outer=4, unit="mrad"),
            {"seg_inner_px": 0, "seg_outer_px": 8, "seg_center_row_px": 30.5, "seg_center_col_px": 41},
        ),
        (Points("p", [(1, 2)], radius=1, unit="bf"), {"p_points_px": [[40.5, 61]], "p_radius_px": 10}),
    ):
        outputs = method.outputs(None, GRID)
        results = method.results(series(), GRID, [])
        assert list(outputs) == list(results)
        numbers = {key: output for key, output in outputs.items() if output.dims != ("scan_y", "scan_x")}
        assert set(numbers) == set(used)
        for key, value in used.items():
            assert (numbers[key].units, np.shape(results[key])) == ("px", numbers[key].shape)
            np.testing.assert_allclose(results[key], value)
    assert list(Disk("d", radius=7).outputs(None, GRID)) == ["d"]


def test_without_a_centre_it_is_the_middle_of_the_frame():
    disk = Disk("d", radius=1, unit="bf").on(SHAPE, Calibration(bf_radius=4))
    assert (disk.center, disk.radius) == ((31.5, 39.5), 4)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (ABF(), "abf is in units of the bright-field radius, which is not known: run calibrate_bright_field"),
        (
            Points("spots", [(0, 1)], radius=1, unit="mrad"),
            "spots is in mrad, .* set calibration_mrad_per_px",
        ),
        (
            CenterOfMass("com", Disk("x", radius=5, unit="mrad")),
            "com is in mrad, and how many a pixel is wide",
        ),
        (
            Segments("seg", outer=1, unit="bf"),
            "seg is in units of the bright-field radius, which is not known",
        ),
    ],
)
def test_a_unit_that_is_not_calibrated_is_refused_by_name(method, words):
    with pytest.raises(ValueError, match=words):
        method.demand(series(Calibration()), GRID)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Disk("d", radius=1, unit="nm"), "unit of detector d is 'nm'; expected one of px, mrad, bf"),
        (lambda: Segments("s", outer=1, unit=2), "unit of s is 2; expected one of px, mrad, bf"),
        (lambda: Calibration(bf_radius=0), "bf_radius of the calibration is 0; expected a number above 0 px"),
        (lambda: Calibration(mrad_per_px=float("nan")), "mrad_per_px of the calibration is nan"),
        (lambda: Calibration(center=(1, 2, 3)), r"center of the calibration is \(1, 2, 3\); expected \(row"),
        (lambda: Calibration(center=5), "center of the calibration is 5; expected"),
        (lambda: BF(enabled=2), "enabled of detector bf is 2; expected True or False"),
        (lambda: CenterOfMass("com", BF(), enabled="no"), "com.enabled is 'no'; expected True or False"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_preset_that_lies_off_the_frame_is_named_with_its_px():
    words = (
        r"haadf \(center row 30.5, col 41, inner 90 px, outer 240 px\) has no pixel on a frame of 64 x 80 px"
    )
    with pytest.raises(ValueError, match=words):
        HAADF().demand(series(Calibration((30.5, 41), bf_radius=30)), GRID)


def test_what_is_not_enabled_gives_nothing():
    for method in (
        BF(enabled=False),
        CenterOfMass("c", BF(), enabled=False),
        Segments("s", outer=3, enabled=False),
    ):
        assert method.outputs(None, GRID) == {}
