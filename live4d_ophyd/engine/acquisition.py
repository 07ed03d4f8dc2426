"""Acquisition: one series of a source, from its connections to images.

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
from live4d_ophyd.engine import book_kernels
from live4d_ophyd.engine.diagnosis import report, why_nothing_came
from live4d_ophyd.engine.errors import Cancelled, DetectorInUse, NoStream, NothingCame
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.lane import Lane
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.recorded_as import recorded_as
from live4d_ophyd.engine.recorder import FrameRecorder, RecordedFile
from live4d_ophyd.engine.refits import Refits
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import ChannelResult, Progress, RasterResult
from live4d_ophyd.engine.series import Series
from live4d_ophyd.engine.steps import STRAGGLER_S, OutOfStep, Steps
from live4d_ophyd.frames import gather
from live4d_ophyd.imaging import strain_kernels
from live4d_ophyd.recording.template import Recorded
from live4d_ophyd.sources import registry as sources
from live4d_ophyd.sources.source import Connection, DetectorControl, SourceError

log = logging.getLogger(__name__)

#: how long `end` may take after the last frame before the series counts as over without it, s
END_GRACE_S = 0.25
#: how long the detector may take to be idle after `end`, s
IDLE_TIMEOUT_S = 2.0
#: how long to wait for another engine on this machine that has the detector, s
CLAIM_TIMEOUT_S = 120.0
#: how long a detector may take to answer on its stream port before it is armed, s
CONNECT_TIMEOUT_S = 5.0


def warm_up() -> None:
    """Compile everything an acquisition runs, or load it from the cache: seconds that the first frames have not."""
    sources.warm_up()
    warm_up_decoder()
    book_kernels.warm_up()
    gather.warm_up()
    strain_kernels.warm_up()


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
        self.tracker = FrameTracker(request.grid, request.rasters, request.channels)
        self._recorder = (
            None if request.record is None else FrameRecorder(request.record, request.grid, self._recorded_as)
        )
        self.series = Series(
            request, self.tracker, stream.next_series(request.source), stream.preparation, self._recorder
        )
        self._stream = stream
        self._control = request.source.control()
        self._cancelled = False
        self._failure: BaseException | None = None
        self._raster = 0
        #: whether the detector is armed and waits for the next trigger
        self.stands = False
        self._steps = Steps(self.tracker)
        self._trigger_thread: threading.Thread | None = None
        self._trigger_error: SourceError | None = None
        self._refits: Refits | None = None
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
        return None if imaging is None else imaging.preview(self._raster)

    # The caller's thread -------------------------------------------------------------------------

    def run(self) -> Generator[RasterResult, None, None]:
        """Take the series; yields its rasters in order.

        With ``stay_armed``, ``next`` is the trigger of a raster; between them the detector is armed (`stands`), and
        closing the iterator disarms it. OutOfStep says that the next raster needs another series.

        Raises NothingCame when there is nothing to show for the time, NoStream, ScanMismatch and DetectorInUse,
        SourceError when the detector does not obey, Cancelled after ``cancel``, ValueError when the detectors do not
        fit the frames.
        """
        over = False
        try:
            if self._recorder is not None:
                self._recorder.check()
            self._arm()
            self.tracker.last_activity = time.monotonic()
            self._stream.listen(self.series.source, self._listen)
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
                if self._refits is not None:
                    self._refits.end()
                self._stream.stop_listening()
                if not over and self._control is not None:
                    self._control.abort(exposing=not self.stands)
            finally:  # another engine must not wait for a detector that this one is done with
                self.stands = False
                try:
                    if self._control is not None:
                        self._control.release()
                    if self._refits is not None:
                        self._refits.stop()
                finally:
                    if self._recorder is not None:
                        self._recorder.close()
                    self.series.projection.free()
            self.series.source.finish()
            if not self.tracker.received:
                self._stream.preparation.free_if_large()
            if self._trigger_error is not None and self.tracker.begun:
                log.warning(
                    "series %s: the software trigger failed: %s", self.series.name, self._trigger_error
                )
            report(self.request, self.series, self.tracker, self._dropped)

    def _arm(self) -> None:
        control = self._control
        if control is None:
            return
        self._claim(control)
        control.prepare(self.request.series)  # this may be what makes the stream answer
        self._go_on()
        self._stream.preparation.prepare_again(self.request)
        if not self._stream.connected(min(CONNECT_TIMEOUT_S, self.request.timeout)):
            raise NoStream(
                f"no stream answers at {self.request.source.name}, though its control unit does. Nothing was armed",
                remedy="is that its address?",
            )
        self._go_on()
        # The receive threads start afterwards: the connections queue what comes meanwhile, and they know the series.
        if (key := control.arm()) is not None:
            self.series.source.expect(key)
        self._go_on()

    def _claim(self, control: DetectorControl) -> None:
        """Wait until no other engine has the detector: one that its session left behind may wait for it, too."""
        deadline, told = time.monotonic() + CLAIM_TIMEOUT_S, False
        while who := control.claim():
            if time.monotonic() > deadline:
                raise DetectorInUse(
                    f"{who}, for more than {CLAIM_TIMEOUT_S:g} s", remedy="end its scan, or that process"
                )
            if not told:
                log.warning("%s: waiting for it", who)
                told = True
            self._pause()

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
        control = self._control
        if raster and control is not None:
            if self.series.ended or self._failure is not None:
                raise OutOfStep("it ended between two triggers")
            self._steps.check(raster, control)
            self.stands = False
            self.tracker.last_activity = time.monotonic()
            self._go_on()
        if control is not None and control.software_triggered:
            # It cannot be interrupted from here; releasing the detector ends it.
            self._trigger_thread = threading.Thread(
                target=self._trigger, args=(control,), name="live4d-trigger", daemon=True
            )
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

    def _trigger(self, control: DetectorControl) -> None:
        try:
            control.trigger()
        except SourceError as error:
            # It lasts as long as the exposures: when frames come it does not matter that it failed.
            self._trigger_error = error

    def _await(self, raster: int) -> None:
        """Wait until the raster is over, one way or another."""
        self._whole_at: float | None = None
        while True:
            with self.tracker.changed:
                if self._is_over(raster):
                    return
                self.tracker.changed.wait(0.05)
            self._let_refit(raster)
            self.on_progress()

    def _let_refit(self, raster: int) -> None:
        imaging = self.series.projection.imaging
        if self._refits is not None:
            self._refits.begin_raster(raster)
        elif imaging is not None and imaging.refitting:
            self._refits = Refits(imaging, raster, self._rows_of, self._fail)

    def _rows_of(self, raster: int) -> int:
        """Rows of the scan that are there, about: as many as the frames so far fill."""
        grid = self.request.grid
        rows = (self.tracker.finished_of(raster) - grid.lead_in) // (grid.cols + grid.flyback)
        return max(0, min(rows, grid.rows))

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
        elif tracker.finished == self.request.series.frames:
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
            "series %s stopped after %d of %d frames without an end message; %.3g s of silence",
            self.series.name, self.progress().frames_received, self.progress().frames_expected, silent,
        )  # fmt: skip
        self._gave_up = self.series.ended = True
        return True

    def _nothing_came(self, raster: int) -> bool:
        return not (self.tracker.received_of(raster) if self.request.stay_armed else self.tracker.received)

    def _patience(self) -> float:
        """How long the stream must have been silent after `end` before what is missing counts as lost, s."""
        if len(self.series.source.connections) == 1:
            return 0.0
        came = self.series.source.all_came(self.tracker.last_missing)
        return min(STRAGGLER_S, self.request.timeout) if came else self.request.timeout

    def _result(self, raster: int, dropped: int | None) -> RasterResult:
        self._dropped = dropped
        losses, rate = self.tracker.close(raster)
        further = self.tracker.further_losses
        if self._nothing_came(raster):
            raise self._failure_of(raster)
        series, projection = self.series, self.series.projection
        assert series.key is not None
        assert projection.imaging is not None
        assert projection.info is not None
        if self._refits is not None:
            self._refits.end_raster()
        recorded = self._finish_recording(raster)
        outputs = projection.imaging.result(raster, lambda: self._cancelled)
        self._go_on()
        return RasterResult(
            raster,
            outputs,
            losses,
            series.key[0],
            rate,
            projection.backend,
            dropped,
            projection.info,
            recorded,
            {name: ChannelResult(of, projection.further_info[name]) for name, of in further.items()},
        )

    def _finish_recording(self, raster: int) -> RecordedFile | None:
        frame = self.series.projection.frame
        if self._recorder is None:
            return None
        assert frame is not None
        with self.tracker.working():
            return self._recorder.finish(raster, frame, lambda: self._cancelled)

    def _recorded_as(self, codec: int) -> Recorded:
        return recorded_as(self.request, self.series, codec)

    def _finish_detector(self) -> int | None:
        """Wait until the detector is idle, disarming it if it does not know that the series is over.

        Returns the frames it dropped; None without control, or if it does not say.
        """
        if self._control is None:
            return None
        dropped = self._control.finish(0.0 if self._gave_up else IDLE_TIMEOUT_S)
        if dropped:
            log.warning(
                "series %s: the detector dropped %d frames because they were not fetched in time: a slower scan, a "
                "faster host or more connections would help", self.series.name, dropped,
            )  # fmt: skip
        return dropped

    def _failure_of(self, raster: int) -> Exception:
        """Why there is nothing to show: a software trigger that failed, unless frames came all the same."""
        begun = self.tracker.arrived(raster) if self.request.stay_armed else self.tracker.begun
        if self._trigger_error is not None and not begun:
            return self._trigger_error
        return NothingCame(why_nothing_came(self.request, self.series, self.tracker))

    # The receive threads -------------------------------------------------------------------------

    def _listen(self, connection: Connection) -> None:
        try:
            series, stream = self.series, self._stream
            alone = len(series.source.connections) == 1
            backend = self._backend.of_lane(series.source.connections.index(connection))
            Lane(connection, series, backend).run(lambda: stream.stopping or (alone and series.ended))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        with self.tracker.changed:
            self.tracker.changed.notify_all()
