"""A series borrows the stream's settings and gives them back; what it need not change it leaves alone."""

import json

import pytest

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

APPENDIX = '{"scan":{"rows":2,"cols":6},"rasters":1}'
#: what users have, and a scan cannot use
USERS = {
    "stream/config/mode": "disabled",
    "stream/config/format": "legacy",
    "stream/config/header_detail": "basic",
}
NEEDED = {
    "stream/config/mode": "enabled",
    "stream/config/format": "cbor",
    "stream/config/header_detail": "all",
}


def stream(dcu):
    return {key: value for key, value in dcu.settings.items() if key in USERS}


def appendix(dcu):
    return dcu.settings["stream/config/header_appendix"]


@pytest.fixture
def dcu(dcu):
    dcu.scannable().settings |= USERS
    return dcu


def test_the_stream_is_as_a_scan_needs_it_and_then_as_it_was(dcu, caplog):
    control = Simplon(dcu.url)
    with caplog.at_level("INFO"):
        control.configure(1, 12, appendix=APPENDIX)
    assert stream(dcu) == NEEDED
    assert json.loads(appendix(dcu))["scan"] == {"rows": 2, "cols": 6}
    assert "header_detail is 'all' instead of 'basic'" in caplog.text
    assert "put back after it" in caplog.text
    control.put_back()
    assert stream(dcu) == USERS
    assert appendix(dcu) == ""


def test_it_is_said_once_not_with_every_trigger(dcu, caplog):
    with caplog.at_level("INFO"):
        for _ in range(3):
            control = Simplon(dcu.url)
            control.configure(1, 12, appendix=APPENDIX)
            control.put_back()
    assert caplog.text.count("put back after it") == 1


def test_what_is_right_already_is_not_set(dcu):
    dcu.settings |= NEEDED
    control = Simplon(dcu.url)
    control.configure(1, 12)
    control.put_back()
    assert [key for key, _ in dcu.put() if key.startswith(("stream", "filewriter"))] == []


def test_the_file_writer_is_left_alone(dcu):
    Simplon(dcu.url).configure(1, 12, appendix=APPENDIX)
    assert dcu.settings["filewriter/config/mode"] == "enabled"
    assert not [path for _, path, _ in dcu.requests if path.startswith("/filewriter")]


def test_nothing_else_is_changed(dcu):
    before = dict(dcu.settings)
    control = Simplon(dcu.url)
    control.configure(1, 12, frame_time=2e-3, appendix=APPENDIX)
    control.put_back()
    changed = {key for key, value in dcu.settings.items() if value != before[key]}
    assert changed == {
        f"detector/config/{key}"
        for key in ("trigger_mode", "nimages", "ntrigger", "count_time", "frame_time")
    }


def test_an_appendix_of_the_user_stays_and_that_is_said_once(dcu, caplog):
    dcu.settings["stream/config/header_appendix"] = "sample 7"
    for _ in range(2):
        control = Simplon(dcu.url)
        control.configure(1, 12, appendix=APPENDIX)
        assert appendix(dcu) == "sample 7"
        control.put_back()
        assert appendix(dcu) == "sample 7"
    assert stream(dcu) == USERS
    assert caplog.text.count("somebody else's ('sample 7') and stays") == 1


@pytest.mark.parametrize("broken", ["trigger_mode", "ntrigger"])
def test_a_configuration_that_fails_leaves_the_stream_as_it_was(dcu, broken):
    dcu.answers[f"/detector/api/1.8.0/config/{broken}"] = (400, "no")
    with pytest.raises(SimplonError, match="400 no"):
        Simplon(dcu.url).configure(1, 12, appendix=APPENDIX)
    assert stream(dcu) == USERS
    assert appendix(dcu) == ""


def test_what_a_dead_process_left_is_put_back_by_another(dcu):
    Simplon(dcu.url).configure(1, 12, appendix=APPENDIX)
    dcu.answers["/detector/api/1.8.0/command/abort"] = (200, "")
    Simplon(dcu.url).release()
    assert stream(dcu) == USERS
    assert appendix(dcu) == ""


def test_what_a_dead_process_left_is_put_back_by_the_next_series(dcu):
    Simplon(dcu.url).configure(1, 12, appendix=APPENDIX)
    control = Simplon(dcu.url)
    control.configure(1, 12, appendix=APPENDIX.replace("6", "7"))
    assert json.loads(appendix(dcu))["scan"]["cols"] == 7
    control.put_back()
    assert stream(dcu) == USERS
    assert appendix(dcu) == ""


def test_releasing_a_detector_that_somebody_else_has_set_up_changes_nothing(dcu):
    dcu.settings["stream/config/header_appendix"] = "sample 7"
    dcu.answers["/detector/api/1.8.0/command/abort"] = (200, "")
    Simplon(dcu.url).release()
    assert dcu.put() == []


def test_what_cannot_be_put_back_is_said_with_the_values(dcu, caplog):
    control = Simplon(dcu.url)
    control.configure(1, 12)
    dcu.obey = lambda key, value: "all" if key.endswith("header_detail") else value
    control.put_back()
    assert (
        "header_detail and mode could not be put back to 'legacy' and 'basic' and 'disabled'" in caplog.text
    )


def test_firmware_without_header_detail_is_said_once(dcu, caplog):
    del dcu.settings["stream/config/header_detail"]
    for _ in range(2):
        Simplon(dcu.url).configure(1, 12)
    assert caplog.text.count("cannot be asked for the detector's pixel mask") == 1
    assert "pass pixel_mask=" in caplog.text


def test_firmware_that_refuses_the_mask_is_scanned_all_the_same(dcu, caplog):
    dcu.obey = lambda key, value: "basic" if key.endswith("header_detail") else value
    control = Simplon(dcu.url)
    control.configure(1, 12)
    assert "cannot be asked for the detector's pixel mask" in caplog.text
    control.put_back()
    assert stream(dcu) == USERS


@pytest.mark.parametrize(
    "left", ['{"scan": {}, "rasters": 1, "put_back": 5}', '{"scan": {}, "rasters": 1}', "5", "[]"]
)
def test_an_appendix_that_makes_no_sense_does_no_harm(dcu, left):
    dcu.settings["stream/config/header_appendix"] = left
    control = Simplon(dcu.url)
    control.configure(1, 12, appendix=APPENDIX)
    control.put_back()
    assert stream(dcu) == USERS
    assert appendix(dcu) == ("" if "scan" in left else left)
