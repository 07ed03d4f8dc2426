import pytest
from sim_client import Client

from live4d_ophyd.sim.process import SimulatorProcess
from live4d_ophyd.sim.server import build_dcu
from live4d_ophyd.sim.specimen import Specimen


@pytest.fixture
def make_dcu():
    """DCUs in this process with an 8x8 raster of 32x32 frames and a small specimen."""
    made = []

    def make(**options):
        options = {"rows": 8, "cols": 8, "shape": (32, 32), "specimen": Specimen(size_nm=6.0)} | options
        made.append(build_dcu(**options))
        return made[-1]

    yield make
    for dcu in made:
        dcu.close()


@pytest.fixture
def make_client():
    """Clients of DCUs and processes."""
    made = []

    def make(*arguments, **options):
        made.append(Client(*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="module")
def simulator():
    """One simulator process with an 8x8 raster for the tests of a module."""
    with SimulatorProcess(rows=8, cols=8, dead_pixels=3) as process:
        yield process
