"""The process that writes catalogs in directories: what Tiled does with a document is tens of milliseconds of Python.

Comes in: calls of the session's ``live4d-catalog`` threads, one document each. Goes out, from the process: nodes of the
catalogs.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from live4d_ophyd.beside import Beside, of_session
from live4d_ophyd.storage.catalog import directory_of


def process_of(db: Any) -> Beside | None:
    """What writes the catalog of this client; None for a server's, which is a process already."""
    return None if directory_of(db) is None else catalog_process()


def catalog_process() -> Beside:
    """The one for all catalogs in directories."""
    return of_session(f"{__name__}:service")


def writer_of_run(process: Beside, directory: Path | None) -> Callable[[str, dict], Any]:
    """What has the documents of one run written, its start document first. Raises `beside.Failed`."""
    run = ""

    def write(name: str, doc: dict) -> None:
        nonlocal run
        run = run or doc["uid"]
        process.call(str(directory), run, name, doc)

    return write


def service() -> Callable[[str, str, str, dict], None]:
    """Answers calls with a document of a run: writes it into the catalog in a directory. Runs in the process."""
    from live4d_ophyd.storage.catalog import existing_catalog, import_server
    from live4d_ophyd.storage.writer import run_writer

    import_server()
    catalogs: dict[str, tuple[Any, tuple[int, int]]] = {}

    def client_of(directory: str) -> Any:
        if directory not in catalogs:
            catalogs[directory] = existing_catalog(directory), _database(directory)
            gc.freeze()  # what it has made stays
        client, database = catalogs[directory]
        if _database(directory) != database:
            # With a journal of its kind (WAL) SQLite would go on in the file that was removed, and say nothing.
            raise RuntimeError(f"{directory} was removed and made again: a new session can write there")
        return client

    writers: dict[tuple[str, str], Callable[[str, dict], Any]] = {}

    def write(directory: str, uid: str, name: str, doc: dict) -> None:
        run = directory, uid  # one run may go into several catalogs
        if name == "start":
            writers[run] = run_writer(client_of(directory))
        elif run not in writers:
            raise RuntimeError("the process that began to write this run has gone")
        try:
            writers[run](name, doc)
        except Exception:
            del writers[run]  # it gets nothing more
            raise
        if name == "stop":
            del writers[run]

    return write


def _database(directory: str) -> tuple[int, int]:
    """What tells a catalog's database from one that has taken its place."""
    status = os.stat(Path(directory) / "catalog.db")
    return status.st_dev, status.st_ino
