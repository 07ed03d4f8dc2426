"""Worker: runs one session's acquisitions in the engine, one after the other.

In: commands of the main thread. Out: events over an inproc PUSH socket, as [session they are for, how, the
acquisition they are about, message].
Threads: ``live4d-acquisition``, and ``live4d-progress`` while an acquisition runs.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import zmq

from live4d_ophyd.decode import Backend, GpuLost
from live4d_ophyd.engine.acquisition import Acquisition
from live4d_ophyd.engine.errors import Cancelled, EngineFault
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.previews import Changes
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Progress, RasterResult
from live4d_ophyd.engine.steps import OutOfStep

log = logging.getLogger(__name__)

#: how often progress goes to the session, with a preview if one is wanted, s
PROGRESS_PERIOD_S = 0.1
EVENTS = "inproc://events"
END = b""
ANY_SESSION = b""
#: how an event is to be delivered: in order and surely, as a preview, or past all that
SURELY, AS_PREVIEW, ASIDE = b"S", b"P", b"A"


@dataclass(frozen=True)
class _Series:
    """A series, and what was asked for when it was armed."""

    asked: bytes
    acquisition: Acquisition
    rasters: Generator[RasterResult, None, None]


class Worker:
    """Runs one session's acquisitions one after the other in its thread; keeps the stream open between them.

    ``record_in``: folders in which frames may be recorded; None: any. ``before`` is the worker of the session before,
    which is ended first. The other methods are for the main thread; the stream is closed by whichever thread is
    first: the worker's own may be waiting for the detector's answer.
    """

    def __init__(
        self,
        context: zmq.Context,
        session: bytes,
        backend: Backend,
        before: Worker | None = None,
        record_in: Sequence[Path] | None = None,
    ) -> None:
        self._record_in = record_in
        self._context = context
        self._backend = backend
        self._session = session
        self._before = before
        self._jobs: queue.Queue[tuple[int, AcquisitionRequest] | str | None] = queue.Queue()
        self._current: tuple[int, Acquisition] | None = None
        #: set when the session wants a preview, and the one before has arrived there
        self.preview_wanted = threading.Event()
        #: bytes that it should have at most
        self.preview_room = math.inf
        #: set when the session may not have the previews before
        self.preview_whole = threading.Event()
        self._changes = Changes()
        self._generation = 0
        self._cancelled_up_to = 0
        self._lock = threading.Lock()
        self._stream: OpenStream | None = None
        self._standing: _Series | None = None
        self._thread = threading.Thread(target=self._work, name="live4d-acquisition", daemon=True)
        self._thread.start()

    def acquire(self, generation: int, request: AcquisitionRequest) -> None:
        with self._lock:
            self._generation = max(self._generation, generation)
        self._jobs.put((generation, request))

    def cancel(self, generation: int) -> None:
        """Cancel this generation and all before it."""
        with self._lock:
            self._cancelled_up_to = max(self._cancelled_up_to, generation)
            if self._current is not None and self._current[0] <= generation:
                self._current[1].cancel()

    def release(self) -> None:
        """Cancel everything and drop the connections at once; ``released`` follows when the detector is left, too."""
        self.cancel(self._generation)
        self._close_stream()
        self._jobs.put("release")

    def end(self) -> None:
        self.cancel(self._generation)
        self._close_stream()
        self._jobs.put(None)
        self._thread.join()

    def _tell(self, events: zmq.Socket, message: protocol.FromEngine) -> None:
        how = AS_PREVIEW if isinstance(message, protocol.PreviewMade) else SURELY
        if isinstance(message, protocol.ASIDE):
            how = ASIDE
        generation = getattr(message, "generation", None)
        about = b"" if generation is None else b"%d" % generation
        events.send_multipart([self._session, how, about, protocol.encode(message)])

    def _work(self) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(EVENTS)
        try:
            if self._before is not None:
                self._before.end()
                self._before = None
            while (job := self._jobs.get()) is not None:
                if job == "release":
                    self._disarm()
                    self._close_stream()
                    self._tell(events, protocol.Released())
                else:
                    assert not isinstance(job, str)
                    self._run(events, *job)
        finally:
            self._disarm()
            self._close_stream()
            events.close()

    def _open_stream(self, request: AcquisitionRequest) -> OpenStream:
        stream = self._stream
        if stream is not None and not stream.serves(request.source):
            self._close_stream()
            stream = None
        if stream is None:
            stream = self._stream = OpenStream(request.source, self._backend.memory)
        return stream

    def _close_stream(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _run(self, events: zmq.Socket, generation: int, request: AcquisitionRequest) -> None:
        try:
            for raster in self._rasters_of(events, generation, request):
                self._tell(events, protocol.RasterDone(generation, raster))
            self._tell(events, protocol.Done(generation))
        except Cancelled:
            self._tell_failure(events, generation, Cancelled("cancelled"))
        except GpuLost as error:
            log.error("%s", error)
            self._tell_failure(events, generation, GpuLost(f"{error}. This engine process ends"))
            events.send_multipart([ANY_SESSION, ASIDE, b"", END])
        except Exception as error:
            log.info("acquisition %d failed", generation, exc_info=True)
            self._tell_failure(events, generation, error)
        except (
            BaseException
        ) as error:  # what nobody expects must not end the thread: there would be no answer
            log.exception("acquisition %d failed", generation)
            self._tell_failure(events, generation, EngineFault(f"{type(error).__name__}: {error}"))

    def _rasters_of(
        self, events: zmq.Socket, generation: int, request: AcquisitionRequest
    ) -> Iterator[RasterResult]:
        """The rasters of one acquisition; of the series that stands, if it is for the same."""
        if generation <= self._cancelled_up_to:
            raise Cancelled  # and open no connections, which would take frames of the next
        try:
            yield from self._go_through(events, generation, self._series_for(request))
        except OutOfStep as reason:
            log.warning("the detector did not stay armed for this trigger, and is armed anew: %s", reason)
            yield from self._go_through(events, generation, self._series_for(request))

    def _series_for(self, request: AcquisitionRequest) -> _Series:
        if request.record is not None and self._record_in is not None:
            request.record.check_within(self._record_in)
        asked = protocol.encode(protocol.Acquire(0, request))
        if self._standing is not None and self._standing.asked != asked:
            self._disarm()
        if self._standing is None:
            acquisition = Acquisition(_as_allowed(request), self._open_stream(request), self._backend)
            self._standing = _Series(asked, acquisition, acquisition.run())
        return self._standing

    def _disarm(self) -> None:
        """End the series that stands, if one does."""
        standing, self._standing = self._standing, None
        if standing is not None:
            standing.rasters.close()

    def _go_through(self, events: zmq.Socket, generation: int, series: _Series) -> Iterator[RasterResult]:
        acquisition = series.acquisition
        request, over = acquisition.request, threading.Event()
        self._changes.reset()
        acquisition.on_ready = lambda: self._tell(events, protocol.Armed(generation))
        reporter = threading.Thread(
            target=self._report, args=(acquisition, generation, over), name="live4d-progress", daemon=True
        )
        try:
            with self._lock:
                if generation <= self._cancelled_up_to:
                    raise Cancelled
                self._current = (generation, acquisition)
            reporter.start()
            for raster in islice(series.rasters, request.series.rasters_per_trigger):
                yield replace(raster, index=0) if request.stay_armed else raster
        finally:
            over.set()
            if reporter.ident is not None:
                reporter.join()
            with self._lock:
                self._current = None
            if not acquisition.stands:
                self._disarm()

    def _tell_failure(self, events: zmq.Socket, generation: int, error: Exception) -> None:
        self._tell(events, protocol.Failed(generation, protocol.Failure.of(error)))

    def _report(self, acquisition: Acquisition, generation: int, over: threading.Event) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(EVENTS)
        try:
            while not over.wait(PROGRESS_PERIOD_S):
                progress = acquisition.progress()
                self._tell(events, protocol.ProgressMade(generation, progress))
                if self.preview_wanted.is_set():
                    try:
                        if (outputs := acquisition.preview()) is not None:
                            self.preview_wanted.clear()
                            self._tell(events, self._preview(generation, progress, outputs))
                    except Exception as error:  # of the GPU, say; the acquisition meets it, too
                        log.warning("no preview: %s", error)
                        self.preview_wanted.clear()
        finally:
            events.close()

    def _preview(
        self, generation: int, progress: Progress, outputs: dict[str, np.ndarray]
    ) -> protocol.PreviewMade:
        if self.preview_whole.is_set():
            self.preview_whole.clear()
            self._changes.reset()
        number, rows = self._changes.of(outputs, self.preview_room)
        return protocol.PreviewMade(generation, number, progress, rows)


def _as_allowed(request: AcquisitionRequest) -> AcquisitionRequest:
    """With as many rasters as one series can have, where the detector stays armed for them."""
    control = request.source.control()
    if not request.stay_armed or control is None:
        return request
    return replace(request, rasters=control.most_rasters(request.series))
