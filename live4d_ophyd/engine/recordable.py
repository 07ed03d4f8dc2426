"""Recordable: what of a batch goes into the recorded file, and as which of its frames: every channel, and flyback.

In: frames that were accepted, with what the decoder said of those that are imaged. Out: entries for the recorder, with
the numbers of `FrameSet`. The other channels' frames, and flyback, are no part of any image: here their blocks are
checked, on a CPU, so that none lies in the file as good that is not. Runs in receive threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from live4d_ophyd.decode import CpuBackend, Demand, FrameFormat, Saturation
from live4d_ophyd.engine.recorder import MOST_CHANNELS, FrameRecorder
from live4d_ophyd.frames.batch import IMAGE, FrameBatch
from live4d_ophyd.recording.frame_sets import room_aside
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesHeader, SeriesSource

log = logging.getLogger(__name__)

_CHECK = Demand(maps=None)


class Recordable:
    """Of one acquisition of ``scan``; ``known`` has the series' channels."""

    def __init__(self, recorder: FrameRecorder, scan: ScanGrid, known: SeriesSource) -> None:
        self._recorder, self._scan, self._known = recorder, scan, known
        self._aside = scan.aside if recorder.recording.flyback else np.empty(0, np.int64)
        #: the channels besides that of the images, and what the series says of each; None before the first frame
        self.others: dict[str, SeriesHeader | None] | None = None
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def add(
        self, batch: FrameBatch, entries: np.ndarray, positions: np.ndarray, status: np.ndarray, frame: FrameFormat,
        decoded: Mapping[str, tuple[FrameBatch, np.ndarray]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Take frames of a batch. (n,) each: entries, positions over all rasters, -1 for none, and statuses.

        ``decoded``: the same frames of channels that are imaged, too, (n,), with what a decoder said of those that have
        a position.
        """
        imaged = positions >= 0
        kept = np.arange(len(entries)) if len(self._aside) else np.flatnonzero(imaged)
        if not len(self._aside) and not imaged.all():
            entries, positions, status = entries[imaged], positions[imaged], status[imaged]
        if not len(entries):
            return
        others = self._others(batch, int(entries[0]))
        if len(self._aside):
            status = status.copy()
            status[~imaged] = self._check(batch, entries[~imaged], frame)
            rasters, within = np.divmod(batch.image_id[entries], self._scan.frames)
            first, *further = self._numbers(positions, within, 1 + len(others))
        else:
            rasters, first = np.divmod(positions, self._scan.size)
            further = [first + nth * self._scan.size for nth in range(1, 1 + len(others))]
        self._recorder.add(batch, entries, rasters, first, status, frame)
        for channel, numbers in zip(others, further):
            if channel in decoded:
                other, said = decoded[channel][0], decoded[channel][1][kept]
                other = FrameBatch(
                    other.buffer, other.index[kept], len(kept), other.channel, other.connection
                )
                unchecked = positions < 0
            else:
                other = self._known.of_channel(batch, entries, channel)
                said = np.zeros(len(entries), np.int64)
                unchecked = np.ones(len(entries), bool)
            is_image = other.status == IMAGE
            said[unchecked & is_image] = self._check(other, np.flatnonzero(unchecked & is_image), frame)
            there = np.flatnonzero(is_image)
            self._recorder.add(other, there, rasters[there], numbers[there], said[there], frame)

    def _numbers(self, positions: np.ndarray, within: np.ndarray, channels: int) -> list[np.ndarray]:
        """Of frames in the file, (n,) for each channel; ``within``: their numbers in the raster."""
        size, kept = self._scan.size, room_aside(len(self._aside))
        on_scan, aside = positions % size, np.searchsorted(self._aside, within)
        return [
            np.where(positions >= 0, nth * size + on_scan, channels * size + nth * kept + aside)
            for nth in range(channels)
        ]

    def _others(self, batch: FrameBatch, entry: int) -> dict[str, SeriesHeader | None]:
        if self.others is None:
            with self._lock:
                if self.others is None:
                    self.others = self._found(batch, entry)
        return self.others

    def _found(self, batch: FrameBatch, entry: int) -> dict[str, SeriesHeader | None]:
        found = dict(self._known.other_channels(batch, entry))
        if len(found) > MOST_CHANNELS:
            log.warning(
                "frames have %d channels besides %r: %s are not recorded", len(found), self._known.channel,
                ", ".join(list(found)[MOST_CHANNELS:][:5]),
            )  # fmt: skip
        return dict(list(found.items())[:MOST_CHANNELS])

    def _check(self, batch: FrameBatch, entries: np.ndarray, frame: FrameFormat) -> np.ndarray:
        """What a decoder says of frames that nobody sums, (n,)."""
        decoder = getattr(self._of_thread, "decoder", None)
        if decoder is None:
            decoder = self._of_thread.decoder = CpuBackend().decoder(frame, saturation=Saturation())
        status = np.zeros(len(entries), np.int64)
        for part in decoder.submit(batch, entries, _CHECK).parts():
            status[part.at] = part.status
        return status
