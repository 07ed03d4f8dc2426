"""Projection: what the frames of a series look like and are asked for, and frames under way.

Made for one series, when its first images show their format. Every receive thread gives it its own images and has a
decoder of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np

from live4d_ophyd.decode import Backend, FrameFormat, Saturation
from live4d_ophyd.engine.frame_format import (
    agrees,
    announced_in_words,
    choose_format,
    formats_of,
    in_words,
)
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.header_scan import note_of
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.pending import FramesUnderWay, Pending
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.engine.reasons import why_bad
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series_record import SeriesRecord, describe, saturation_value
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.sources.dectris.messages import StartMessage
from live4d_ophyd.sources.source import SeriesInfo, SeriesKey

log = logging.getLogger(__name__)


class Projection:
    """``refuse`` takes the reasons of bad images. ``name``, ``start`` and ``channel`` are the series' to set."""

    def __init__(
        self,
        request: AcquisitionRequest,
        tracker: FrameTracker,
        backend: Backend,
        preparation: Preparation,
        refuse: Callable[[str], None],
    ) -> None:
        self.name = "?"
        self.key: SeriesKey = (0, 0)
        self.start: StartMessage | None = None
        self.channel = request.channel
        self.imaging: Imaging | None = None
        self.engine = ""  #: what decodes the images
        self.info: SeriesRecord | None = None  #: known with the format of the frames
        self._saturation = Saturation()
        self._request, self._tracker, self._backend = request, tracker, backend
        self._preparation, self._refuse = preparation, refuse
        self._frame: FrameFormat | None = None
        self._formats: Counter[FrameFormat] = Counter()  # of the first images
        self._waiting: list[tuple[FrameBatch, np.ndarray]] = []  # images that wait for the format
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    @property
    def contradiction(self) -> str:
        """What `start` and an image say of the images where nothing has told who is right yet; else ""."""
        if self._frame is not None or not self._formats:
            return ""
        images = " or ".join(map(in_words, self._formats))
        return f"its start message announces {announced_in_words(self.start)}, what came is {images}"

    def prepare_early(self) -> None:
        """Make what `start` tells all about before images come; `take` then finds it made."""
        start = self.start
        if start is None or not self.channel:
            return
        if not start.image_size_y or not start.image_size_x or start.image_dtype is None:
            return
        # What does not fit is said when an image shows that start is right.
        with self._lock, self._tracker.working(), contextlib.suppress(ValueError):
            frame = FrameFormat(start.image_size_y, start.image_size_x, start.image_dtype)
            self._preparation.prepare(self._request, self._series(frame), self._detectors_mask())

    def take(self, batch: FrameBatch, rows: np.ndarray) -> list[Pending]:
        """Begin to sum claimed images, and those that waited for the format if these settle it."""
        with self._tracker.working():
            with self._lock:
                if self._frame is None:
                    self._formats.update(formats_of(batch, rows))
                    self._settle_format(self._tracker.all_claimed)
                if self._frame is None:
                    first = int(rows[0])
                    self._waiting.append((batch.copy(first, int(rows[-1]) + 1), rows - first))
                    return []
                waited, self._waiting = self._waiting, []
            return [self._submit(*images) for images in [*waited, (batch, rows)]]

    def finish(self) -> list[Pending]:
        """Begin to sum what still waits: no other image will tell more."""
        with self._tracker.working():
            with self._lock:
                if self._waiting:
                    self._settle_format(all_there=True)
                waited, self._waiting = self._waiting, []
            return [self._submit(*images) for images in waited]

    def _submit(self, batch: FrameBatch, rows: np.ndarray) -> Pending:
        assert self._frame is not None
        assert self.imaging is not None
        decoder = getattr(self._of_thread, "decoder", None)
        if decoder is None:
            decoder = self._of_thread.decoder = self._backend.decoder(
                self._frame, saturation=self._saturation
            )
            self.engine = decoder.engine
        return FramesUnderWay(
            self._request.grid, self._tracker, self._refuse_image, decoder, self.imaging, batch, rows
        )

    def _refuse_image(self, status: int, batch: FrameBatch, row: int) -> None:
        assert self._frame is not None
        self._refuse(why_bad(status, batch, row, self._frame, self.start))

    def _settle_format(self, all_there: bool) -> None:
        """Make the methods if the images so far tell their format, all of them if no other comes."""
        request, start = self._request, self.start
        frame = choose_format(start, self._formats, all_there)
        if frame is None:
            return
        if start is None:
            log.warning(
                "series %s: no start message came; pixel masks of the detector are not known", self.name
            )
        elif not agrees(start, frame):
            log.warning(
                "series %s: the start message announces %s, but the images are %s: they are taken as they are",
                self.name, announced_in_words(start), in_words(frame),
            )  # fmt: skip
        self._saturation = self._saturation_of(start)
        prepared = self._preparation.prepare(request, self._series(frame), self._detectors_mask())
        mask = prepared.mask
        if mask is None and start is not None and not start.pixel_mask_enabled:
            self._say_that_no_pixel_is_masked(start)
        self.info = describe(start, self.channel, frame, self._saturation, mask, prepared.detectors_mask)
        self.imaging = Imaging(prepared, request.grid, saturated_is_nan=request.saturated == "nan")
        self._frame = frame

    def _saturation_of(self, start: StartMessage | None) -> Saturation:
        request = self._request
        return Saturation(request.nodata, saturation_value(start), request.saturated == "count")

    def _series(self, frame: FrameFormat) -> SeriesInfo:
        """The series as methods see it; its mask is the preparation's to find."""
        start = self.start
        saturation = self._saturation_of(start)
        return SeriesInfo(
            key=self.key,
            format=frame,
            frames=None if start is None else start.number_of_images,
            saturation=None if saturation.counted else saturation.limit(frame.dtype),
            energy=None if start is None else start.incident_energy,
            note={} if start is None else note_of(start.user_data),
        )

    def _detectors_mask(self) -> EncodedArray | None:
        """The pixels that the detector itself calls bad, as it sent them."""
        masks = self.start.pixel_mask if self.start else None
        return masks.get(self.channel) if masks else None

    def _say_that_no_pixel_is_masked(self, start: StartMessage) -> None:
        if self._preparation.unmasked_said:
            return
        self._preparation.unmasked_said = True
        log.warning(
            "series %s: no pixel is masked: dead and hot pixels are counted like all others. The stream brought no "
            "pixel mask%s, start %s that the detector applies its own, and none was given. Set header_detail of "
            "the detector's stream to 'all', or pass pixel_mask=...; calibrate_bright_field lists hot pixels",
            self.name, f" of channel {self.channel!r}" if start.pixel_mask else "",
            "does not say" if start.pixel_mask_enabled is None else "denies",
        )  # fmt: skip
