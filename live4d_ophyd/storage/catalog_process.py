"""The process that writes a catalog in a directory: what Tiled does with a document is tens of milliseconds of Python.

Comes in: calls of the session's ``live4d-catalog`` thread, one document each. Goes out, from the process: nodes of the
catalog.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from live4d_ophyd.beside import Beside
from live4d_ophyd.storage.catalog import directory_of

_processes: WeakValueDictionary[str, Beside] = WeakValueDictionary()


def process_of(db: Any) -> Beside | None:
    """What writes the catalog of this client, the same for all of the session; None for a server's, which is one."""
    path = directory_of(db)
    if path is None:
        return None
    directory = str(path)
    process = _processes.get(directory)
    if process is None:
        process = _processes[directory] = Beside(f"{__name__}:service", directory)
    return process


def writer_of_run(process: Beside) -> Callable[[str, dict], Any]:
    """What has the documents of one run written, its start document first. Raises `beside.Failed`."""
    run = ""

    def write(name: str, doc: dict) -> None:
        nonlocal run
        run = run or doc["uid"]
        process.call(run, name, doc)

    return write


def service(directory: str) -> Callable[[str, str, dict], None]:
    """Answers calls with a document of a run: writes it into the catalog in ``directory``. Runs in the process."""
    from live4d_ophyd.storage.catalog import existing_catalog
    from live4d_ophyd.storage.writer import run_writer

    db = existing_catalog(directory)
    writers: dict[str, Callable[[str, dict], Any]] = {}

    def write(run: str, name: str, doc: dict) -> None:
        if name == "start":
            writers[run] = run_writer(db)
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
