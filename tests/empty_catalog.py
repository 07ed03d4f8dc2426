"""Catalogs without runs, at once: Tiled takes a process and some seconds for each. They are copies of one."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def copy_empty_catalog(tmp_path_factory):
    """``copy(directory)`` puts the database of a catalog there, unless there is one."""
    from live4d_ophyd.storage.database import make_database

    template = tmp_path_factory.mktemp("empty") / "catalog.db"

    def copy(directory):
        if not template.exists():
            make_database(template)
        Path(directory).mkdir(parents=True, exist_ok=True)
        target = Path(directory) / "catalog.db"
        if not target.exists():
            shutil.copyfile(template, target)
        return Path(directory)

    return copy


@pytest.fixture(scope="session")
def catalogs_are_copies(copy_empty_catalog):
    """Also for all that open a new catalog in this process."""
    from live4d_ophyd.storage import catalog

    make = catalog.make_database

    def copy(path):
        copy_empty_catalog(path.parent)
        make(path)  # which finds it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "make_database", copy)
        yield
