"""What a request asks of the detector, and what it refuses."""

import json

import pytest

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon


def request(grid, rasters=1, **control):
    return AcquisitionRequest(
        "tcp://dcu:31001",
        grid,
        (Disk("vbf", radius=3),),
        rasters=rasters,
        control=Simplon("http://dcu", **control),
    )


@pytest.mark.parametrize(
    ("last_flyback", "control", "expected"),
    [
        (True, {}, (1, 36)),
        (False, {}, (1, 32)),
        (True, {"trigger_mode": "ints"}, (36, 1)),
        (False, {"trigger_mode": "ints"}, (32, 1)),
        (True, {"trigger_per": "line"}, (6, 6)),
    ],
)
def test_the_detector_is_set_to_as_many_images_as_the_scan_has(last_flyback, control, expected):
    grid = ScanGrid(3, 4, flyback=2, last_flyback=last_flyback)
    asked = request(grid, 2, **control)
    assert asked.images_and_triggers == expected
    assert json.loads(asked.appendix("an engine"))["scan"]["last_flyback"] is last_flyback


def test_a_pulse_for_each_line_needs_lines_of_the_same_length():
    with pytest.raises(ValueError, match="last_flyback is False with a flyback of 2 images"):
        request(ScanGrid(3, 4, flyback=2, last_flyback=False), trigger_per="line")
    assert request(ScanGrid(3, 4, last_flyback=False), trigger_per="line").images_and_triggers == (4, 3)
