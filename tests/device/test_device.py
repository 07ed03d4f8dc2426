"""Live4D in a real RunEngine: the documents it emits, and that nothing of an interrupted raster leaks."""

import math
import os
import signal
import threading
import time
from contextlib import closing

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
import zmq
from bluesky import FailedStatus, RunEngine, RunEngineInterrupted
from event_model import unpack_event_page
from ophyd.utils import ReadOnlyError
from served_engine import served_engine

from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, live_preview
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.outgoing import Outgoing
from live4d_ophyd.testing.small_dcu import frames, image, series, start

GRID = ScanGrid(3, 4, step=0.5, unit="nm")
DISK = Disk("vbf", center=(12, 16), radius=6)
RING = Annulus("adf", center=None, inner=7, outer=11)


class Documents:
    """What the RunEngine emits, by name."""

    def __init__(self):
        self.all = []

    def __call__(self, name, doc):
        self.all.append((name, doc))

    def of(self, name):
        return [doc for kind, doc in self.all if kind == name]

    def events(self, stream="primary"):
        uids = {d["uid"] for d in self.of("descriptor") if d["name"] == stream}
        pages = [event for page in self.of("event_page") for event in unpack_event_page(page)]
        return [e for e in [*self.of("event"), *pages] if e["descriptor"] in uids]


@pytest.fixture
def live4d(dcu):
    device = Live4D(dcu.endpoint, name="live4d", scan=GRID, methods=[DISK, RING], timeout=5.0)
    with closing(device):
        yield device


@pytest.fixture
def engine_server():
    with served_engine("--log-level", "ERROR") as engine:
        yield engine.endpoint


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def expected(pixels, detector=DISK):
    return (pixels * detector.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)


def test_a_count_emits_the_image_with_its_metadata(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    dcu.send(series(pixels, series_id=42))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    (event,) = docs.events()
    np.testing.assert_array_equal(event["data"]["live4d_vbf"], expected(pixels))
    np.testing.assert_array_equal(event["data"]["live4d_adf"], expected(pixels, RING))
    assert event["data"]["live4d_vbf_mean"] == pytest.approx(expected(pixels).mean())
    assert event["data"]["live4d_vbf_contrast"] == pytest.approx(
        expected(pixels).std() / expected(pixels).mean()
    )
    counts = {key: event["data"][f"live4d_frames_{key}"] for key in ("expected", "received", "lost", "bad")}
    assert counts == {"expected": 12, "received": 12, "lost": 0, "bad": 0}
    assert event["data"]["live4d_series_id"] == 42
    (descriptor,) = docs.of("descriptor")
    key = descriptor["data_keys"]["live4d_vbf"]
    assert (key["dtype_numpy"], key["shape"], key["dims"], key["units"]) == (
        "<f8", [3, 4], ["scan_y", "scan_x"], "counts",
    )  # fmt: skip
    configuration = descriptor["configuration"]["live4d"]["data"]
    assert configuration["live4d_vbf_center"] == (12, 16)
    assert configuration["live4d_vbf_radius"] == 6
    assert configuration["live4d_scan_step_x"] == 0.5
    assert configuration["live4d_endpoint"] == dcu.endpoint
    assert set(descriptor["hints"]["live4d"]["fields"]) == {"live4d_vbf_mean", "live4d_vbf_contrast"}


def test_numbers_of_another_detector_are_hinted_when_asked_for(live4d, dcu, RE):
    live4d.adf_mean.kind = "hinted"
    dcu.send(series(frames(GRID.frames)))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    (descriptor,) = docs.of("descriptor")
    assert "live4d_adf_mean" in descriptor["hints"]["live4d"]["fields"]


def test_values_are_counts_unless_a_gain_weighs_them(live4d):
    keys = ("live4d_vbf", "live4d_vbf_mean", "live4d_adf")
    assert {live4d.describe()[key]["units"] for key in keys} == {"counts"}
    assert live4d.preview.describe()["live4d_vbf"]["units"] == "counts"
    live4d.gain.put(np.full((24, 32), 1.5))
    try:
        assert {live4d.describe()[key]["units"] for key in keys} == {"gain-corrected counts"}
        assert live4d.preview.describe()["live4d_vbf"]["units"] == "gain-corrected counts"
    finally:
        live4d.gain.put(None)


def test_a_summary_names_a_centre_as_it_is_set(live4d, capsys):
    live4d.summary()
    assert "  vbf_center                   (12, 16) px" in capsys.readouterr().out


@pytest.mark.parametrize("first", ["inner", "outer"])
def test_settings_that_depend_on_each_other_are_set_together_in_any_order(live4d, RE, first):
    inner, outer = (live4d.adf_inner, 14.0), (live4d.adf_outer, 20.0)
    assert live4d.adf_outer.get() < inner[1]
    order = [*inner, *outer] if first == "inner" else [*outer, *inner]
    RE(bps.mv(*order))
    assert (live4d.adf_inner.get(), live4d.adf_outer.get()) == (14.0, 20.0)


def test_a_setting_that_does_not_fit_the_others_is_refused_and_put_back(live4d, RE):
    before = live4d.adf_inner.get()
    with pytest.raises(FailedStatus) as failure:
        RE(bps.mv(live4d.adf_inner, 40))
    assert "live4d_adf_inner cannot be set so" in str(failure.value)
    assert "inner" in str(failure.value.__cause__)
    assert live4d.adf_inner.get() == before
    RE(bps.mv(live4d.adf_inner, before))


def test_a_put_that_makes_settings_fit_ends_the_wait_for_others(live4d, RE):
    status = live4d.adf_inner.set(14.0)
    assert not status.done
    live4d.adf_outer.put(20.0)
    status.wait(10)
    assert live4d.adf_inner.get() == 14.0


def test_a_summary_has_settings_and_results_with_their_units(live4d, capsys):
    live4d.dwell_time.put(math.nan)
    live4d.summary()
    said = capsys.readouterr().out
    for line in (
        "  adf_inner                    7 px",
        "  scan_rows                    3",
        "  timeout",
        "  vbf_mean",
    ):
        assert line in said
    assert "AttributeError" not in said


@pytest.mark.parametrize("name", ["vbf", "vbf_mean", "frames_lost", "series_unique_id", "backend"])
def test_a_result_cannot_be_set(live4d, RE, name):
    """ophyd's own `set` would wait, for ever, until the value equals it: NaN and images never do."""
    with pytest.raises(ReadOnlyError, match=f"live4d_{name} is a result"):
        RE(bps.mv(getattr(live4d, name), math.nan))


def test_one_event_for_each_raster(live4d, dcu, RE):
    first, second = frames(GRID.frames), frames(GRID.frames, seed=9)
    dcu.send([*series(first, 1, "A"), *series(second, 2, "B")])
    docs = Documents()
    RE(bp.count([live4d], 2), docs)
    images = [e["data"]["live4d_vbf"] for e in docs.events()]
    np.testing.assert_array_equal(images, [expected(first), expected(second)])


def test_missing_positions_are_nan_in_the_event(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    messages = series(pixels)
    del messages[4]
    dcu.send(messages)
    docs = Documents()
    RE(bp.count([live4d]), docs)
    (event,) = docs.events()
    assert np.isnan(event["data"]["live4d_vbf"][0, 3])
    assert event["data"]["live4d_frames_lost"] == 1


def test_setting_a_detector_moves_it(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    dcu.send(series(pixels))
    docs = Documents()

    def plan():
        yield from bps.mv(live4d.vbf_center, (10.0, 10.0), live4d.vbf_radius, 4.0)
        yield from bp.count([live4d])

    RE(plan(), docs)
    moved = Disk("vbf", center=(10, 10), radius=4)
    np.testing.assert_array_equal(docs.events()[0]["data"]["live4d_vbf"], expected(pixels, moved))


def test_previews_flow_into_an_unmodified_plan(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    messages = series(pixels)
    RE.preprocessors.append(live_preview([live4d], max_rate=50))
    docs = Documents()
    shown = {count: threading.Event() for count in (3, 6, 9)}

    def watch(name, doc):
        docs(name, doc)
        if name == "event" and "live4d_live_fraction" in doc["data"]:
            count = round(12 * doc["data"]["live4d_live_fraction"])
            if count in shown:
                shown[count].set()

    def feed():
        sent = 0
        for count, preview in shown.items():
            dcu.send(messages[sent : 1 + count])  # the start message, too
            sent = 1 + count
            preview.wait(10)
        dcu.send(messages[sent:])

    feeder = threading.Thread(target=feed)
    feeder.start()
    RE(bp.count([live4d]), watch)
    feeder.join()
    images = {
        round(12 * event["data"]["live4d_live_fraction"]): event["data"]["live4d_vbf"]
        for event in docs.events("live4d_live")
    }
    for count in shown:
        grown = expected(pixels).astype(float)
        grown.flat[count:] = np.nan
        np.testing.assert_array_equal(images[count], grown)
    np.testing.assert_array_equal(docs.events()[0]["data"]["live4d_vbf"], expected(pixels))


@pytest.mark.parametrize("shown", [False, True])
def test_previews_are_asked_for_only_where_somebody_reads_them(live4d, dcu, RE, monkeypatch, shown):
    asked = []
    put = Outgoing.put

    def watch(self, message, **how):
        if message is not None and isinstance(protocol.from_session(message), protocol.Preview):
            asked.append(message)
        put(self, message, **how)

    monkeypatch.setattr(Outgoing, "put", watch)
    if shown:
        RE.preprocessors.append(live_preview([live4d], max_rate=50))
    for number in (1, 2):
        dcu.send(series(frames(GRID.frames), number, f"SERIES{number}"))
        RE(bp.count([live4d]))
        dcu.wait_for_leaving(1)
    assert bool(asked) is shown


def test_the_first_preview_is_asked_for_when_a_plan_begins_to_wait(live4d, dcu, RE, monkeypatch):
    """Not a period later: it shall be there by then."""
    messages = series(frames(GRID.frames))
    RE.preprocessors.append(live_preview([live4d], max_rate=0.01))
    came = threading.Event()
    monkeypatch.setattr(live4d.preview, "update", lambda *_: came.set())
    dcu.send(messages[:5])

    def finish():
        came.wait(10)
        dcu.send(messages[5:])

    finishing = threading.Thread(target=finish)
    finishing.start()
    RE(bp.count([live4d]))
    finishing.join()
    assert came.is_set()


def test_a_pause_takes_the_raster_again(live4d, dcu, RE):
    """The half raster of before the pause leaves no trace in the Event."""
    old, new = frames(GRID.frames, seed=1), frames(GRID.frames, seed=2)
    dcu.send(series(old, 1, "OLD")[:8])
    docs = Documents()
    received = threading.Event()
    live4d.preview.update_original = live4d.preview.update

    def update(images, fraction, saturated):
        live4d.preview.update_original(images, fraction, saturated)
        if fraction > 0.5:
            received.set()

    live4d.preview.update = update

    def ask_and_pause():
        deadline = time.monotonic() + 10
        while not received.wait(0.05) and time.monotonic() < deadline:
            live4d.request_preview()
        RE.request_pause()

    pauser = threading.Thread(target=ask_and_pause)
    pauser.start()
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([live4d]), docs)
    pauser.join()
    dcu.send([*series(old, 1, "OLD")[8:], *series(new, 2, "NEW")])
    RE.resume()
    (event,) = docs.events()
    np.testing.assert_array_equal(event["data"]["live4d_vbf"], expected(new))
    assert event["data"]["live4d_series_id"] == 2
    assert docs.of("stop")[0]["exit_status"] == "success"


@pytest.mark.parametrize(("how", "status"), [("abort", "abort"), ("stop", "success"), ("halt", "abort")])
def test_after_an_interruption_the_next_run_works(live4d, dcu, RE, how, status):
    dcu.send([start(1, "A", 12), image(frames(1)[0], 0, 1, "A")])
    docs = Documents()
    received = threading.Event()
    RE.waiting_hook = lambda statuses: [
        s.watch(lambda **p: p["current"] and received.set()) for s in statuses or ()
    ]
    pauser = threading.Thread(target=lambda: received.wait(10) and RE.request_pause())
    pauser.start()
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([live4d]), docs)
    pauser.join()
    getattr(RE, how)()
    assert docs.of("stop")[0]["exit_status"] == status
    RE.waiting_hook = None
    pixels = frames(GRID.frames, seed=4)
    dcu.wait_for_leaving(1)
    dcu.send([image(frames(1)[0] * 9, 1, 1, "A"), *series(pixels, 2, "B")])
    later = Documents()
    RE(bp.count([live4d]), later)
    np.testing.assert_array_equal(later.events()[0]["data"]["live4d_vbf"], expected(pixels))


def test_a_failure_says_why_in_the_stop_document(live4d, dcu, RE):
    live4d.timeout.put(0.3)
    docs = Documents()
    with pytest.raises(FailedStatus):
        RE(bp.count([live4d]), docs)
    (stop,) = docs.of("stop")
    assert stop["exit_status"] == "fail"
    assert "no series began" in stop["reason"]
    live4d.timeout.put(5.0)
    pixels = frames(GRID.frames)
    dcu.wait_for_leaving(1)
    dcu.send(series(pixels))
    RE(bp.count([live4d]), docs)
    np.testing.assert_array_equal(docs.events()[0]["data"]["live4d_vbf"], expected(pixels))


def test_a_killed_engine_fails_the_run_and_the_next_one_gets_a_new_engine(live4d, dcu, RE):
    dcu.send([start(1, "A", 12), image(frames(1)[0], 0, 1, "A")])
    RE.waiting_hook = lambda statuses: [
        s.watch(lambda **p: p["current"] and os.kill(live4d._client.pid, signal.SIGKILL))
        for s in statuses or ()
    ]
    docs = Documents()
    with pytest.raises(FailedStatus):
        RE(bp.count([live4d]), docs)
    assert "SIGKILL" in docs.of("stop")[0]["reason"]
    RE.waiting_hook = None
    pixels = frames(GRID.frames)
    dcu.wait_for_leaving(1)
    dcu.send(series(pixels, 2, "B"))
    RE(bp.count([live4d]), docs)
    np.testing.assert_array_equal(docs.events()[0]["data"]["live4d_vbf"], expected(pixels))


def test_a_movie_is_collected_while_it_runs(live4d, dcu, RE):
    pixels = frames(3 * GRID.frames)
    live4d.movie_rasters.put(3)
    dcu.send(series(pixels))
    docs = Documents()

    @bpp.stage_decorator([live4d])
    @bpp.run_decorator()
    def movie():
        yield from bps.kickoff(live4d, wait=True)
        status = yield from bps.complete(live4d, wait=False)
        while not status.done:
            yield from bps.sleep(0.02)
            yield from bps.collect(live4d)
        yield from bps.collect(live4d)

    RE(movie(), docs)
    images = [e["data"]["live4d_vbf"] for e in docs.events("live4d_movie")]
    np.testing.assert_array_equal(images, [expected(part) for part in pixels.reshape(3, 12, 24, 32)])


def test_the_standard_fly_plan_works_too(live4d, dcu, RE):
    pixels = frames(2 * GRID.frames)
    live4d.movie_rasters.put(2)
    dcu.send(series(pixels))
    docs = Documents()
    RE(bpp.stage_wrapper(bp.fly([live4d]), [live4d]), docs)
    assert len(docs.events(f"{live4d.name}_movie")) == 2


def test_after_unstage_the_stream_is_for_others(live4d, dcu, RE):
    """A client that stayed connected would get its share of their images."""
    dcu.send(series(frames(GRID.frames), 1, "A"))
    RE(bp.count([live4d]))
    dcu.wait_for_leaving(1)
    messages = series(frames(GRID.frames, seed=2), 2, "B")
    with zmq.Context() as context, context.socket(zmq.PULL) as viewer:
        viewer.linger, viewer.rcvtimeo = 0, 10_000
        viewer.connect(dcu.endpoint)
        dcu.wait_for_clients(2)  # the engine was the first
        dcu.send(messages)
        assert [viewer.recv() for _ in messages] == messages


def test_the_mean_pattern_is_read_when_asked_for(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    dcu.send(series(pixels))
    docs = Documents()

    def plan():
        yield from bps.mv(live4d.pattern_enabled, 1)
        yield from bp.count([live4d])
        yield from bps.mv(live4d.pattern_enabled, 0)

    RE(plan(), docs)
    np.testing.assert_allclose(docs.events()[0]["data"]["live4d_pattern"], pixels.mean(axis=0))
    assert docs.of("descriptor")[0]["data_keys"]["live4d_pattern"]["shape"] == [24, 32]
    assert "live4d_pattern" not in live4d.read()


def test_progress_bars_see_the_whole_raster(live4d, dcu, RE, caplog):
    """bluesky's own progress bar takes no rate; ophyd calls watchers of its own when the status is done."""
    seen = []

    def bar(*, name, current, initial, target, unit, precision, fraction, time_elapsed, time_remaining):
        seen.append((name, current, target, unit))

    RE.waiting_hook = lambda statuses: [s.watch(bar) for s in statuses or ()]
    messages = series(frames(GRID.frames))
    dcu.send(messages[:5])
    live4d.timeout.put(1.0)
    RE(bp.count([live4d]))
    assert ("live4d", 4, 12, "frames") in seen
    assert "encountered error" not in caplog.text


def test_an_engine_elsewhere_serves_the_same_images(dcu, RE, engine_server):
    pixels = frames(GRID.frames)
    device = Live4D(dcu.endpoint, name="live4d", scan=GRID, methods=[DISK], server=engine_server)
    with closing(device):
        dcu.send(series(pixels))
        docs = Documents()
        RE(bp.count([device]), docs)
    np.testing.assert_array_equal(docs.events()[0]["data"]["live4d_vbf"], expected(pixels))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "at least one"),
        ({"methods": [DISK, DISK]}, "names must differ"),
        ({"methods": [Disk("endpoint", radius=3)]}, "'endpoint'"),
        ({"backend": "tpu"}, "backend is 'tpu'"),
        ({"timeout": -1}, "live4d_timeout = -1: expected a number above 0 s"),
    ],
)
def test_an_impossible_device_is_refused_when_it_is_made(changes, words):
    options = {"name": "live4d", "scan": GRID, "methods": [DISK], **changes}
    with pytest.raises(ValueError, match=words):
        Live4D("tcp://127.0.0.1:9", **options)


def test_two_devices_keep_their_own_detectors():
    a = Live4D("tcp://127.0.0.1:9", name="a", scan=GRID, methods=[DISK])
    b = Live4D("tcp://127.0.0.1:9", name="b", scan=GRID, methods=[RING])
    assert "a_vbf" in a.read()
    assert "b_adf" in b.read()
    assert "b_vbf" not in b.read()
    assert isinstance(a, Live4D)


def test_a_bad_value_of_a_detector_is_refused_before_the_scan(live4d):
    with pytest.raises(ValueError, match="live4d_vbf_center takes 2 numbers"):
        live4d.vbf_center.set(3.0)
    with pytest.raises(ValueError, match=r"scan_rows = 0: expected a number from 1 to 1048576"):
        live4d.scan_rows.put(0)
    with pytest.raises(ValueError, match=r"live4d_vbf_radius = -1.0: expected a number of at least 0 px"):
        live4d.vbf_radius.put(-1.0)
    live4d.adf_inner.put(50.0)
    with pytest.raises(ValueError, match="expected 0 <= inner < outer"):
        live4d.stage()


def test_an_engine_that_never_gets_ready_is_said_before_a_run_and_waited_for_anew(tmp_path, RE, monkeypatch):
    before = set(threading.enumerate())
    words = f"no engine answered at ipc://{tmp_path}/nobody within 0.2 s"
    wait_ready = EngineClient.wait_ready
    docs = Documents()
    server = f"ipc://{tmp_path}/nobody"
    with closing(Live4D("tcp://127.0.0.1:9", name="x", scan=GRID, methods=[DISK], server=server)) as device:
        with pytest.raises(AcquisitionError, match=words):
            device.wait_for_connection(timeout=0.2)
        assert device._client is None
        monkeypatch.setattr(EngineClient, "wait_ready", lambda self, timeout: wait_ready(self, 0.2))
        for _ in range(2):
            with pytest.raises(FailedStatus, match=words) as failure:
                RE(bp.count([device]), docs)
            assert isinstance(failure.value.__cause__, AcquisitionError)
            assert device._client is None
    assert docs.all == []
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert "live4d-engine-client" not in left


def test_a_device_that_never_ran_has_no_engine():
    device = Live4D("tcp://127.0.0.1:9", name="x", scan=GRID, methods=[DISK])
    device.unstage()
    assert device._client is None


def test_a_scan_that_is_a_method_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"scan is <.*>; expected a ScanGrid: call it, with \(\)"):
        Live4D("tcp://dcu:31001", name="live4d", scan=lambda: ScanGrid(2, 2), methods=[Disk("vbf", radius=3)])
