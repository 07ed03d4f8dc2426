"""The scan generator that a device drives: what it is told, when, and images with the geometry that was asked for."""

import math
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import cache

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd.status import Status
from ophyd.utils import LimitError

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon
from live4d_ophyd.device.scan_start import ScanGenerator, ScanStarter
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.engine.header_scan import disagreement
from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen

GRID = ScanGrid(12, 10, step=0.5, unit="nm")
#: s
DWELL = 1 / 30e3


@pytest.fixture(scope="module")
def sim():
    with SimulatorProcess(rows=16, cols=16, step=0.3) as simulator:
        yield simulator


@pytest.fixture
def generator(sim):
    generator = SimScanGenerator(sim.rest_url)
    yield generator
    Simplon(sim.rest_url).make_idle()
    frame_time = "/detector/api/1.8.0/config/frame_time"
    generator.client.put(frame_time, json={"value": DWELL}).raise_for_status()
    generator.client.put(
        "/microscope/scan",
        json={
            "rows": 16,
            "cols": 16,
            "step_nm": 0.3,
            "serpentine": False,
            "flyback": 0,
            "last_flyback": True,
            "lead_in": 0,
            "rotation_deg": 0.0,
        },
    ).raise_for_status()
    generator.destroy()


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


@pytest.fixture
def control(sim):
    return Simplon(sim.rest_url)


def device(sim, grid=GRID, **options):
    options = {"control": Simplon(sim.rest_url), "timeout": 20.0} | options
    disk = Disk("vbf", center=sim.bf_center, radius=sim.bf_radius)
    return Live4D(sim.stream_endpoint, name="live4d", scan=grid, methods=[disk], backend="cpu", **options)


@cache
def _optics():
    return Optics(Specimen(), Microscope(), Detector())


def expected(sim, grid, rotation_deg=0.0, steps=None):
    """Mean image and its variance, by the definition of every position."""
    step_y, step_x = steps or grid.steps
    y = (np.arange(grid.rows) - (grid.rows - 1) / 2) * step_y
    x = (np.arange(grid.cols) - (grid.cols - 1) / 2) * step_x
    y, x = np.meshgrid(y, x, indexing="ij")
    turn = math.radians(rotation_deg)
    positions = np.stack(
        [y * math.cos(turn) + x * math.sin(turn), x * math.cos(turn) - y * math.sin(turn)], -1
    )
    patterns = _optics().quantised(positions.reshape(-1, 2)).patterns * Microscope().electrons(DWELL)
    weights = Disk("vbf", center=sim.bf_center, radius=sim.bf_radius).weights((96, 96))
    return tuple((patterns * w).sum((1, 2)).reshape(grid.shape) for w in (weights, weights**2))


def assert_is(image, sim, grid, **how):
    mean, variance = expected(sim, grid, **how)
    deviations = (image - mean) / np.sqrt(variance)
    # As of noise alone; what the positions have in common is no help, for the image has far more contrast.
    assert mean.std() > 3 * np.sqrt(variance.mean())
    assert deviations.std() < 1.3
    assert np.abs(deviations).max() < 6


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"serpentine": True},
        {"flyback": 3},
        {"flyback": 2, "last_flyback": False, "lead_in": 5},
        {"serpentine": True, "flyback": 1},
        {"step": (0.4, 0.7)},
        {"rows": 5, "cols": 21},
    ],
    ids=str,
)
def test_images_have_the_geometry_of_the_grid(sim, RE, generator, geometry):
    grid = replace(GRID, **geometry)
    with closing(device(sim, grid, scan_generator=generator)) as live4d:
        RE(bp.count([live4d]))
        assert live4d.frames_lost.get() == live4d.frames_bad.get() == 0
        assert_is(live4d.vbf.get(), sim, grid)


def test_a_plan_that_sets_the_grid_sets_the_scan(sim, RE, generator):
    with closing(device(sim, scan_generator=generator)) as live4d:
        RE(
            bps.mv(
                live4d.scan_rows, 7, live4d.scan_cols, 9, live4d.scan_serpentine, True, generator.rotation, 30
            )
        )
        RE(bp.count([live4d]))
        assert_is(live4d.vbf.get(), sim, replace(GRID, rows=7, cols=9), rotation_deg=30)
        assert (generator.rows.get(), generator.cols.get(), generator.serpentine.get()) == (7, 9, True)


def test_pixels_are_the_generators_own_step(sim, RE, generator):
    generator.step_y.put(0.6)
    grid = ScanGrid(12, 10)
    with closing(device(sim, grid, scan_generator=generator)) as live4d:
        RE(bp.count([live4d]))
        assert_is(live4d.vbf.get(), sim, grid, steps=(0.6, 0.3))


def test_another_unit_is_refused_and_nothing_is_armed(sim, RE, generator, control):
    with closing(device(sim, replace(GRID, unit="um"), scan_generator=generator)) as live4d:
        before = control.get("stream", "config", "header_appendix")
        with pytest.raises(FailedStatus) as caught:
            RE(bp.count([live4d]))
        words = (
            r"scan_generator.prepare failed \(ValueError: .*step is in 'um'; expected nm.*; nothing was armed"
        )
        with pytest.raises(AcquisitionError, match=words):
            raise caught.value.__cause__
        assert control.state() == "idle"
        assert control.get("stream", "config", "header_appendix") == before


def test_every_raster_of_a_movie_and_of_a_detector_that_stays_armed(sim, RE, generator):
    with closing(device(sim, scan_generator=generator, arm_per="run")) as live4d:
        images = []
        RE.subscribe(lambda _, doc: images.append(live4d.vbf.get()) if doc["descriptor"] else None, "event")
        RE(bp.count([live4d], num=3))
        assert len(images) == 3
        for image in images:
            assert_is(image, sim, GRID)
        RE(bps.mv(live4d.movie_rasters, 3))
        RE(bp.fly([live4d]))
        assert live4d.frames_lost.get() == 0
        assert_is(live4d.vbf.get(), sim, GRID)


def test_a_pause_stops_the_probe_and_resuming_scans_anew(sim, RE, generator, control):
    with closing(device(sim, scan_generator=generator)) as live4d:
        RE(bps.mv(live4d.dwell_time, 0.02))

        def pause():
            while control.state() != "acquire":
                time.sleep(0.01)
            RE.request_pause()

        thread = threading.Thread(target=pause)
        thread.start()
        with pytest.raises(RunEngineInterrupted):
            RE(bp.count([live4d]))
        thread.join()
        assert control.wait_idle(10) == "idle"
        RE.resume()
        assert live4d.frames_lost.get() == 0


def test_a_session_goes_on_with_a_simulator_that_was_restarted(RE):
    with SimulatorProcess(rows=16, cols=16) as sim:
        generator = SimScanGenerator(sim.rest_url)
        with closing(device(sim, scan_generator=generator)) as live4d:
            for _ in range(2):
                RE(bp.count([live4d]))
                assert_is(live4d.vbf.get(), sim, GRID)
                sim.restart()
        generator.destroy()


# Without one ---------------------------------------------------------------------------------------


def test_a_header_that_disagrees_is_an_error_before_the_first_image(sim, RE, generator):
    with closing(device(sim, ScanGrid(16, 16, step=0.3, unit="nm"))) as live4d:
        RE(bp.count([live4d]))
        RE(bps.mv(live4d.scan_rows, 8, live4d.scan_cols, 8))
        with pytest.raises(FailedStatus) as caught:
            RE(bp.count([live4d]))
        assert "the header's scan_generator has rows 16, not 8, cols 16, not 8" in str(caught.value.__cause__)
        assert live4d.frames_received.get() == 256  # of the scan before


def test_where_the_header_says_nothing_a_count_that_does_not_fit_is_warned_of(RE, caplog):
    with (
        SimulatorProcess(rows=6, cols=6, silent_scan=True) as sim,
        closing(device(sim, ScanGrid(4, 5), control=None)) as live4d,
    ):
        control = Simplon(sim.rest_url)
        live4d.wait_for_connection()
        live4d.stage()
        status = live4d.trigger()
        control.configure(1, 36)
        control.arm()
        status.wait(30)
        live4d.unstage()
        assert live4d.frames_received.get() == 20
    assert "announces 36 frames, the grid needs 20 (4 x 5 x 1 rasters)" in caplog.text


SAID = {"rows": 3, "cols": 4, "serpentine": False, "flyback": 0, "last_flyback": True, "lead_in": 0}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, ""),
        ({"rows": 4, "cols": 3}, "rows 4, not 3, cols 3, not 4"),
        ({"serpentine": True}, "serpentine True, not False"),
        ({"flyback": 2}, "flyback 2, not 0"),
        ({"lead_in": 1}, "lead_in 1, not 0"),
        ({"last_flyback": False}, ""),
        ({"step": [0.5, 0.25], "unit": "nm"}, ""),
        ({"step": [0.5, 0.5], "unit": "nm"}, "step (0.5, 0.5) nm, not (0.5, 0.25)"),
        ({"step": [5, 2.5], "unit": "A"}, ""),
        ({"rows": "many", "cols": None}, ""),
    ],
)
def test_what_a_header_may_say(said, words):
    grid = ScanGrid(3, 4, step=(0.5, 0.25), unit="nm")
    answer = disagreement({"scan_generator": SAID | said}, grid, armed_here=True)
    assert answer == (f"the header's scan_generator has {words}" if words else "")


def test_last_flyback_matters_where_there_is_one():
    said = {"scan_generator": SAID | {"flyback": 2, "last_flyback": False}}
    assert "last_flyback False, not True" in disagreement(said, ScanGrid(3, 4, flyback=2), armed_here=True)


def test_what_somebody_else_armed_for_is_known_from_the_header():
    text = '{"scan":{"rows":5,"cols":4},"rasters":1}'
    assert "the header's scan has rows 5, not 3" in disagreement(text, ScanGrid(3, 4), armed_here=False)
    assert disagreement(text, ScanGrid(3, 4), armed_here=True) == ""


@pytest.mark.parametrize("header", [None, "", "sample 7", "[1]", 3, '{"scan_generator": 3}', "[" * 100_000])
def test_a_header_that_says_nothing_of_a_scan_agrees(header):
    assert disagreement(header, ScanGrid(3, 4), armed_here=False) == ""


# When it is told what ------------------------------------------------------------------------------


class Recorder:
    """A scan generator that notes what it is told, in the order it begins; `hold` keeps prepare from returning."""

    def __init__(self):
        self.heard = []
        self.prepared = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def prepare(self, grid, rasters=1):
        self.heard.append(("prepare", grid, rasters))
        self.prepared.set()
        self.hold.wait(20)

    def start(self):
        self.heard.append("start")

    def stop(self):
        self.heard.append("stop")


def failed(error):
    raise AssertionError(error)


def test_it_is_prepared_before_the_detector_is_armed_and_started_afterwards(sim, RE, control, generator):
    states = []

    class Looker(Recorder):
        """No pulse comes before it has looked."""

        def prepare(self, grid, rasters=1):
            super().prepare(grid, rasters)
            states.append(control.state())
            return generator.prepare(grid, rasters)

        def start(self):
            super().start()
            states.append(control.state())
            return generator.start()

    looker, grid = Looker(), ScanGrid(16, 16, step=0.3, unit="nm")
    with closing(device(sim, grid, scan_generator=looker)) as live4d:
        RE(bp.count([live4d], num=2))
    assert looker.heard == [("prepare", grid, 1), "start"] * 2
    assert states[0] == states[2] == "idle"
    assert states[1] == states[3] == "ready"


def test_a_trigger_does_not_wait_until_it_is_prepared(sim, control):
    slow = Recorder()
    slow.hold.clear()
    with closing(device(sim, ScanGrid(16, 16, step=0.3, unit="nm"), scan_generator=slow)) as live4d:
        live4d.wait_for_connection()
        live4d.stage()
        status = live4d.trigger()  # returns
        assert slow.prepared.wait(10)
        assert not status.done
        assert control.state() == "idle"
        slow.hold.set()
        status.wait(30)
        live4d.unstage()


def test_a_scan_that_is_cancelled_while_it_is_prepared_is_stopped_and_nothing_is_armed(sim, control):
    slow = Recorder()
    slow.hold.clear()
    with closing(device(sim, ScanGrid(16, 16, step=0.3, unit="nm"), scan_generator=slow)) as live4d:
        live4d.wait_for_connection()
        live4d.stage()
        live4d.trigger()
        assert slow.prepared.wait(10)
        scan = live4d._scan._scan
        live4d.stop()
        slow.hold.set()
        assert scan.over.wait(10)
        live4d.unstage()
    # At once, and when it is prepared: what came meanwhile may have been lost on it.
    assert slow.heard[1:] == ["stop", "stop"]
    assert control.state() == "idle"


def test_what_is_prepared_when_the_trigger_was_cancelled_arms_nothing(sim, monkeypatch):
    """However close the two come to each other."""
    with closing(device(sim, ScanGrid(16, 16, step=0.3, unit="nm"), scan_generator=Recorder())) as live4d:
        live4d.wait_for_connection()
        live4d.stage()
        prepared, asked = [], []
        monkeypatch.setattr(live4d._scan, "prepare", lambda grid, rasters, then, _: prepared.append(then))
        monkeypatch.setattr(live4d._client, "acquire", lambda *arguments: asked.append(arguments))
        live4d.trigger()
        live4d.stop()
        prepared[0]()
        assert asked == []
        live4d.trigger()
        prepared[1]()
        assert len(asked) == 1
        live4d.unstage()


def test_a_status_that_prepare_returns_is_waited_for_and_its_failure_is_the_triggers():
    status, done = Status(), threading.Event()
    recorder, errors = Recorder(), []
    recorder.prepare = lambda grid: status
    starter = ScanStarter(scan_generator=recorder)
    starter.prepare(GRID, 1, done.set, failed)
    assert not done.wait(0.1)
    status.set_finished()
    assert done.wait(10)
    failing, failed_too = Status(), threading.Event()
    recorder = Recorder()
    recorder.prepare = lambda grid: failing
    starter = ScanStarter(scan_generator=recorder)
    starter.prepare(GRID, 1, failed, lambda error: (errors.append(error), failed_too.set()))
    failing.set_exception(OSError("the scan generator is off"))
    assert failed_too.wait(10)
    assert "the scan generator is off" in str(errors[0])


def test_a_scan_is_prepared_when_the_one_before_has_ended():
    recorder, first, second = Recorder(), threading.Event(), threading.Event()
    over = Status()
    recorder.start = lambda: over
    starter = ScanStarter(scan_generator=recorder)
    starter.prepare(GRID, 1, first.set, failed)
    assert first.wait(10)
    starter.start(failed)
    starter.prepare(GRID, 2, second.set, failed)
    assert not second.wait(0.1)
    over.set_finished()
    assert second.wait(10)
    assert recorder.heard == [("prepare", GRID, 1), ("prepare", GRID, 2)]


def test_after_a_scan_that_was_prepared_and_not_started_the_next_does_not_wait():
    recorder, first, second = Recorder(), threading.Event(), threading.Event()
    starter = ScanStarter(scan_generator=recorder)
    starter.prepare(GRID, 1, first.set, failed)
    assert first.wait(10)
    starter.stop()  # the detector could not be armed
    starter.prepare(GRID, 1, second.set, failed)
    assert second.wait(10)
    assert recorder.heard == [("prepare", GRID, 1), "stop", ("prepare", GRID, 1)]


def test_what_is_no_scan_generator_is_refused(sim):
    with pytest.raises(
        ValueError, match=r"scan_generator is .*; it must have prepare\(grid\), start\(\) and stop"
    ):
        device(sim, scan_generator=lambda: None)
    with pytest.raises(ValueError, match="scan_start and scan_generator both start the scan"):
        device(sim, scan_generator=Recorder(), scan_start=lambda: None)
    with pytest.raises(ValueError, match="has scan_generator, but with trigger_mode 'ints'"):
        device(sim, scan_generator=Recorder(), control=Simplon(sim.rest_url, trigger_mode="ints"))
    assert isinstance(Recorder(), ScanGenerator)


# The simulated one as a device ---------------------------------------------------------------------


def test_its_signals_are_what_the_simulator_scans(sim, RE, generator):
    RE(bps.mv(generator.rows, 5, generator.step_x, 0.75, generator.serpentine, True, generator.rotation, -12))
    scan = generator.client.get("/microscope/scan").json()
    assert (scan["rows"], scan["step_nm"], scan["serpentine"], scan["rotation_deg"]) == (
        5,
        [0.3, 0.75],
        True,
        -12,
    )
    described = generator.describe()
    assert described["scan_generator_rows"]["dtype"] == "integer"
    assert described["scan_generator_step_y"]["units"] == "nm"
    assert described["scan_generator_serpentine"]["dtype"] == "boolean"
    assert generator.read()["scan_generator_step_x"]["value"] == 0.75
    # %wa lists what has a position, and rounds it
    assert [name for name in generator.component_names if hasattr(getattr(generator, name), "position")] == [
        "step_y",
        "step_x",
        "rotation",
    ]
    with pytest.raises(LimitError, match="scan_generator_rows = 0"):
        generator.rows.put(0)
    with pytest.raises(ValueError, match=r"scan rows = 2\.5"):
        generator.rows.put(2.5)


@pytest.mark.parametrize("serpentine", [False, True])
@pytest.mark.parametrize(("flyback", "last_flyback", "lead_in"), [(0, True, 0), (2, True, 0), (3, False, 4)])
def test_the_probe_is_where_the_grid_says(serpentine, flyback, last_flyback, lead_in):
    how = {"serpentine": serpentine, "flyback": flyback, "last_flyback": last_flyback, "lead_in": lead_in}
    grid, scan = ScanGrid(3, 4, **how), Scan(3, 4, (0.5, 0.25), **how)
    path = scan.positions_nm()
    assert len(path) == scan.frames == grid.frames
    at = grid.positions(np.arange(grid.frames))
    row, col = np.divmod(at, 4)
    np.testing.assert_allclose(path[at >= 0], np.stack([(row - 1) * 0.5, (col - 1.5) * 0.25], -1)[at >= 0])
    np.testing.assert_allclose(path[:lead_in], np.repeat(path[lead_in : lead_in + 1], lead_in, axis=0))
    if flyback:
        first = path[lead_in + 3 : lead_in + 4 + flyback + 1]  # the end of a line to the begin of the next
        np.testing.assert_allclose(np.diff(first, axis=0), np.diff(first, axis=0)[:1].repeat(flyback + 1, 0))
