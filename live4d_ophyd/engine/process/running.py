"""Running: the acquisition that a session waits for. Its callback gets valid events, in order, up to the last one.

In: what is asked for and cancelled, from any thread; what the engine says of it, and why it cannot go on, in the
client's. Out: calls of the callback in the client's thread, and what the engine is told (`Outgoing`). What the engine
says is checked against what it was asked for (`Conversation`): where it broke the rules, the callback gets Failed.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from live4d_ophyd.checks import shown
from live4d_ophyd.engine.errors import AcquisitionError, EngineLost, ProtocolError
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.conversation import Conversation
from live4d_ophyd.engine.process.delivery import PART_BYTES
from live4d_ophyd.engine.process.outage import SignsOfLife
from live4d_ophyd.engine.process.outgoing import Outgoing
from live4d_ophyd.engine.process.previews import Picture
from live4d_ophyd.engine.request import MAX_OUTPUTS_BYTES, AcquisitionRequest
from live4d_ophyd.log_limits import NotTooOften

log = logging.getLogger(__name__)
log.addFilter(NotTooOften())

Callback = Callable[[protocol.Event], None]

#: of a raster's message besides its outputs, at most; also room for parts that were under way when the acquisition
#: before was cancelled
_BESIDE_OUTPUTS_BYTES = 1 << 20


@dataclass(frozen=True)
class _Job:
    conversation: Conversation
    on_event: Callback

    @property
    def generation(self) -> int:
        return self.conversation.generation


class Running:
    """The acquisition that runs, if one does; ``outgoing`` leads to the engine."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._lost: EngineLost | None = None
        self._signs, self._picture = SignsOfLife(), Picture()
        #: whether a preview was asked for that has not come
        self.awaits_preview = False

    # From any thread ----------------------------------------------------------------------------

    def begin(self, generation: int, request: AcquisitionRequest, on_event: Callback) -> None:
        """This acquisition takes the place of the one before. Raises EngineLost."""
        message = protocol.encode(protocol.Acquire(generation, request))
        self._signs.begin(request.timeout, _most_parts(request))
        with self._lock:
            if self._lost:
                raise self._lost
            self._job = _Job(Conversation(generation, request), on_event)
        self._picture = Picture()
        self._outgoing.put(message, order=True)

    def cancel(self, generation: int) -> None:
        """Nothing more of this acquisition, and of those before it, is passed on."""
        with self._lock:
            if self._job and self._job.generation <= generation:
                self._job = None
        self._cancel_there(generation)

    def ask_for_preview(self, *, whole: bool = False) -> None:
        """Let the engine send a preview; ``whole``: one that builds on none before."""
        self.awaits_preview = True
        self._outgoing.put(protocol.encode(protocol.Preview(whole)))

    # In the client's thread ---------------------------------------------------------------------

    @property
    def timeout(self) -> float | None:
        """How long the stream may be silent, s; None while nothing runs."""
        job = self._now()
        return None if job is None else job.conversation.request.timeout

    def accept(
        self,
        event: protocol.Armed | protocol.ProgressMade | protocol.RasterDone | protocol.Done | protocol.Failed,
    ) -> None:
        """Pass on what the engine said. Raises ProtocolError for what it must not say."""
        job = self._now()
        if job is not None and job.conversation.accept(event):
            self._signs.of(event)
            self._deliver(job, event)

    def accept_preview(self, preview: protocol.PreviewMade) -> None:
        """The same of a preview; of one that nobody waits for nothing is made."""
        self.awaits_preview = False
        job = self._now()
        if job is None or preview.generation != job.generation:
            return
        _check_preview(preview, job.conversation.request)
        try:
            outputs = self._picture.update(preview.number, preview.outputs)
        except ValueError as error:
            raise ProtocolError(f"PreviewMade: {error}") from error
        if outputs is None:  # one before was lost with the connection
            self.ask_for_preview(whole=True)
        else:
            self.accept(protocol.ProgressMade(preview.generation, preview.progress, outputs))

    def part_came(self) -> None:
        """A part of what must arrive: the engine is alive."""
        self._signs.of_the_result()

    def too_silent(self) -> str:
        """What the engine has not said for too long; "" while there is time, and while nothing runs."""
        return "" if self._now() is None else self._signs.too_silent()

    def refused(self, generation: int | None, why: protocol.Failure) -> None:
        """The engine refused to do this acquisition, or with None whatever it was asked for."""
        job = self._now()
        if job is not None and generation in (None, job.generation):
            self._deliver(job, protocol.Failed(job.generation, why))

    def break_off(self, why: AcquisitionError) -> None:
        """Fail what runs, here and at the engine."""
        job = self._now()
        if job is not None:
            self._break_off(job, why)

    def lose(self, why: EngineLost) -> None:
        """The engine is gone: what runs ends, and nothing begins any more."""
        with self._lock:
            self._lost, job = why, self._job
        if job is not None:
            self._deliver(job, protocol.Lost(job.generation, why))

    def _now(self) -> _Job | None:
        with self._lock:
            return self._job

    def _cancel_there(self, generation: int) -> None:
        self._outgoing.put(protocol.encode(protocol.Cancel(generation)), order=True)

    def _break_off(self, job: _Job, why: AcquisitionError) -> None:
        if self._now() is not job:
            return
        self._cancel_there(job.generation)
        reason = f"{why.reason}. The acquisition was cancelled; nothing of it was kept"
        self._deliver(job, protocol.Failed(job.generation, replace(protocol.Failure.of(why), reason=reason)))

    def _deliver(self, job: _Job, event: protocol.Event) -> None:
        with self._lock:
            if self._job is not job:
                return  # cancelled meanwhile
            if isinstance(event, protocol.FINAL):
                self._job = None
        try:
            job.on_event(event)
        except Exception as error:
            log.exception("the receiver of the engine's events failed")
            if isinstance(
                event, protocol.Armed | protocol.RasterDone
            ):  # without these the rest is worth nothing
                name = type(event).__name__
                self._break_off(
                    job, AcquisitionError(f"the session failed at the engine's {name}: {error!r}")
                )


def _check_preview(preview: protocol.PreviewMade, request: AcquisitionRequest) -> None:
    """Raise ProtocolError for what the request's outputs cannot be: a few bytes may claim to be gigabytes."""
    outputs = request.outputs()
    for name, rows in preview.outputs.items():
        known, shape = outputs[name].shape if name in outputs else None, tuple(rows.shape)
        fits = known is not None and len(known) == len(shape)
        if rows.binned > 1:  # a length of 0 is not known before the detector is
            fits = fits and all(m in (n, 0) for n, m in zip(shape, known or ()))
            fits = fits and 8 * math.prod(shape) <= MAX_OUTPUTS_BYTES
        if not fits:
            raise ProtocolError(
                f"PreviewMade: rows of {shown(name)}, {shown(shape)}, which no output of the request is"
            )


def _most_parts(request: AcquisitionRequest) -> int:
    """Parts that the results of this acquisition have, at most."""
    shapes = [output.shape for output in request.outputs().values()]
    # A length of 0 is not known before the detector is.
    known = all(math.prod(shape) for shape in shapes)
    outputs = 8 * sum(map(math.prod, shapes)) if known else MAX_OUTPUTS_BYTES
    return request.series.rasters_per_trigger * -(-(outputs + _BESIDE_OUTPUTS_BYTES) // PART_BYTES)
