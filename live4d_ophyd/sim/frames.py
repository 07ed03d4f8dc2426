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

#: what an image of wrong dtype has instead
_OTHER_DTYPE = {"uint8": "uint16", "uint16": "uint32", "uint32": "uint16"}


class Stopped(Exception):
    """The series was cancelled while its frames were computed."""


@dataclass(frozen=True)
class Readout:
    """How counts become pixels."""

    dtype: str = "uint16"
    channels: tuple[str, ...] = ("threshold_1",)
    compression: str = "bslz4"
    mask_to_zero: bool = False
    #: edge of the square of sensor pixels whose counts are one image pixel
    binning: int = 1
    #: exposure of one position, s
    count_time: float = 1 / 30e3


def image_shape(detector: Detector, binning: int) -> tuple[int, int]:
    """Rows and columns of the images."""
    return detector.rows // binning, detector.cols // binning


def binned(frames: np.ndarray, binning: int) -> np.ndarray:
    """Sums over ``binning x binning`` pixels, ``(..., rows, cols)`` to ``(..., rows // binning, cols // binning)``.

    Rows and columns that fill no such square are left out.
    """
    if binning == 1:
        return frames
    *first, rows, cols = frames.shape
    rows, cols = rows // binning, cols // binning
    whole = frames[..., : rows * binning, : cols * binning]
    return whole.reshape(*first, rows, binning, cols, binning).sum((-3, -1))


def binned_position(position: float, binning: float) -> float:
    """Where ``position`` on the sensor is in a binned image, px; whole numbers are centres of pixels."""
    return (position + 0.5) / binning - 0.5


def misfits(shape: tuple[int, int], readout: Readout) -> Payloads:
    """Two frames of ones, of half the rows and of another dtype than announced, as misfits of send_images."""
    rows, cols = shape
    other = _OTHER_DTYPE[readout.dtype]
    kinds = ((rows // 2, cols), readout.dtype), (shape, other)
    wrong_shape, wrong_dtype = (
        PayloadEncoder(kind, dtype, readout.channels, readout.compression).encode(
            [np.ones((1, len(readout.channels), *kind))]
        )
        for kind, dtype in kinds
    )
    return wrong_shape + wrong_dtype


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

    def dead_mask(self, detector: Detector, binning: int = 1) -> np.ndarray:
        """Pixels of the images that are dead, or have a dead one in them, ``(rows, cols) bool``."""
        mask = np.zeros((detector.rows, detector.cols), bool)
        rng = np.random.default_rng([self.seed, 3])
        mask.flat[rng.choice(mask.size, min(self.dead_pixels, mask.size), replace=False)] = True
        return binned(mask, binning) > 0

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
            shape = image_shape(detector, readout.binning)
            encoder = PayloadEncoder(shape, readout.dtype, readout.channels, readout.compression)
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
        dead = self.dead_mask(detector, readout.binning)
        for _, counts in simulate(self.specimen, microscope, scan, detector, readout.count_time, rng):
            if stopped():
                raise Stopped
            first = np.minimum(binned(counts, readout.binning), highest - 1)  # the maximum means: no data
            by_channel = {"threshold_1": first}
            if len(readout.channels) > 1:
                by_channel["threshold_2"] = rng.binomial(first, SECOND_THRESHOLD)
                by_channel["difference"] = first - by_channel["threshold_2"]
            pixels = np.stack([by_channel[name] for name in readout.channels], axis=1).astype(dtype)
            pixels[:, :, dead] = 0 if readout.mask_to_zero else highest
            yield pixels
