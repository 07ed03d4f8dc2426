"""One series on a detector: what it is set to, and whether it is still armed for us."""

import json

import pytest
from fake_control import FakeControl

from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.arming import SimplonControl, header, images_and_triggers
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesRequest


@pytest.mark.parametrize(
    ("last_flyback", "simplon", "expected"),
    [
        (True, {}, (1, 36)),
        (False, {}, (1, 32)),
        (True, {"trigger_mode": "ints"}, (36, 1)),
        (False, {"trigger_mode": "ints"}, (32, 1)),
        (True, {"trigger_per": "line"}, (6, 6)),
    ],
)
def test_the_detector_is_set_to_as_many_images_as_the_scan_has(last_flyback, simplon, expected):
    series = SeriesRequest(ScanGrid(3, 4, flyback=2, last_flyback=last_flyback), rasters=2)
    assert images_and_triggers(Simplon("http://dcu", **simplon), series) == expected
    assert json.loads(header(series, "an engine"))["scan"]["last_flyback"] is last_flyback


def test_a_pulse_for_each_line_needs_lines_of_the_same_length():
    simplon = Simplon("http://dcu", trigger_per="line")
    source = DectrisSource("tcp://dcu:31001", simplon=simplon)
    with pytest.raises(ValueError, match="last_flyback is False with a flyback of 2 frames"):
        source.check(SeriesRequest(ScanGrid(3, 4, flyback=2, last_flyback=False)))
    series = SeriesRequest(ScanGrid(3, 4, last_flyback=False))
    source.check(series)
    assert images_and_triggers(simplon, series) == (4, 3)


class Armed(FakeControl):
    now = "ready"

    def state(self):
        return self.now


@pytest.fixture
def simplon():
    return Armed()


@pytest.fixture
def control(simplon):
    control = SimplonControl(simplon)
    control.prepare(SeriesRequest(ScanGrid(2, 2)))
    assert control.arm() == (1, 0)
    return control


@pytest.mark.parametrize("state", ["ready", "acquire"])
def test_an_armed_detector_is_in_step(control, simplon, state):
    simplon.now = state
    assert control.why_out_of_step() == ""


def test_what_may_have_put_it_out_of_step_is_said(control, simplon):
    simplon.now = "idle"
    assert control.why_out_of_step() == "the detector is in state idle"
    simplon.now, simplon.header = "ready", "another's"
    assert control.why_out_of_step() == "another session armed the detector"


def test_what_another_session_armed_is_not_touched(control, simplon):
    simplon.header = '{"engine": "another"}'
    control.abort(exposing=True)
    assert control.finish(0.0) is None
    assert simplon.heard == ["configure 1 x 4", "arm"]


def test_what_was_not_prepared_is_not_touched(simplon):
    control = SimplonControl(simplon)
    control.abort(exposing=True)
    assert control.finish(0.0) is None
    assert simplon.heard == []


def test_one_process_has_it_at_a_time(control, simplon):
    other = SimplonControl(simplon)
    assert control.claim() == ""
    assert "is used by another engine on this machine (process" in other.claim()
    control.release()
    assert other.claim() == ""
    other.release()
