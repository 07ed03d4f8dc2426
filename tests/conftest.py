"""Kernels are compiled once, before the first test: no test's time-out should pay for that."""

import gc
import importlib
import os
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import forked
import pytest

from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.sources.dectris.zmtp.receiver import warm_up as warm_up_zmtp

pytest_plugins = ["empty_catalog", "kept_catalog_process", "kept_engines"]

# No test meets the catalogs of the user who runs it, nor leaves one.
_nowhere = tempfile.TemporaryDirectory(prefix="live4d-tests-")
for _name in ("TILED_PROFILES", "XDG_DATA_HOME", "XDG_STATE_HOME"):
    os.environ[_name] = os.path.join(_nowhere.name, _name.lower())
for _name in ("LIVE4D_CATALOG", "LIVE4D_PROFILE", "LIVE4D_PUBLISH"):
    os.environ.pop(_name, None)
if "tiled.profiles" in sys.modules:  # it reads its variable when it is imported
    importlib.reload(sys.modules["tiled.profiles"])

gc.disable()  # until all modules are imported: of what they make nothing is garbage


def compile_kernels():
    warm_up()
    warm_up_zmtp()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Of `pytest -n`: a server that forks the processes of all workers, and compiles for them while they collect."""
    if not getattr(session.config.option, "numprocesses", None) or session.config.option.collectonly:
        return
    gc.enable()  # it collects no tests: nothing else would
    if forked.POSSIBLE:
        held = ExitStack()
        held.enter_context(forked.fork_server())
        held.enter_context(forked.workers_are_copies())
        session.config.add_cleanup(held.close)
    else:
        compile_kernels()  # each worker would compile the same


def pytest_collection(session):
    """Each worker imports another part of the tests first: pytest rewrites their assertions, which takes as long as all
    else that it does here, and the others find it done."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    wanted = [Path(argument.partition("::")[0]).resolve() for argument in session.config.args]
    files = [file for place in wanted for file in sorted(place.rglob("test_*.py"))]
    begin = len(files) * number // count
    for file in files[begin:] + files[:begin]:
        sys.path.insert(0, str(file.parent))
        with suppress(Exception, pytest.skip.Exception):  # said when they are collected
            importlib.import_module(file.stem)
        sys.path.pop(0)


def pytest_collection_finish(session):
    """Not in a fixture: that would be of the first test, and of its time-out."""
    gc.freeze()
    gc.enable()
    if session.items and not session.config.option.collectonly:
        forked.wait_until_ready()
        compile_kernels()
        forked.start_product_so()


#: folders with tests that wait more than they compute
WAITING = ("system", "window")


def pytest_collection_modifyitems(items):
    """Files that wait are spread among files that compute: the workers of `pytest -n` take both at any time, and keep
    the cores busy. The last ones are short, so that the workers end together."""
    files = list(dict.fromkeys(item.path for item in items))
    waiting = [file for file in files if _folder(file) in WAITING]
    computing = [file for file in files if file not in waiting]
    computing.sort(key=_rank)
    place = {file: 0.85 * number / len(waiting) for number, file in enumerate(waiting)}
    place |= {file: number / len(computing) for number, file in enumerate(computing)}
    items.sort(key=lambda item: (place[item.path], item.path))


def _rank(file):
    """The longest first: of the catalog, then those in no folder."""
    folder = _folder(file)
    return 0 if folder == "storage" else 1 if folder == file.name else 2


def _folder(file):
    return file.relative_to(Path(__file__).parent).parts[0]
