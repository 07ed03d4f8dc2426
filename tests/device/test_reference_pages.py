"""docs/reference names every data key of an Event, every setting, and every public name, and none that there is not."""

import re
from pathlib import Path

import pytest

import live4d_ophyd
from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid
from live4d_ophyd.device.detector_settings import DetectorSettings
from live4d_ophyd.device.signals import Setting

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
KEYS, SETTINGS = (REFERENCE / name for name in ("event-keys.md", "settings.md"))


@pytest.fixture
def live4d():
    device = Live4D(
        "tcp://127.0.0.1:9",
        name="live4d",
        scan=ScanGrid(4, 4),
        methods=[Disk("vbf", radius=3), Annulus("adf", inner=4, outer=6)],
    )
    device.pattern_enabled.put(True)
    yield device
    device.close()


def in_tables(page):
    """Names in the first column of the page's tables."""
    rows = re.findall(r"^\| (`.*?) \|", page.read_text(), re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def settings_of(device):
    return {name for name in device.component_names if isinstance(getattr(device, name), Setting)}


def test_the_tables_of_an_event_are_its_results(live4d):
    settings = {key for name in settings_of(live4d) for key in getattr(live4d, name).describe()}
    of_vbf = {key for key in live4d.describe().keys() - settings if not key.startswith("live4d_adf")}
    streams = {"live4d_movie", "live4d_live"}
    in_configuration = {"live4d_backend", "live4d_backend_detail"}
    assert {
        key for key in in_tables(KEYS) if key.startswith("live4d_")
    } - streams == of_vbf - in_configuration


def test_the_tables_of_settings_are_the_device_s_and_the_detector_s(live4d):
    of_detector = {name for name in DetectorSettings.component_names if name != "status"}
    variables = {name for name in in_tables(SETTINGS) if name.isupper()}
    in_text = set(re.findall(r"`(\w+)`", SETTINGS.read_text()))
    assert settings_of(live4d) <= in_tables(SETTINGS) - variables <= settings_of(live4d) | of_detector
    assert of_detector <= in_text


def test_every_public_name_is_described():
    described = set()
    for page in ("api.md", "plans.md"):
        text = (REFERENCE / page).read_text()
        described |= set(
            re.findall(r"^\.\. auto(?:class|exception|function|module):: \S*?(\w+)(?:\(|$)", text, re.M)
        )
        for members in re.findall(r"^   :members: (.*)$", text, re.M):
            described |= set(members.split(", "))
    assert set(live4d_ophyd.__all__) - described == set()
