"""A detector control unit in software: the state machine between the REST interface and the stream.

In: commands and settings (rest.py, or direct calls in tests). Out: stream v2 messages through a
StreamSender. Every armed series has a thread of its own, ``dcu-series-N``, which this object starts at
:meth:`Dcu.arm` and joins at disarm, cancel, abort and close; all other methods may be called from any
thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time

from live4d_ophyd.sim import settings
from live4d_ophyd.sim.armed import ArmedSeries
from live4d_ophyd.sim.encode import Series
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.frames import FrameSource
from live4d_ophyd.sim.sender import StreamSender
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan

log = logging.getLogger(__name__)

#: from hv_enabled to the sensor's high voltage, s
RAMP_TIME = 0.2


#: how long stopping the probe waits for the frame that is being taken, s
STOP_TIMEOUT = 5.0


class CommandError(ValueError):
    """The command does not fit the state; the text says what to do."""


class Dcu:
    """Simulated detector, its settings, and the microscope in front of it."""

    def __init__(
        self,
        sender: StreamSender,
        source: FrameSource,
        *,
        detector: Detector,
        microscope: Microscope,
        scan: Scan,
        faults: Faults,
        dtype: str = "uint16",
        initialized: bool = True,
        prepared: bool = True,
        silent_scan: bool = False,
        api: str = settings.API_VERSIONS[-1],
    ) -> None:
        """``initialized`` False: as after switching on; ``prepared`` False: as others left it, without high voltage.

        ``silent_scan``: `start` does not say what is scanned.
        """
        self.sender, self.source = sender, source
        self.detector = detector
        self.microscope, self.scan, self.silent_scan = microscope, scan, silent_scan
        #: how far the specimen has drifted so far, (row, col)
        self.drifted_nm = (0.0, 0.0)
        self.api = api
        #: keys that this firmware does not have (see status.py)
        self.without: frozenset[str] = frozenset()
        self.config = settings.detector_settings(detector, microscope, dtype, api)
        self.stream_config = settings.stream_settings()
        self.filewriter_config = settings.filewriter_settings()
        if not prepared:
            self.config.restore(settings.UNPREPARED["detector"])
            self.stream_config.restore(settings.UNPREPARED["stream"])
        self.save_start_settings()
        self.error = ""
        self._faults = faults
        # when the high voltage is there, time.monotonic()
        self._voltage_at = -math.inf if initialized and prepared else math.inf
        self._state = "idle" if initialized else "na"
        self._changed = threading.Condition()
        self._armed: ArmedSeries | None = None
        self._previous: Series | None = None
        self._sequence = 0
        self._dropped = 0
        # The scan generator: whether it will be told when to start, and rasters it has been told to scan.
        self._commanded = False
        self._rasters_at_once = 1
        self._rasters_to_scan = 0
        # fault after_abort: messages of the aborted series that are still to come
        self._buffered: tuple[bytes, ...] = ()

    @property
    def binning(self) -> int:
        """Edge of the square of sensor pixels that is one pixel of the frames."""
        return settings.BINNING[self.config["binning_mode"]]

    # faults

    @property
    def faults(self) -> Faults:
        """What goes wrong, and how much of it is left."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._changed:
            self._faults = faults

    def use_up(self, fault: str) -> bool:
        """Whether a fault that is counted, or happens once, is to happen now; then there is one less."""
        with self._changed:
            if not getattr(self._faults, fault):
                return False
            self._faults = self._faults.without_one(fault)
            return True

    # status

    @property
    def state(self) -> str:
        """na, idle, ready, acquire or error"""
        return self._state

    @property
    def high_voltage(self) -> str:
        """OFF, RAMPING or READY"""
        if self._voltage_at == math.inf:
            return "OFF"
        return "RAMPING" if time.monotonic() < self._voltage_at else "READY"

    @property
    def dropped(self) -> int:
        """Frames of the last series that no client fetched in time."""
        return self._dropped + (self.sender.progress[1] if self._state == "acquire" else 0)

    @property
    def progress(self) -> dict[str, object]:
        """What it is doing, as a text and in numbers of frames, for somebody who waits for them."""
        armed, state = self._armed, self._state
        raster = armed.raster if armed else None
        computed, frames = raster.progress if raster else (0, 0)
        sent = sum(self.sender.progress)
        if state == "acquire" and raster is None:
            text = "computing the specimen"
        elif computed < frames:
            text = f"computing, {computed} of {frames} frames"
        else:
            text = {"acquire": "streaming", "ready": "waiting for the scan"}.get(state, state)
        return {"text": f"simulator: {text}", "computed": computed, "frames": frames, "sent": sent}

    # commands

    def save_start_settings(self) -> None:
        """Make the detector's settings those that it starts with."""
        self._at_start = self.config.values()

    def initialize(self) -> None:
        """To idle from any state, with the settings it starts with; a running series is aborted."""
        self._end_series(abort=True)
        self.config.restore(self._at_start)
        self.error = ""
        self._set_state("idle")

    def hv_enabled(self) -> None:
        """Switch the high voltage on: READY after RAMP_TIME."""
        if self.high_voltage == "OFF":
            self._voltage_at = time.monotonic() + RAMP_TIME

    def arm(self) -> int:
        """Start a series; returns its id. The start message goes out as soon as a client is connected."""
        with self._changed:
            if self._state != "idle":
                advice = "initialize first" if self._state in ("na", "error") else "disarm or abort first"
                raise CommandError(f"cannot arm: the detector's state is {self._state}, {advice}")
            if (voltage := self.high_voltage) != "READY":
                advice = (
                    "wait until it is READY" if voltage == "RAMPING" else "give the command hv_enabled first"
                )
                raise CommandError(f"cannot arm: the high voltage is {voltage}, {advice}")
            self.empty_buffers()
            self._sequence += 1
            self._dropped = 0
            armed = ArmedSeries(
                Series(self._sequence),
                self.config.values(),
                self.stream_config.values(),
                settings.channels(self.config),
                fails=self.use_up("fail_series"),
                commanded=self._commanded,
            )
            self._commanded, self._rasters_to_scan = False, 0
            name = f"dcu-series-{self._sequence}"
            armed.thread = threading.Thread(target=self._run, args=(armed,), name=name, daemon=True)
            self._armed = armed
            self._state = "ready"
            self.sender.resume()
            armed.thread.start()
            return self._sequence

    def trigger(self) -> None:
        """Software trigger; returns when its frames are taken, as the real command does."""
        with self._changed:
            armed = self._armed
            if armed is None or self._state != "ready":
                raise CommandError(f"cannot trigger: the detector's state is {self._state}, arm first")
            if armed.config["trigger_mode"] != "ints":
                mode = armed.config["trigger_mode"]
                raise CommandError(f"cannot trigger: trigger_mode is {mode}, software triggers need ints")
            armed.asked += 1
            wanted = armed.asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: armed.done >= wanted or armed.finished.is_set())

    def disarm(self) -> int:
        """End the series now: what was taken is sent, then `end`. Returns the sequence id."""
        return self._end_series(abort=False)

    def cancel(self) -> int:
        """Stop after the frame that is being taken, then `end`. Returns the sequence id."""
        return self._end_series(abort=False)

    def abort(self) -> int:
        """Drop everything; no `end` is sent. Returns the sequence id."""
        return self._end_series(abort=True)

    # the scan generator

    def prepare_scan(self, scan: Scan, rasters: int) -> None:
        """Have the next series wait for :meth:`start_scan`, and then scan so many rasters at once."""
        with self._changed:
            self.scan, self._rasters_at_once = scan, rasters
            self._commanded, self._rasters_to_scan = True, 0

    def start_scan(self) -> None:
        """Scan what was prepared. Its frames are lost unless a series is armed."""
        with self._changed:
            if self._armed is not None and not self._armed.finish:
                self._rasters_to_scan = self._rasters_at_once
                self.sender.resume()
                self._changed.notify_all()

    def stop_scan(self) -> None:
        """Move the probe no further; an armed series waits for further frames."""
        with self._changed:
            self._commanded, self._rasters_to_scan = False, 0
            if self._armed is not None and self._armed.commanded:
                self.sender.stop()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._state != "acquire", STOP_TIMEOUT)

    def empty_buffers(self) -> None:
        """Send what fault after_abort kept of an aborted series: to be called when `abort` has been answered."""
        with self._changed:
            messages, self._buffered = self._buffered, ()
            for message in messages:
                if not self.sender.send(message, lambda: True):
                    log.warning("nobody fetches what was left of an aborted series")
                    break

    def close(self) -> None:
        """Abort, and close the stream."""
        self._end_series(abort=True)
        with self._changed:
            self._buffered = ()
            self.sender.close()
        self.source.close()

    def _end_series(self, *, abort: bool) -> int:
        with self._changed:
            armed = self._armed
            if armed is None:
                return self._sequence
            armed.finish, armed.abort = True, armed.abort or abort
            self.sender.stop()
            self._changed.notify_all()
        assert armed.thread is not None
        armed.thread.join()
        return armed.series.series_id

    # the thread of a series

    def _set_state(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _run(self, armed: ArmedSeries) -> None:
        error = ""
        try:
            self._expose_series(armed)
        except Exception as problem:
            log.exception("series %d failed", armed.series.series_id)
            error = f"{type(problem).__name__}: {problem}"
        with self._changed:
            self.error = error
            self._state = "error" if error else "idle"
            self._armed, self._previous = None, armed.series
            armed.finished.set()
            self._changed.notify_all()

    def _expose_series(self, armed: ArmedSeries) -> None:
        if armed.streaming and not self.faults.no_start:
            dead = self.source.dead_mask(self.detector, armed.readout.binning)
            if not armed.send_start(self.sender, dead, None if self.silent_scan else self.scan):
                return
        config = armed.config
        images, triggers = config["nimages"], config["ntrigger"]
        if config["trigger_mode"] != "ints":
            # The microscope scans on without a pause and triggers every frame, line or raster by itself.
            images, triggers = images * triggers, 1
            if armed.streaming:
                self.sender.wait_for_peer(lambda: armed.finish)
        taken, wanted = 0, images * triggers
        while taken < wanted and self._wait_for_trigger(armed):
            taken = self._expose_frames(
                armed, taken, min(self._images_at_once(armed, images), wanted - taken)
            )
            if armed.fails and not armed.finish:
                raise RuntimeError("a readout board does not answer (fault fail_series)")
            with self._changed:
                armed.done += 1
                self._state = "ready"
                self._changed.notify_all()
        if armed.streaming and not armed.abort and not self.faults.no_end:
            armed.send_end(self.sender)

    def _images_at_once(self, armed: ArmedSeries, images: int) -> int:
        """Frames that follow without another trigger or command."""
        with self._changed:
            if not armed.commanded or armed.config["trigger_mode"] == "ints":
                return images
            rasters, self._rasters_to_scan = self._rasters_to_scan, 0
            return rasters * self.scan.frames

    def _wait_for_trigger(self, armed: ArmedSeries) -> bool:
        """Wait for what lets the next frames be exposed. False when the series is to end."""
        software = armed.config["trigger_mode"] == "ints"

        def may_go_on() -> bool:
            if armed.finish or (software and armed.asked > armed.done):
                return True
            return not software and (not armed.commanded or self._rasters_to_scan > 0)

        with self._changed:
            self._changed.wait_for(may_go_on)
            if armed.finish:
                return False
            self._state = "acquire"
            self._changed.notify_all()
            return True

    def _expose_frames(self, armed: ArmedSeries, first: int, count: int) -> int:
        """Returns the number of the frame whose turn it is then."""
        taken = count // 2 if armed.fails else count
        if not armed.streaming:
            with self._changed:
                self._changed.wait_for(lambda: armed.finish, taken * armed.config["frame_time"])
            return first + count
        microscope, scan = self.microscope, self.scan
        row, col = self.drifted_nm
        beam = microscope.moved_by(-row, -col), scan, self.detector
        stray = self._previous or Series(max(armed.series.series_id - 1, 0))
        left = armed.send_images(self.sender, self.source, beam, first, taken, self.faults, stray)
        self._dropped += left.dropped
        self._buffered = left.messages
        end = first + count if left.next_image is None else left.next_image
        rasters = (end - first) / scan.frames
        self.drifted_nm = row + rasters * microscope.drift_y_nm, col + rasters * microscope.drift_x_nm
        return end
