"""What whole runs of the startup files have in common."""

from __future__ import annotations

import os

import pytest
from numba.core import config

import live4d_ophyd.frames.memory  # noqa: F401  sets numba's cache directory


@pytest.fixture(scope="session", autouse=True)
def _at_once(catalogs_are_copies):
    """No test waits for Tiled to make a database."""


@pytest.fixture
def new_user(tmp_path, copy_empty_catalog):
    """Environment of a user with an empty home and no display, but not the first one for whom kernels are compiled."""
    (tmp_path / "home").mkdir()
    copy_empty_catalog(tmp_path / "catalog")
    keep = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "PYTHONPATH")}
    return keep | {
        "HOME": str(tmp_path / "home"),
        "NUMBA_CACHE_DIR": config.CACHE_DIR,
        "LIVE4D_CATALOG": str(tmp_path / "catalog"),
        "LIVE4D_SCAN": "16x16",
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own: catalogs and profiles of the test must not meet another's. Kernels may be shared."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "LIVE4D_CATALOG", "TILED_PROFILES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / ".config/tiled/profiles"])  # in this process, too
    return tmp_path
