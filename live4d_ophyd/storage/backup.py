"""A run's documents on disk until the catalog has all of them.

``BackedUp`` stands between the RunEngine and the catalog's writer, in the RunEngine's thread: it appends
each document to a JSON Lines file and removes the file at the run's end. A file that stays is a run which
the catalog does not have completely; restore.py writes it again. The documents are not kept in memory, however
long the run.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from tiled.utils import safe_json_dump

from live4d_ophyd.urls import shown_text

logger = logging.getLogger(__name__)


class BackedUp:
    """Passes one run's documents to a file and to ``writer``, as long as one of the two takes them.

    Whichever fails gets nothing more: a run with a hole must not look complete. A file that failed is removed
    once the catalog holds more than it: it must never be restored over that. If both fail, the call raises
    and the plan ends. The file is locked while the run goes on.
    """

    def __init__(self, writer: Callable[[str, dict], Any], path: Path) -> None:
        self._writer: Callable[[str, dict], Any] | None = writer
        self._path = path
        self._file: FileIO | None = None
        self._left = False  # a file that failed and still lies there
        self._reasons: dict[str, str] = {}  # why the catalog and the backup failed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise
            self._file = file
        except OSError as error:
            self._report_file(error)

    def __call__(self, name: str, doc: dict) -> None:
        kept = self._keep(name, doc)
        stored = self._store(name, doc)
        if kept and not stored:
            kept = self._reach_disk()
        if not (kept or stored):
            reasons = "; ".join(f"{what}: {reason}" for what, reason in self._reasons.items())
            kept_in = "backup: `live4d restore` brings it into the catalog" if self._left else "catalog"
            raise RuntimeError(
                f"neither the catalog nor the backup {self._path} takes this run's documents ({reasons}). The plan "
                f"ends with this {name} document unsaved. What came before it is in the {kept_in}{_make_room(reasons)}"
            )
        if self._left and stored:
            self._remove()
        if name == "stop" and self._file is not None:
            if stored:
                self._remove()
            self._close()

    def _keep(self, name: str, doc: dict) -> bool:
        """Whether the document is in the file."""
        if self._file is None:
            return False
        end = self._file.tell()
        try:
            rest = memoryview(safe_json_dump({"name": name, "doc": doc}) + b"\n")
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
        except Exception as error:  # also of a document that is no JSON
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            self._file_failed(error)
        return self._file is not None

    def _store(self, name: str, doc: dict) -> bool:
        """Whether the document is in the catalog."""
        if self._writer is None:
            return False
        try:
            self._writer(name, doc)
        except Exception as error:
            self._writer = None
            reason = self._reasons["catalog"] = _reason(error)
            logger.error(
                "The catalog could not be written (%s).%s", reason,
                f" The plan goes on; this run's documents are in {self._path}: `live4d restore` brings them into the "
                "catalog" if self._file is not None else "",
            )  # fmt: skip
            logger.debug("The writer's error", exc_info=True)  # hundreds of lines of in-process web server
        return self._writer is not None

    def _reach_disk(self) -> bool:
        """Whether the file, now the only copy, is on the disk and not on its way there."""
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file_failed(error)
        return self._file is not None

    def _file_failed(self, error: Exception) -> None:
        self._left = True
        self._close()
        self._report_file(error)

    def _report_file(self, error: Exception) -> None:
        reason = self._reasons["backup"] = _reason(error)
        goes_on = ""
        if self._writer is not None:
            goes_on = f" The plan goes on without it while the catalog takes this run{_make_room(reason)}"
        logger.error("The backup %s could not be written (%s).%s", self._path, reason, goes_on)

    def _remove(self) -> None:
        self._left = False
        try:
            self._path.unlink()
            with suppress(OSError):
                self._path.parent.rmdir()  # unless it holds others: a demo leaves nothing behind
        except OSError as error:
            logger.error(
                "%s could not be removed (%s); the catalog has its run, remove it by hand",
                self._path, _reason(error),
            )  # fmt: skip

    def _close(self) -> None:
        assert self._file is not None
        with suppress(OSError):  # of a network's file, where fsync has said the same before
            self._file.close()
        self._file = None


def _reason(error: Exception) -> str:
    # An HTTP client's may be of several lines, and name its server with all that gives access to it.
    return shown_text(" ".join(f"{type(error).__name__}: {error}".split()))


def _make_room(reason: str) -> str:
    """The advice that helps where a disk is full, and only there. SQLite and servers have a text, no errno."""
    full = ("no space left", "disk is full", "quota exceeded")
    return ". Make room" if any(text in reason.lower() for text in full) else ""
