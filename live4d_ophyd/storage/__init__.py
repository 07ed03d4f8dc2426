"""Runs into the databroker catalog and back: ``open_catalog``, ``record``, ``describe_run``."""

from live4d_ophyd.storage.backup import restore_backup
from live4d_ophyd.storage.catalog import ProfileConflict, catalog_directory, open_catalog
from live4d_ophyd.storage.describe import describe_run
from live4d_ophyd.storage.writer import CatalogWriter, record

__all__ = [
    "CatalogWriter",
    "ProfileConflict",
    "catalog_directory",
    "describe_run",
    "open_catalog",
    "record",
    "restore_backup",
]
