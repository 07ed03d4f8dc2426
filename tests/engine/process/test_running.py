"""The acquisition that runs: its callback hears of nothing else, and of nothing after its end."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.engine import AcquisitionRequest, Losses, RasterResult
from live4d_ophyd.engine.errors import AcquisitionError, EngineLost, ProtocolError
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.delivery import Outbox
from live4d_ophyd.engine.process.outage import SignsOfLife
from live4d_ophyd.engine.process.previews import Rows
from live4d_ophyd.engine.process.running import Running
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource

REQUEST = AcquisitionRequest(
    DectrisSource("tcp://dcu:31001"), ScanGrid(4, 4), (Disk("vbf", radius=1),), timeout=7.0
)


class Told(list):
    """What the engine is told."""

    def put(self, message, order=False):
        self.append((protocol.from_session(message), order))


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def running(told):
    return Running(told)


def test_the_engine_is_asked_and_its_events_are_passed_on(running, told):
    events = []
    running.begin(1, REQUEST, events.append)
    ((asked, order),) = told
    assert (asked.generation, order) == (1, True)
    assert running.timeout == 7.0
    running.accept(protocol.Armed(1))
    assert events == [protocol.Armed(1)]


def test_nothing_of_a_cancelled_acquisition_is_passed_on(running, told):
    events = []
    running.begin(1, REQUEST, events.append)
    running.cancel(1)
    assert told[-1] == (protocol.Cancel(1), True)
    running.accept(protocol.Armed(1))
    running.break_off(AcquisitionError("too late"))
    running.lose(EngineLost("gone"))
    assert events == []
    assert running.timeout is None


def preview_of(generation, name="vbf", side=4, bins=1):
    part = np.zeros((-(-side // bins),) * 2, np.float32)
    rows = Rows(0, side, bins, (side, side), part)
    return protocol.PreviewMade(generation, 0, Progress(3, 16, 1e3, 0), {name: rows})


def test_of_a_preview_that_nobody_waits_for_nothing_is_made(running, monkeypatch):
    """A few bytes of bins become gigabytes of pixels."""
    monkeypatch.setattr(Rows, "pixels", lambda self: pytest.fail("pixels were made"))
    running.accept_preview(preview_of(1, side=1 << 14, bins=16))
    running.begin(2, REQUEST, [].append)
    running.accept_preview(preview_of(1, side=1 << 14, bins=16))
    for preview in (preview_of(2, side=1 << 14, bins=16), preview_of(2, "other")):
        with pytest.raises(ProtocolError, match="which no output of the request is"):
            running.accept_preview(preview)


def test_a_pattern_may_be_of_any_size_that_a_raster_s_results_may_have(running):
    """How large it is only the detector knows; a few bytes must not claim to be gigabytes all the same."""
    events = []
    running.begin(1, replace(REQUEST, methods=(MeanPattern("vbf"),)), events.append)
    running.accept(protocol.Armed(1))
    running.accept_preview(preview_of(1, side=512, bins=4))
    assert events[-1].outputs["vbf"].shape == (512, 512)
    with pytest.raises(ProtocolError, match="which no output of the request is"):
        running.accept_preview(preview_of(1, side=1 << 14, bins=16))


def test_what_is_broken_off_fails_once_here_and_is_cancelled_there(running, told):
    events = []
    running.begin(1, REQUEST, events.append)
    running.break_off(AcquisitionError("it hangs"))
    running.break_off(AcquisitionError("it hangs"))
    assert [message for message, _ in told[1:]] == [protocol.Cancel(1)]
    (failed,) = events
    assert str(failed.error).startswith("it hangs. The acquisition was cancelled")


@pytest.mark.parametrize("rasters", [1, 3])
def test_all_parts_of_the_results_may_count_as_signs_of_life_and_not_many_more(running, monkeypatch, rasters):
    told = []
    begin = SignsOfLife.begin
    monkeypatch.setattr(SignsOfLife, "begin", lambda *those: (told.append(those[-1]), begin(*those)))
    grid = ScanGrid(500, 500)
    running.begin(1, replace(REQUEST, grid=grid, rasters=rasters), lambda event: None)
    (most,) = told
    image, losses = np.ones(grid.shape), Losses(grid.frames, grid.frames, 0, 0)
    message = protocol.encode(protocol.RasterDone(1, RasterResult(0, {"vbf": image}, losses, 1, None, "cpu")))
    outbox = Outbox()
    outbox.put(message)
    parts = 0
    while outbox.waits:
        parts += len(list(outbox.ready()))
        outbox.received(parts, 0)
    assert rasters * parts <= most <= 2 * rasters * parts


def test_after_the_engine_is_lost_nothing_begins(running, told):
    events = []
    running.begin(1, REQUEST, events.append)
    running.lose(EngineLost("gone"))
    (lost,) = events
    assert isinstance(lost, protocol.Lost)
    with pytest.raises(EngineLost, match="gone"):
        running.begin(2, REQUEST, events.append)
    assert len(told) == 1


def test_a_refusal_is_of_what_runs_unless_it_names_another(running):
    events = []
    running.begin(2, REQUEST, events.append)
    running.refused(1, protocol.Failure("ValueError", "an earlier one"))
    assert events == []
    running.refused(None, protocol.Failure("ValueError", "no such grid"))
    assert str(events[0].error) == "no such grid"
