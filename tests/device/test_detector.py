"""The detector's settings as ophyd signals, and what the device does with them, against the simulated DCU."""

import json
import os
import signal
import threading
import time
from contextlib import closing, contextmanager

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine, SupplementalData
from bluesky.simulators import check_limits
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd import Signal
from served_dcu import served_dcu
from test_device import Documents

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess
from live4d_ophyd.sim.settings import UNPREPARED
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey

ROWS, COLS = 6, 5


@pytest.fixture(scope="module")
def sim():
    with SimulatorProcess(rows=ROWS, cols=COLS, rate=5e3) as simulator:
        yield simulator


def device(sim, *, grid=None, **options):
    options = {"control": Simplon(sim.rest_url), "timeout": 20.0} | options
    grid = grid or ScanGrid(ROWS, COLS, step=0.25, unit="nm")
    disk = Disk("vbf", center=sim.bf_center, radius=sim.bf_radius)
    return Live4D(sim.stream_endpoint, name="live4d", scan=grid, methods=[disk], backend="cpu", **options)


@contextmanager
def looked_at(sim, look):
    """A device and what prepares its next scan, which starts when ``look`` has: by itself a series may end before."""
    generator = SimScanGenerator(sim.rest_url)

    def start():
        look()
        generator.start()

    try:
        with closing(device(sim, scan_start=start)) as live4d:
            yield live4d, lambda: generator.prepare(live4d.grid())
    finally:
        generator.stop()
        generator.destroy()


@pytest.fixture
def live4d(sim):
    with closing(device(sim)) as live4d:
        yield live4d
        Simplon(sim.rest_url).make_idle()


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


@pytest.fixture
def control(sim):
    return Simplon(sim.rest_url)


def test_settings_have_the_detectors_units_and_limits(live4d):
    settings = live4d.detector
    described = settings.frame_time.describe()["live4d_detector_frame_time"]
    assert described["units"] == "s"
    assert described["dtype"] == "number"
    assert (described["lower_ctrl_limit"], described["upper_ctrl_limit"]) == settings.frame_time.limits
    assert settings.compression.describe()["live4d_detector_compression"]["enum_strs"] == [
        "bslz4",
        "lz4",
        "none",
    ]
    assert settings.mask_to_zero.describe()["live4d_detector_mask_to_zero"]["dtype"] == "boolean"


def test_a_plan_sets_them_and_sees_what_changes_with_them(live4d, RE, control):
    RE(bps.mv(live4d.detector.frame_time, 1e-3, live4d.detector.count_time, 1e-3))
    assert control.get("detector", "config", "frame_time") == 1e-3
    # The detector lengthens the frame time with the count time.
    RE(bps.mv(live4d.detector.count_time, np.float64(2e-3)))
    assert live4d.detector.frame_time.get() == 2e-3


def test_a_centre_off_the_detector_is_refused_when_it_is_set(live4d, RE):
    live4d.detector.refresh()
    before = live4d.vbf_center.get()
    with pytest.raises(
        FailedStatus, match=r"live4d_vbf_center is \(96\.0, 20\.0\): the detector has 96 x 96 px"
    ):
        RE(bps.mv(live4d.vbf_center, (96.0, 20.0)))
    assert live4d.vbf_center.get() == before
    RE(bps.mv(live4d.vbf_center, (95.0, 0.0), live4d.vbf_radius, 3))


def test_values_out_of_limits_are_refused_before_anything_is_sent(live4d, RE, control):
    before = control.get("detector", "config", "frame_time")
    low, high = live4d.detector.frame_time.limits
    with pytest.raises(
        ValueError, match=f"frame_time = {2 * high!r} s: the device allows {low:g} to {high:g}"
    ):
        RE(bps.mv(live4d.detector.frame_time, 2 * high))
    with pytest.raises(ValueError, match="allows"):
        check_limits(bp.list_scan([live4d], live4d.detector.frame_time, [before, -1.0]))
    with pytest.raises(ValueError, match="the device wants a bool"):
        live4d.detector.mask_to_zero.put(1)
    with pytest.raises(ValueError, match="cannot be set"):
        live4d.detector.status.state.put("idle")
    assert control.get("detector", "config", "frame_time") == before


def test_a_set_that_the_detector_refuses_fails_with_its_words(live4d, RE, monkeypatch):
    monkeypatch.setattr(type(live4d.detector.frame_time), "check_value", lambda self, value, **_: None)
    monkeypatch.setattr("live4d_ophyd.sources.dectris.rest.Parameter.check", lambda self, value: None)
    with pytest.raises(FailedStatus) as caught:
        RE(bps.mv(live4d.detector.frame_time, 1e9))
    assert "allowed from" in str(caught.value.__cause__)


def test_settings_are_recorded_and_status_is_in_the_baseline(live4d, RE):
    seen = Documents()
    RE.subscribe(seen)
    RE.preprocessors.append(SupplementalData(baseline=[live4d.detector.status]))
    RE(bps.mv(live4d.detector.frame_time, 4e-4, live4d.detector.count_time, 4e-4))
    RE(bp.count([live4d]))
    (primary,) = [d for d in seen.of("descriptor") if d["name"] == "primary"]
    recorded = primary["configuration"]["live4d"]
    assert recorded["data"]["live4d_detector_frame_time"] == 4e-4
    assert recorded["data_keys"]["live4d_detector_frame_time"]["units"] == "s"
    assert recorded["data"]["live4d_detector_trigger_mode"] == "exts"
    before, after = seen.events("baseline")
    assert before["data"]["live4d_detector_status_state"] == "idle"
    assert after["data"]["live4d_detector_status_state"] == "idle"
    (event,) = seen.events()
    assert event["data"]["live4d_frames_dropped"] == 0
    assert np.isfinite(event["data"]["live4d_vbf"]).all()


def test_what_the_firmware_lacks_is_left_out_and_said(live4d, caplog):
    with caplog.at_level("INFO"):
        live4d.detector.refresh()
    signal = live4d.detector.binning_mode
    signal._keys = ("config/no_such_key",)
    signal.invalidate()
    with caplog.at_level("INFO"):
        assert "live4d_detector_binning_mode" not in live4d.read_configuration()
    assert "has no binning_mode" in caplog.text
    with pytest.raises(UnknownKey, match="no_such_key"):
        signal.put("2x2")
    signal._keys = ("config/roi_mode",)
    signal.invalidate()
    assert live4d.read_configuration()["live4d_detector_binning_mode"]["value"] == "disabled"


@pytest.mark.parametrize(
    ("mode", "per", "images", "triggers"),
    [("exts", "pixel", 1, 30), ("exte", "pixel", 1, 30), ("exts", "line", 5, 6), ("ints", "pixel", 30, 1)],
)
def test_trigger_counts_follow_the_grid(live4d, RE, control, mode, per, images, triggers):
    seen = Documents()
    RE.subscribe(seen)

    def plan():
        yield from bps.mv(live4d.detector.trigger_mode, mode, live4d.detector.trigger_per, per)
        yield from bp.count([live4d])

    RE(plan())
    assert control.get("detector", "config", "trigger_mode") == mode
    assert control.get("detector", "config", "nimages") == images
    assert control.get("detector", "config", "ntrigger") == triggers
    (event,) = seen.events()
    assert event["data"]["live4d_frames_received"] == ROWS * COLS


def test_triggers_that_cannot_be_are_refused_before_the_scan(sim, RE):
    with closing(device(sim)) as live4d:
        with pytest.raises(ValueError, match="expected one of exts, exte, ints"):
            RE(bps.mv(live4d.detector.trigger_mode, "external"))
        live4d.detector.trigger_per.put("line")
        live4d.detector.trigger_mode.put("exte")
        with pytest.raises(ValueError, match="only 'exts' takes several"):
            RE(bp.count([live4d]))
    with pytest.raises(ValueError, match="lead_in"):
        device(sim, grid=ScanGrid(6, 5, lead_in=2), control=Simplon(sim.rest_url, trigger_per="line"))


def stream_settings(control):
    return {key: control.get("stream", "config", key) for key in ("mode", "header_detail", "header_appendix")}


def test_the_header_says_what_is_scanned_and_by_which_run(sim, RE, control):
    before = stream_settings(control)
    during = []
    with looked_at(sim, lambda: during.append(stream_settings(control))) as (live4d, prepare):
        RE.subscribe(live4d.note_run)
        prepare()
        (uid,) = RE(bp.count([live4d]))
    header = json.loads(during[0]["header_appendix"])
    assert ScanGrid(**header["scan"]) == live4d.grid()
    assert (header["rasters"], header["plan_name"], header["uid"]) == (1, "count", uid)
    assert during[0]["header_detail"] == "all"
    assert stream_settings(control) == before
    assert (before["header_detail"], before["header_appendix"]) == ("basic", "")


def test_the_file_writer_stays_as_its_user_has_it(live4d, RE, control):
    RE(bp.count([live4d]))
    assert control.get("filewriter", "config", "mode") == "enabled"


def test_a_stream_that_was_switched_off_is_used_and_switched_off_again(live4d, RE, control):
    seen = Documents()
    RE.subscribe(seen)
    control.put("stream", "mode", "disabled")
    try:
        RE(bp.count([live4d]))
        assert control.get("stream", "config", "mode") == "disabled"
    finally:
        control.put("stream", "mode", "enabled")
    assert seen.events()[0]["data"]["live4d_frames_received"] == ROWS * COLS


def test_an_appendix_of_the_user_is_in_the_header_and_stays(live4d, RE, control):
    control.put("stream", "header_appendix", "sample 7")
    try:
        RE(bp.count([live4d]))
        assert stream_settings(control)["header_appendix"] == "sample 7"
    finally:
        control.put("stream", "header_appendix", "")


def test_the_detector_s_bad_pixels_are_left_out_although_its_stream_would_not_name_them(RE):
    with SimulatorProcess(rows=2, cols=2, rate=1e3, dead_pixels=200) as sim:
        control = Simplon(sim.rest_url)
        assert control.get("stream", "config", "header_detail") == "basic"
        seen = Documents()
        RE.subscribe(seen)
        # Dead pixels read as the largest number: each would add 65535.
        with closing(device(sim, grid=ScanGrid(2, 2), nodata=False)) as live4d:
            live4d.vbf_radius.put(60.0)
            RE(bp.count([live4d]))
        assert stream_settings(control)["header_detail"] == "basic"
    (event,) = seen.events()
    assert event["data"]["live4d_frames_received"] == 4
    assert np.max(event["data"]["live4d_vbf"]) < 100 * 65535


def test_a_killed_engine_s_changes_are_put_back_by_the_session(sim, RE, control):
    before = stream_settings(control)

    def kill():
        assert stream_settings(control) != before
        os.kill(live4d._client.pid, signal.SIGKILL)

    sim.set_faults(stall_at=10, stall_s=60.0)
    try:
        with closing(device(sim, scan_start=kill)) as live4d:
            with pytest.raises(FailedStatus, match="was killed by SIGKILL"):
                RE(bp.count([live4d]))
            live4d._disarming.join(30)
    finally:
        sim.set_faults()
    assert control.state() == "idle"
    assert stream_settings(control) == before


def test_what_a_session_has_set_survives_the_detector_s_failure_and_is_recorded(sim, RE, caplog):
    seen = Documents()
    RE.subscribe(seen)
    energy = 41e3

    def plan():
        yield from bps.mv(live4d.detector.threshold_1_energy, energy)
        yield from bps.mv(live4d.detector.frame_time, 2e-4)
        yield from bp.count([live4d])
        yield from bp.count([live4d])

    with closing(device(sim, timeout=1.0)) as live4d:
        sim.set_faults(fail_series=True)
        try:
            RE(plan())
        finally:
            sim.set_faults()
        (half, whole) = seen.events()
        assert half["data"]["live4d_frames_lost"] > 0
        assert whole["data"]["live4d_frames_received"] == ROWS * COLS
        descriptor = [doc for doc in seen.of("descriptor") if doc["name"] == "primary"][-1]
        recorded = descriptor["configuration"]["live4d"]["data"]
        assert recorded["live4d_detector_threshold_1_energy"] == energy
        assert recorded["live4d_detector_frame_time"] == pytest.approx(2e-4)
        assert Simplon(sim.rest_url).get("detector", "config", "threshold/1/energy") == energy
    assert (
        "put back what this session has set: threshold/1/energy = 41000.0, frame_time = 0.0002" in caplog.text
    )


def test_a_detector_that_lost_its_settings_is_not_armed_where_that_is_asked_for(sim, RE):
    with closing(device(sim, timeout=1.0, control=Simplon(sim.rest_url, restore_settings=False))) as live4d:
        sim.set_faults(fail_series=True)
        try:
            RE(bp.count([live4d]))
        finally:
            sim.set_faults()
        with pytest.raises(FailedStatus, match="because restore_settings is False"):
            RE(bp.count([live4d]))
        live4d.control.initialize()
        RE(bp.count([live4d]))


def test_the_dwell_time_is_set_and_comes_back(live4d, RE, control):
    seen = Documents()
    RE.subscribe(seen)
    RE(bps.mv(live4d.dwell_time, 3e-4))
    RE(bp.count([live4d]))
    (primary,) = [d for d in seen.of("descriptor") if d["name"] == "primary"]
    # Read after the engine has set it, however soon after the stage that is.
    recorded = primary["configuration"]["live4d"]["data"]["live4d_detector_frame_time"]
    assert recorded == pytest.approx(3e-4)
    assert control.get("detector", "config", "frame_time") == pytest.approx(3e-4)


def test_a_dwell_time_that_cannot_be_is_refused_before_a_run_opens(live4d, RE):
    seen = Documents()
    RE.subscribe(seen)
    with pytest.raises(ValueError, match="expected a number above 0 s"):
        RE(bps.mv(live4d.dwell_time, -1.0))
    with pytest.raises(
        FailedStatus, match=r"dwell_time is 50 s, and live4d_timeout.*dwell times are in seconds"
    ):
        RE(bps.mv(live4d.dwell_time, 50))  # microseconds were meant
    RE(bps.mv(live4d.dwell_time, 3000, live4d.timeout, 4000))
    with pytest.raises(FailedStatus, match=r"cannot be staged: .*the device allows"):
        RE(bp.count([live4d]))
    assert seen.all == []


def test_the_summary_says_values_units_and_limits(live4d, capsys):
    live4d.detector.frame_time.put(1e-3)
    live4d.detector.summary()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    shown = dict(lines)
    assert shown["detector.frame_time"] == "0.001 s  (1e-07 to 1800)"
    assert shown["detector.compression"] == "'bslz4'  (bslz4, lz4, none)"
    assert shown["detector.trigger_mode"] == "'exts'"
    assert shown["detector.status.state"] == "'idle'"


# The scan generator --------------------------------------------------------------------------------


def test_the_scan_starts_when_the_detector_is_armed(sim, RE, control):
    states = []
    with looked_at(sim, lambda: states.append(control.state())) as (live4d, prepare):
        for _ in range(2):
            prepare()
            RE(bp.count([live4d]))
    assert states == ["ready", "ready"]


def test_a_signal_starts_the_scan(sim, RE):
    start = Signal(name="start", value=0)
    with closing(device(sim, scan_start=start)) as live4d:
        RE(bp.count([live4d]))
    assert start.get() == 1


def test_a_scan_that_does_not_start_fails_the_trigger_and_leaves_the_detector_idle(sim, RE, control):
    def broken():
        raise OSError("the scan generator is off")

    with closing(device(sim, scan_start=broken)) as live4d:
        with pytest.raises(FailedStatus) as caught:
            RE(bp.count([live4d]))
        assert "scan_start failed (OSError: the scan generator is off)" in str(caught.value.__cause__)
        assert control.wait_idle(10) == "idle"


class Generator:
    """A scan generator whose probe takes its time to come back."""

    def __init__(self, seconds=0.0):
        self.heard = []
        self._seconds = seconds
        self._busy = threading.Lock()
        self._stopped = threading.Event()

    def __call__(self):
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a scan is running")
        try:
            self.heard.append("start")
            self._stopped.wait(self._seconds)
            self._stopped.clear()
        finally:
            self._busy.release()

    def stop(self):
        self.heard.append("stop")
        self._stopped.set()


def test_a_scan_waits_for_the_one_before(sim, RE):
    generator = Generator(seconds=0.6)
    with closing(device(sim, scan_start=generator)) as live4d:
        RE(bp.count([live4d], num=3))
        _wait_for(generator, 3)  # the simulated microscope scans by itself, and is faster
    assert generator.heard == ["start"] * 3


def test_a_scan_is_stopped_when_nothing_comes_of_it(sim, RE, control):
    generator = Generator(seconds=60)
    with closing(device(sim, scan_start=generator, timeout=1.0)) as live4d:
        sim.set_faults(drop="every:1")
        try:
            with pytest.raises(FailedStatus, match="without a frame"):
                RE(bp.count([live4d]))
            for _ in range(500):
                if "stop" in generator.heard:
                    break
                time.sleep(0.02)
        finally:
            sim.set_faults()
    # Twice does no harm, and keeps one that is just being started from going on.
    assert generator.heard[0] == "start"
    assert set(generator.heard[1:]) == {"stop"}


def test_a_pause_stops_the_scan_and_resuming_starts_it_again(sim, RE, control):
    generator = Generator(seconds=60)
    with closing(device(sim, scan_start=generator)) as live4d:
        sim.set_faults(stall_at=10, stall_s=60.0)
        try:
            status_seen = threading.Thread(target=lambda: (_wait_for(generator, 1), RE.request_pause()))
            status_seen.start()
            with pytest.raises(RunEngineInterrupted):
                RE(bp.count([live4d]))
            status_seen.join()
        finally:
            sim.set_faults()
        assert generator.heard[:2] == ["start", "stop"]
        RE.resume()
        _wait_for(generator, 2)
        generator.stop()


def _wait_for(generator, starts):
    while generator.heard.count("start") < starts:
        time.sleep(0.02)


def test_a_scan_that_was_stopped_before_it_began_does_not_begin():
    generator = Generator()
    starter = ScanStarter(generator)
    slow = Generator(seconds=60)
    first = ScanStarter(slow)
    first.start(pytest.fail)
    _wait_for(slow, 1)
    starter._scan = first._scan  # it waits for this one
    starter.start(pytest.fail)
    waiting = starter._scan
    starter.stop()
    first.stop()
    assert waiting.over.wait(10)
    assert generator.heard == []


def test_a_generator_that_cannot_be_stopped_is_said(sim, RE, caplog):
    generator = Generator(seconds=60)
    stop, generator.stop = generator.stop, lambda: 1 / 0
    starter = ScanStarter(generator)
    starter.start(pytest.fail)
    _wait_for(generator, 1)
    starter.stop()
    starter.wait(10)
    assert "could not be stopped: division by zero" in caplog.text
    stop()


def test_a_software_trigger_and_a_scan_generator_are_refused(sim):
    with pytest.raises(ValueError, match="has scan_start, but with trigger_mode 'ints'"):
        device(sim, control=Simplon(sim.rest_url, trigger_mode="ints"), scan_start=lambda: None)


def test_what_cannot_start_a_scan_is_refused(sim):
    with pytest.raises(ValueError, match="scan_start is 3"):
        device(sim, scan_start=3)


# How the detector is found --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "acquire"])
def test_a_detector_left_armed_or_acquiring_is_brought_to_idle(sim, RE, live4d, control, state, caplog):
    control.put("detector", "trigger_mode", "ints" if state == "ready" else "exts")
    control.put("detector", "nimages", 1_000_000)
    control.put("detector", "ntrigger", 1)
    control.arm()
    if state == "acquire":
        with closing(device(sim, control=None)) as other:
            other.wait_for_connection()
            other.trigger()
            control._wait_for("detector", "state", "acquire", 20)
    seen = Documents()
    RE.subscribe(seen)
    with caplog.at_level("WARNING"):
        RE(bp.count([live4d]))
    (event,) = seen.events()
    assert event["data"]["live4d_frames_received"] == ROWS * COLS
    assert f"left in state {state}" in caplog.text


def test_a_detector_that_others_left_as_no_scan_can_use_it_is_prepared_and_its_stream_left_as_it_was(RE):
    seen = Documents()
    RE.subscribe(seen)
    armed = []
    with served_dcu(rows=ROWS, cols=COLS, unprepared=True, dead_pixels=3) as sim:
        dcu = sim.dcu
        assert (dcu.state, dcu.high_voltage) == ("idle", "OFF")
        stream, files = dcu.stream_config.values(), dcu.filewriter_config.values()
        with looked_at(sim, lambda: armed.append(dcu.stream_config.values())) as (live4d, prepare):
            live4d.dwell_time.put(1e-2)
            prepare()
            RE(bp.count([live4d]))
        assert dcu.high_voltage == "READY"
        assert {key: armed[0][key] for key in UNPREPARED["stream"]} == {
            "mode": "enabled", "format": "cbor", "header_detail": "all",
        }  # fmt: skip
        assert dcu.stream_config.values() == stream
        assert dcu.filewriter_config.values() == files == {"mode": "enabled"}
        wanted = {"trigger_mode": "exts", "nimages": 1, "ntrigger": ROWS * COLS, "frame_time": 1e-2}
        readout = UNPREPARED["detector"]["detector_readout_time"]
        # and nothing else
        expected = UNPREPARED["detector"] | wanted | {"count_time": pytest.approx(1e-2 - readout)}
        assert {key: dcu.config[key] for key in expected} == expected
    (event,) = seen.events()
    data = event["data"]
    assert data["live4d_frames_received"] == ROWS * COLS
    assert np.isfinite(data["live4d_vbf"]).all()
    assert data["live4d_series_count_time"] == pytest.approx(1e-2 - readout)
    assert data["live4d_series_frame_time"] == 1e-2
    assert data["live4d_series_pixels_masked"] == 3
    # 100 frames a second, for 0.3 s: a busy machine may bring the first or the last of them late
    assert 30 < data["live4d_frame_rate"] < 300


def test_the_event_says_how_many_images_the_detector_dropped(RE, caplog):
    """As fast as they go, many times faster than they can be summed, and hardly any wait for their client."""
    seen = Documents()
    RE.subscribe(seen)
    images = 40_000
    with served_dcu(rows=ROWS, cols=COLS, rate=1e6, buffered=10, silent_scan=True) as sim:
        with closing(device(sim, grid=ScanGrid(200, 200))) as live4d:
            RE(bp.count([live4d]))
        dropped = sim.dcu.dropped
    (event,) = seen.events()
    data = event["data"]
    assert data["live4d_frames_dropped"] == dropped > 0
    assert data["live4d_frames_received"] + dropped == images
    assert data["live4d_frames_lost"] == dropped
    assert f"the detector dropped {dropped} frames" in caplog.text


def test_a_detector_that_does_not_answer_is_said_when_it_is_staged(sim, RE):
    live4d = device(sim, control=Simplon("http://127.0.0.1:9"))
    with closing(live4d):
        words = r"127.0.0.1:9.*is the detector"
        with pytest.raises(FailedStatus, match="live4d cannot be staged: .*" + words) as failure:
            RE(bp.count([live4d]))
        assert isinstance(failure.value.__cause__, SimplonError)
        with pytest.raises(SimplonError, match=words):
            live4d.stage()  # by hand


def test_the_loop_is_free_while_a_device_is_staged(live4d, RE, monkeypatch):
    """The detector may take seconds to answer."""
    called, asked = threading.Event(), []

    def refresh():
        RE.loop.call_soon_threadsafe(called.set)
        asked.append(called.wait(10))

    monkeypatch.setattr(live4d.detector, "refresh", refresh)
    RE(bpp.stage_wrapper(bps.null(), [live4d]))
    assert asked == [True]


def test_an_engine_that_cannot_be_had_fails_the_stage(live4d, RE, monkeypatch):
    def gone(*args):
        raise AcquisitionError("no engine answered")

    monkeypatch.setattr(live4d, "_engine", gone)
    with pytest.raises(FailedStatus, match="live4d cannot be staged: no engine answered"):
        RE(bp.count([live4d]))


def test_a_detector_that_goes_away_costs_no_images(live4d, caplog):
    settings = live4d.detector
    settings.refresh()
    settings._own_control = Simplon("http://127.0.0.1:9")
    settings.invalidate()
    assert settings.read_configuration()["live4d_detector_compression"]["value"] == "bslz4"
    assert caplog.text.count("its last known settings are used") == 1


def test_without_control_there_are_no_settings(sim):
    with (
        closing(device(sim, control=None)) as live4d,
        pytest.raises(AttributeError, match="pass control=Simplon"),
    ):
        _ = live4d.detector
    with pytest.raises(ValueError, match="cannot be called 'detector'"):
        Live4D("tcp://h:1", name="x", scan=ScanGrid(2, 2), methods=[Disk("detector", radius=1)])


def test_each_event_has_the_detectors_settings_as_armed(live4d, RE):
    """Also those that a plan scans, which Bluesky leaves out as parts of the device that is read."""
    docs = Documents()
    times = [1e-4, 2e-4, 3e-4]
    RE(bp.list_scan([live4d], live4d.detector.frame_time, times), docs)
    assert [e["data"]["live4d_detector_frame_time"] for e in docs.events()] == times
    assert [e["data"]["live4d_series_frame_time"] for e in docs.events()] == times
    assert docs.of("start")[0]["hints"]["dimensions"] == [(["live4d_detector_frame_time"], "primary")]


def test_a_dwell_time_is_in_the_event_as_the_detector_has_it(live4d, RE):
    docs = Documents()

    def plan():
        yield from bps.mv(live4d.dwell_time, 5e-4)
        yield from bp.count([live4d])

    RE(plan(), docs)
    assert docs.events()[0]["data"]["live4d_detector_frame_time"] == 5e-4


def test_reading_and_describing_ask_the_detector_nothing(live4d, RE, monkeypatch):
    """The RunEngine does both in its own loop; what the detector was armed with is read beside the raster."""
    asked = []
    rest = live4d.detector.control.rest
    read = rest.read

    def note(*arguments):
        asked.append(threading.current_thread().name)
        return read(*arguments)

    monkeypatch.setattr(type(rest), "read", lambda self, *arguments: note(*arguments))
    docs = Documents()

    def plan():
        yield from bps.stage(live4d)
        yield from bps.open_run()
        asked.clear()
        yield from bps.trigger_and_read([live4d])
        yield from bps.close_run()
        yield from bps.unstage(live4d)

    RE(plan(), docs)
    assert set(asked) == {"live4d-stage", "live4d-settings"}
    assert len(docs.events()) == 1


def test_a_movies_events_have_the_detectors_settings(live4d, RE):
    docs = Documents()
    live4d.movie_rasters.put(2)

    def plan():
        yield from bps.mv(live4d.detector.frame_time, 2e-4)
        yield from bpp.stage_wrapper(bp.fly([live4d]), [live4d])

    RE(plan(), docs)
    events = docs.events("live4d_movie")
    assert [e["data"]["live4d_detector_frame_time"] for e in events] == [2e-4, 2e-4]
