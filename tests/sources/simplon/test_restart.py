"""A detector that was restarted gets back what the session has set, or is not armed."""

import pytest

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

KEY = "detector/config/"
AT_START = {KEY + "incident_energy": 1e5, KEY + "threshold/1/energy": 5e4, KEY + "mask_to_zero": False}
SET = (("incident_energy", 2e5), ("threshold/1/energy", 3e4), ("mask_to_zero", True))


@pytest.fixture
def dcu(dcu):
    """As after its power failed; a threshold follows the energy."""
    dcu.scannable().settings |= {**AT_START, "detector/status/state": "na"}

    def initialize():
        dcu.settings |= {**AT_START, "detector/status/state": "idle"}
        return ""

    def obey(key, value):
        if key == KEY + "incident_energy":
            dcu.settings[KEY + "threshold/1/energy"] = value / 2
        return value

    dcu.obey = obey
    dcu.answers["/detector/api/1.8.0/command/initialize"] = (200, initialize)
    return dcu


def detector(dcu):
    return {key.removeprefix(KEY): dcu.settings[key] for key in AT_START}


@pytest.mark.parametrize("state", ["na", "error"])
def test_what_the_session_has_set_is_put_back_and_said(dcu, caplog, state):
    dcu.settings["detector/status/state"] = state
    Simplon(dcu.url, settings=SET).configure(1, 12)
    assert detector(dcu) == dict(SET)
    assert f"is in state {state}" in caplog.text
    assert (
        "put back what this session has set: incident_energy = 200000.0, threshold/1/energy = 30000.0"
        in caplog.text
    )


def test_what_nobody_has_set_is_what_it_starts_with_and_that_is_said(dcu, caplog):
    Simplon(dcu.url).configure(1, 12)
    assert detector(dcu) == {key.removeprefix(KEY): value for key, value in AT_START.items()}
    assert "are those it starts with" in caplog.text
    assert "put back" not in caplog.text


def test_a_detector_that_was_not_restarted_keeps_what_somebody_else_has_set(dcu):
    dcu.settings["detector/status/state"] = "idle"
    Simplon(dcu.url, settings=SET).configure(1, 12)
    assert detector(dcu) == {key.removeprefix(KEY): value for key, value in AT_START.items()}


def test_a_setting_that_cannot_be_put_back_stops_the_scan_until_it_can(dcu):
    follow = dcu.obey
    dcu.obey = lambda key, value: False if key == KEY + "mask_to_zero" else follow(key, value)
    for _ in range(2):  # it is idle the second time, and still not as it was
        with pytest.raises(SimplonError, match="mask_to_zero is False after it was set to True"):
            Simplon(dcu.url, settings=SET).configure(1, 12)
    dcu.obey = follow
    Simplon(dcu.url, settings=SET).configure(1, 12)
    assert detector(dcu) == dict(SET)


def test_settings_that_change_each_other_are_not_taken_for_put_back(dcu):
    wrong_order = (SET[1], SET[0])
    with pytest.raises(
        SimplonError, match=r"threshold/1/energy is 100000.0 instead of 30000.0.*: set it again"
    ):
        Simplon(dcu.url, settings=wrong_order).configure(1, 12)


def test_without_restoring_it_is_not_armed_until_it_was_initialized(dcu):
    control = Simplon(dcu.url, settings=SET, restore_settings=False)
    with pytest.raises(
        SimplonError, match=r"restore_settings is False.*call control.initialize\(\), set them"
    ):
        control.configure(1, 12)
    assert dcu.put() == []
    control.initialize()
    control.configure(1, 12)
    assert detector(dcu)["mask_to_zero"] is False
