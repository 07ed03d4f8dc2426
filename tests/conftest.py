"""Kernels are compiled once, before the first test: no test's time-out should pay for that."""

import gc
import os
import tempfile

import pytest

from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.sources.dectris.zmtp.receiver import warm_up as warm_up_zmtp

pytest_plugins = ["empty_catalog", "kept_catalog_process", "kept_engines"]

# No test meets the catalogs of the user who runs it, nor leaves one. Tiled reads its variable when it is imported.
_nowhere = tempfile.TemporaryDirectory(prefix="live4d-tests-")
for _name in ("TILED_PROFILES", "XDG_DATA_HOME", "XDG_STATE_HOME"):
    os.environ[_name] = os.path.join(_nowhere.name, _name.lower())
for _name in ("LIVE4D_CATALOG", "LIVE4D_PROFILE", "LIVE4D_PUBLISH"):
    os.environ.pop(_name, None)

gc.disable()  # until all modules are imported: of what they make nothing is garbage


def compile_kernels():
    warm_up()
    warm_up_zmtp()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Before `pytest -n` has workers: each would compile the same, which takes half a minute of a core."""
    if getattr(session.config.option, "numprocesses", None) and not session.config.option.collectonly:
        gc.enable()  # it collects no tests: nothing else would
        compile_kernels()


def pytest_collection_finish(session):
    """Not in a fixture: that would be of the first test, and of its time-out."""
    gc.freeze()
    gc.enable()
    if session.items and not session.config.option.collectonly:
        compile_kernels()


def pytest_collection_modifyitems(items):
    """Whole runs first: they take longest, and the workers of `pytest -n` should end together."""
    items.sort(key=lambda item: "/system/" not in str(item.path))
