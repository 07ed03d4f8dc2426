"""A simulated detector under a RunEngine, shared by the tests that leave it as they found it."""

from __future__ import annotations

from contextlib import closing

import pytest
from system.survival.rig import Rig

from live4d_ophyd import ScanGrid
from live4d_ophyd.sim import SimulatorProcess

GRID = ScanGrid(20, 20)
#: simulators whose scan is this small part of the specimen, on a small detector
SMALL = {"rows": 20, "cols": 20, "shape": (48, 48), "frozen_noise": True}


@pytest.fixture(autouse=True)
def _engines(with_kept_engines):
    """Those that are left by other tests."""


@pytest.fixture(scope="module")
def _rig():
    with SimulatorProcess(**SMALL, rate=1000.0) as simulator, closing(Rig(simulator, GRID)) as rig:
        yield rig


@pytest.fixture
def rig(_rig):
    """400 frames at 1 kHz, no faults yet."""
    _rig.fault()
    _rig.live4d.timeout.put(10.0)
    yield _rig
    _rig.fault()


@pytest.fixture(scope="module")
def truth(_rig):
    """The image without any fault."""
    _rig.fault()
    (clean,) = _rig.count()
    assert clean.received == clean.expected
    return clean.image
