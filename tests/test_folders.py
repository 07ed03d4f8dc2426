"""The user's files lie where the platform has them, and where the environment says."""

import os
import subprocess
import sys
import tempfile

import pytest

from live4d_ophyd.folders import FOLDERS, make_private
from live4d_ophyd.storage.catalog import choose_directory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="folders of Linux")
VARIABLES = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "LIVE4D_CATALOG", "NUMBA_CACHE_DIR")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home without variables that lead elsewhere."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def kernel_cache():
    code = "import numba; from live4d_ophyd.frames import memory; print(numba.config.CACHE_DIR)"
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_the_folders_of_a_home_are_used(home):
    assert FOLDERS.user_state_path == home / ".local" / "state" / "live4d-ophyd"
    assert choose_directory(None, "none") == home / ".local" / "share" / "live4d-ophyd" / "none"
    assert kernel_cache().startswith(f"{home}/.cache/live4d-ophyd/")


def test_the_environment_leads_elsewhere(home, monkeypatch):
    for name in VARIABLES[:3]:
        monkeypatch.setenv(name, f"/else/{name}")
    assert str(FOLDERS.user_state_path) == "/else/XDG_STATE_HOME/live4d-ophyd"
    assert str(choose_directory(None, "none")) == "/else/XDG_DATA_HOME/live4d-ophyd/none"
    assert kernel_cache().startswith("/else/XDG_CACHE_HOME/live4d-ophyd/")


def test_what_is_made_is_for_nobody_else_and_what_is_there_stays(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o755)
    before = (tmp_path / "shared").stat().st_mode
    make_private(tmp_path / "shared" / "catalog" / "images")
    make_private(tmp_path / "shared")
    assert (tmp_path / "shared").stat().st_mode == before
    for made in ("catalog", "catalog/images"):
        assert (tmp_path / "shared" / made).stat().st_mode & 0o777 == 0o700


def test_tests_have_folders_of_their_own():
    """Else they open the catalog of whoever runs them, or fail for a profile that is there already."""
    places = subprocess.check_output([sys.executable, "-c", PLACES], text=True).splitlines()
    assert len(places) == 3
    # Those of all tests, or of the tests that this process runs with a catalog of their own.
    assert all(place.startswith(f"{tempfile.gettempdir()}{os.sep}") for place in places)


PLACES = """
from tiled.profiles import paths
from live4d_ophyd.folders import FOLDERS
print(paths[-1], FOLDERS.user_state_path, FOLDERS.user_data_path, sep="\\n")
"""
