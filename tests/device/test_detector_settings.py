"""The detector's settings as signals, against a control unit that does not obey, rounds, or describes itself oddly."""

import threading
from contextlib import closing

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from fake_dcu import FakeDcu

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon
from live4d_ophyd.device.detector_settings import DetectorSettings
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.sources.dectris.rest import SimplonError

KEY = "detector/config/"


@pytest.fixture
def dcu():
    with closing(FakeDcu()) as fake:
        fake.scannable().settings |= {
            KEY + "incident_energy": 1e5,
            KEY + "threshold/1/energy": 5e4,
            KEY + "binning_mode": "off",
            KEY + "mask_to_zero": False,
        }
        yield fake


@pytest.fixture
def settings(dcu):
    return DetectorSettings("", name="detector", control=Simplon(dcu.url))


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def test_a_plan_that_sets_what_the_detector_ignores_fails_with_both_values(dcu, settings, RE):
    dcu.obey = lambda key, value: 5e4 if key.endswith("threshold/1/energy") else value
    with pytest.raises(FailedStatus) as caught:
        RE(bps.mv(settings.threshold_1_energy, 3e4))
    assert "threshold/1/energy is 50000.0 after it was set to 30000.0" in str(caught.value.__cause__)
    with pytest.raises(SimplonError, match="after it was set to"):
        settings.threshold_1_energy.put(3e4)
    assert settings.set_here() == ()


def test_what_the_detector_says_of_its_frames(dcu, settings):
    assert settings.frames_said() is None  # it was not asked yet
    dcu.settings |= {
        KEY + "y_pixels_in_detector": 192,
        KEY + "x_pixels_in_detector": 256,
        KEY + "bit_depth_image": 16,
    }
    settings.refresh()
    assert settings.frames_said() == FrameFormat(192, 256, np.dtype("u2"))
    for key, value, said in (
        ("bit_depth_image", 32, FrameFormat(192, 256, np.dtype("u4"))),
        ("binning_mode", "2x2", FrameFormat(96, 128, np.dtype("u4"))),
        ("binning_mode", "in a way of its own", None),
        ("binning_mode", "off", FrameFormat(192, 256, np.dtype("u4"))),
        ("bit_depth_image", 12, None),
    ):
        dcu.settings[KEY + key] = value
        settings.binning_mode.ask()
        settings.bit_depth.ask()
        assert settings.frames_said() == said


def test_a_plan_that_sets_what_the_detector_rounds_reads_and_says_the_rounded_value(
    dcu, settings, RE, caplog
):
    dcu.obey = lambda key, value: round(value, 6)
    RE(bps.mv(settings.frame_time, 33.3e-6))
    assert settings.frame_time.get() == 33e-6
    assert "frame_time is 3.3e-05, not the 3.33e-05 that was set" in caplog.text


def test_the_value_that_was_set_is_read_although_the_detector_names_no_key(dcu, settings):
    dcu.named = lambda key: []
    settings.threshold_1_energy.put(3e4)
    assert settings.threshold_1_energy.get() == 3e4


def test_settings_of_one_plan_step_are_set_one_after_the_other_in_order(dcu, settings, RE, monkeypatch):
    """Else what one of them changes would look as if another had not been obeyed."""
    settings.refresh()
    threshold_set = threading.Event()

    def obey(key, value):
        if key == KEY + "incident_energy":
            dcu.settings[KEY + "threshold/1/energy"] = value / 2
        if key == KEY + "threshold/1/energy":
            threshold_set.set()
        return value

    def slow_put(value, put=settings.incident_energy.put):
        threshold_set.wait(0.2)  # which must not come first
        put(value)

    dcu.obey = obey
    monkeypatch.setattr(settings.incident_energy, "put", slow_put)
    for energy in (2e5, 3e5, 1e5):
        RE(
            bps.mv(
                settings.incident_energy, energy, settings.threshold_1_energy, 3e4, settings.frame_time, 2e-3
            )
        )
        assert settings.threshold_1_energy.get() == 3e4
        threshold_set.clear()
    assert [key.removeprefix(KEY) for key, _ in dcu.put()] == 3 * [
        "incident_energy", "threshold/1/energy", "frame_time",
    ]  # fmt: skip


def test_what_two_threads_put_does_not_mix(dcu, settings):
    settings.refresh()
    busy, mixed = threading.Lock(), []

    def obey(key, value):
        if busy.acquire(blocking=False):
            threading.Event().wait(0.2)  # long enough for the other one to come
            busy.release()
        else:
            mixed.append(key)
        return value

    dcu.obey = obey
    puts = [
        threading.Thread(target=signal.put, args=[2e-3])
        for signal in (settings.frame_time, settings.count_time)
    ]
    for put in puts:
        put.start()
    for put in puts:
        put.join()
    assert len(dcu.put()) == 2
    assert mixed == []


def test_the_engine_is_told_what_was_set_in_an_order_in_which_it_can_be_put_back(dcu):
    device = Live4D(
        "tcp://127.0.0.1:9", name="live4d", scan=ScanGrid(2, 2), methods=[Disk("vbf", radius=1)],
        control=Simplon(dcu.url), backend="cpu",
    )  # fmt: skip
    assert device.request().source.simplon.settings == ()
    for signal, value in (("frame_time", 2e-3), ("threshold_1_energy", 3e4), ("binning_mode", "2x2")):
        getattr(device.detector, signal).put(value)
    dcu.obey = lambda key, value: dcu.settings.update({KEY + "threshold/1/energy": 9e4}) or value
    dcu.named = lambda key: [key, "threshold/1/energy"]
    device.detector.incident_energy.put(np.float64(2e5))
    assert device.request().source.simplon.settings == (
        ("binning_mode", "2x2"),
        ("incident_energy", 2e5),
        ("threshold/1/energy", 9e4),  # followed the energy, after it was set
        ("frame_time", 2e-3),
    )


def test_a_restarted_detector_s_values_are_not_taken_for_what_was_set(dcu, settings):
    settings.threshold_1_energy.put(3e4)
    dcu.settings[KEY + "threshold/1/energy"] = 5e4
    settings.invalidate()
    assert settings.read_configuration()["detector_threshold_1_energy"]["value"] == 5e4
    assert settings.set_here() == (("threshold/1/energy", 3e4),)


def test_no_setting_is_lost_while_the_detector_is_silent(dcu, settings, caplog, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.rest._PAUSES_S", (0.0, 0.0))
    dcu.settings["detector/status/temperature"] = 22.5
    settings.threshold_1_energy.put(3e4)

    def found():
        readings = settings.read_configuration() | settings.status.read()
        described = settings.describe_configuration() | settings.status.describe()
        assert readings.keys() == described.keys()
        return {key: reading["value"] for key, reading in readings.items()}

    before = found()
    assert {"detector_count_time", "detector_frame_time", "detector_status_temperature"} <= before.keys()
    for part in (settings, settings.status):
        part._own_control = Simplon("http://127.0.0.1:9")
        part.invalidate()
    assert found() == before
    for part in (settings, settings.status):
        assert part.name + ": GET http://127.0.0.1:9" in caplog.text
        part.invalidate()
    caplog.clear()
    armed = settings.as_armed() | settings.status.read()
    assert {key: reading["value"] for key, reading in armed.items()} == before
    # not asked for one setting after the other: each may take many seconds
    assert caplog.text.count("its last known settings are used") == 2
    assert settings.set_here() == (("threshold/1/energy", 3e4),)

    dcu.settings[KEY + "count_time"] = 5e-4
    for part in (settings, settings.status):
        part._own_control = Simplon(dcu.url)
        part.invalidate()
    assert found() == before | {"detector_count_time": 5e-4}


def test_no_document_holds_the_password(dcu):
    control = Simplon(dcu.url.replace("http://", "http://user:s3cr3t@"))
    settings = DetectorSettings("", name="detector", control=control)
    for documents in (settings.describe_configuration(), settings.status.describe()):
        assert documents
        assert "s3cr3t" not in str(documents)
    assert dcu.login() == "user:s3cr3t"
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    ("value", "value_type", "recorded"),
    [
        (22, "float", ("number", 22.0)),
        (None, "float", ("number", np.nan)),
        ("22.5", "float", ("string", "22.5")),
        (7, "", ("integer", 7)),
        (7.5, "uint", ("number", 7.5)),
        (True, "string", ("boolean", True)),
        (None, "string", ("string", "null")),
        (["a", 1], "list", ("string", '["a", 1]')),
    ],
)
def test_a_value_of_an_unexpected_type_is_recorded_as_what_it_is(dcu, settings, value, value_type, recorded):
    dcu.answers["/detector/api/1.8.0/status/temperature"] = (200, {"value": value, "value_type": value_type})
    status = settings.status
    described = status.describe()["detector_status_temperature"]
    read = status.read()["detector_status_temperature"]["value"]
    np.testing.assert_equal((described["dtype"], read), recorded)
    assert type(read) is type(recorded[1])


def test_what_the_detector_is_is_recorded_and_asked_for_once_a_stage(dcu, settings):
    dcu.settings |= {
        KEY + "detector_number": "E-01",
        KEY + "software_version": "1.8.0",
        KEY + "x_pixel_size": 1e-4,
    }

    def asked():
        return sum(path.endswith("/config/detector_number") for _, path, _ in dcu.requests)

    recorded = {key: entry["value"] for key, entry in settings.read_configuration().items()}
    facts = ("detector_number", "software_version", "x_pixel_size")
    assert [recorded[f"detector_{name}"] for name in facts] == ["E-01", "1.8.0", 1e-4]
    assert "detector_firmware_version" not in recorded  # this one does not have it
    assert "detector_detector_number" not in settings.read()  # no column of every Event
    settings.as_armed()
    settings.as_armed()
    assert asked() == 1
    settings.invalidate()
    dcu.settings[KEY + "detector_number"] = "E-02"
    assert settings.read_configuration()["detector_detector_number"]["value"] == "E-02"
    assert asked() == 2


# Dose -------------------------------------------------------------------------------------------------


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "dose is lost" in record.getMessage()]


def test_a_frame_time_that_leaves_the_count_time_behind_is_warned_of_once(dcu, caplog):
    device = Live4D(
        "tcp://127.0.0.1:9", name="live4d", scan=ScanGrid(2, 2), methods=[Disk("vbf", radius=1)],
        control=Simplon(dcu.url), backend="cpu",
    )  # fmt: skip
    settings = device.detector
    settings.count_time.put(2e-4)
    settings.frame_time.put(1e-3)
    for _ in range(2):
        settings.as_armed()
        settings.warn_of_short_exposure()
    (warning,) = warnings_of(caplog)
    assert warning == (
        "live4d_detector: of each frame of 0.001 s only 0.0002 s are counted (count_time): 80 % of the dose is lost; "
        "live4d.dwell_time sets both"
    )
    settings.count_time.put(1e-3)
    settings.as_armed()
    settings.count_time.put(2e-4)
    settings.as_armed()
    assert len(warnings_of(caplog)) == 2


def test_a_readout_is_no_lost_dose_and_times_that_are_not_known_are_none(dcu, settings, caplog):
    settings.warn_of_short_exposure()
    settings.count_time.put(0.95e-3)
    settings.frame_time.put(1e-3)
    settings.as_armed()
    assert warnings_of(caplog) == []
