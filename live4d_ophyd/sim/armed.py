"""One armed series of the simulated DCU: what was set when it was armed, and the messages that follow from it.

In: settings at arming, triggers, frames of the microscope. Out: stream v2 messages through a StreamSender. Its
sending methods run on the series' thread; ``finish`` and ``abort``, set by any other, end them early.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from live4d_ophyd.sim import settings
from live4d_ophyd.sim.encode import ImageTemplate, Series, end_message, start_message
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.frames import FrameSource, Raster, Readout, image_shape, misfits
from live4d_ophyd.sim.sender import StreamSender
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan

log = logging.getLogger(__name__)

#: how long an `end` waits for a client that does not fetch, s; the second after disarm and cancel
END_TIMEOUT, STOPPED_END_TIMEOUT = 10.0, 0.5


@dataclass(frozen=True)
class Leftover:
    """What is left when frames of a trigger have been sent, or not."""

    #: frames that no client fetched in time
    dropped: int = 0
    #: messages of an aborted series that are still to come (fault after_abort)
    messages: tuple[bytes, ...] = ()
    #: the frame whose turn it was when it was stopped; None: all were sent
    next_image: int | None = None


@dataclass
class ArmedSeries:
    """Settings of one series, and how its thread is told what to do."""

    series: Series
    config: dict[str, Any]
    stream: dict[str, Any]
    channels: tuple[str, ...]
    #: fault fail_series
    fails: bool = False
    #: the probe scans when the scan generator is told to start, not by itself
    commanded: bool = False
    thread: threading.Thread | None = None
    #: software triggers asked for and done
    asked: int = 0
    done: int = 0
    finish: bool = False
    abort: bool = False
    finished: threading.Event = field(default_factory=threading.Event)
    #: the frames that are being sent
    raster: Raster | None = None

    @property
    def streaming(self) -> bool:
        return self.stream["mode"] == "enabled" and self.stream["format"] == "cbor"

    @property
    def readout(self) -> Readout:
        return Readout(
            dtype=self.config["pixel_format"],
            channels=self.channels,
            compression=self.config["compression"],
            mask_to_zero=self.config["mask_to_zero"],
            binning=settings.BINNING[self.config["binning_mode"]],
            count_time=self.config["count_time"],
        )

    def send_start(self, sender: StreamSender, dead: np.ndarray, scan: Scan | None) -> bool:
        """Send `start` as soon as a client is connected. False when the series was ended before."""
        # bit 1 of SIMPLON's mask: dead
        header = settings.header(self.config, self.stream, self.channels, dead * 2, scan)
        start = start_message(self.series, header, self.stream["header_detail"])
        return sender.send(start, lambda: self.finish)

    def send_images(
        self,
        sender: StreamSender,
        source: FrameSource,
        beam: tuple[Microscope, Scan, Detector],
        first: int,
        count: int,
        faults: Faults,
        stray: Series,
    ) -> Leftover:
        """Send frames ``first .. first + count - 1``; ``stray`` is the series of fault foreign."""
        config, readout = self.config, self.readout
        series_id = self.series.series_id
        raster = self.raster = source.raster(*beam, readout, series_id, first, count)
        times = config["frame_time"], config["count_time"], self.stream["image_appendix"] or None
        template = ImageTemplate(self.series, *times)
        try:
            sent = sender.send_images(
                template,
                raster,
                faults.schedules(first, count),
                1 / config["frame_time"],
                foreign=ImageTemplate(stray, *times),
                misfits=misfits(image_shape(beam[2], readout.binning), readout),
                seed=faults.seed,
            )
            log.info(
                "series %d: %d messages in %.3f s, %d dropped",
                series_id,
                sent.messages,
                sent.elapsed_s,
                sent.dropped,
            )
            if not self.abort or sent.next_image is None:
                return Leftover(sent.dropped, next_image=sent.next_image)
            last = min(sent.next_image + faults.after_abort, first + count)
            messages = (
                template.message(i, raster.payload(i % len(raster))) for i in range(sent.next_image, last)
            )
            return Leftover(sent.dropped, tuple(messages))
        finally:
            raster.close()
            self.raster = None

    def send_end(self, sender: StreamSender) -> None:
        """Send `end`, unless the series is aborted or nobody fetches it for long."""
        began = time.monotonic()

        def stopped() -> bool:
            patience = STOPPED_END_TIMEOUT if self.finish else END_TIMEOUT
            return self.abort or time.monotonic() - began > patience

        if not sender.send(end_message(self.series), stopped):
            log.warning("series %d: nobody fetched its end message", self.series.series_id)
