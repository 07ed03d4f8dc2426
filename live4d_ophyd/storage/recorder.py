"""Every run of a RunEngine into the catalog, without holding the RunEngine up.

A document passes `_Wanted` (is its stream stored?) and `Storable` (can it be?) and is in the run's journal before the
call returns. The thread ``live4d-catalog`` takes it from there: two that write through Tiled's client get in each
other's way. It has a catalog in a directory written by a process (catalog_process.py). A journal that stays is a run
that the catalog does not have completely; restore.py writes it again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from event_model import RunRouter
from tqdm import tqdm

from live4d_ophyd.beside import Failed
from live4d_ophyd.image_streams import previewed_device
from live4d_ophyd.storage.catalog import backup_directory, directory_of
from live4d_ophyd.storage.catalog_process import process_of, writer_of_run
from live4d_ophyd.storage.journal import Journal
from live4d_ophyd.storage.scan_ids import ScanIds
from live4d_ophyd.storage.storable import Storable, check_start, storable_metadata
from live4d_ophyd.urls import shown_text

logger = logging.getLogger(__name__)

#: of documents that wait for the catalog, held in memory; a run that needs more is left to `live4d restore`
MOST_WAITING_BYTES = 1 << 30
#: how long the end of a plan waits for the catalog, s: without a word, while it takes nothing, and in all
PATIENCE_S, SILENT_S, WAIT_S = 2.0, 30.0, 300.0


class Recorder:
    """Stores the documents it is called with: ``RE.subscribe(Recorder(db))``; `record` does that and more.

    Parameters
    ----------
    db
        A catalog client, as of ``open_catalog``.
    backup_directory
        Where the journals are, ``DIRECTORY/UID.jsonl``: each is removed when its run is complete in the catalog. What
        lies there belongs to runs that are not: the session died, or the catalog could not be written (disk full), in
        which case the plan goes on. `live4d restore` brings it into the catalog.
    previews
        Store the streams of previews (``live4d_live``) as well. They take far more room than the results.
    skip_streams
        Names of further streams that are not stored.

    A call raises `Unstorable` for a document that would not be stored as what it is, which ends the run (what came
    before is stored, with the stop document), and RuntimeError when neither journal nor catalog takes the run.
    """

    def __init__(
        self,
        db: Any,
        *,
        backup_directory: str | os.PathLike | None = None,
        previews: bool = False,
        skip_streams: Collection[str] = (),
    ) -> None:
        self._db = db
        self._process = process_of(db)
        self._directory = directory_of(db)
        if self._process is not None:
            self._process.start()  # it makes itself ready while the session goes on starting
        else:
            import live4d_ophyd.storage.writer  # noqa: F401  seconds; not during a run, and not where the process writes
        self._backups = None if backup_directory is None else Path(backup_directory)
        self._previews = previews
        self._skip_streams = frozenset(skip_streams)
        self._thread = CatalogThread()
        self._router = RunRouter([self._run])
        self._lost: list[RecordedRun] = []  #: runs with a document that is nowhere, and nobody knows yet

    def __call__(self, name: str, doc: dict) -> None:
        self._router(name, doc)

    def _run(self, name: str, start: dict) -> tuple[list[Callable], list]:
        check_start(start)
        path = None if self._backups is None else self._backups / f"{start['uid']}.jsonl"
        run = RecordedRun(self._writer_of_run, path, self._thread, self._lost.append)
        return [_Wanted(Storable(run), self._previews, self._skip_streams)], []

    def _writer_of_run(self) -> Callable[[str, dict], Any]:
        if self._process is not None:
            return writer_of_run(self._process, self._directory)
        from live4d_ophyd.storage.writer import run_writer

        return run_writer(self._db)

    def wait(self, timeout: float = SILENT_S) -> bool:
        """Wait until the catalog has all that came, ``timeout`` s at most; whether it has.

        Raises RuntimeError if the end of a run is nowhere.
        """
        done = self._thread.wait(timeout)
        while self._lost:
            self._lost.pop().raise_if_lost()
        return done

    @contextmanager
    def written_at_the_end(self, RE: Any) -> Iterator[None]:
        """For ``RE.context_managers``: when ``RE(...)`` returns, the catalog has the run, or that it lags is said."""
        try:
            yield
        except BaseException:
            try:
                self._wait_and_log()
            except RuntimeError as error:  # the plan's own failure goes first
                logger.error("%s", error)
            raise
        self._wait_and_log()

    def _wait_and_log(self) -> None:
        if self.wait(PATIENCE_S):
            return
        with suppress(KeyboardInterrupt):
            if self._wait_while_it_moves():
                return
        logger.warning(
            "The catalog is still %d documents behind; they are written while you go on, and until then the newest "
            "runs lack their ends", self._thread.waiting,
        )  # fmt: skip

    def _wait_while_it_moves(self) -> bool:
        """Wait with a bar while documents go into the catalog; whether all have."""
        began = moved = time.monotonic()
        waiting = self._thread.waiting
        words = "into the catalog (Ctrl-C: go on)"
        with tqdm(total=waiting, desc=words, unit="documents", leave=False, disable=None) as bar:
            while not self.wait(0.2):
                now, left = time.monotonic(), self._thread.waiting
                if left < waiting:
                    bar.update(waiting - left)
                    waiting, moved = left, now
                if now - moved > SILENT_S or now - began > WAIT_S:
                    return False
        return True


class CatalogThread:
    """The one thread that has the catalog written: calls in order, each when those before are done."""

    def __init__(self) -> None:
        # The interpreter waits for it when it ends.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="live4d-catalog")
        self._lock = threading.Lock()
        self.waiting = 0  #: calls

    def put(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have ``call(*arguments)`` done, which does not raise."""
        with self._lock:
            self.waiting += 1
        self._executor.submit(self._do, call, arguments)

    def _do(self, call: Callable[..., None], arguments: tuple) -> None:
        try:
            call(*arguments)
        except Exception:
            logger.exception("a fault in what writes the catalog")
        finally:
            with self._lock:
                self.waiting -= 1

    def wait(self, timeout: float) -> bool:
        """Wait until all that was put before is done; whether it is."""
        try:
            self._executor.submit(lambda: None).result(timeout)
        except TimeoutError:
            return False
        return True


class RecordedRun:
    """Passes one run's documents to its journal and to the catalog, as long as one of the two takes them.

    Whichever fails gets nothing more: a run with a hole must not look complete. A journal that failed is removed
    once the catalog holds more than it: it must never be restored over that. If both fail, this or the next call raises
    and the plan ends. The documents are not kept in memory, however long the run.

    Parameters
    ----------
    writer : makes what writes the run into the catalog; called by the thread
    path : of the journal; None: there is none
    thread : the one that writes the catalog
    on_loss : called with this run when the thread finds that a document is neither here nor there
    """

    def __init__(
        self,
        writer: Callable[[], Callable[[str, dict], Any]],
        path: Path | None,
        thread: CatalogThread,
        on_loss: Callable[[RecordedRun], None] = lambda run: None,
    ) -> None:
        self._make_writer = writer
        self._writer: Callable[[str, dict], Any] | None = None
        self._thread = thread
        self._path = path
        self._on_loss = on_loss
        self._lock = threading.RLock()  # of what follows: read and written by both threads
        self._waiting_bytes = 0
        self._in_catalog = True  #: it takes what comes
        self._journal: Journal | None = None
        self._left: Journal | None = None  #: a journal that failed and still lies there
        self._reasons: dict[str, str] = {}  #: why the catalog and the journal failed
        self._lost = ""  #: kind of the first document that neither has
        if path is None:
            self._reasons["backup"] = "there is none"
        else:
            try:
                self._journal = Journal(path)
            except OSError as error:
                self._report_journal(error)

    # The RunEngine's thread ----------------------------------------------------------------------

    def __call__(self, name: str, doc: dict) -> None:
        doc = _as_it_is(doc)
        kept = self._append_to_journal(name, doc)
        size = _size(doc)
        with self._lock:
            if self._in_catalog and self._waiting_bytes > MOST_WAITING_BYTES:
                self._give_up_catalog(
                    f"it is {self._thread.waiting} documents behind, {self._waiting_bytes / 1e9:.1f} GB: more than is "
                    "held in memory"
                )
            self._waiting_bytes += size
            if not kept and not self._in_catalog:
                self._lost = self._lost or name
        self.raise_if_lost()
        self._thread.put(self._store, name, doc, kept, size)

    def _append_to_journal(self, name: str, doc: dict) -> bool:
        """Whether the document is in the journal."""
        journal = self._journal
        if journal is None:
            return False
        try:
            journal.append(name, doc)
        except Exception as error:  # also of a document that is no JSON
            self._journal_failed(error)
            return False
        return True

    def raise_if_lost(self) -> None:
        """Raise RuntimeError if a document is neither in the journal nor in the catalog."""
        if not self._lost:
            return
        reasons = "; ".join(f"{what}: {reason}" for what, reason in self._reasons.items())
        kept_in = "backup: `live4d restore` brings it into the catalog" if self._left else "catalog"
        raise RuntimeError(
            f"neither the catalog nor the backup {self._path} takes this run's documents ({reasons}). The plan "
            f"ends with this {self._lost} document unsaved. What came before it is in the {kept_in}"
            f"{_make_room(reasons)}"
        )

    # The catalog's thread ------------------------------------------------------------------------

    def _store(self, name: str, doc: dict, kept: bool, size: int) -> None:
        """Write a document of ``size`` bytes into the catalog; ``kept``: the journal has it, too."""
        stored = self._in_catalog and self._write(name, doc)
        if not stored and kept and self._journal is not None:
            kept = self._reach_disk(self._journal)
        with self._lock:
            self._waiting_bytes -= size
            if not stored and not kept and not self._lost:
                self._lost = name
                self._on_loss(self)
            if stored and self._left is not None and not kept:
                self._remove(self._left)  # it has less than the catalog
                self._left = None
            if name == "stop" and self._journal is not None:
                if stored:
                    self._remove(self._journal)
                self._journal.close()
                self._journal = None

    def _write(self, name: str, doc: dict) -> bool:
        """Whether the document is in the catalog."""
        try:
            if self._writer is None:
                self._writer = self._make_writer()
            self._writer(name, doc)
        except Exception as error:
            logger.debug("The writer's error", exc_info=True)  # hundreds of lines of in-process web server
            with self._lock:
                self._give_up_catalog(_reason(error))
                self._writer = None
            return False
        return True

    def _reach_disk(self, journal: Journal) -> bool:
        """Whether the journal, now the only copy, is on the disk and not on its way there."""
        try:
            journal.sync()
        except OSError as error:
            self._journal_failed(error)
            return False
        return True

    # Either --------------------------------------------------------------------------------------

    def _give_up_catalog(self, reason: str) -> None:
        """The catalog gets nothing more of this run."""
        self._in_catalog = False
        self._reasons["catalog"] = reason
        goes_on = ""
        if self._journal is not None:
            goes_on = (
                f" The plan goes on; this run's documents are in {self._path}: `live4d restore` brings them into the "
                "catalog"
            )
        logger.error("The catalog could not be written (%s).%s", reason, goes_on)

    def _journal_failed(self, error: Exception) -> None:
        """The journal gets nothing more of this run."""
        with self._lock:
            if self._journal is None:
                return
            self._left, self._journal = self._journal, None
            self._left.close()
        self._report_journal(error)

    def _report_journal(self, error: Exception) -> None:
        reason = self._reasons["backup"] = _reason(error)
        goes_on = ""
        if self._in_catalog:
            goes_on = f" The plan goes on without it while the catalog takes this run{_make_room(reason)}"
        logger.error("The backup %s could not be written (%s).%s", self._path, reason, goes_on)

    def _remove(self, journal: Journal) -> None:
        try:
            journal.remove()
        except OSError as error:
            logger.error(
                "%s could not be removed (%s); the catalog has its run, remove it by hand",
                self._path, _reason(error),
            )  # fmt: skip


def record(RE: Any, db: Any, *, previews: bool = False, skip_streams: Collection[str] = ()) -> int:
    """Store every run of the RunEngine in the catalog from now on; returns the token for ``RE.unsubscribe``.

    ``db`` is a client of ``open_catalog``, of ``databroker.catalog[...]`` or of a Tiled server;
    ``backup_directory(db)`` is used. When ``RE(...)`` returns, the catalog has its runs. Scan ids are unique over
    sessions (`ScanIds`), so that ``db[scan_id]`` is one run; larger ones than the RunEngine's metadata hold. Metadata
    that cannot be stored are refused before a run begins. ``previews`` and ``skip_streams`` as in `Recorder`.
    """
    backups = backup_directory(db)
    RE.scan_id_source = ScanIds(db, backups)
    RE.md.setdefault("scan_id", RE.scan_id_source.begin())
    validate = RE.md_validator

    def storable(metadata: dict) -> None:
        validate(metadata)
        storable_metadata(metadata)

    RE.md_validator = storable
    recorder = Recorder(db, backup_directory=backups, previews=previews, skip_streams=skip_streams)
    # The first: entered before, and left after, what turns Ctrl-C into a pause.
    RE.context_managers.insert(0, recorder.written_at_the_end)
    return RE.subscribe(recorder)


class _Wanted:
    """Leaves out the descriptors and Events of the named streams and, if not asked for, of previews."""

    def __init__(self, write: Callable[[str, dict], Any], previews: bool, unwanted: frozenset[str]) -> None:
        self._write = write
        self._previews = previews
        self._unwanted = unwanted
        self._descriptors: set[str] = set()

    def __call__(self, name: str, doc: dict) -> None:
        if name == "descriptor" and (
            doc["name"] in self._unwanted or (not self._previews and previewed_device(doc) is not None)
        ):
            self._descriptors.add(doc["uid"])
        elif doc.get("descriptor") not in self._descriptors:
            self._write(name, doc)


def _as_it_is(doc: dict) -> dict:
    """The document with arrays that nobody else can change: it is written later, and devices reuse theirs."""
    data = doc.get("data")
    if not isinstance(data, dict):
        return doc
    copies = {
        key: value.copy()
        for key, value in data.items()
        if isinstance(value, np.ndarray) and (value.flags.writeable or value.base is not None)
    }
    return {**doc, "data": {**data, **copies}} if copies else doc


def _size(doc: Mapping[str, Any]) -> int:
    """What a document holds, bytes, roughly."""
    return 4096 + sum(getattr(value, "nbytes", 64) for value in doc.get("data", {}).values())


def _reason(error: Exception) -> str:
    # An HTTP client's may be of several lines, and name its server with all that gives access to it.
    kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
    return shown_text(" ".join(f"{kind}{error}".split()))


def _make_room(reason: str) -> str:
    """The advice that helps where a disk is full, and only there. SQLite and servers have a text, no errno."""
    full = ("no space left", "disk is full", "quota exceeded")
    return ". Make room" if any(text in reason.lower() for text in full) else ""
