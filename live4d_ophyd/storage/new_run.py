"""A run that no RunEngine takes, into the catalog as one that it does: journal, scan id, writer and all.

In: metadata, and Events of its streams. Out: documents to a `Recorder`. Runs in the caller's thread; the recorder has
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from event_model import compose_run

from live4d_ophyd.storage.catalog import backup_directory
from live4d_ophyd.storage.recorder import WAIT_S, Recorder
from live4d_ophyd.storage.scan_ids import ScanIds


class NewRun:
    """A run in the catalog ``db``; it begins with the first call of `event`, and ends with `closed_at_the_end`.

    Calls raise `Unstorable`, and RuntimeError where neither journal nor catalog takes the run.
    """

    def __init__(self, db: Any, metadata: Mapping[str, Any], began: float) -> None:
        self._db = db
        self._metadata, self._began = dict(metadata), began
        self._run: Any = None
        self._recorder: Recorder | None = None
        self._streams: dict[str, Any] = {}
        self._keys: dict[str, Any] = {}

    @property
    def uid(self) -> str:
        """ "" before it has begun."""
        return "" if self._run is None else self._run.start_doc["uid"]

    def event(
        self,
        stream: str,
        data: Mapping[str, Any],
        data_keys: Mapping[str, Any],
        object_keys: Mapping[str, Sequence[str]],
        *,
        timestamps: Mapping[str, float],
        configuration: Mapping[str, Any] | None = None,
        hints: Mapping[str, Any] | None = None,
        time: float | None = None,
    ) -> None:
        """One more Event; the first of a stream describes it. Raises ValueError for another that has other keys."""
        if self._run is None:
            self._begin()
        if stream not in self._streams:
            self._streams[stream] = self._run.compose_descriptor(
                name=stream,
                data_keys=dict(data_keys),
                object_keys={name: list(keys) for name, keys in object_keys.items()},
                configuration=dict(configuration or {}),
                hints=dict(hints or {}),
                time=time,
            )
            self._keys[stream] = {key: entry.get("shape") for key, entry in data_keys.items()}
            self._put("descriptor", self._streams[stream].descriptor_doc)
        elif self._keys[stream] != (now := {key: entry.get("shape") for key, entry in data_keys.items()}):
            other = sorted(
                key
                for key in self._keys[stream].keys() | now.keys()
                if self._keys[stream].get(key) != now.get(key)
            )
            raise ValueError(
                f"an Event of {stream!r} has other {', '.join(other)} than the one before: runs of their own"
            )
        composed = self._streams[stream].compose_event(
            data=dict(data), timestamps=dict(timestamps), time=time, validate=False
        )
        self._put("event", composed)

    def _begin(self) -> None:
        backups = backup_directory(self._db)
        self._recorder = Recorder(self._db, backup_directory=backups)
        scan_id = ScanIds(self._db, backups).next()
        self._run = compose_run(time=self._began, metadata={"scan_id": scan_id, **self._metadata})
        self._put("start", self._run.start_doc)

    def _put(self, name: str, doc: Any) -> None:
        assert self._recorder is not None
        self._recorder(name, doc)

    @contextmanager
    def closed_at_the_end(self) -> Iterator[None]:
        """What happens within it is the run; what is raised ends it as failed, or aborted by Ctrl-C."""
        try:
            yield
        except BaseException as error:
            status = "fail" if isinstance(error, Exception) else "abort"
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._stop(status, reason)
            raise
        if not self._stop():
            raise RuntimeError(
                f"the catalog has not taken the run {self.uid} within {WAIT_S:g} s; it may still, or `live4d "
                "restore` brings it there from its backup"
            )

    def _stop(self, exit_status: str = "success", reason: str = "") -> bool:
        """End the run, if it has begun; whether the catalog has it."""
        if self._run is None:
            return True
        self._put("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))
        assert self._recorder is not None
        return self._recorder.wait(WAIT_S)
