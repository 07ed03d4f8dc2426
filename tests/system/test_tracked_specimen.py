"""A drifting specimen of the simulator is kept in view from ten starts, through the whole chain."""

import asyncio
from contextlib import closing

import numpy as np
import pytest
from served_dcu import served_dcu

from live4d_ophyd import ADF, Drift, Live4D, ScanGrid, Simplon
from live4d_ophyd.plans import movie, track_region
from live4d_ophyd.sim.microscope import SimMicroscope
from live4d_ophyd.sim.specimen import Microscope, truth

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SIDE, STEP, RASTERS, LIMIT = 32, 0.25, 12, 1.0


@pytest.fixture(scope="module")
def bench():
    """RunEngine, device and microscope."""
    from bluesky import RunEngine

    RE = RunEngine({}, context_managers=[], call_returns_result=True)
    with served_dcu(rows=SIDE, cols=SIDE, step=STEP, shape=(48, 48), beam_current=100.0) as dcu:
        optics = truth(Microscope(), dcu.dcu.detector)
        live4d = Live4D(
            dcu.stream_endpoint, name="live4d", scan=ScanGrid(SIDE, SIDE, step=STEP, unit="nm"),
            methods=[ADF("adf"), Drift("drift", "adf")], control=Simplon(dcu.rest_url), timeout=60.0,
        )  # fmt: skip
        live4d.calibration_center.put(optics.bf_center)
        live4d.calibration_bf_radius.put(optics.bf_radius)
        microscope = SimMicroscope(dcu.rest_url)
        with closing(live4d):
            live4d.wait_for_connection()
            yield RE, live4d, microscope, dcu.dcu
        microscope.destroy()
    RE.loop.call_soon_threadsafe(RE.loop.stop)
    RE._th.join(timeout=10)
    RE.loop.close()
    asyncio.set_event_loop(None)


@pytest.mark.parametrize("start", range(10))
def test_a_drifting_specimen_stays_in_view(bench, start):
    RE, live4d, microscope, dcu = bench
    rng = np.random.default_rng([start, 20])
    begin, speed = rng.uniform(-40, 40, 2), rng.uniform(-0.45, 0.45, 2)
    for axis, position, drift in zip("yx", begin, speed):
        getattr(microscope, f"stage_{axis}").put(position)
        getattr(microscope, f"drift_{axis}").put(drift)
    dcu.drifted_nm, events = (0.0, 0.0), []

    def keep(name, doc):
        if name == "event":
            events.append(doc["data"])

    token = RE.subscribe(keep)
    try:
        at = RE(
            track_region(live4d, microscope.stage_y, microscope.stage_x, RASTERS, LIMIT, name="adf")
        ).plan_result
    finally:
        RE.unsubscribe(token)
    stage = [np.array([data["microscope_stage_y"], data["microscope_stage_x"]]) for data in events]
    true = [n * speed - (here - begin) for n, here in enumerate(stage)]
    np.testing.assert_allclose(at, true, atol=0.1)
    assert np.hypot(*np.transpose(true)).max() < LIMIT + np.hypot(*speed) + 0.1
    assert dcu.drifted_nm == pytest.approx(RASTERS * speed)
    # Each raster is a series of its own: none has one before it.
    assert {data["live4d_drift_rasters"] for data in events} == {1}


def test_a_movie_of_a_drifting_specimen_says_where_it_was(bench):
    RE, live4d, microscope, dcu = bench
    speed = np.array([0.31, -0.22])
    for axis, position, drift in zip("yx", (13.0, -20.0), speed):
        getattr(microscope, f"stage_{axis}").put(position)
        getattr(microscope, f"drift_{axis}").put(drift)
    dcu.drifted_nm, pages = (0.0, 0.0), []
    RE(movie(live4d, 6), lambda name, doc: pages.append(doc["data"]) if name == "event_page" else None)
    data = {key: np.concatenate([np.asarray(page[key]) for page in pages]) for key in pages[0]}
    seen = np.stack([data["live4d_drift_row"], data["live4d_drift_col"]], axis=1)
    # What moves towards later rows is scanned later, and has moved the more.
    true = np.arange(6)[:, np.newaxis] * speed / (1 - speed[0] / (SIDE * STEP))
    np.testing.assert_allclose(seen, true, atol=0.1)
    assert data["live4d_drift_reason"].tolist() == [1, 0, 0, 0, 0, 0]
    assert data["live4d_drift_rasters"].tolist() == [1, 2, 3, 4, 5, 6]
    assert dcu.drifted_nm == pytest.approx(6 * speed)
