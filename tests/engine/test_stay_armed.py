"""A detector that stays armed: each trigger takes the next raster of one series, exactly, or the series ends."""

from contextlib import closing, contextmanager

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.errors import Cancelled
from live4d_ophyd.engine.steps import OutOfStep
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, frames, image, start

DISK = Disk("vbf", center=(12, 16), radius=6)
GRID = ScanGrid(3, 4)
N = GRID.frames


class Control:
    """A detector that stays armed and remembers what it heard."""

    url = "http://stays-armed"
    trigger_per = "pixel"

    def __init__(self, software_triggered=False):
        self.software_triggered = software_triggered
        self.heard = []
        self.header, self.now = "", "idle"

    def configure(self, images, triggers, frame_time, appendix):
        self.heard.append(f"configure {images} x {triggers}")
        self.header = appendix

    def get(self, *_):
        return self.header

    def state(self):
        return self.now

    def wait_idle(self, timeout):
        return self.now

    def arm(self):
        self.heard.append("arm")
        self.now = "ready"
        return 1

    def trigger(self):
        self.heard.append("trigger")

    def dropped(self):
        return 0

    def disarm(self):
        self.heard.append("disarm")
        self.now = "idle"

    def abort(self):
        self.heard.append("abort")
        self.now = "idle"

    def put_back(self):
        pass  # the detector's settings are the subject of tests/sources/simplon


class Series:
    """Triggers of one acquisition; the scan sends what the test says as soon as the detector is ready."""

    def __init__(self, dcu, control, stream, rasters=5, timeout=20.0):
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint, simplon=control),
            GRID,
            (DISK,),
            rasters=rasters,
            stay_armed=True,
            timeout=timeout,
        )
        self.dcu, self.control = dcu, control
        self.acquisition = Acquisition(request, stream)
        self.rasters = self.acquisition.run()

    def trigger(self, messages):
        self.acquisition.on_ready = lambda: self.dcu.send(messages)
        return next(self.rasters)


@contextmanager
def armed(control=None, **options):
    with closing(SmallDcu()) as dcu, closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        assert stream.connected(5)
        series = Series(dcu, control or Control(), stream, **options)
        with closing(series.rasters):
            yield series


@pytest.fixture(scope="module")
def pixels():
    return frames(5 * N)


def scan(pixels, raster, *, without=(), more=0):
    """Messages of one raster, ids going on from the one before; the first has the `start`."""
    ids = [n for n in range(raster * N, (raster + 1) * N + more) if n - raster * N not in without]
    head = [start(number_of_images=len(pixels))] if raster == 0 else []
    return head + [image(pixels[n], n) for n in ids]


def truth(pixels, raster):
    part = pixels[raster * N : (raster + 1) * N].astype(np.float64)
    return (part * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)


def test_one_arm_serves_many_triggers(pixels):
    with armed() as series:
        for raster in range(4):
            taken = series.trigger(scan(pixels, raster))
            np.testing.assert_array_equal(taken.outputs["vbf"], truth(pixels, raster))
            assert (taken.losses.received, taken.losses.lost, taken.series_id) == (N, 0, 1)
            assert series.acquisition.stands
        assert series.control.heard == ["configure 1 x 60", "arm"]
        series.rasters.close()
    assert series.control.heard[-1] == "disarm"


def test_when_all_triggers_are_used_the_series_is_over(pixels):
    with armed(rasters=2) as series:
        series.trigger(scan(pixels, 0))
        series.trigger(scan(pixels, 1))
        assert not series.acquisition.stands
        with pytest.raises(StopIteration):
            next(series.rasters)


def test_a_software_trigger_is_given_for_each_raster(pixels):
    with armed(Control(software_triggered=True)) as series:
        for raster in range(3):
            series.trigger(scan(pixels, raster))
        assert series.control.heard == ["configure 12 x 5", "arm", "trigger", "trigger", "trigger"]


def test_a_frame_lost_within_a_raster_harms_no_other(pixels):
    with armed() as series:
        first = series.trigger(scan(pixels, 0, without=(3,)))
        assert (first.losses.received, first.losses.lost) == (N - 1, 1)
        assert np.flatnonzero(np.isnan(first.outputs["vbf"])).tolist() == [3]
        second = series.trigger([image(pixels[3], 3), *scan(pixels, 1)])  # the lost one comes late
        np.testing.assert_array_equal(second.outputs["vbf"], truth(pixels, 1))
        assert series.control.heard.count("arm") == 1


def test_frames_lost_at_a_rasters_end_end_the_series(pixels):
    """Nobody knows whether the detector missed pulses or the network lost frames: the numbers may be out of step."""
    with armed(timeout=2.0) as series:
        taken = series.trigger(scan(pixels, 0, without=(N - 1,)))
        assert (taken.losses.received, taken.losses.lost) == (N - 1, 1)
        assert not series.acquisition.stands
        assert series.control.heard[-1] == "disarm"


def test_a_scan_with_too_many_frames_ends_the_series(pixels):
    with armed() as series:
        taken = series.trigger(scan(pixels, 0, more=2))
        np.testing.assert_array_equal(taken.outputs["vbf"], truth(pixels, 0))
        assert not series.acquisition.stands
        assert series.control.heard[-1] == "disarm"


def test_images_between_two_triggers_are_nobodys(pixels):
    with armed() as series:
        series.trigger(scan(pixels, 0))
        series.dcu.send(scan(pixels, 1, without=range(2, N)))
        while not series.acquisition.tracker.went_beyond(0):
            assert series.acquisition.stands
        with pytest.raises(OutOfStep, match="frames came between two triggers"):
            series.trigger(scan(pixels, 1))
        assert series.control.heard[-1] == "disarm"


@pytest.mark.parametrize(
    ("meanwhile", "words", "last"),
    [
        (lambda control: setattr(control, "now", "idle"), "the detector is in state idle", "arm"),
        (
            lambda control: setattr(control, "header", "another's"),
            "another session armed the detector",
            "arm",
        ),
    ],
    ids=["disarmed", "another session"],
)
def test_a_detector_that_is_not_armed_for_it_any_more_is_noticed(pixels, meanwhile, words, last):
    with armed() as series:
        series.trigger(scan(pixels, 0))
        meanwhile(series.control)
        with pytest.raises(OutOfStep, match=words):
            series.trigger([])
        assert not series.acquisition.stands
        assert series.control.heard[-1] == last


def test_a_cancelled_trigger_ends_the_series_and_its_frames_stay_out(pixels):
    with armed() as series:
        series.trigger(scan(pixels, 0))
        half, acquisition = scan(pixels, 1)[:5], series.acquisition
        acquisition.on_progress = lambda: acquisition.progress().frames_received == 5 and acquisition.cancel()
        with pytest.raises(Cancelled):
            series.trigger(half)
        assert series.control.heard[-1] == "abort"
        after = Series(series.dcu, Control(), series.acquisition._stream)
        after.control.arm = lambda: 2
        late = scan(pixels, 1)[5:]
        messages = [start(2, "B"), *(image(pixels[n], n, 2, "B") for n in range(N))]
        taken = after.trigger([*late, *messages])
        np.testing.assert_array_equal(taken.outputs["vbf"], truth(pixels, 0))
        assert taken.losses.foreign == len(late)
        after.rasters.close()


def test_progress_and_preview_are_the_rasters_own(pixels):
    with armed() as series:
        series.trigger(scan(pixels, 0))
        shown = []
        series.acquisition.on_progress = lambda: shown.append(series.acquisition.progress())
        series.trigger(scan(pixels, 1))
        assert {p.frames_expected for p in shown} == {N}
        assert {p.raster for p in shown} == {0}
        assert max(p.frames_received for p in shown) <= N


def test_it_needs_a_control():
    with pytest.raises(ValueError, match="stay_armed needs a source that is armed"):
        AcquisitionRequest(DectrisSource("tcp://dcu:31001"), GRID, (DISK,), rasters=5, stay_armed=True)
