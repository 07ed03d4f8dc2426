"""A detector control unit in software: the state machine between the REST interface and the stream.

In: commands and settings (rest.py, or direct calls in tests). Out: stream v2 messages through a
StreamSender. Every armed series has a thread of its own, ``dcu-series-N``, which this object starts at
:meth:`Dcu.arm` and joins at disarm, cancel, abort and close; all other methods may be called from any
thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from live4d_ophyd.sim import settings
from live4d_ophyd.sim.encode import Header, ImageTemplate, Series, end_message, start_message
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.frames import FrameSource, Readout, Stopped
from live4d_ophyd.sim.sender import StreamSender
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan

log = logging.getLogger(__name__)

#: how long an `end` waits for a client that does not fetch, s; the second after disarm and cancel
END_TIMEOUT, STOPPED_END_TIMEOUT = 10.0, 0.5


class CommandError(ValueError):
    """The command does not fit the state; the text says what to do."""


@dataclass
class _Armed:
    """One series and how its thread is told what to do."""

    series: Series
    config: dict[str, Any]
    stream: dict[str, Any]
    channels: tuple[str, ...]
    thread: threading.Thread | None = None
    #: software triggers asked for and done
    asked: int = 0
    done: int = 0
    finish: bool = False
    abort: bool = False
    finished: threading.Event = field(default_factory=threading.Event)


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
    ) -> None:
        self.sender, self.source = sender, source
        self.detector = detector
        self.microscope, self.scan, self.faults = microscope, scan, faults
        self.config = settings.detector_settings(detector, microscope, dtype)
        self.stream_config = settings.stream_settings()
        self.filewriter_config = settings.filewriter_settings()
        self.error = ""
        self._state = "idle" if initialized else "na"
        self._changed = threading.Condition()
        self._armed: _Armed | None = None
        self._previous: Series | None = None
        self._sequence = 0
        self._dropped = 0

    # status

    @property
    def state(self) -> str:
        """na, idle, ready, acquire or error"""
        return self._state

    @property
    def dropped(self) -> int:
        """Images of the last series that no client fetched in time."""
        return self._dropped + (self.sender.progress[1] if self._state == "acquire" else 0)

    # commands

    def initialize(self) -> None:
        """To idle from any state; a running series is aborted."""
        self._end_series(abort=True)
        self.error = ""
        self._set_state("idle")

    def arm(self) -> int:
        """Start a series; returns its id. The start message goes out as soon as a client is connected."""
        with self._changed:
            if self._state != "idle":
                advice = "initialize first" if self._state in ("na", "error") else "disarm or abort first"
                raise CommandError(f"cannot arm: the detector's state is {self._state}, {advice}")
            self._sequence += 1
            self._dropped = 0
            armed = _Armed(
                Series(self._sequence),
                self.config.values(),
                self.stream_config.values(),
                settings.channels(self.config),
            )
            name = f"dcu-series-{self._sequence}"
            armed.thread = threading.Thread(target=self._run, args=(armed,), name=name, daemon=True)
            self._armed = armed
            self._state = "ready"
            self.sender.resume()
            armed.thread.start()
            return self._sequence

    def trigger(self) -> None:
        """Software trigger; returns when its images are taken, as the real command does."""
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
        """Stop after the image that is being taken, then `end`. Returns the sequence id."""
        return self._end_series(abort=False)

    def abort(self) -> int:
        """Drop everything; no `end` is sent. Returns the sequence id."""
        return self._end_series(abort=True)

    def close(self) -> None:
        """Abort, and close the stream."""
        self._end_series(abort=True)
        self.sender.close()

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

    def _run(self, armed: _Armed) -> None:
        error = ""
        try:
            self._take_series(armed)
        except Exception as problem:
            log.exception("series %d failed", armed.series.series_id)
            error = f"{type(problem).__name__}: {problem}"
        with self._changed:
            self.error = error
            self._state = "error" if error else "idle"
            self._armed, self._previous = None, armed.series
            armed.finished.set()
            self._changed.notify_all()

    def _take_series(self, armed: _Armed) -> None:
        config, streaming = armed.config, armed.stream["mode"] == "enabled"
        if streaming and not self.faults.no_start:
            detail = armed.stream["header_detail"]
            start = start_message(armed.series, self._header(armed), detail)
            if not self.sender.send(start, lambda: armed.finish):
                return
        images, triggers = config["nimages"], config["ntrigger"]
        if config["trigger_mode"] != "ints":
            # The microscope scans on without a pause and triggers every image, line or raster by itself.
            images, triggers = images * triggers, 1
            if streaming:
                self.sender.wait_for_peer(lambda: armed.finish)
        for number in range(triggers):
            if not self._wait_for_trigger(armed, config["trigger_mode"] == "ints"):
                break
            self._set_state("acquire")
            self._take_images(armed, number * images, images, streaming)
            with self._changed:
                armed.done += 1
                self._state = "ready"
                self._changed.notify_all()
        if streaming and not armed.abort and not self.faults.no_end:
            self._send_end(armed)

    def _wait_for_trigger(self, armed: _Armed, software: bool) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: armed.finish or not software or armed.asked > armed.done)
            return not armed.finish

    def _take_images(self, armed: _Armed, first: int, count: int, streaming: bool) -> None:
        config, stream = armed.config, armed.stream
        readout = Readout(
            dtype=config["pixel_format"],
            channels=armed.channels,
            compression=config["compression"],
            mask_to_zero=config["mask_to_zero"],
            count_time=config["count_time"],
        )
        number = armed.series.series_id
        try:
            payloads = self.source.payloads(
                self.microscope, self.scan, self.detector, readout, number, lambda: armed.finish
            )
        except Stopped:
            return
        times = config["frame_time"], config["count_time"], stream["image_appendix"] or None
        if not streaming:
            with self._changed:
                self._changed.wait_for(lambda: armed.finish, count * config["frame_time"])
            return
        stray = self._previous or Series(max(armed.series.series_id - 1, 0))
        sent = self.sender.send_images(
            ImageTemplate(armed.series, *times),
            payloads,
            self.faults.schedules(first, count),
            1 / config["frame_time"],
            foreign=ImageTemplate(stray, *times),
            seed=self.faults.seed,
        )
        self._dropped += sent.dropped
        log.info(
            "series %d: %d messages in %.3f s, %d dropped",
            number,
            sent.messages,
            sent.elapsed_s,
            sent.dropped,
        )

    def _send_end(self, armed: _Armed) -> None:
        began = time.monotonic()

        def stopped() -> bool:
            patience = STOPPED_END_TIMEOUT if armed.finish else END_TIMEOUT
            return armed.abort or time.monotonic() - began > patience

        if not self.sender.send(end_message(armed.series), stopped):
            log.warning("series %d: nobody fetched its end message", armed.series.series_id)

    def _header(self, armed: _Armed) -> Header:
        config = armed.config
        thresholds = {"threshold_1": "threshold/1/energy", "threshold_2": "threshold/2/energy"}
        return Header(
            rows=self.detector.rows,
            cols=self.detector.cols,
            dtype=config["pixel_format"],
            channels=armed.channels,
            number_of_images=config["nimages"] * config["ntrigger"],
            count_time=config["count_time"],
            frame_time=config["frame_time"],
            beam_center=(config["beam_center_x"], config["beam_center_y"]),
            incident_energy=config["incident_energy"],
            incident_wavelength=replace(self.microscope, energy_eV=config["incident_energy"]).wavelength_nm
            * 10,
            description=config["description"],
            serial_number=config["detector_number"],
            pixel_size=config["x_pixel_size"],
            sensor_material=config["sensor_material"],
            sensor_thickness=config["sensor_thickness"],
            saturation_value=config["saturation_value"],
            threshold_energy=tuple((name, config[key]) for name, key in thresholds.items()),
            countrate_correction_enabled=config["countrate_correction_applied"],
            flatfield_enabled=config["flatfield_correction_applied"],
            pixel_mask_enabled=config["pixel_mask_applied"],
            virtual_pixel_interpolation_enabled=config["virtual_pixel_correction_applied"],
            user_data=armed.stream["header_appendix"] or None,
            # bit 1 of SIMPLON's mask: dead
            pixel_mask=self.source.dead_mask(self.detector) * 2,
        )
