"""What a run says of the virtual detector under an image, whatever method made it."""

import math

from live4d_ophyd.runs.calibration import AngularScale
from live4d_ophyd.runs.readings import DeviceReadings
from live4d_ophyd.runs.shapes import virtual_detector


def test_an_image_has_the_parameters_of_its_method_whatever_that_is():
    configuration = {
        "scan_rows": 3, "com_center": (12.0, 16.0), "com_soft": True, "com_radius": 6.0,
        "seg_center": (math.nan, math.nan), "seg_inner": 0.0, "seg_outer": 9.0, "seg_sectors": 4, "seg_rotation": 30.0,
        "bright_border": 2, "vbf_radius": 3.0, "vbf_2_radius": 4.0,
    }  # fmt: skip
    images = ["com_sum", "com_y", "seg_0_1", "bright", "vbf", "vbf_2", "own"]
    device = DeviceReadings(
        "live4d", images=images, configuration=configuration, units={"seg_rotation": "deg"}
    )
    facts = {name: virtual_detector(device, name, AngularScale(0.5, "")) for name in images}
    assert facts["com_y"].value == facts["com_sum"].value == {
        "kind": "disk", "radius": 6.0, "radius_mrad": 3.0, "center": [12.0, 16.0], "soft": True,
    }  # fmt: skip
    assert facts["seg_0_1"].value["sectors"] == 4
    assert str(facts["seg_0_1"]).endswith("in the middle of the frame, sectors 4, rotation 30 deg")
    assert (facts["bright"].value, str(facts["bright"])) == ({"border": 2}, "border 2")
    assert (facts["vbf"].value["radius"], facts["vbf_2"].value["radius"]) == (3.0, 4.0)
    assert list(facts["vbf"].value) == ["kind", "radius", "radius_mrad", "center"]
    assert str(facts["own"]) == "its shape is not recorded"


def test_of_a_detector_in_another_unit_the_run_says_the_px_that_it_was():
    configuration = {
        "abf_kind": "annulus",
        "abf_unit": "bf",
        "abf_inner": 0.5,
        "abf_outer": 1.0,
        "abf_enabled": True,
    }
    events = {
        "abf_inner_px": [5.0, 5.0], "abf_outer_px": [10.0, 10.0], "abf_center_row_px": [3.0, 3.0],
        "abf_center_col_px": [4.0, 4.0], "calibration_center_row": [9.0, 9.0], "calibration_center_col": [8.0, 8.0],
    }  # fmt: skip
    device = DeviceReadings(
        "live4d", images=["abf", "vbf"], configuration={**configuration, "vbf_radius": 3.0}, events=events,
        units={"abf_inner": "bright-field radius", "abf_outer": "bright-field radius"},
    )  # fmt: skip
    fact = virtual_detector(device, "abf", AngularScale(2.0, ""))
    assert fact.value == {
        "kind": "annulus", "unit": "bf", "inner": 5.0, "inner_mrad": 10.0, "outer": 10.0, "outer_mrad": 20.0,
        "center": [3.0, 4.0],
    }  # fmt: skip
    assert str(fact).startswith(
        "annulus, inner 0.5 bright-field radius = 5 px = 10 mrad, outer 1 bright-field"
    )
    # One in px without a centre of its own lies where the calibration says.
    assert virtual_detector(device, "vbf", AngularScale(2.0, "")).value["center"] == [9.0, 8.0]
