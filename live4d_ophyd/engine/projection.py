"""Projection: what the frames of a series look like and are asked for, and frames under way.

Made for one series, when its first frames show their format. Every receive thread gives it its own frames and has a
decoder of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from live4d_ophyd.decode import Backend, FrameFormat, Saturation
from live4d_ophyd.decode.decoder import Decoder
from live4d_ophyd.engine.frame_format import (
    BELIEVED_PIXELS,
    agrees,
    announced_in_words,
    choose_format,
    formats_of,
    in_words,
)
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.header_scan import note_of
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.pending import ChannelUnderWay, FramesUnderWay, Pending
from live4d_ophyd.engine.preparation import Preparation, Prepared
from live4d_ophyd.engine.reasons import why_bad
from live4d_ophyd.engine.recordable import Recordable
from live4d_ophyd.engine.recorder import FrameRecorder
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series_record import SeriesRecord, describe, saturation_value
from live4d_ophyd.frames.batch import NO_CHANNEL, FrameBatch
from live4d_ophyd.sources.source import SeriesHeader, SeriesInfo, SeriesSource

log = logging.getLogger(__name__)


class Projection:
    """``refuse`` takes the reasons of bad frames; ``known``: what the source knows of the series.

    ``recorder`` takes all frames that belong to a position, as they came.
    """

    def __init__(
        self,
        request: AcquisitionRequest,
        tracker: FrameTracker,
        preparation: Preparation,
        refuse: Callable[[str], None],
        known: SeriesSource,
        recorder: FrameRecorder | None = None,
    ) -> None:
        self._recordable = None if recorder is None else Recordable(recorder, request.grid, known)
        self._known = known
        self.imaging: Imaging | None = None
        self._backends: set[str] = set()
        self.info: SeriesRecord | None = None  #: known with the format of the frames
        self.further_info: dict[
            str, SeriesRecord
        ] = {}  #: of each further channel that is imaged, as ``info``
        self._saturation = Saturation()
        self._request, self._tracker = request, tracker
        self._preparation, self._refuse = preparation, refuse
        self._frame: FrameFormat | None = None
        self._formats: Counter[FrameFormat] = Counter()  # of the first frames
        self._waiting: list[tuple[FrameBatch, np.ndarray]] = []  # frames that wait for the format
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    @property
    def backend(self) -> str:
        """What decodes the frames: "cpu", "gpu", or both where a GPU could not take all connections."""
        return "+".join(sorted(self._backends))

    @property
    def frame(self) -> FrameFormat | None:
        """Format of the frames; None before they show it."""
        return self._frame

    @property
    def other_channels(self) -> dict[str, SeriesHeader | None]:
        """Channels of the frames besides that of the images, as far as they are recorded."""
        return {} if self._recordable is None else self._recordable.others or {}

    @property
    def contradiction(self) -> str:
        """What `start` and the frames say where they contradict each other, and nothing has decided it; else ""."""
        if self._frame is not None or not self._formats:
            return ""
        found = " or ".join(map(in_words, self._formats))
        return f"its start message announces {announced_in_words(self._known.header)}, what came is {found}"

    def prepare_early(self) -> None:
        """Make what `start` tells all about before frames come; `accept` then finds it made."""
        header = self._known.header
        if header is None or not header.channel or not header.rows or not header.cols or header.dtype is None:
            return
        # What does not fit is said when a frame shows that start is right.
        with self._lock, self._tracker.working(), contextlib.suppress(ValueError):
            frame = FrameFormat(header.rows, header.cols, header.dtype)
            if self._believed(frame, header):
                self._prepare(frame, header)

    def _believed(self, frame: FrameFormat, header: SeriesHeader) -> bool:
        """Whether frames may be so large, before one is there: else `start` alone would cost gigabytes."""
        mask, users = header.pixel_mask, (self._request.pixel_mask, self._request.gain)
        return (
            frame.pixels <= BELIEVED_PIXELS
            or (mask is not None and mask.shape == frame.shape and mask.plausible)
            or any(array is not None and array.shape == frame.shape for array in users)
            or self._preparation.knows(frame.shape)
        )

    def accept(self, batch: FrameBatch, entries: np.ndarray, backend: Backend) -> list[Pending]:
        """Begin to sum claimed frames, and those that waited for the format if these decide it.

        ``backend`` decodes what the calling thread receives.
        """
        with self._tracker.working():
            with self._lock:
                if self._frame is None:
                    self._check_channels(batch, int(entries[0]))
                    self._formats.update(formats_of(batch, entries))
                    self._decide_format(self._tracker.all_claimed)
                if self._frame is None:
                    first = int(entries[0])
                    self._waiting.append((batch.copy(first, int(entries[-1]) + 1), entries - first))
                    return []
                waited, self._waiting = self._waiting, []
            steps = [self._submit(*frames, backend) for frames in [*waited, (batch, entries)]]
            return [step for of_batch in steps for step in of_batch]

    def finish(self, backend: Backend) -> list[Pending]:
        """Begin to sum what still waits: no other frame will tell more."""
        with self._lock:
            if not self._waiting:
                return []  # not work: an end that comes again must not count as activity of the stream
        with self._tracker.working():
            with self._lock:
                if self._waiting:
                    self._decide_format(all_there=True)
                waited, self._waiting = self._waiting, []
            return [step for frames in waited for step in self._submit(*frames, backend)]

    def free(self) -> None:
        """The series is over, and its results are taken: nothing that was made for its frames is held any more.

        Frames may be large, and who took the series may keep it.
        """
        with self._lock:
            self.imaging, self._waiting, self._of_thread = None, [], threading.local()
            # Held here and by the stream only. The series refers to itself, and the search for garbage may come late.
            self._preparation = Preparation()

    def _check_channels(self, batch: FrameBatch, entry: int) -> None:
        """Raise ValueError for a channel that is to be imaged, and that the first frame does not have."""
        if not self._request.channels:
            return
        there = [self._known.channel, *self._known.other_channels(batch, entry)]
        for channel in self._request.channels:
            if channel not in there:
                raise ValueError(
                    f"series {self._known.name} has no channel {channel!r}, which is to be imaged: its frames have "
                    f"{', '.join(there)}. Choose among these, or switch it on at the detector"
                )

    def _submit(self, batch: FrameBatch, entries: np.ndarray, backend: Backend) -> list[Pending]:
        """Further channels come first: the source's channel books the frames."""
        assert self.imaging is not None
        positions = self._request.grid.positions(batch.image_id[entries])
        further = [
            ChannelUnderWay(
                channel, self._tracker, partial(self._refuse_of, channel), self._decoder(channel, backend),
                self.imaging, self._known.of_channel(batch, entries, channel), positions,
            )
            for channel in self._request.channels
        ]  # fmt: skip
        frames = FramesUnderWay(
            self._tracker, self._refuse_frame, self._decoder("", backend), self.imaging, batch, entries, positions,
            None if self._recordable is None else partial(self._record, further), further,
        )  # fmt: skip
        return [*further, frames]

    def _decoder(self, channel: str, backend: Backend) -> Decoder:
        """That of the calling thread for a channel: what one gave is valid until it gives more."""
        assert self._frame is not None
        decoders: dict[str, Decoder] = self._of_thread.__dict__.setdefault("decoders", {})
        if channel not in decoders:
            decoders[channel] = backend.decoder(self._frame, saturation=self._saturation)
            self._backends.add(decoders[channel].backend)
        return decoders[channel]

    def _record(
        self,
        further: Sequence[ChannelUnderWay],
        batch: FrameBatch,
        entries: np.ndarray,
        positions: np.ndarray,
        status: np.ndarray,
    ) -> None:
        assert self._recordable is not None
        assert self._frame is not None
        decoded = {each.channel: (each.batch, each.status) for each in further}
        self._recordable.add(batch, entries, positions, status, self._frame, decoded)

    def _refuse_of(self, channel: str, status: int, batch: FrameBatch, entry: int) -> None:
        assert self._frame is not None
        if status == NO_CHANNEL:
            why = "the frame does not have it"
        elif status < 0:
            why = "column-major and split arrays are not supported in a live stream"
        else:
            why = why_bad(status, batch, entry, self._frame, self._known)
        self._refuse(f"channel {channel!r}: {why}")

    def _refuse_frame(self, status: int, batch: FrameBatch, entry: int) -> None:
        assert self._frame is not None
        self._refuse(why_bad(status, batch, entry, self._frame, self._known))

    def _decide_format(self, all_there: bool) -> None:
        """Make the methods if the frames so far tell their format, all of them if no other comes."""
        header = self._known.header
        frame = choose_format(header, self._formats, all_there)
        if frame is None:
            return
        if header is None:
            log.warning(
                "series %s: no start message came; pixel masks of the detector are not known",
                self._known.name,
            )
        elif not agrees(header, frame):
            log.warning(
                "series %s: the start message announces %s, but the frames are %s: they are taken as they are",
                self._known.name, announced_in_words(header), in_words(frame),
            )  # fmt: skip
        self._saturation = self._saturation_of(header)
        prepared = self._prepare(frame, header)
        own = prepared.channels[""]
        mask = own.mask
        if mask is None and header is not None and not header.masked:
            self._warn_that_no_pixel_is_masked(header)
        self.info = describe(
            header, self._known.channel, frame, self._saturation, mask, own.detectors_mask, own.pixels_spread
        )
        self.further_info = {
            channel: describe(
                self._known.header_of(channel), channel, frame, self._saturation, there.mask, there.detectors_mask,
                there.pixels_spread,
            )
            for channel, there in prepared.channels.items()
            if channel
        }  # fmt: skip
        self.imaging = Imaging(
            prepared, self._request.grid, saturated_is_nan=self._request.saturated == "nan"
        )
        self._frame = frame

    def _saturation_of(self, header: SeriesHeader | None) -> Saturation:
        request = self._request
        return Saturation(request.nodata, saturation_value(header), request.saturated == "count")

    def _prepare(self, frame: FrameFormat, header: SeriesHeader | None) -> Prepared:
        saturation = self._saturation_of(header)
        series = SeriesInfo(
            key=(0, 0) if header is None else header.key,
            format=frame,
            frames=None if header is None else header.frames,
            saturation=None if saturation.counted else saturation.limit(frame.dtype),
            energy=None if header is None else header.energy,
            note={} if header is None else note_of(header.note),
        )
        headers = {"": header} | {name: self._known.header_of(name) for name in self._request.channels}
        masks = {name: None if said is None else said.pixel_mask for name, said in headers.items()}
        return self._preparation.prepare(self._request, series, masks)

    def _warn_that_no_pixel_is_masked(self, header: SeriesHeader) -> None:
        if self._preparation.unmasked_logged:
            return
        self._preparation.unmasked_logged = True
        log.warning(
            "series %s: no pixel is masked: dead and hot pixels are counted like all others. The stream brought no "
            "pixel mask%s, start %s that the detector applies its own, and none was given. Set header_detail of "
            "the detector's stream to 'all', or pass pixel_mask=...; calibrate_bright_field lists hot pixels",
            self._known.name, f" of channel {header.channel!r}" if header.brought_masks else "",
            "does not say" if header.masked is None else "denies",
        )  # fmt: skip
