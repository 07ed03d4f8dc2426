"""A detector is brought from whatever it was left in to what the series needs: voltage, triggers, times."""

import pytest

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

KEY = "detector/config/"
VOLTAGE = "detector/status/high_voltage/state"
SWITCH_ON = "/detector/api/1.8.0/command/hv_enabled"


def settings(dcu, *keys):
    return {key: dcu.settings[KEY + key] for key in keys}


@pytest.fixture
def dcu(dcu):
    return dcu.scannable()


# High voltage -----------------------------------------------------------------------------------------


def ramp(dcu, *voltages):
    """From now on the status says these, one after the other, and then the last."""
    path = "/detector/api/1.8.0/status/high_voltage/state"
    dcu.answers[path] = [(200, {"value": voltage}) for voltage in voltages]


def test_a_high_voltage_that_is_off_is_switched_on_and_waited_for(dcu, caplog):
    ramp(dcu, "OFF", "RAMPING", "RAMPING", "READY")
    dcu.answers[SWITCH_ON] = (200, "")
    with caplog.at_level("INFO"):
        Simplon(dcu.url).configure(1, 12)
    assert len(dcu.asked(SWITCH_ON)) == 1
    assert "high voltage is OFF, switching it on" in caplog.text
    paths = [path for _, path, _ in dcu.requests]
    last_look = max(n for n, path in enumerate(paths) if path.endswith("high_voltage/state"))
    assert len(dcu.asked("/detector/api/1.8.0/status/high_voltage/state")) == 4
    assert last_look < paths.index("/detector/api/1.8.0/config/nimages")


def test_a_high_voltage_that_rises_is_only_waited_for(dcu):
    ramp(dcu, "RAMPING", "RAMPING", "READY")
    Simplon(dcu.url).configure(1, 12)
    assert dcu.asked(SWITCH_ON) == []
    assert len(dcu.asked("/detector/api/1.8.0/status/high_voltage/state")) == 3


@pytest.mark.parametrize("there", [True, False])
def test_a_high_voltage_that_is_ready_or_unknown_to_the_firmware_is_left_alone(dcu, there):
    if there:
        dcu.settings[VOLTAGE] = "READY"
    Simplon(dcu.url).configure(1, 12)
    assert dcu.asked(SWITCH_ON) == []


def test_a_series_is_not_configured_without_high_voltage(dcu, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.control.ARM_TIMEOUT_S", 0.02)
    ramp(dcu, "OFF", "RAMPING")
    dcu.answers[SWITCH_ON] = (200, "")
    with pytest.raises(SimplonError, match=r"high voltage is RAMPING, not READY.*temperature and humidity"):
        Simplon(dcu.url).configure(1, 12)
    assert dcu.put() == []


# Triggers and times -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "before"), [("exts", "ints"), ("exte", "exts"), ("ints", "exte")])
def test_triggers_of_others_are_replaced_by_those_of_the_series(dcu, mode, before):
    dcu.settings |= {KEY + "trigger_mode": before, KEY + "nimages": 7, KEY + "ntrigger": 3}
    Simplon(dcu.url, trigger_mode=mode).configure(5, 12)
    expected = {"trigger_mode": mode, "nimages": 5, "ntrigger": 12}
    assert settings(dcu, *expected) == expected


@pytest.mark.parametrize(
    ("readout", "count_time"), [(None, 2e-3), (0, 2e-3), (1e-4, 1.9e-3), (2e-3, 2e-3), (3e-3, 2e-3)]
)
def test_a_frame_is_exposed_for_what_the_readout_leaves_of_it(dcu, readout, count_time):
    """A frame that is not longer than the readout is the detector's to refuse."""
    dcu.settings |= {KEY + "count_time": 0.2, KEY + "frame_time": 0.5}
    if readout is not None:
        dcu.settings[KEY + "detector_readout_time"] = readout
    Simplon(dcu.url).configure(1, 12, frame_time=2e-3)
    assert settings(dcu, "count_time", "frame_time") == {
        "count_time": pytest.approx(count_time),
        "frame_time": 2e-3,
    }


@pytest.mark.parametrize("frame_time", [None, 0.0])
def test_without_a_dwell_time_the_detector_keeps_its_own(dcu, frame_time):
    dcu.settings |= {KEY + "count_time": 0.2, KEY + "frame_time": 0.5}
    Simplon(dcu.url).configure(1, 12, frame_time=frame_time)
    assert settings(dcu, "count_time", "frame_time") == {"count_time": 0.2, "frame_time": 0.5}


def test_what_the_detector_dropped_is_its_own_count(dcu):
    dcu.settings["stream/status/dropped"] = 7
    assert Simplon(dcu.url).dropped() == 7
    del dcu.settings["stream/status/dropped"]
    assert Simplon(dcu.url).dropped() is None
