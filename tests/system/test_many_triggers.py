"""A detector armed once for many triggers, with real processes: what breaks the count of frames ends the series."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import httpx
import numpy as np
import pytest
from bluesky import RunEngine

from live4d_ophyd import Disk, Live4D, ScanGrid
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import FINAL, Done, ProgressMade, RasterDone
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource

pytestmark = pytest.mark.system

GRID = ScanGrid(12, 12)
N = GRID.frames
PATIENCE_S = 60.0


class Session:
    """Triggers of one engine on one simulator."""

    def __init__(self, simulator, engine):
        self.simulator, self.engine = simulator, engine
        self.request = AcquisitionRequest(
            DectrisSource(
                simulator.stream_endpoint, simplon=Simplon(simulator.rest_url, trigger_mode="ints")
            ),
            GRID,
            (Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius),),
            rasters=100,
            stay_armed=True,
            timeout=2.0,
        )
        self._generation = 0

    def trigger(self, request=None, *, cancel_at=None):
        """One raster, or None if it was cancelled when so many frames had come."""
        self._generation += 1
        generation, events, over = self._generation, [], threading.Event()

        def note(event):
            events.append(event)
            if isinstance(event, FINAL):
                over.set()
            if isinstance(event, ProgressMade) and event.progress.frames_received >= (cancel_at or N + 1):
                self.engine.cancel(generation)
                over.set()

        self.engine.acquire(generation, request or self.request, note)
        assert over.wait(PATIENCE_S)
        if cancel_at is not None:
            return None
        if not isinstance(events[-1], Done):
            raise events[-1].error
        (raster,) = [event.raster for event in events if isinstance(event, RasterDone)]
        return raster

    def state(self):
        url = f"{self.simulator.rest_url}/detector/api/1.8.0/status/state"
        return httpx.get(url, trust_env=False).json()["value"]


@pytest.fixture(scope="module")
def _session():
    options = {"rows": 12, "cols": 12, "shape": (48, 48), "frozen_noise": True, "rate": 1000.0}
    with SimulatorProcess(**options) as simulator, closing(EngineClient.spawn("cpu")) as engine:
        engine.wait_ready()
        yield Session(simulator, engine)


@pytest.fixture
def session(_session):
    _session.simulator.set_faults()
    yield _session
    _session.simulator.set_faults()
    _session.engine.release(timeout=PATIENCE_S)
    assert _session.state() == "idle"


@pytest.fixture(scope="module")
def truth(_session):
    """The image of an ordinary trigger, armed for itself."""
    # The simulator computes its frames first.
    ordinary = replace(_session.request, rasters=1, stay_armed=False, timeout=PATIENCE_S)
    images = _session.trigger(ordinary).outputs["vbf"]
    _session.engine.release(timeout=PATIENCE_S)  # a device's engine must not share the stream with it
    return images


def check(raster, truth, lost=()):
    expected = truth.copy()
    expected.flat[list(lost)] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], expected)
    assert (raster.losses.received, raster.losses.lost) == (N - len(lost), len(lost))


def test_a_count_of_ten_is_one_series(session, truth):
    rasters = [session.trigger() for _ in range(10)]
    for raster in rasters:
        check(raster, truth)
    assert len({raster.series_id for raster in rasters}) == 1
    assert session.state() == "ready"


def test_a_raster_with_a_lost_frame_is_followed_by_whole_ones_of_the_same_series(session, truth):
    session.simulator.set_faults(drop=f"{N + 7}")
    rasters = [session.trigger() for _ in range(3)]
    for raster, lost in zip(rasters, ((), (7,), ())):
        check(raster, truth, lost)
    assert len({raster.series_id for raster in rasters}) == 1


def test_after_frames_lost_at_a_rasters_end_the_next_is_of_another_series(session, truth):
    session.simulator.set_faults(drop=f"{2 * N - 1}")
    first, second, third = (session.trigger() for _ in range(3))
    check(first, truth)
    check(second, truth, (N - 1,))
    check(third, truth)
    assert second.series_id == first.series_id
    assert third.series_id != second.series_id


def test_frames_of_an_interrupted_raster_stay_out_of_the_next(session, truth):
    check(session.trigger(), truth)
    session.simulator.set_faults(after_abort=40)
    session.trigger(cancel_at=20)
    check(session.trigger(), truth)
    check(session.trigger(), truth)


def test_another_set_up_is_another_series(session, truth):
    first = session.trigger()
    (disk,) = session.request.methods
    smaller = session.trigger(replace(session.request, methods=(replace(disk, radius=disk.radius / 2),)))
    back = session.trigger()
    check(first, truth)
    check(back, truth)
    assert len({raster.series_id for raster in (first, smaller, back)}) == 3


def test_a_detector_that_was_disarmed_meanwhile_is_armed_anew(session, truth):
    first = session.trigger()
    session.request.source.simplon.disarm()
    second = session.trigger()
    check(second, truth)
    assert second.series_id != first.series_id


def test_a_scan_that_runs_by_itself_is_armed_for_each_trigger(session, truth):
    """Images come whether a trigger waits for them or not: they are not counted into the next raster."""
    request = replace(
        session.request,
        source=replace(
            session.request.source, simplon=Simplon(session.simulator.rest_url, trigger_mode="exts")
        ),
    )
    rasters = [session.trigger(request) for _ in range(3)]
    for raster in rasters:
        check(raster, truth)
    assert len({raster.series_id for raster in rasters}) == 3


@pytest.fixture
def live4d(session, truth):
    """The same as a device; by now the simulator has computed its frames."""
    with closing(
        Live4D(
            session.request.source.endpoint,
            name="live4d",
            scan=GRID,
            methods=session.request.methods,
            control=session.request.source.simplon,
            arm_per="run",
            backend="cpu",
            timeout=PATIENCE_S,
        )
    ) as device:
        yield device


def run(plan):
    """The data of its Events."""
    events = []
    RunEngine({}, call_returns_result=False)(
        plan, lambda name, doc: events.append(doc["data"]) if name == "event" else None
    )
    return events


def test_a_count_arms_once_and_each_run_for_itself(session, live4d, truth):
    events = run(bp.count([live4d], 4)) + run(bp.count([live4d], 2))
    for data in events:
        np.testing.assert_array_equal(data["live4d_vbf"], truth)
        assert data["live4d_frames_received"] == N
    first = events[0]["live4d_series_id"]
    assert [data["live4d_series_id"] - first for data in events] == [0, 0, 0, 0, 1, 1]
    assert session.state() == "idle"


def test_a_setting_of_the_detector_between_two_triggers_holds_for_the_next(session, live4d, truth):
    @bpp.stage_decorator([live4d])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([live4d])
        yield from bps.mv(live4d.detector.count_time, 0.5e-3)
        yield from bps.trigger_and_read([live4d])

    try:
        full, half = run(plan())
    finally:
        session.request.source.simplon.put("detector", "count_time", 1e-3)
    np.testing.assert_array_equal(full["live4d_vbf"], truth)
    assert half["live4d_series_id"] == full["live4d_series_id"] + 1
    assert 0.4 < np.mean(half["live4d_vbf"]) / np.mean(truth) < 0.6


def test_an_engine_that_dies_between_two_triggers_leaves_no_detector_armed(session, live4d):
    def plan():
        yield from bps.stage(live4d)
        yield from bps.trigger(live4d, wait=True)
        assert session.state() in ("ready", "acquire")  # for the next trigger
        client = live4d._client
        os.kill(client.pid, signal.SIGKILL)
        wait_until(lambda: not client.alive)
        yield from bps.unstage(live4d)

    run(plan())
    wait_until(lambda: session.state() == "idle")


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("arm_per", ["never", 0, 1.5, True])
def test_arm_per_is_one_of_a_few(session, arm_per):
    with pytest.raises(ValueError, match=r"arm_per is .*; expected 'trigger', 'run' or a number of triggers"):
        Live4D(
            session.request.source.endpoint, name="live4d", scan=GRID, methods=session.request.methods,
            control=session.request.source.simplon, arm_per=arm_per,
        )  # fmt: skip


def test_arming_once_needs_a_control(session):
    with pytest.raises(ValueError, match="without control it is not the device that arms"):
        Live4D(
            session.request.source.endpoint,
            name="live4d",
            scan=GRID,
            methods=session.request.methods,
            arm_per="run",
        )
