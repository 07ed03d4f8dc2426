"""The short numbers of runs, ``db[12]``: one for each run, however many sessions use the catalog."""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from live4d_ophyd.storage.journal import read_start

log = logging.getLogger(__name__)

#: how long a run waits for a server that is asked for the newest scan id, s
SERVER_S = 2.0


class ScanIds:
    """``RE.scan_id_source``: the next scan id of a catalog, above that of every run before.

    A catalog in a directory has a file ``scan_id`` there, which is locked while one is taken. A Tiled server is asked
    for its newest run: two sessions that begin a run within the same moment may get one number.

    Parameters
    ----------
    db : the catalog's client
    backups : directory of the journals of runs that it does not have yet
    """

    def __init__(self, db: Any, backups: Path | None) -> None:
        self._db = db
        self._backups = backups
        directory = db.metadata.get("directory")
        self._file = Path(directory) / "scan_id" if directory else None

    async def __call__(self, md: Mapping[str, Any]) -> int:
        """The next one; at least one more than the metadata hold."""
        known = md.get("scan_id", 0)
        try:
            if self._file is not None:
                return _next_of(self._file, known)
            asking = asyncio.get_running_loop().run_in_executor(None, self.newest)
            return 1 + max(known, await asyncio.wait_for(asking, SERVER_S))
        except Exception as error:
            log.warning(
                "scan id %d may be another run's, too: the catalog cannot be asked for its newest (%s: %s)",
                known + 1, type(error).__name__, error,
            )  # fmt: skip
            return known + 1

    def newest(self) -> int:
        """Scan id of the run that began last, in the catalog or its journals; 0 before the first.

        It need not be that of ``db[-1]``: runs are restored later.
        """
        starts = []
        with suppress(IndexError):  # an empty catalog; len(db) would not do, Tiled caches it
            # Tiled compares the text of numbers: good for times of one length, not for scan ids.
            starts.append(self._db.sort(("start.time", -1)).values().first().metadata["start"])
        for path in self._backups.glob("*.jsonl") if self._backups else ():
            with suppress(ValueError, OSError):  # `live4d restore` says what is wrong with it
                starts.append(read_start(path))
        newest = max(starts, key=lambda start: start["time"], default=None)
        return 0 if newest is None else newest.get("scan_id", 0)


def _next_of(path: Path, known: int) -> int:
    """Count on in the file; a millisecond, as nobody keeps it locked."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read().strip()
        taken = int(text) if text.isdecimal() else 0  # a file that somebody has written into
        following = 1 + max(known, taken)
        file.seek(0)
        file.truncate()
        file.write(f"{following}\n")
    return following
