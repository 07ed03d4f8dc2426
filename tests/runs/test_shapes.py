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
