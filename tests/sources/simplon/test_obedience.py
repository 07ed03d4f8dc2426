"""A value that is set is read back: what the detector ignores is an error, what it rounds is said."""

import pytest

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import Rest, SimplonError

KEY = "detector/config/"


@pytest.mark.parametrize(
    ("before", "wanted", "kept"),
    [
        (1e-3, 2e-3, 1e-3),  # ignored
        (1e-3, 2e-3, 4e-3),  # another one
        (1e-3, 1.02e-3, 1e-3),  # further off than rounding goes
        ("exts", "ints", "exts"),
        (True, False, True),
        (12, 13, 12),
        (100_000, 100_001, 100_000),  # whole numbers are not rounded
        (1e-3, 2e-3, None),
        (1e-3, 2e-3, "2e-3"),
    ],
)
def test_a_set_that_is_not_obeyed_fails_with_both_values(dcu, before, wanted, kept):
    dcu.settings[KEY + "some_key"] = before
    dcu.obey = lambda key, value: kept
    with pytest.raises(SimplonError) as caught:
        Rest(dcu.url).write("detector", "some_key", wanted)
    assert f"detector/config/some_key is {kept!r} after it was set to {wanted!r}" in str(caught.value)


def test_a_rounded_value_is_said_with_both(dcu, caplog):
    dcu.settings[KEY + "frame_time"] = 1e-3
    dcu.obey = lambda key, value: round(value, 6)
    found = Rest(dcu.url).write("detector", "frame_time", 33.3e-6)
    assert found["frame_time"].value == 33e-6
    assert "frame_time is 3.3e-05, not the 3.33e-05 that was set" in caplog.text


def test_another_precision_is_the_same_value(dcu, caplog):
    dcu.settings[KEY + "frame_time"] = 1e-3
    dcu.obey = lambda key, value: value * (1 + 1e-7)
    Rest(dcu.url).write("detector", "frame_time", 33.3e-6)
    dcu.obey = lambda key, value: int(value)
    Rest(dcu.url).write("detector", "frame_time", 2.0)
    assert "not the" not in caplog.text


@pytest.mark.parametrize("named", [[], ["something_else"], None, ["frame_time", "something_else"]])
def test_the_key_that_was_set_is_read_back_whatever_is_named(dcu, named):
    dcu.settings |= {KEY + "frame_time": 1e-3, KEY + "something_else": 5}
    dcu.named = lambda key: named
    found = Rest(dcu.url).write("detector", "frame_time", 2e-3)
    assert found["frame_time"].value == 2e-3
    assert dcu.asked("/detector/api/1.8.0/config/frame_time")[-1][0] == "GET"
    dcu.obey = lambda key, value: 2e-3
    with pytest.raises(SimplonError, match="answered that it took the value, and did not"):
        Rest(dcu.url).write("detector", "frame_time", 3e-3)


def test_a_value_that_cannot_be_read_back_is_not_taken_for_set(dcu):
    path = "/detector/api/1.8.0/config/frame_time"
    dcu.answers[path] = [(200, ["frame_time"]), (400, "not now")]
    with pytest.raises(SimplonError, match=r"frame_time was set to 0.002, but not read back: .*400 not now"):
        Rest(dcu.url).write("detector", "frame_time", 2e-3)


@pytest.mark.parametrize("key", ["trigger_mode", "nimages", "ntrigger", "count_time", "frame_time"])
def test_a_series_is_not_armed_with_a_setting_that_was_not_taken(dcu, key):
    kept = dcu.scannable().settings[KEY + key]
    dcu.obey = lambda name, value: kept if name == KEY + key else value
    with pytest.raises(SimplonError, match=f"config/{key} is {kept!r} after it was set to"):
        Simplon(dcu.url).configure(1, 12, frame_time=2e-3)


def test_a_stream_that_does_not_become_enabled_is_an_error(dcu):
    dcu.scannable().settings["stream/config/mode"] = "disabled"
    dcu.obey = lambda key, value: "disabled" if key == "stream/config/mode" else value
    with pytest.raises(SimplonError, match="stream/config/mode is 'disabled' after it was set to 'enabled'"):
        Simplon(dcu.url).configure(1, 12)


def test_a_dwell_time_that_is_rounded_is_said_once_not_with_every_trigger(dcu, caplog):
    dcu.scannable()
    dcu.obey = lambda key, value: round(value, 6) if isinstance(value, float) else value
    for _ in range(3):
        Simplon(dcu.url).configure(1, 12, frame_time=33.3e-6)
    assert caplog.text.count("config/frame_time is 3.3e-05, not the 3.33e-05") == 1


# Values of other types than they should be ------------------------------------------------------------


@pytest.mark.parametrize("readout", ["1e-7", None, [1e-7], True])
def test_a_readout_time_that_is_no_number_costs_no_scan(dcu, readout):
    dcu.scannable().settings[KEY + "detector_readout_time"] = readout
    Simplon(dcu.url).configure(1, 12, frame_time=2e-3)
    assert dcu.settings[KEY + "count_time"] == 2e-3


@pytest.mark.parametrize("dropped", ["3", None, 1.5, True, [3]])
def test_a_count_of_dropped_images_that_is_none_is_not_known(dcu, dropped):
    dcu.settings["stream/status/dropped"] = dropped
    assert Simplon(dcu.url).dropped() is None


@pytest.mark.parametrize(
    "odd",
    [
        {"min": "0.1", "max": "high"},
        {"min": [1], "max": {}},
        {"min": float("nan"), "max": True},
        {"unit": None, "access_mode": None, "value_type": 5, "allowed_values": "all"},
    ],
)
def test_descriptions_that_cannot_be_understood_limit_nothing(dcu, odd):
    dcu.answers["/detector/api/1.8.0/config/x"] = (200, {"value": 1.0} | odd)
    found = Rest(dcu.url).read("detector", "config", "x")
    found.check(2.0)
    assert str(found) == "1.0"
