"""The process that writes catalogs outlives the sessions of a worker: each would wait seconds for Tiled.

To sessions of this process alone; those that a test starts as processes have their own.
"""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kept_catalog_process():
    try:
        from live4d_ophyd.storage import catalog_process
    except ModuleNotFoundError:  # a host for GPU tests alone has no catalog
        yield
        return
    process = catalog_process.catalog_process()
    process.start()  # in the environment of all tests, not of the one that is the first to record
    yield
    process.close()
