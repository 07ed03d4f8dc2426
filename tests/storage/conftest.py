import os
import sys
from contextlib import contextmanager

import pytest


@pytest.fixture
def RE():
    from fake_device import run_engine

    with run_engine() as engine:
        yield engine


@pytest.fixture(scope="session", autouse=True)
def _at_once(catalogs_are_copies):
    """No test waits for Tiled to make a database."""


@pytest.fixture(scope="module")
def home(tmp_path_factory, copy_empty_catalog):
    """Environment of a user who has never used the package: nothing reaches the real home."""
    directory = tmp_path_factory.mktemp("home")
    copy_empty_catalog(directory / "catalog")
    environment = {
        **os.environ,
        "HOME": str(directory),
        "TILED_PROFILES": str(directory / "profiles"),
        "TILED_CACHE_DIR": str(directory / "cache"),
        "XDG_DATA_HOME": str(directory / "data of the user"),
        "XDG_STATE_HOME": str(directory / "state"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MPLBACKEND": "agg",
    }
    environment.pop("LIVE4D_CATALOG", None)
    return directory, environment


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """A catalog of this process, under a profile that nobody else sees."""
    from live4d_ophyd.storage import open_catalog

    directory = tmp_path_factory.mktemp("catalog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiled.profiles.paths", [directory / "profiles"])
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        patch.delenv("LIVE4D_CATALOG", raising=False)
        patch.setenv("LIVE4D_PROFILE", "test")
        client = open_catalog(directory / "catalog", name="test")
        yield client
        client.context.close()


@pytest.fixture(autouse=True)
def _no_process(request, monkeypatch):
    """The catalog is written in this process, where it can be made to fail; ``beside`` marks tests of the other way."""
    if request.node.get_closest_marker("beside") is None:
        monkeypatch.setattr("live4d_ophyd.storage.recorder.process_of", lambda db: None)


@pytest.fixture
def live4d():
    from fake_device import FakeLive4D

    return FakeLive4D(name="live4d", shape=(8, 8), rows_per_s=200)


@pytest.fixture
def catalog_failing_at(db):
    """``with catalog_failing_at(NAME, number=1)``: from the ``number``-th document NAME on nothing can be stored."""
    from live4d_ophyd.storage.writer import _NamedDimsRunWriter

    def full(*args, **kwargs):
        raise OSError("disk full")

    @contextmanager
    def failing(name, number=1):
        written = getattr(_NamedDimsRunWriter, name)
        seen = []

        def write(self, doc):
            seen.append(doc)
            if len(seen) == number:
                patch.setattr(db.context.http_client, "send", full)
            written(self, doc)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_NamedDimsRunWriter, name, write)
            yield
        assert len(seen) >= number

    return failing
