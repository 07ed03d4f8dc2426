"""Backed up runs into the catalog: what a run's journal holds, and ``restore_backup``.

In: what journal.py has left. JSON knows neither NaN nor infinity: numbers, and arrays of journals of before, have null
for both, read as NaN. Out: the run's nodes in the catalog, as if nothing had happened. One document is in memory at a
time.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from live4d_ophyd.storage.catalog import directory_of
from live4d_ophyd.storage.journal import arrays_of, documents, lock, start_document
from live4d_ophyd.storage.storable import Storable, Unstorable

logger = logging.getLogger(__name__)


class BackupInUse(ValueError):
    """The run of a backup is still being written, or restored."""


@dataclass(frozen=True)
class Backup:
    """What a backup file holds."""

    path: Path
    start: Mapping[str, Any]  #: the run's start document
    events: int  #: over all streams
    complete: bool  #: its stop document is there
    damaged: (
        int  #: lines that cannot be parsed, or refer to one that cannot; a truncated last one is not counted
    )
    unstorable: int  #: documents that the catalog cannot hold as what they are
    in_use: bool  #: its run is being written, or restored


def read_backup(path: str | os.PathLike) -> Backup:
    """What the file ``path`` holds; raises ``ValueError`` if it does not begin with a start document."""
    path = Path(path)
    with path.open("r+b") as lines:
        start = start_document(path, lines)
        in_use = not lock(lines)
        lines.seek(0)
        seen = _Progress(lambda name, doc: None)
        complete = False
        for document in documents(path, lines):
            seen.accept(document)
            complete |= document is not None and document[0] == "stop"
    return Backup(path, start, seen.events, complete, seen.damaged, len(seen.refusals), in_use)


def restore_backup(
    db: Any, path: str | os.PathLike, *, progress: Callable[[int], object] = lambda events: None
) -> str:
    """Write a backed up run into the catalog, in place of what it has of it; returns the run's uid.

    A run without a stop document (its session died) stays without. An incomplete last line, as a dying process
    leaves it, is dropped. Lines that cannot be parsed are left out and said, and so are documents that are
    `Unstorable` (older versions took them). The file is removed at the end (one with such lines is renamed to
    ``*.damaged``); whatever goes wrong before leaves it, and restoring it again begins anew. The restored run is the
    catalog's last one, ``db[-1]``.

    Parameters
    ----------
    progress
        Called after each document with the number of Events in the catalog so far.

    Raises
    ------
    BackupInUse
        The run is still being written, or restored elsewhere. A ``ValueError``.
    ValueError
        The file does not begin with a start document, or has less of the run than the catalog.
    """
    path = Path(path)
    with path.open("r+b") as lines:
        uid = start_document(path, lines)["uid"]
        if not lock(lines):
            raise BackupInUse(f"{path}: this run is still being written or restored; wait for its end")
        if os.fstat(lines.fileno()).st_nlink == 0:
            raise BackupInUse(f"{path}: this run has come into the catalog in the meantime")
        if uid in db:
            if "stop" in db[uid].metadata and (fault := _lacks(path, lines)):
                raise ValueError(f"{path} {fault}, and the catalog has the run completely: remove the file")
            db.delete_contents(uid, recursive=True, external_only=False)
        _remove_unknown(db, uid)
        lines.seek(0)
        # Not at the top: seconds of import, which every session would pay.
        from live4d_ophyd.storage.writer import run_writer

        written = _Progress(run_writer(db))
        for document in documents(path, lines):
            written.accept(document)
            progress(written.events)
        if lacking := written.lacking():
            kept = path.rename(path.with_suffix(".damaged"))
            logger.warning(
                "%s: %s; the catalog's run lacks them, the file is kept as %s", path, lacking, kept.name
            )
        else:
            path.unlink()
            arrays_of(path).unlink(missing_ok=True)
    return uid


def _remove_unknown(db: Any, uid: str) -> None:
    """Remove arrays of the run that the catalog does not know: its process was killed between making and noting one.

    They would be in the way of those of the same name. The run itself must not be in the catalog.
    """
    if (directory := directory_of(db)) is None:
        # A server's files go with a node only: one of the run's own name has the folder of all that is in the run.
        db.write_array(np.zeros(1), key=uid)
        db.delete_contents(uid, external_only=False)
    else:
        shutil.rmtree(directory / "images" / uid, ignore_errors=True)


class _Progress:
    """What of a backup has been written, and what has not."""

    def __init__(self, write: Callable[[str, dict], Any]) -> None:
        self._write = Storable(write)
        self.events = 0
        self.damaged = 0
        self.refusals: list[str] = []

    def accept(self, document: tuple[str, dict] | None) -> None:
        if document is None:
            self.damaged += 1
            return
        try:
            self._write(*document)
        except Unstorable as refusal:
            if document[0] == "start":
                raise
            self.refusals.append(str(refusal))
        else:
            self.events += _event_count(*document)

    def lacking(self) -> str:
        """What could not be written and why; empty if all was."""
        damaged = [f"{self.damaged} documents cannot be read"] if self.damaged else []
        refused = (
            [f"{len(self.refusals)} cannot be stored (first: {self.refusals[0]})"] if self.refusals else []
        )
        return ", ".join(damaged + refused)


def _lacks(path: Path, lines: BinaryIO) -> str:
    """What a journal lacks of its run; "" if it is whole."""
    lines.seek(0)
    has_stop = False
    for document in documents(path, lines):
        if document is None:
            return "has lines that cannot be read, or not their arrays"
        has_stop |= document[0] == "stop"
    return "" if has_stop else "ends before its run does"


def _event_count(name: str, doc: Mapping[str, Any]) -> int:
    return len(doc["seq_num"]) if name == "event_page" else int(name == "event")
