"""Acquisition: one series of a DECTRIS stream, from socket to images.

``run`` yields each raster as it ends. Threads: the caller's, which arms, watches and yields, and one
``live4d-receive-N`` per connection, which receives, decodes and sums; plus ``live4d-trigger`` while a software
trigger lasts. The receive threads are the stream's, and joined before ``run`` returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator

import numpy as np

from live4d_ophyd.decode import Backend, CpuBackend
from live4d_ophyd.decode import warm_up as warm_up_decoder
from live4d_ophyd.engine.diagnosis import report, why_nothing_came
from live4d_ophyd.engine.errors import AcquisitionError
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.hold import ENGINE_ID, Hold
from live4d_ophyd.engine.lane import Lane
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Progress, RasterResult
from live4d_ophyd.engine.series import Series
from live4d_ophyd.engine.steps import STRAGGLER_S, OutOfStep, Steps
from live4d_ophyd.sources.dectris.connection import DectrisConnection
from live4d_ophyd.sources.dectris.receiver import Receiver
from live4d_ophyd.sources.dectris.receiver import warm_up as warm_up_receiver
from live4d_ophyd.sources.dectris.rest import SimplonError

log = logging.getLogger(__name__)

#: how long `end` may take after the last image before the series counts as over without it, s
END_GRACE_S = 0.25
#: how long the detector may take to be idle after `end`, s
IDLE_TIMEOUT_S = 2.0
#: how long a detector may take to answer on its stream port before it is armed, s
CONNECT_TIMEOUT_S = 5.0


def warm_up() -> None:
    """Compile everything an acquisition runs, or load it from the cache: seconds that the first frames have not."""
    warm_up_receiver()
    warm_up_decoder()


class Cancelled(Exception):
    """The acquisition was told to stop."""


class Acquisition:
    """One series as ``request`` describes it, taken from ``stream``.

    Frames are decoded by ``backend``, by default the CPU. Used once.
    ``progress`` and ``preview`` may be called from any thread while ``run`` is iterated, ``cancel``
    at any time.
    """

    def __init__(
        self, request: AcquisitionRequest, stream: OpenStream, backend: Backend | None = None
    ) -> None:
        self.request = request
        self._backend = backend or CpuBackend()
        self.tracker = FrameTracker(request.grid, request.rasters)
        self.series = Series(request, self.tracker, self._backend, stream.memory)
        self._stream = stream
        self._cancelled = False
        self._failure: BaseException | None = None
        self._raster = 0
        self._armed = False
        self._hold = Hold(request.control) if request.control else None
        #: whether the detector is armed and waits for the next trigger
        self.stands = False
        self._steps = Steps(self.tracker)
        self._trigger_thread: threading.Thread | None = None
        self._trigger_error: SimplonError | None = None
        self._gave_up = False
        self._dropped: int | None = None
        #: called when the detector is armed and listened to (without control: when the stream is listened to)
        self.on_ready: Callable[[], None] = lambda: None
        #: called a few times a second by the thread that runs `run`
        self.on_progress: Callable[[], None] = lambda: None

    # What other threads may ask ------------------------------------------------------------------

    def cancel(self) -> None:
        """Make ``run`` raise Cancelled soon."""
        self._cancelled = True
        self._wake()

    def progress(self) -> Progress:
        return self.tracker.progress_of(self._raster) if self.request.stay_armed else self.tracker.progress()

    def preview(self) -> dict[str, np.ndarray] | None:
        """Outputs of the raster that runs that are shown while it does, float64, NaN where nothing came yet."""
        imaging = self.series.projection.imaging
        return None if imaging is None else imaging.outputs(self._raster, preview=True)

    # The caller's thread -------------------------------------------------------------------------

    def run(self) -> Generator[RasterResult, None, None]:
        """Take the series; yields its rasters in order.

        With ``stay_armed``, ``next`` is the trigger of a raster; between them the detector is armed (`stands`), and
        closing the iterator disarms it. OutOfStep says that the next raster needs another series.

        Raises AcquisitionError when there is nothing to show for the time, SimplonError when the detector
        does not obey, Cancelled after ``cancel``, ValueError when the detectors do not fit the frames.
        """
        over = False
        try:
            self._arm()
            self.tracker.last_activity = time.monotonic()
            self._stream.listen(self._listen)
            for raster in range(self.request.rasters):
                self._raster = raster
                if raster == 0 or self.request.stay_armed:
                    self._begin(raster)
                if self.series.projection.imaging is not None:
                    self.series.projection.imaging.release(raster - 1)
                self._await(raster)
                over = self._is_last(raster)
                result = self._result(raster, self._finish_detector() if over else None)
                self.stands = self.request.stay_armed and not over
                yield result
                if over:
                    return
        finally:
            try:
                self._stream.stop_listening()
                if not over:
                    self._abandon_detector()
            finally:  # another engine must not wait for a detector that this one is done with
                self.stands = False
                if self._hold is not None:
                    self._hold.give_up()
            if self.series.key is not None:
                self._stream.memory.finished.add(self.series.key)
            if self._trigger_error is not None and self.tracker.begun:
                log.warning(
                    "series %s: the software trigger failed: %s", self.series.name, self._trigger_error
                )
            report(self.request, self.series, self.tracker, self._dropped)

    def _arm(self) -> None:
        control, hold = self.request.control, self._hold
        if control is None or hold is None:
            return  # a series may have begun: connections stay as they are
        hold.take(self._pause)
        if self._stream.doubtful:
            self._stream.reconnect()
        # This also enables the stream, without which some do not listen on its port.
        header = self.request.appendix(ENGINE_ID)
        control.configure(*self.request.images_and_triggers, self.request.frame_time, header)
        hold.mark()
        self._go_on()
        self._stream.memory.preparation.prepare_again(self.request)
        if not self._stream.connected(min(CONNECT_TIMEOUT_S, self.request.timeout)):
            raise AcquisitionError(
                f"no stream answers at {self.request.endpoint}, though its control unit does: is that its address? "
                "Nothing was armed"
            )
        self._go_on()
        # The receive threads start afterwards: libzmq queues what comes meanwhile, and they know the series.
        self._armed = True  # before the answer: a request that timed out may have armed all the same
        self.series.expect(control.arm())
        self._go_on()

    def _go_on(self) -> None:
        """Between requests to the detector, which may last."""
        if self._cancelled:
            raise Cancelled

    def _pause(self) -> None:
        with self.tracker.changed:
            self.tracker.changed.wait(0.05)
        self._go_on()

    def _begin(self, raster: int) -> None:
        """Let the raster be scanned: the detector is armed for it, and listened to."""
        if raster and self.request.control and self._hold:
            if self.series.ended or self._failure is not None:
                raise OutOfStep("it ended between two triggers")
            self._steps.check(raster, self.request.control, self._hold)
            self.stands = False
            self.tracker.last_activity = time.monotonic()
            self._go_on()
        if self.request.control and self.request.control.software_triggered:
            # It cannot be interrupted from here; releasing the detector ends it.
            self._trigger_thread = threading.Thread(target=self._trigger, name="live4d-trigger", daemon=True)
            self._trigger_thread.start()
        self.on_ready()

    def _is_last(self, raster: int) -> bool:
        """Whether the series is over with this raster: with ``stay_armed``, also if the next might be out of step."""
        if raster + 1 == self.request.rasters or not self.request.stay_armed:
            return raster + 1 == self.request.rasters
        if self._trigger_thread is not None:
            self._trigger_thread.join(IDLE_TIMEOUT_S)  # answered when the exposures are over
        triggered = self._trigger_error is None and not (
            self._trigger_thread and self._trigger_thread.is_alive()
        )
        if self._steps.kept(raster) and triggered and not self.series.ended:
            return False
        self._gave_up = True  # it is still armed, and not to be waited for
        return True

    def _trigger(self) -> None:
        assert self.request.control is not None
        try:
            self.request.control.trigger()
        except SimplonError as error:
            # It lasts as long as the exposures: when images come it does not matter that it failed.
            self._trigger_error = error

    def _await(self, raster: int) -> None:
        """Wait until the raster is over, one way or another."""
        self._whole_at: float | None = None
        while True:
            with self.tracker.changed:
                if self._is_over(raster):
                    return
                self.tracker.changed.wait(0.05)
            self.on_progress()

    def _is_over(self, raster: int) -> bool:
        tracker, now = self.tracker, time.monotonic()
        if self._failure is not None:
            raise self._failure
        if self._cancelled:
            raise Cancelled
        if self.request.stay_armed:
            if self._steps.over(raster, now):
                return True
        elif raster + 1 < self.request.rasters:
            if tracker.complete(raster) or tracker.overtaken(raster):
                return True
        elif tracker.settled == self.request.frames:
            self._whole_at = self._whole_at or now
            if self.series.ended or now - self._whole_at >= END_GRACE_S:
                return True
        silent = tracker.silence
        begun = tracker.arrived(raster) if self.request.stay_armed else tracker.begun
        if self._trigger_error is not None and not begun and silent >= STRAGGLER_S:
            raise self._failure_of(raster)
        if self.series.ended and silent >= self._patience():
            return True
        if silent < self.request.timeout:
            return False
        self._stream.doubtful = True
        if self._nothing_came(raster):
            raise self._failure_of(raster)
        log.warning(
            "series %s stopped after %d of %d images without an end message; %.3g s of silence",
            self.series.name, self.progress().frames_received, self.progress().frames_expected, silent,
        )  # fmt: skip
        self._gave_up = self.series.ended = True
        return True

    def _nothing_came(self, raster: int) -> bool:
        return not (self.tracker.received_of(raster) if self.request.stay_armed else self.tracker.received)

    def _patience(self) -> float:
        """How long the stream must have been silent after `end` before what is missing counts as lost, s."""
        receivers = self._stream.receivers
        if len(receivers) == 1:
            return 0.0
        # A connection that is cut has nothing under way any more.
        alive = [number for number, receiver in enumerate(receivers) if receiver.connected()]
        return min(STRAGGLER_S, self.request.timeout) if self.series.all_came(alive) else self.request.timeout

    def _result(self, raster: int, dropped: int | None) -> RasterResult:
        self._dropped = dropped
        losses, rate = self.tracker.close(raster)
        if self._nothing_came(raster):
            raise self._failure_of(raster)
        series, projection = self.series, self.series.projection
        assert series.key is not None
        assert projection.imaging is not None
        assert projection.info is not None
        outputs = projection.imaging.outputs(raster)
        return RasterResult(
            raster, outputs, losses, series.key[0], rate, projection.engine, dropped, projection.info
        )

    def _finish_detector(self) -> int | None:
        """Wait until the detector is idle, disarming it if it does not know that the series is over.

        Returns the images it dropped; None without control, or if it does not say.
        """
        control, hold = self.request.control, self._hold
        if control is None or hold is None or not self._armed:
            return None
        self._armed = False
        try:
            # Asked first: disarming may take minutes, but not from a control unit that does not answer.
            if control.wait_idle(0.0 if self._gave_up else IDLE_TIMEOUT_S) != "idle":
                if not hold.is_ours():
                    return None
                control.disarm()
        except SimplonError as error:
            log.error("the detector may still be armed, and its stream as the scan needed it: %s", error)
            return None
        dropped = None
        try:
            dropped = control.dropped()
        except SimplonError as error:
            log.warning(
                "series %s: it is not known how many images the detector dropped: %s", self.series.name, error
            )
        control.put_back()  # afterwards: the stream's settings may reset its counter
        if dropped:
            log.warning(
                "series %s: the detector dropped %d images because they were not fetched in time: a slower scan, a "
                "faster host or more connections would help", self.series.name, dropped,
            )  # fmt: skip
        return dropped

    def _abandon_detector(self) -> None:
        control, hold = self.request.control, self._hold
        if control is None or hold is None or (self._armed and not hold.is_ours()):
            return
        try:
            if self._armed and not self.stands:
                control.abort()
                control.wait_idle(IDLE_TIMEOUT_S)
            elif self._armed and control.state() in ("ready", "acquire"):
                control.disarm()  # nothing is exposed
        except SimplonError as error:
            log.error("the detector may still be armed, and its stream as the scan needed it: %s", error)
        else:
            control.put_back()

    def _failure_of(self, raster: int) -> Exception:
        """Why there is nothing to show: a software trigger that failed, unless images came all the same."""
        begun = self.tracker.arrived(raster) if self.request.stay_armed else self.tracker.begun
        if self._trigger_error is not None and not begun:
            return self._trigger_error
        return AcquisitionError(self._why_nothing_came())

    def _why_nothing_came(self) -> str:
        return why_nothing_came(self.request, self.series, self.tracker, self._stream.connected())

    # The receive threads -------------------------------------------------------------------------

    def _listen(self, receiver: Receiver) -> None:
        try:
            receivers, series = self._stream.receivers, self.series
            if receiver is receivers[0]:
                left_over = self._stream.memory.left_over
                waiting = left_over[:]
                del left_over[:]
                for earlier in waiting:
                    for step in series.take(series.filter.accept(earlier)):
                        step.finish()
            connection = DectrisConnection(receiver, receivers.index(receiver), series.filter)
            alone = len(receivers) == 1
            Lane(connection, series, self._backend).run(
                lambda: bool(receiver.stop[0]) or (alone and series.ended)
            )
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        with self.tracker.changed:
            self.tracker.changed.notify_all()
