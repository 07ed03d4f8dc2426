import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@contextmanager
def _user_of(directory):
    """The profile of this catalog is the only one, and the one that a session opens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiled.profiles.paths", [directory / "profiles"])
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        patch.delenv("LIVE4D_CATALOG", raising=False)
        patch.setenv("LIVE4D_PROFILE", "test")
        yield


@pytest.fixture(scope="module")
def catalog(_old_runs):
    """A catalog with a count of one Event and a scan of three: ``db``, ``directory``, ``count``, ``scan``, ``take``."""
    with _user_of(_old_runs.profiles.parent):
        yield _old_runs


@pytest.fixture(scope="session")
def _old_runs(tmp_path_factory, catalogs_are_copies):
    """What `catalog` has. It takes seconds to make, and is for all modules; its profile is for one at a time."""
    import bluesky.plans as bp
    from bluesky.preprocessors import SupplementalData
    from canned import COLS, ROWS, Canned, Column
    from fake_device import run_engine
    from served_dcu import served_dcu

    from live4d_ophyd import Annulus, Disk, ScanGrid, Simplon, open_catalog
    from live4d_ophyd.storage import record

    directory = tmp_path_factory.mktemp("old runs")
    with served_dcu(rows=8, cols=8) as dcu, run_engine() as RE:
        with _user_of(directory):
            db = open_catalog(directory / "catalog", name="test")
            live4d = Canned(
                "tcp://127.0.0.1:9",
                name="live4d",
                scan=ScanGrid(ROWS, COLS, step=(0.5, 0.25), unit="nm", flyback=2),
                methods=[Disk("vbf", center=(46.5, 48.25), radius=15), Annulus("adf", inner=30, outer=80)],
                control=Simplon(dcu.rest_url),
            )
            column = Column(name="column")
            RE.preprocessors.append(SupplementalData(baseline=[column]))
            record(RE, db)

            def take(plan=None, **metadata):
                (uid,) = RE(plan or bp.count([live4d]), **metadata)
                return uid

            made = SimpleNamespace(
                db=db,
                directory=directory / "catalog",
                profiles=directory / "profiles",
                live4d=live4d,
                take=take,
                count=take(sample="gold on carbon", operator="Ada"),
                scan=take(
                    bp.scan([live4d], column.defocus, -50, 50, 3), sample={"name": "MoS2", "layers": 2}
                ),
            )
        yield made
        db.context.close()
