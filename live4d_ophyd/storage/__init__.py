"""Runs into the databroker catalog and back: ``open_catalog``, ``record``, ``describe_run``."""

from live4d_ophyd.storage.catalog import (
    ProfileConflict,
    backup_directory,
    catalog_directory,
    existing_catalog,
    open_catalog,
    served_from,
)
from live4d_ophyd.storage.describe import describe_run
from live4d_ophyd.storage.recorder import Recorder, record
from live4d_ophyd.storage.restore import Backup, BackupInUse, read_backup, restore_backup
from live4d_ophyd.storage.storable import Unstorable

__all__ = [
    "Backup",
    "BackupInUse",
    "ProfileConflict",
    "Recorder",
    "Unstorable",
    "backup_directory",
    "catalog_directory",
    "describe_run",
    "existing_catalog",
    "open_catalog",
    "read_backup",
    "record",
    "restore_backup",
    "served_from",
]
