"""The REST client asks the device what it is and has, says what was refused in the device's words, and repeats only
what is safe to repeat."""

import threading
import time

import pytest
from fake_dcu import FRAME_TIME

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.parameter import Parameter
from live4d_ophyd.sources.dectris.rest import Rest, SimplonError, UnknownKey


def test_the_version_is_asked_for_once_and_used(dcu):
    dcu.answers["/detector/api/version"] = (200, {"value": "1.6.2"})
    dcu.answers["/detector/api/1.6.2/config/frame_time"] = (200, FRAME_TIME)
    rest = Rest(dcu.url + "/")
    assert rest.read("detector", "config", "frame_time").value == 1e-3
    rest.read("detector", "config", "frame_time")
    assert rest.api == "1.6.2"
    assert len(dcu.asked("/detector/api/version")) == 1


def test_a_version_that_is_given_is_not_asked_for(dcu):
    dcu.answers["/detector/api/1.7.0/config/frame_time"] = (200, FRAME_TIME)
    assert Rest(dcu.url, "1.7.0").read("detector", "config", "frame_time").unit == "s"
    assert not dcu.asked("/detector/api/version")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"value": "1.5.0"}, "speaks SIMPLON 1.5.0; stream v2 needs 1.6 or newer"),
        ({"value": "beta"}, "is it a SIMPLON interface"),
        ([1], "is it a SIMPLON interface"),
    ],
)
def test_an_interface_that_cannot_be_used_is_named(dcu, answer, message):
    dcu.answers["/detector/api/version"] = (200, answer)
    with pytest.raises(SimplonError, match=message):
        _ = Rest(dcu.url).api


def test_a_key_comes_with_type_unit_limits_and_access(dcu):
    dcu.answers["/detector/api/1.8.0/config/frame_time"] = (200, FRAME_TIME)
    found = Rest(dcu.url).read("detector", "config", "frame_time")
    assert found == Parameter("detector/config/frame_time", 1e-3, "float", "s", True, 1e-6, 10.0)
    dcu.answers["/detector/api/1.8.0/config/roi_mode"] = (
        200,
        {
            "value": "disabled",
            "value_type": "string",
            "allowed_values": ["disabled", "4M"],
            "access_mode": "r",
        },
    )
    found = Rest(dcu.url).read("detector", "config", "roi_mode")
    assert (found.allowed, found.writable) == (("disabled", "4M"), False)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (
            Parameter("d/frame_time", 1.0, "float", "s", True, 1e-6, 10.0),
            11.0,
            "frame_time = 11.0 s: .* 1e-06 to 10 s",
        ),
        (Parameter("d/frame_time", 1.0, "float", "s", True, 1e-6, 10.0), float("nan"), "frame_time = nan s"),
        (Parameter("d/frame_time", 1.0, "float", "s", True, None, 10.0), 11.0, "anything to 10 s"),
        (Parameter("d/nimages", 1, "uint", "", True, 1), 0, "nimages = 0: the device allows 1 to anything"),
        (Parameter("d/nimages", 1, "uint"), 1.5, "the device wants a uint"),
        (Parameter("d/nimages", 1, "uint"), True, "the device wants a uint"),
        (Parameter("d/mask_to_zero", True, "bool"), 1, "the device wants a bool"),
        (Parameter("d/compression", "bslz4", "string", allowed=("bslz4", "lz4")), "zip", "allows bslz4, lz4"),
        (Parameter("d/bit_depth_image", 16, "uint", writable=False), 8, "only reports it"),
    ],
)
def test_values_the_device_would_refuse_are_refused_before(parameter, value, message):
    with pytest.raises(ValueError, match=message):
        parameter.check(value)


def test_values_the_device_takes_pass():
    Parameter("d/frame_time", 1.0, "float", "s", True, 1e-6, 10.0).check(1)
    Parameter("d/mask_to_zero", True, "bool").check(False)
    Parameter("d/future", [1], "list").check([2])


def test_what_changed_with_a_value_is_read_again(dcu):
    base = "/detector/api/1.8.0/config"
    dcu.answers[f"{base}/pixel_format"] = [
        (200, ["pixel_format", "bit_depth_image"]),
        (200, {"value": "uint8"}),
    ]
    dcu.answers[f"{base}/bit_depth_image"] = (200, {"value": 8})
    changed = Rest(dcu.url).write("detector", "pixel_format", "uint8")
    assert {key: found.value for key, found in changed.items()} == {
        "pixel_format": "uint8",
        "bit_depth_image": 8,
    }
    assert dcu.asked(f"{base}/pixel_format")[0] == ("PUT", f"{base}/pixel_format", {"value": "uint8"})


def test_a_refusal_names_key_value_and_the_devices_words_and_is_not_repeated(dcu):
    path = "/detector/api/1.8.0/config/frame_time"
    dcu.answers[path] = (400, "value too small")
    with pytest.raises(SimplonError, match=r"frame_time with \{'value': 0\}: 400 value too small"):
        Rest(dcu.url).write("detector", "frame_time", 0)
    assert len(dcu.asked(path)) == 1


def test_a_key_the_device_does_not_have_is_told_apart(dcu):
    with pytest.raises(UnknownKey, match=r"config/binning_mode: the device does not have it \(no such key\)"):
        Rest(dcu.url).read("detector", "config", "binning_mode")


@pytest.mark.parametrize("trouble", [(500, "busy"), (503, ""), (200, "<html>")])
def test_what_may_pass_is_tried_again(dcu, trouble):
    path = "/detector/api/1.8.0/config/frame_time"
    dcu.answers[path] = [trouble, trouble, (200, FRAME_TIME)]
    assert Rest(dcu.url).read("detector", "config", "frame_time").value == 1e-3
    assert len(dcu.asked(path)) == 3


def test_what_does_not_pass_is_an_error_with_its_reason(dcu):
    dcu.answers["/detector/api/1.8.0/config/frame_time"] = (500, "sensor on fire")
    with pytest.raises(SimplonError, match="500 sensor on fire"):
        Rest(dcu.url).read("detector", "config", "frame_time")


@pytest.mark.parametrize(("command", "times"), [("arm", 1), ("trigger", 1), ("disarm", 3), ("abort", 3)])
def test_only_harmless_commands_are_repeated(dcu, command, times):
    path = f"/detector/api/1.8.0/command/{command}"
    dcu.answers[path] = (500, "busy")
    with pytest.raises(SimplonError, match="500 busy"):
        Rest(dcu.url).command(command)
    assert len(dcu.asked(path)) == times


def test_an_answer_that_takes_too_long_is_an_error(dcu):
    released = threading.Event()
    dcu.answers["/detector/api/1.8.0/command/arm"] = (200, lambda: str(released.wait(5)).lower())
    begin = time.monotonic()
    try:
        with pytest.raises(SimplonError, match=r"command/arm: no answer within 0\.2 s"):
            Rest(dcu.url).command("arm", timeout=0.2)
    finally:
        released.set()
    assert time.monotonic() - begin < 3


def test_a_software_trigger_that_nobody_answers_ends(dcu, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.control.ARM_TIMEOUT_S", 0.1)
    released = threading.Event()
    dcu.scannable().settings |= {"detector/config/nimages": 100, "detector/config/frame_time": 1e-3}
    dcu.answers["/detector/api/1.8.0/command/trigger"] = (200, lambda: str(released.wait(20)).lower())
    try:
        with pytest.raises(SimplonError, match=r"command/trigger: no answer within 0\.3 s"):
            Simplon(dcu.url).trigger()
    finally:
        released.set()


def test_nobody_there_is_said(dcu):
    with pytest.raises(SimplonError, match=r"is the detector \(or the simulator\) on\?"):
        _ = Rest("http://127.0.0.1:9").api


def test_a_parameter_that_the_firmware_lacks_is_left_out_and_said(dcu, caplog):
    dcu.answers["/detector/api/version"] = (200, {"value": "1.6.0"})
    dcu.scannable()
    for key in ("stream/config/format", "stream/config/header_appendix", "filewriter/config/mode"):
        del dcu.settings[key]
    with caplog.at_level("INFO"):
        Simplon(dcu.url).configure(1, 12)
    assert "has no stream/config/format" in caplog.text
    assert dcu.settings["detector/config/ntrigger"] == 12


def test_a_version_that_the_device_does_not_tell_is_found(dcu):
    dcu.answers["/detector/api/version"] = (404, "not found")
    dcu.answers["/detector/api/1.7.0/status/state"] = (200, {"value": "idle"})
    assert Rest(dcu.url).api == "1.7.0"


def test_another_web_server_is_no_detector(dcu):
    dcu.answers["/detector/api/version"] = (404, "not found")
    with pytest.raises(SimplonError, match=r"speaks no SIMPLON of 1.8.0, 1.7.0, 1.6.0"):
        _ = Rest(dcu.url).api


def test_a_value_that_was_set_is_set_whatever_else_is_said_to_have_changed(dcu):
    path = "/detector/api/1.8.0/config/"
    changed = ["incident_energy", "difference_mode", "threshold/1/flatfield", "threshold/1/energy"]
    dcu.answers[path + "incident_energy"] = [(200, changed), (200, {"value": 13000.0})]
    dcu.answers[path + "threshold/1/energy"] = (200, {"value": 6500.0})
    found = Rest(dcu.url, "1.8.0").write("detector", "incident_energy", 13000.0)
    assert {name: parameter.value for name, parameter in found.items()} == {
        "incident_energy": 13000.0, "threshold/1/energy": 6500.0,
    }  # fmt: skip
    assert not dcu.asked(path + "threshold/1/flatfield")


def test_an_answer_without_end_is_cut_off(dcu):
    dcu.answers["/detector/api/1.8.0/config/x"] = (200, {"value": "x" * (1 << 20)})
    with pytest.raises(SimplonError, match="longer than 1 MiB"):
        Rest(dcu.url, "1.8.0").read("detector", "config", "x")
