"""One exposure's state machine, without ophyd: what its observer is told, once, and what the fence keeps from it."""

import threading

import numpy as np
import pytest

from live4d_ophyd import Disk, ScanGrid
from live4d_ophyd.device.exposure import Exposures
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.process.protocol import Armed, Done, Failed, Failure, ProgressMade, RasterDone
from live4d_ophyd.engine.results import Losses, Progress
from live4d_ophyd.sources.dectris.source import DectrisSource

GRID = ScanGrid(2, 3)
REQUEST = AcquisitionRequest(DectrisSource("tcp://127.0.0.1:9"), GRID, (Disk("vbf", radius=3),))
ARMED, DONE = Armed(1), Done(1)


def failed(error):
    return Failed(1, Failure.of(error))


def progress(received, outputs=None):
    return ProgressMade(1, Progress(received, 6, None, 0, 0), outputs)


def raster():
    result = RasterResult(0, {"vbf": np.ones((2, 3))}, Losses(6, 6, 0, 0), 7, 1e4, "cpu")
    return RasterDone(1, result)


class Engine:
    """Keeps who listens, so that the test says what the engine says."""

    alive = True

    def __init__(self):
        self.heard = []
        self.say = None

    def acquire(self, generation, request, on_event):
        self.heard.append(("acquire", generation))
        self.say = on_event

    def cancel(self, generation):
        self.heard.append(("cancel", generation))


class Observer:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []
        self.error = None

    def armed(self):
        self.told.append("armed")

    def progressed(self, progress, arrays):
        self.told.append((progress.frames_received, arrays))

    def raster_done(self, raster):
        self.told.append(raster.series_id)

    def ended(self):
        self.told.append("ended")

    def failed(self, error):
        self.told.append("failed")
        self.error = error

    def cancelled(self):
        self.told.append("cancelled")


class Scan:
    """A scan generator that is prepared and started when the test says so."""

    name, prepares = "scan_generator", True

    def __init__(self):
        self.heard = []

    def prepare(self, grid, rasters, then, on_failure):
        self.heard.append(("prepare", grid, rasters))
        self.then, self.prepare_failed = then, on_failure

    def start(self, on_failure):
        self.heard.append("start")
        self.start_failed = on_failure

    def stop(self):
        self.heard.append("stop")


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def observer():
    return Observer()


def test_an_exposure_is_told_from_armed_to_its_end(engine, observer):
    exposures = Exposures()
    exposures.start(engine, REQUEST, observer)
    assert engine.heard == [("acquire", 1)]
    assert exposures.running is observer
    image = np.full((2, 3), 4.0)
    for event in (ARMED, progress(2), progress(3, {"vbf": image}), raster(), DONE):
        engine.say(event)
    before, (received, arrays), *others = observer.told[1:]
    assert (observer.told[0], before, received, others) == ("armed", (2, None), 3, [7, "ended"])
    np.testing.assert_array_equal(arrays["vbf"], image)
    assert exposures.running is None
    exposures.cancel()
    assert observer.told[-1] == "ended"
    assert ("cancel", 1) not in engine.heard


def test_nothing_of_a_cancelled_exposure_comes_through(engine, observer):
    exposures = Exposures()
    exposures.start(engine, REQUEST, observer)
    engine.say(ARMED)
    exposures.cancel()
    for event in (
        progress(3),
        raster(),
        DONE,
        failed(ValueError("too late")),
    ):
        engine.say(event)
    exposures.cancel()
    assert observer.told == ["armed", "cancelled"]
    assert engine.heard[-1] == ("cancel", 1)


def test_the_next_exposure_cancels_the_one_before_and_hears_nothing_of_it(engine, observer):
    exposures, second = Exposures(), Observer()
    exposures.start(engine, REQUEST, observer)
    first_says = engine.say
    exposures.start(engine, REQUEST, second)
    first_says(raster())
    engine.say(ARMED)
    assert (observer.told, second.told) == (["cancelled"], ["armed"])
    assert engine.heard == [("acquire", 1), ("cancel", 1), ("acquire", 2)]


def test_a_cancel_waits_for_the_raster_that_is_being_taken(engine):
    """What it gives is whole, or not there."""
    exposures, inside, go_on, order = Exposures(), threading.Event(), threading.Event(), []

    class Slow(Observer):
        def raster_done(self, raster):
            inside.set()
            go_on.wait(10)
            order.append("taken")

        def cancelled(self):
            order.append("cancelled")

    exposures.start(engine, REQUEST, Slow())
    hearing = threading.Thread(target=engine.say, args=(raster(),))
    hearing.start()
    assert inside.wait(10)
    cancelling = threading.Thread(target=exposures.cancel)
    cancelling.start()
    go_on.set()
    cancelling.join(10)
    hearing.join(10)
    assert order == ["taken", "cancelled"]


def test_what_the_engine_fails_with_keeps_its_class_and_its_words(engine, observer):
    scan = Scan()
    scan.prepares = False
    exposures = Exposures(scan)
    exposures.start(engine, REQUEST, observer)
    engine.say(failed(ValueError("no such channel")))
    assert (type(observer.error), str(observer.error)) == (ValueError, "no such channel")
    assert exposures.running is None
    assert scan.heard == ["stop"]
    engine.say(DONE)
    assert observer.told == ["failed"]


def test_a_raster_that_cannot_be_taken_fails_the_exposure_here_and_in_the_engine(engine, observer):
    observer.raster_done = lambda raster: 1 / 0
    exposures = Exposures()
    exposures.start(engine, REQUEST, observer)
    engine.say(raster())
    engine.say(DONE)
    assert isinstance(observer.error, ZeroDivisionError)
    assert observer.told == ["failed"]
    assert engine.heard[-1] == ("cancel", 1)


def test_an_engine_that_cannot_be_asked_fails_the_exposure(engine, observer):
    def acquire(*arguments):
        engine.alive = False
        raise AcquisitionError("the engine process is gone")

    engine.acquire = acquire
    exposures = Exposures()
    exposures.start(engine, REQUEST, observer)
    assert str(observer.error) == "the engine process is gone"
    assert exposures.running is None
    assert engine.heard == []  # nobody is there to be told


def test_who_waits_for_the_end_may_cancel_from_another_thread(engine, observer):
    """`ended` and `failed` are told outside of the fence."""
    exposures = Exposures()

    def from_elsewhere():
        other = threading.Thread(target=exposures.cancel)
        other.start()
        other.join(10)
        observer.told.append("blocked" if other.is_alive() else "free")

    for event, how in ((DONE, "ended"), (failed(AcquisitionError("gone")), "failed")):
        observer.told.clear()
        exposures.start(engine, REQUEST, observer)
        setattr(observer, how, lambda *_: from_elsewhere())
        engine.say(event)
        assert observer.told == ["free"]


# The scan generator -------------------------------------------------------------------------------


def test_the_scan_is_prepared_before_the_detector_is_armed_and_started_behind_it(engine, observer):
    scan = Scan()
    exposures = Exposures(scan)
    exposures.start(engine, REQUEST, observer)
    assert (scan.heard, engine.heard) == ([("prepare", GRID, 1)], [])
    scan.then()
    assert engine.heard == [("acquire", 1)]
    assert scan.heard[1:] == []
    engine.say(ARMED)
    assert scan.heard[1:] == ["start"]


def test_what_is_prepared_too_late_arms_nothing(engine, observer):
    scan = Scan()
    exposures = Exposures(scan)
    exposures.start(engine, REQUEST, observer)
    exposures.cancel()
    scan.then()
    assert [call for call in engine.heard if call[0] == "acquire"] == []
    assert (observer.told, scan.heard[1:]) == (["cancelled"], ["stop"])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("prepare", r"scan_generator.prepare failed \(OSError: it is off\); nothing was armed"),
        ("start", r"scan_generator.start failed \(OSError: it is off\); the detector was disarmed"),
    ],
)
def test_a_scan_that_fails_fails_the_exposure(engine, observer, step, words):
    scan = Scan()
    exposures = Exposures(scan)
    exposures.start(engine, REQUEST, observer)
    if step == "start":
        scan.then()
        engine.say(ARMED)
    getattr(scan, f"{step}_failed")(OSError("it is off"))
    with pytest.raises(AcquisitionError, match=words) as failure:
        raise observer.error
    assert isinstance(failure.value.__cause__, OSError)
    assert (engine.heard[-1], scan.heard[-1]) == (("cancel", 1), "stop")
    getattr(scan, f"{step}_failed")(OSError("again"))
    assert observer.told.count("failed") == 1


def test_a_callable_is_named_as_the_user_passed_it(engine, observer):
    failed = threading.Event()

    def broken():
        raise OSError("it is off")

    observer.failed = lambda error: (observer.told.append(str(error)), failed.set())
    exposures = Exposures(ScanStarter(broken))
    exposures.start(engine, REQUEST, observer)
    engine.say(ARMED)
    assert failed.wait(10)
    assert observer.told[-1].startswith("scan_start failed (OSError")
