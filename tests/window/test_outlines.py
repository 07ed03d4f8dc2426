"""Where detectors lie on the pattern, and what it means to drag one, checked by asking the device again."""

import numpy as np
import pytest
from still_live4d import still_live4d

from live4d_ophyd import (
    ABF,
    BF,
    Annulus,
    Calibration,
    CenterOfMass,
    Disk,
    Mask,
    MeanPattern,
    Points,
    Polygon,
    Segments,
)
from live4d_ophyd.window.outlines import CALIBRATION, Area, Drawn, Rings, in_words, outlines, sharing_center

SHAPE = (96, 96)


def put(device, values):
    for name, value in values.items():
        getattr(device, name).put(value)


def test_a_disk_and_an_annulus_in_px():
    device = still_live4d(
        Disk("vbf", (40.0, 50.0), radius=12), Annulus("adf", (40.0, 50.0), inner=20, outer=30)
    )
    found = outlines(device, SHAPE)
    assert found["vbf"].center == found["adf"].center == (40, 50)
    assert (found["vbf"].radii, found["adf"].radii) == ((12,), (20, 30))
    assert [ring.name for ring in sharing_center(found, (40, 50))] == ["vbf", "adf"]
    put(device, found["vbf"].moved((41.5, 52)) | found["adf"].resized(0, 22.5))
    again = outlines(device, SHAPE)
    assert again["vbf"].center == (41.5, 52)
    assert again["adf"].radii == (22.5, 30)
    assert [ring.name for ring in sharing_center(again, (40, 50))] == ["adf"]
    assert CALIBRATION not in found


def test_radii_of_the_bright_field_disk_follow_the_calibration():
    device = still_live4d(BF("bf"), ABF("abf"), calibration=Calibration((47.0, 48.0), 15.0))
    found = outlines(device, SHAPE)
    assert found["abf"].center == (47, 48)
    assert found["abf"].radii == (7.5, 15)
    assert found["abf"].follows
    assert sharing_center(found, (47, 48)) == [found[CALIBRATION]]
    put(device, found["abf"].resized(0, 9.0))  # px
    assert device.abf_inner.get() == pytest.approx(0.6)
    put(device, found[CALIBRATION].moved((50, 51)) | found[CALIBRATION].resized(0, 20))
    again = outlines(device, SHAPE)
    assert again["bf"].center == (50, 51)
    assert again["abf"].radii == pytest.approx((12, 20))


def test_what_is_not_calibrated_says_so():
    found = outlines(still_live4d(BF("bf"), Disk("vbf", radius=5)), SHAPE)
    assert "calibrate_bright_field" in found["bf"]
    assert found["vbf"].center == (47.5, 47.5)
    assert not found["vbf"].follows


def test_values_that_wait_are_shown_as_if_they_were_set():
    device = still_live4d(Disk("vbf", radius=12))
    assert outlines(device, SHAPE, {"vbf_radius": 14.0})["vbf"].radii == (14,)
    assert device.vbf_radius.get() == 12
    device = still_live4d(BF("bf"), calibration=Calibration((47.0, 48.0), 15.0))
    waiting = {"calibration_center": (40.0, 41.0), "calibration_bf_radius": 10.0}
    assert outlines(device, SHAPE, waiting)["bf"] == Rings(
        "bf", (40, 41), (10,), ("bf_radius",), 10.0, follows=True, center_signal="bf_center"
    )


def test_points_and_polygons_in_mrad_are_placed_in_their_unit():
    calibration = Calibration((48.0, 48.0), 15.0, 0.5)
    device = still_live4d(
        Points("spots", [(10, 0), (0, -10)], radius=2, unit="mrad"),
        Polygon("poly", [(10, 10), (10, 30), (30, 10)]),
        calibration=calibration,
    )
    found = outlines(device, SHAPE)
    assert found["spots"].points == ((68, 48), (48, 28))
    assert found["spots"].radius == 4
    put(device, found["spots"].placed([(58, 48), (48, 28)]) | found["spots"].resized(6))
    assert device.spots_points.get() == ((5, 0), (0, -10))
    assert device.spots_radius.get() == 3
    assert found["poly"] == Drawn("poly", ((10, 10), (10, 30), (30, 10)), None, 1.0, (0.0, 0.0))


def test_masks_segments_and_the_disk_of_a_centre_of_mass():
    weights = np.zeros(SHAPE, np.int64)
    weights[3:5, 7:9] = 2
    device = still_live4d(
        Mask("mask", weights), Segments("q", outer=12, inner=4, rings=2, rotation=10),
        CenterOfMass("com", Disk("x", radius=9)), MeanPattern("pattern"),
    )  # fmt: skip
    found = outlines(device, SHAPE)
    assert found["mask"] == Area("mask", weights != 0)
    assert (found["q"].radii, found["q"].sectors, found["q"].rings, found["q"].rotation) == (
        (4, 12),
        4,
        2,
        10,
    )
    assert found["com"].resized(0, 11) == {"com_radius": 11}
    assert "pattern" not in found


def test_a_list_says_lengths_in_both_units():
    ring = Rings("abf", (0, 0), (7.5, 15), ("abf_inner", "abf_outer"), 15.0)
    assert in_words(ring, "bf") == "0.5 to 1 bright-field radii, 7.5 to 15 px"
    assert (
        in_words(Rings("bf", (0, 0), (15.0,), ("bf_radius",), 15.0), "bf") == "1 bright-field radius, 15 px"
    )
    assert in_words(Rings("vbf", (0, 0), (12.0,), ("vbf_radius",), 1.0), "px") == "12 px"
