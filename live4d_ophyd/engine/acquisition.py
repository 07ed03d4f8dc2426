"""Acquisition: one series of a DECTRIS stream, from socket to images.

``run`` yields each raster as it ends. Threads: the caller's, which arms, watches and yields, and one
``live4d-receive-N`` per connection, which receives, decodes and sums; plus ``live4d-trigger`` while a software
trigger lasts. The receive threads are joined before ``run`` returns.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from live4d_ophyd.decode import Backend, CpuBackend
from live4d_ophyd.decode import warm_up as warm_up_decoder
from live4d_ophyd.engine.ledger import Ledger
from live4d_ophyd.engine.pending import Pending
from live4d_ophyd.engine.series import Series, SeriesKey
from live4d_ophyd.engine.spec import AcquisitionError, AcquisitionSpec, Progress, Raster
from live4d_ophyd.simplon import SimplonError
from live4d_ophyd.stream.batch import FrameBatch
from live4d_ophyd.stream.receiver import Receiver
from live4d_ophyd.stream.receiver import warm_up as warm_up_receiver

log = logging.getLogger(__name__)

#: how long `end` may take after the last image before the series counts as over without it, s
END_GRACE_S = 0.25
#: with several connections, how long after `end` the others may still be behind, s
STRAGGLER_S = 0.5
#: how long a receive thread waits for messages, s: without images under way, and with
_WAIT_S, _WAIT_DECODING_S = 0.05, 0.002
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


class OpenStream:
    """Connections to one detector, kept open between acquisitions so that no `start` is missed.

    ``endpoint`` may name several addresses, with commas between; each gets ``connections``.
    ``finished`` holds the series that are over: what still comes of them is left alone. ``left_over`` holds
    messages that came behind the end of the last series taken.
    """

    def __init__(self, endpoint: str, connections: int = 1) -> None:
        self.endpoint = endpoint
        self.connections = connections
        self.receivers: list[Receiver] = []
        #: whether the last series fell silent: the detector may be gone without a word
        self.doubtful = False
        self.finished: set[SeriesKey] = set()
        self.left_over: list[FrameBatch] = []
        self._connect()

    def _connect(self) -> None:
        try:
            for address in self.endpoint.split(","):
                for _ in range(self.connections):
                    self.receivers.append(Receiver(address.strip()))
        except BaseException:
            self.close()
            raise

    def reconnect(self) -> None:
        """New connections, for those that a detector left half open when its power failed."""
        self.close()
        self._connect()
        self.doubtful = False

    def connected(self, wait: float = 0.0) -> bool:
        deadline = time.monotonic() + wait
        return all(r.connected(max(0.0, deadline - time.monotonic())) for r in self.receivers)

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        self.receivers.clear()


class Acquisition:
    """One series as ``spec`` describes it, taken from ``stream``.

    Frames are decoded by ``backend``, by default the CPU. Used once.
    ``progress`` and ``preview`` may be called from any thread while ``run`` is iterated, ``cancel``
    at any time.
    """

    def __init__(self, spec: AcquisitionSpec, stream: OpenStream, backend: Backend | None = None) -> None:
        self.spec = spec
        self._backend = backend or CpuBackend()
        self.ledger = Ledger(spec.grid, spec.rasters)
        self.series = Series(spec, self.ledger, self._backend, stream.finished, stream.left_over)
        self._stream = stream
        self._cancelled = False
        self._failure: BaseException | None = None
        self._raster = 0
        self._armed = False
        self._trigger_error: SimplonError | None = None
        self._gave_up = False
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
        return self.ledger.progress()

    def preview(self) -> np.ndarray | None:
        """Images of the raster that runs, (detectors, rows, cols) float64, NaN where nothing came yet."""
        methods = self.series.methods
        return methods[0].result(self._raster) if methods else None

    # The caller's thread -------------------------------------------------------------------------

    def run(self) -> Iterator[Raster]:
        """Take the series; yields its rasters in order.

        Raises AcquisitionError when there is nothing to show for the time, SimplonError when the detector
        does not obey, Cancelled after ``cancel``, ValueError when the detectors do not fit the frames.
        """
        threads: list[threading.Thread] = []
        over = False
        try:
            self._arm()
            self.ledger.last_activity = time.monotonic()
            threads = [
                threading.Thread(target=self._listen, args=(r,), name=f"live4d-receive-{n}", daemon=True)
                for n, r in enumerate(self._stream.receivers)
            ]
            if self.spec.control and self.spec.control.software_triggered:
                threads.append(threading.Thread(target=self._trigger, name="live4d-trigger", daemon=True))
            for thread in threads:
                thread.start()
            self.on_ready()
            for raster in range(self.spec.rasters):
                self._raster = raster
                for method in self.series.methods or ():
                    method.release(raster - 1)
                self._await(raster)
                over = raster + 1 == self.spec.rasters
                yield self._result(raster, self._finish_detector() if over else None)
        finally:
            self._stop_listening(threads)
            if not over:
                self._abandon_detector()
            if self.series.key is not None:
                self._stream.finished.add(self.series.key)
            self._report()

    def _arm(self) -> None:
        control = self.spec.control
        if control is None:
            return  # a series may have begun: connections stay as they are
        if self._stream.doubtful:
            self._stream.reconnect()
        # This also enables the stream, without which some do not listen on its port.
        control.configure(*self.spec.images_and_triggers, self.spec.frame_time, self.spec.appendix())
        if not self._stream.connected(min(CONNECT_TIMEOUT_S, self.spec.timeout)):
            raise AcquisitionError(
                f"no stream answers at {self.spec.endpoint}, though its control unit does: is that its address? "
                "Nothing was armed"
            )
        # The receive threads start afterwards: libzmq queues what comes meanwhile, and they know the series.
        self._armed = True  # before the answer: a request that timed out may have armed all the same
        self.series.expect(control.arm())

    def _trigger(self) -> None:
        assert self.spec.control is not None
        try:
            self.spec.control.trigger()
        except SimplonError as error:
            # It lasts as long as the exposures: when images come it does not matter that it failed.
            self._trigger_error = error

    def _await(self, raster: int) -> None:
        """Wait until the raster is over, one way or another."""
        self._whole_at: float | None = None
        while True:
            with self.ledger.changed:
                if self._is_over(raster):
                    return
                self.ledger.changed.wait(0.05)
            self.on_progress()

    def _is_over(self, raster: int) -> bool:
        ledger, now = self.ledger, time.monotonic()
        if self._failure is not None:
            raise self._failure
        if self._cancelled:
            raise Cancelled
        if raster + 1 < self.spec.rasters:
            if ledger.complete(raster) or ledger.overtaken(raster):
                return True
        elif ledger.settled == self.spec.frames:
            self._whole_at = self._whole_at or now
            if self.series.ended or now - self._whole_at >= END_GRACE_S:
                return True
        silent = now - ledger.last_activity
        if self._trigger_error is not None and not ledger.begun and silent >= STRAGGLER_S:
            raise self._nothing_came()
        if self.series.ended and (len(self._stream.receivers) == 1 or silent >= STRAGGLER_S):
            return True
        if silent < self.spec.timeout:
            return False
        self._stream.doubtful = True
        if not ledger.received:
            raise self._nothing_came()
        log.warning(
            "series %s stopped after %d of %d images without an end message; %.3g s of silence",
            self.series.name, ledger.settled, self.spec.frames, silent,
        )  # fmt: skip
        self._gave_up = self.series.ended = True
        return True

    def _result(self, raster: int, dropped: int | None) -> Raster:
        losses, rate = self.ledger.close(raster)
        if not self.ledger.received:
            raise self._nothing_came()
        assert self.series.key is not None
        assert self.series.methods is not None
        images, *others = [method.result(raster) for method in self.series.methods]
        pattern = others[0] if others else None
        return Raster(raster, images, losses, self.series.key[0], rate, self.series.engine, pattern, dropped)

    def _stop_listening(self, threads: list[threading.Thread]) -> None:
        for receiver in self._stream.receivers:
            receiver.stop[0] = 1
        for thread in threads:
            # A software trigger cannot be interrupted from here; releasing the detector ends it.
            if thread.name != "live4d-trigger":
                thread.join()
        for receiver in self._stream.receivers:
            receiver.stop[0] = 0

    def _finish_detector(self) -> int | None:
        """Wait until the detector is idle, disarming it if it does not know that the series is over.

        Returns the images it dropped; None without control, or if it does not say.
        """
        control = self.spec.control
        if control is None or not self._armed:
            return None
        self._armed = False
        try:
            # Asked first: disarming may take minutes, but not from a control unit that does not answer.
            if control.wait_idle(0.0 if self._gave_up else IDLE_TIMEOUT_S) != "idle":
                control.disarm()
        except SimplonError as error:
            log.error("the detector may still be armed, and its stream as the scan needed it: %s", error)
            return None
        control.put_back()
        try:
            dropped = control.dropped()
        except SimplonError as error:
            log.warning(
                "series %s: it is not known how many images the detector dropped: %s", self.series.name, error
            )
            return None
        if dropped:
            log.warning(
                "series %s: the detector dropped %d images because they were not fetched in time: a slower scan, a "
                "faster host or more connections would help", self.series.name, dropped,
            )  # fmt: skip
        return dropped

    def _abandon_detector(self) -> None:
        control = self.spec.control
        if control is None:
            return
        try:
            if self._armed:
                control.abort()
                control.wait_idle(IDLE_TIMEOUT_S)
        except SimplonError as error:
            log.error("the detector may still be armed, and its stream as the scan needed it: %s", error)
        else:
            control.put_back()

    def _report(self) -> None:
        if self._trigger_error is not None and self.ledger.begun:
            log.warning("series %s: the software trigger failed: %s", self.series.name, self._trigger_error)
        for reason, count in self.series.reasons.items():
            if count > 1:  # one was said when it came
                log.warning("series %s: %d bad: %s", self.series.name, count, reason)
        if self.ledger.beyond:
            log.warning(
                "series %s: %d images with ids beyond the %d that %d x %d positions need were left alone; "
                "does the scan grid match the microscope's scan?",
                self.series.name, self.ledger.beyond, self.spec.frames, *self.spec.grid.shape,
            )  # fmt: skip

    def _nothing_came(self) -> Exception:
        """A software trigger that failed is the reason, unless images came all the same."""
        if self._trigger_error is not None and not self.ledger.begun:
            return self._trigger_error
        return AcquisitionError(self._why_nothing_came())

    def _why_nothing_came(self) -> str:
        spec, ledger = self.spec, self.ledger
        waited = f"within {spec.timeout:g} s"
        if self.series.reasons:
            reason, count = self.series.reasons.most_common(1)[0]
            return f"no image of series {self.series.name} could be used; {count} were refused: {reason}"
        if ledger.beyond:
            return (
                f"series {self.series.name} brought only image ids beyond the {spec.frames} of the grid: "
                "does the scan grid match the microscope's scan?"
            )
        if self.series.key is not None:
            ended = "ended without an image" if self.series.ended else f"brought no image {waited}"
            return f"series {self.series.name} {ended}: is the scan running, and triggering the detector?"
        if ledger.strangers:
            return (
                f"{ledger.strangers} images of other series came from {spec.endpoint} but no series began {waited}: "
                "the start message was missed (connect before arming), or another client took it"
            )
        if not self._stream.connected():
            return f"nothing answers at {spec.endpoint} {waited}: is the detector (or the simulator) on?"
        return f"{spec.endpoint} answers but no series began {waited}: arm the detector, or pass control=Simplon(...)"

    # The receive threads -------------------------------------------------------------------------

    def _listen(self, receiver: Receiver) -> None:
        try:
            if receiver is self._stream.receivers[0]:
                waiting = self._stream.left_over[:]
                del self._stream.left_over[:]
                for earlier in waiting:
                    for step in self.series.take(earlier):
                        step.finish()
            self._receive(receiver)
        except BaseException as error:
            self._fail(error)

    def _receive(self, receiver: Receiver) -> None:
        """Receive into one batch while those before are being decoded."""
        backend, channel = self._backend, self.spec.channel.encode()
        free = [backend.allocate() for _ in range(1 + backend.in_flight)]
        under_way: deque[tuple[FrameBatch, list[Pending]]] = deque()
        alone = len(self._stream.receivers) == 1
        try:
            while not receiver.stop[0] and not (alone and self.series.ended):
                wait = _WAIT_DECODING_S if under_way else _WAIT_S
                batch = receiver.receive(free.pop(), channel=channel, wait=wait)
                under_way.append((batch, self.series.take(batch)))
                while under_way and (not free or all(step.ready for step in under_way[0][1])):
                    batch, steps = under_way.popleft()
                    for step in steps:
                        step.finish()
                    free.append(batch)
        finally:
            # Memory that a device still reads must not be freed.
            for _, steps in under_way:
                for step in steps:
                    with contextlib.suppress(Exception):
                        step.finish()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        with self.ledger.changed:
            self.ledger.changed.notify_all()
