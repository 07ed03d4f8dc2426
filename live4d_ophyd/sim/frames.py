"""Encoded frames of one raster, from the state of the simulated microscope and the detector's settings.

In: :class:`~.specimen.Microscope`, :class:`~.specimen.Scan`, :class:`~.specimen.Detector`,
:class:`Readout`. Out: :class:`~.payloads.Payloads`, one a probe position. Runs on the series' thread
(dcu.py); the last raster is kept, so that asking again for the same one costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from live4d_ophyd.sim.payloads import PayloadEncoder, Payloads
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, simulate

CHANNELS = ("threshold_1", "threshold_2", "difference")

#: share of the electrons that threshold_2 sees
SECOND_THRESHOLD = 0.5


class Stopped(Exception):
    """The series was cancelled while its frames were computed."""


@dataclass(frozen=True)
class Readout:
    """How counts become pixels."""

    dtype: str = "uint16"
    channels: tuple[str, ...] = ("threshold_1",)
    compression: str = "bslz4"
    mask_to_zero: bool = False
    #: exposure of one position, s
    count_time: float = 1 / 30e3


class FrameSource:
    """The specimen under the beam; call it from one thread at a time."""

    def __init__(
        self, specimen: Specimen, *, seed: int = 0, frozen_noise: bool = False, dead_pixels: int = 0
    ) -> None:
        """``frozen_noise``: the same counts in every series while nothing else changes; it comes at once."""
        self.specimen = specimen
        self.seed = seed
        self.frozen_noise = frozen_noise
        self.dead_pixels = dead_pixels
        self._last: tuple[object, Payloads] | None = None

    def dead_mask(self, detector: Detector) -> np.ndarray:
        """Dead pixels, ``(rows, cols) bool``."""
        mask = np.zeros((detector.rows, detector.cols), bool)
        rng = np.random.default_rng([self.seed, 3])
        mask.flat[rng.choice(mask.size, min(self.dead_pixels, mask.size), replace=False)] = True
        return mask

    def payloads(
        self,
        microscope: Microscope,
        scan: Scan,
        detector: Detector,
        readout: Readout,
        series_number: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Payloads:
        """Frames of one raster. ``series_number`` seeds the noise. Raises Stopped when told to stop."""
        number = 0 if self.frozen_noise else series_number
        key = (microscope, scan, detector, readout, number, self.seed, self.dead_pixels)
        if self._last is None or self._last[0] != key:
            self._last = None
            encoder = PayloadEncoder(
                (detector.rows, detector.cols), readout.dtype, readout.channels, readout.compression
            )
            rng = np.random.default_rng([self.seed, 4, number])
            pixels = self._pixels(microscope, scan, detector, readout, rng, stopped)
            self._last = key, encoder.encode(pixels)
        return self._last[1]

    def _pixels(
        self,
        microscope: Microscope,
        scan: Scan,
        detector: Detector,
        readout: Readout,
        rng: np.random.Generator,
        stopped: Callable[[], bool],
    ) -> Iterator[np.ndarray]:
        """Batches ``(b, channels, rows, cols)`` of pixels."""
        dtype = np.dtype(readout.dtype)
        highest = np.iinfo(dtype).max
        dead = self.dead_mask(detector)
        for _, counts in simulate(self.specimen, microscope, scan, detector, readout.count_time, rng):
            if stopped():
                raise Stopped
            first = np.minimum(counts, highest - 1)  # the maximum means: no data
            by_channel = {"threshold_1": first}
            if len(readout.channels) > 1:
                by_channel["threshold_2"] = rng.binomial(first, SECOND_THRESHOLD)
                by_channel["difference"] = first - by_channel["threshold_2"]
            pixels = np.stack([by_channel[name] for name in readout.channels], axis=1).astype(dtype)
            pixels[:, :, dead] = 0 if readout.mask_to_zero else highest
            yield pixels
