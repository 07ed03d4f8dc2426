"""The RunEngine's loop stays free: what needs it in time gets it, whatever is stored and drawn beside it."""

import threading

import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.suspenders import SuspendBoolHigh
from ophyd import Signal

from live4d_ophyd import Disk, Live4D, Live4DBestEffortCallback, ScanGrid, Simplon, live_preview
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.storage import open_catalog, record

TRIPS = 25

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture
def session(tmp_path, monkeypatch):
    """RunEngine, device, catalog and pictures as in a session; the raster takes longer than anybody waits."""
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    db = open_catalog(tmp_path / "catalog", name="loop")
    with SimulatorProcess(rows=64, cols=64, shape=(48, 48), rate=8000.0, frozen_noise=True) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(64, 64),
            methods=[Disk("vbf", radius=8), Disk("bf", radius=4), Disk("all", radius=20)],
            control=Simplon(simulator.rest_url),
            timeout=60,
        )
        RE = RunEngine({})
        RE.preprocessors.append(live_preview([live4d], max_rate=20))
        RE.subscribe(Live4DBestEffortCallback(image_directory=tmp_path / "pictures"))
        record(RE, db, previews=True)
        yield RE, live4d
        live4d.close()
        RE.loop.call_soon_threadsafe(RE.loop.stop)
        RE._th.join(10)
        RE.loop.close()
    db.context.close()


def test_no_suspension_in_mid_raster_is_lost(session, monkeypatch):
    """Bluesky gives a suspender 0.1 s to reach the loop; then the beam is gone and the scan goes on."""
    RE, live4d = session
    beam_lost = Signal(name="beam_lost", value=0)
    RE.install_suspender(SuspendBoolHigh(beam_lost))
    lost, suspensions, recorded = [], [], []
    seen = threading.Semaphore(0)
    suspend = RE.request_suspend
    monkeypatch.setattr(RE, "request_suspend", lambda *a, **k: (suspensions.append(k), suspend(*a, **k)))
    RE.record_interruptions = True

    def look(name, doc):
        if name == "event":
            if "live4d_live_fraction" in doc["data"]:
                seen.release()
            recorded.extend(["suspended"] * ("interruption" in doc["data"]))

    def trip():
        """Lose the beam just when a preview has come: that is when there is most to store and to draw."""
        for _ in range(TRIPS):
            if not seen.acquire(timeout=60):
                return
            try:
                beam_lost.put(1)
            except RuntimeError as error:  # "Could not create the suspender event"
                lost.append(str(error))
            beam_lost.put(0)

    thread = threading.Thread(target=trip, daemon=True)

    @bpp.stage_decorator([live4d])
    @bpp.run_decorator()
    def scan_until_over():  # in one run: between two there is nothing to suspend
        while thread.is_alive():
            yield from bps.one_shot([live4d])

    RE.subscribe(look)
    thread.start()
    RE(scan_until_over())
    assert lost == []
    assert len(suspensions) == TRIPS
    assert len(recorded) >= TRIPS
