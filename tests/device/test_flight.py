"""Movies, the settings an image was taken with, and the shapes of a run: each by itself, without a detector."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from live4d_ophyd.device.arm_per import RUN_FRAMES, ArmPer
from live4d_ophyd.device.flight import Flight
from live4d_ophyd.device.run_notes import RunNotes
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.device.taken_with import TakenWith
from live4d_ophyd.scan import ScanGrid


def reading(value):
    return {"value": value, "timestamp": 1.0}


# Movies -------------------------------------------------------------------------------------------


@pytest.fixture
def flight():
    flight = Flight(RasterStatus(SimpleNamespace(name="live4d")))
    yield flight
    if not flight.status.done:
        flight.status.set_finished()
    flight.status.wait(10)


def values(flight):
    return [event["data"] for event in flight.events()]


def test_a_raster_is_an_event_once_its_settings_are_known(flight):
    first, second = Future(), Future()
    flight.add({"mean": reading(1), "frame_time": reading(0)}, first)
    flight.add({"mean": reading(2), "frame_time": reading(0)}, second)
    assert values(flight) == []
    second.set_result({"frame_time": reading(8)})
    assert values(flight) == []  # Events keep their order
    first.set_result({"frame_time": reading(7), "no_key_of_the_stream": reading(0)})
    assert values(flight) == [{"mean": 1, "frame_time": 7}, {"mean": 2, "frame_time": 8}]
    assert values(flight) == []


def test_a_movie_that_is_over_gives_its_rasters_though_the_detector_never_answered(flight):
    flight.add({"frame_time": reading(3)}, Future())
    flight.status.set_finished()
    assert values(flight) == [{"frame_time": 3}]


def test_bluesky_gets_an_event_for_each_file_whatever_ends_while_it_collects(flight):
    """It asks for the documents of the files first, then for the Events, and numbers both by what it got."""
    known = Future()
    known.set_result({})
    flight.add({"n": reading(1)}, known, "first")
    assert flight.take() == ["first"]
    flight.add({"n": reading(2)}, known, "second")
    assert not flight.collected
    assert values(flight) == [{"n": 1}]
    assert flight.take() == ["second"]
    assert values(flight) == [{"n": 2}]
    assert not flight.collected
    flight.status.set_finished()
    assert flight.collected


# Settings -----------------------------------------------------------------------------------------


class Detector:
    """Answers when the test lets it."""

    name = "live4d_detector"

    def __init__(self):
        self.heard = []
        self.answers = {"frame_time": reading(5)}
        self.answer = threading.Event()

    def as_armed(self):
        self.heard.append("asked")
        self.answer.wait(10)
        return self.answers

    def hold(self):
        self.heard.append("hold")

    def invalidate(self):
        self.heard.append("invalidate")


def into(taken, *keys):
    readings = {key: reading("now") for key in keys}
    taken.put_into(readings)
    return {key: entry["value"] for key, entry in readings.items()}


def test_an_event_has_the_settings_of_the_trigger_and_the_detector_s_as_armed():
    detector = Detector()
    taken = TakenWith(detector, stays_armed=False, staged=lambda: True)
    detectors = taken.begin({"radius": reading(4)})
    taken.armed(detectors)
    assert into(taken, "radius", "frame_time", "mean") == {"radius": 4, "frame_time": "now", "mean": "now"}
    detector.answer.set()
    assert detectors.result(10) == detector.answers
    assert into(taken, "radius", "frame_time") == {"radius": 4, "frame_time": 5}
    assert detector.heard == ["hold", "asked", "hold"]


def test_a_detector_that_stays_armed_is_asked_once():
    detector = Detector()
    detector.answer.set()
    taken = TakenWith(detector, stays_armed=True, staged=lambda: True)
    for trigger in range(3):
        if trigger == 2:
            taken.series_over()
        detectors = taken.begin({})
        taken.armed(detectors)
        assert detectors.result(10) == detector.answers
        assert into(taken, "frame_time") == {"frame_time": 5}
    assert detector.heard.count("asked") == 2


def test_an_answer_that_comes_for_the_raster_before_is_not_the_next_one_s():
    detector = Detector()
    taken = TakenWith(detector, stays_armed=True, staged=lambda: True)
    before = taken.begin({})
    taken.armed(before)
    taken.begin({"frame_time": reading(6)})
    detector.answer.set()
    assert before.result(10) == detector.answers
    assert into(taken, "frame_time") == {"frame_time": 6}


def test_after_the_stage_the_detector_is_asked_again():
    detector = Detector()
    taken = TakenWith(detector, stays_armed=True, staged=lambda: True)
    late = taken.begin({})
    taken.armed(late)
    taken.stage_over()
    detector.answer.set()
    late.result(10)
    assert detector.heard == ["hold", "asked", "invalidate"]
    again = taken.begin({})
    taken.armed(again)
    again.result(10)
    assert detector.heard.count("asked") == 2


def test_a_detector_that_cannot_be_asked_costs_no_event(caplog):
    detector = Detector()
    detector.as_armed = lambda: 1 / 0
    taken = TakenWith(detector, stays_armed=False, staged=lambda: False)
    detectors = taken.begin({})
    taken.armed(detectors)
    assert detectors.result(10) == {}
    assert "live4d_detector: not in the Event" in caplog.text


def test_without_a_control_there_is_nobody_to_wait_for():
    taken = TakenWith(None, stays_armed=False, staged=lambda: True)
    detectors = taken.begin({"radius": reading(4)})
    taken.armed(detectors)
    assert detectors.result(0) == {}
    taken.stage_over()
    assert into(taken, "radius") == {"radius": 4}


# Runs ---------------------------------------------------------------------------------------------


def test_arrays_keep_the_shape_that_the_descriptor_of_their_run_has():
    run = RunNotes()
    run.check({"vbf": (9, 9)})
    run.describe({"vbf": {"dtype": "array", "shape": [3, 4]}, "mean": {"dtype": "number", "shape": []}})
    assert list(run.arrays) == ["vbf"]
    run.check({"vbf": (3, 4), "pattern": (2, 2)})
    with pytest.raises(ValueError, match=r"vbf would have the shape \(6, 4\) after Events of \(3, 4\)"):
        run.check({"vbf": (6, 4)})
    run.note("start", {"uid": "A", "plan_name": "count", "num_points": 1})
    run.check({"vbf": (6, 4)})
    assert run.header == {"uid": "A", "plan_name": "count"}
    run.note("stop", {"run_start": "B"})  # of another RunEngine's
    assert run.header
    run.note("stop", {"run_start": "A"})
    assert run.header == {}


def test_a_detector_is_armed_for_a_trigger_a_number_or_what_a_run_may_need():
    assert ArmPer("trigger", controlled=False).triggers(ScanGrid(8, 8)) == 1
    assert ArmPer(7, controlled=True).triggers(ScanGrid(8, 8)) == 7
    run = ArmPer("run", controlled=True)
    assert [run.triggers(ScanGrid(side, side)) for side in (8, 1024, 1 << 15)] == [1000, 256, 1]
    assert RUN_FRAMES == 256 * 1024**2
    assert [ArmPer(per, controlled=True).stays_armed for per in ("trigger", "run", 1)] == [False, True, True]
