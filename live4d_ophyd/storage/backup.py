"""A run's documents on disk until the catalog has all of them.

``BackedUp`` stands between the RunEngine and the catalog's writer, in the RunEngine's thread: it appends
each document to a JSON Lines file and removes the file at the run's end. A file that stays is a run which
the catalog does not have completely; ``restore_backup`` writes it again. JSON knows no NaN: it is stored as
null and read back as NaN. The documents are not kept in memory, however long the run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiled.utils import safe_json_dump

logger = logging.getLogger(__name__)


class BackedUp:
    """Passes one run's documents to ``writer``; from its first failure on, to the file alone.

    A writer that failed once gets nothing more: a run with a hole must not look complete. The file is locked
    while the run goes on.
    """

    def __init__(self, writer: Callable[[str, dict], Any], path: Path) -> None:
        self._writer: Callable[[str, dict], Any] | None = writer
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = path.open("ab", buffering=0)
        fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __call__(self, name: str, doc: dict) -> None:
        self._lines.write(safe_json_dump({"name": name, "doc": doc}) + b"\n")
        if self._writer is not None:
            try:
                self._writer(name, doc)
            except Exception as error:
                self._writer = None
                logger.error(
                    "The catalog could not be written (%s: %s). The plan goes on; this run's documents are "
                    "in %s: live4d_ophyd.storage.restore_backup(db, path) brings them into the catalog",
                    type(error).__name__,
                    error,
                    self._path,
                )
                logger.debug(
                    "The writer's error", exc_info=True
                )  # hundreds of lines of in-process web server
        if name == "stop":
            if self._writer is not None:
                self._path.unlink()
            self._lines.close()


def restore_backup(db: Any, path: str | os.PathLike) -> str:
    """Write a backed up run into the catalog, in place of what it has of it; returns the run's uid.

    A run without a stop document (its session died) stays without. The file is removed. An incomplete last
    line, as a dying process leaves it, is dropped.

    Raises
    ------
    ValueError
        The run is still being written, or the file does not begin with a start document.
    """
    from live4d_ophyd.storage.writer import CatalogWriter

    path = Path(path)
    with path.open("rb") as lines:
        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: this run is still being written; wait for its end") from None
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
    if not entries or entries[0]["name"] != "start":
        raise ValueError(f"{path} is no backup of a run: its first line is not a start document")
    uid = entries[0]["doc"]["uid"]
    if uid in db:
        db.delete_contents(uid, recursive=True, external_only=False)
    writer = CatalogWriter(db)
    for entry in entries:
        writer(entry["name"], entry["doc"])
    path.unlink()
    return uid
