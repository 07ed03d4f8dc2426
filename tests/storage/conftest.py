import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "live"))  # the device that these tests record, too


@pytest.fixture
def RE():
    from fake_device import run_engine

    with run_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Environment of a user who has never used the package: nothing reaches the real home."""
    directory = tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        "HOME": str(directory),
        "TILED_PROFILES": str(directory / "profiles"),
        "TILED_CACHE_DIR": str(directory / "cache"),
        "XDG_DATA_HOME": str(directory / "data of the user"),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent / "live"), *filter(None, sys.path)]),
        "MPLBACKEND": "agg",
    }
    environment.pop("LIVE4D_CATALOG", None)
    return directory, environment
