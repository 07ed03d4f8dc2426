"""The short numbers of runs, ``db[12]``: one for each run, however many sessions use the catalog."""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from live4d_ophyd.storage.catalog import directory_of
from live4d_ophyd.storage.journal import read_start

log = logging.getLogger(__name__)

#: how long a run waits for its scan id, s: for the file while another session has it, or for the server
PATIENCE_S = 2.0


class ScanIds:
    """``RE.scan_id_source``: the next scan id of a catalog, above that of every run before.

    A catalog in a directory has a file ``scan_id`` there, which is locked while one is taken. A Tiled server is asked
    for its largest: two sessions that begin a run within the same moment may get one number.

    Parameters
    ----------
    db : the catalog's client
    backups : directory of the journals of runs that it does not have yet
    """

    def __init__(self, db: Any, backups: Path | None) -> None:
        self._db = db
        self._backups = backups
        directory = directory_of(db)
        self._file = None if directory is None else directory / "scan_id"

    async def __call__(self, md: Mapping[str, Any]) -> int:
        """The next one; at least one more than the metadata hold."""
        known = md.get("scan_id", 0)
        # In a thread: a disk or a server may take its time, and the RunEngine's loop must not.
        asking = asyncio.get_running_loop().run_in_executor(None, self.next, known)
        try:
            return await asyncio.wait_for(asking, PATIENCE_S)
        except Exception as error:
            log.warning(
                "scan id %d may be another run's, too: the catalog cannot be asked for its largest (%s: %s)",
                known + 1, type(error).__name__, error,
            )  # fmt: skip
            return known + 1

    def begin(self) -> int:
        """The largest scan id so far; from now on it is known to all sessions of a directory."""
        largest = self.largest()
        if self._file is not None:
            with suppress(OSError):  # said when a run begins
                _count_on(self._file, largest, by=0)
        return largest

    def next(self, known: int = 0) -> int:
        """The next one; at least one more than ``known``. Waits for disk or server."""
        if self._file is None:
            return 1 + max(known, self.largest())
        return _count_on(self._file, known, by=1)

    def largest(self) -> int:
        """Of the runs in the catalog and its journals; 0 before the first."""
        found = self._db.distinct("start.scan_id")["metadata"]["start.scan_id"]
        ids = [entry["value"] for entry in found]
        for path in self._backups.glob("*.jsonl") if self._backups else ():
            with suppress(ValueError, OSError):  # `live4d restore` says what is wrong with it
                ids.append(read_start(path).get("scan_id"))
        return max((number for number in ids if isinstance(number, int)), default=0)


def _count_on(path: Path, known: int, by: int) -> int:
    """The larger of ``known`` and the number in the file, plus ``by``, which is then in the file."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read().strip()
        taken = int(text) if text.isdecimal() else 0  # a file that somebody has written into
        following = max(known, taken) + by
        file.truncate(0)
        file.write(f"{following}\n")
    return following
