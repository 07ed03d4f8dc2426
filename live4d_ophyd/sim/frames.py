"""Encoded frames of a raster, computed while they are asked for, from the state of the microscope and the detector.

In: :class:`~.specimen.Microscope`, :class:`~.specimen.Scan`, :class:`~.specimen.Detector`, :class:`Readout`. Out:
:class:`Raster`, which gives :class:`~.payloads.Payloads` a chunk at a time to the series' thread (dcu.py). Threads
``sim-frames-N``, of the FrameSource, compute ahead of it. What they computed is kept as long as there is room.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

import numpy as np

from live4d_ophyd.sim.flaws import NO_FLAWS, Flaws
from live4d_ophyd.sim.kept import Kept
from live4d_ophyd.sim.patterns import Flood, Optics, Quantised
from live4d_ophyd.sim.payloads import PayloadEncoder, Payloads, Stopped
from live4d_ophyd.sim.poisson import frame_seeds, poisson_counts
from live4d_ophyd.sim.specimen import Detector, Microscope, PhaseObject, Scan

CHANNELS = ("threshold_1", "threshold_2", "difference")

#: share of the electrons that threshold_2 sees
SECOND_THRESHOLD = 0.5

#: frames computed at once: some 10 ms of work on 96x96 pixels
CHUNK = 128

#: chunks that are computed ahead of the one that is sent
AHEAD = 16

#: memory for what was computed: one half for messages, the other for patterns without noise
KEPT_BYTES = 1 << 30

# How long a stop may go unnoticed while a chunk is waited for, s
_LOOK_S = 0.02

#: what a frame of wrong dtype has instead
_OTHER_DTYPE = {"uint8": "uint16", "uint16": "uint32", "uint32": "uint16"}


@dataclass(frozen=True)
class Readout:
    """How counts become pixels."""

    dtype: str = "uint16"
    channels: tuple[str, ...] = ("threshold_1",)
    compression: str = "bslz4"
    mask_to_zero: bool = False
    #: edge of the square of sensor pixels whose counts are one frame pixel
    binning: int = 1
    #: exposure of one position, s
    count_time: float = 1 / 30e3


def image_shape(detector: Detector, binning: int) -> tuple[int, int]:
    """Rows and columns of the frames."""
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
    """Where ``position`` on the sensor is in a binned frame, px; whole numbers are centres of pixels."""
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


def drifts(microscope: Microscope) -> bool:
    """Whether the specimen moves while it is scanned."""
    return bool(microscope.drift_y_nm or microscope.drift_x_nm)


def positions_on_specimen(microscope: Microscope, scan: Scan, first: int, count: int) -> np.ndarray:
    """Where the probe is at each frame, ``(frames, 2) float64`` nm, about the place that the stage has brought there.

    Of one raster, which is repeated; of a specimen that drifts from frame ``first`` on, of all up to the last of
    ``count``: no raster is like another.
    """
    positions = scan.positions_nm()
    if not drifts(microscope):
        return positions
    frames = len(positions)
    number = np.arange(-(-(first + count) // frames) * frames)
    moved = np.clip((number - first) / frames, 0, None)[:, np.newaxis]
    return positions[number % frames] - moved * (microscope.drift_y_nm, microscope.drift_x_nm)


class FrameSource:
    """The specimen under the beam, and the threads that compute."""

    def __init__(
        self,
        specimen: PhaseObject,
        *,
        seed: int = 0,
        frozen_noise: bool = False,
        dead_pixels: int = 0,
        flaws: Flaws = NO_FLAWS,
        kept_bytes: int = KEPT_BYTES,
        threads: int | None = None,
    ) -> None:
        """``frozen_noise``: the same counts in every series while nothing else changes.

        ``threads`` compute; None: half the processors, as somebody has to receive, too.
        """
        self.specimen = specimen
        self.seed = seed
        self.frozen_noise = frozen_noise
        self.dead_pixels = dead_pixels
        self.flaws = flaws
        self.encoded: Kept[Payloads] = Kept(kept_bytes // 2)
        self.patterns: Kept[Quantised] = Kept(kept_bytes // 2)
        self._threads = max(1, min(8, (os.cpu_count() or 1) // 2)) if threads is None else threads
        self._pool: ThreadPoolExecutor | None = None
        self._optics: tuple[object, Optics | Flood] | None = None
        self._lock = threading.Lock()

    def dead_mask(self, detector: Detector, binning: int = 1) -> np.ndarray:
        """Pixels of the frames that are dead, or have a dead one in them, ``(rows, cols) bool``."""
        mask = np.zeros((detector.rows, detector.cols), bool)
        rng = np.random.default_rng([self.seed, 3])
        mask.flat[rng.choice(mask.size, min(self.dead_pixels, mask.size), replace=False)] = True
        return binned(mask, binning) > 0

    def optics(self, microscope: Microscope, detector: Detector) -> Optics | Flood:
        """The microscope as it is. The first time, or with another detector, it takes seconds."""
        # The current changes the counts only.
        key = replace(microscope, beam_current_pA=0.0), detector
        with self._lock:
            if self._optics is None or self._optics[0] != key:
                made = Flood(detector) if microscope.flood else Optics(self.specimen, microscope, detector)
                self._optics = key, made
            return self._optics[1]

    def raster(
        self,
        microscope: Microscope,
        scan: Scan,
        detector: Detector,
        readout: Readout,
        series_number: int,
        first: int = 0,
        count: int | None = None,
    ) -> Raster:
        """Frames of a raster, of which ``first .. first + count - 1`` (all) will be sent.

        ``series_number`` seeds the noise.
        """
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sim-frames")
        number = 0 if self.frozen_noise else series_number
        count = scan.frames if count is None else count
        return Raster(self, self._pool, microscope, scan, detector, readout, number, first, count)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class Raster:
    """The frames of one raster in chunks of CHUNK, each computed when it is due, or shortly before."""

    chunk_frames = CHUNK

    def __init__(
        self,
        source: FrameSource,
        pool: ThreadPoolExecutor,
        microscope: Microscope,
        scan: Scan,
        detector: Detector,
        readout: Readout,
        number: int,
        first: int,
        count: int,
    ) -> None:
        self._source, self._pool = source, pool
        self._detector, self._readout = detector, readout
        self._electrons = microscope.electrons(readout.count_time)
        self._optics = source.optics(microscope, detector)
        self._positions = positions_on_specimen(microscope, scan, first, count)
        self._dead = source.dead_mask(detector, readout.binning)
        shape = image_shape(detector, readout.binning)
        self._encoder = PayloadEncoder(shape, readout.dtype, readout.channels, readout.compression)
        column = replace(microscope, beam_current_pA=0.0), scan, detector, first if drifts(microscope) else 0
        self._patterns_key = column
        self._response = source.flaws.response(detector, source.seed)
        self._key = (
            column, microscope.beam_current_pA, readout, number, source.seed, source.dead_pixels, source.flaws,
        )  # fmt: skip
        digest = hashlib.sha256(repr((source.seed, 4, number)).encode()).digest()
        self._noise = int.from_bytes(digest[:8])
        self._pending: dict[int, Future[Payloads]] = {}
        self._computed: set[int] = set()
        start, frames = first % len(self), len(self)
        self._chunks = -(-frames // CHUNK)
        # Whether the raster begins anew before all frames are sent; if not, which chunks they need.
        self._around = start + count > frames
        self._begin = 0 if self._around else start // CHUNK
        self._end = self._chunks if self._around else -(-(start + count) // CHUNK)

    def __len__(self) -> int:
        """Frames until it begins anew."""
        return len(self._positions)

    @property
    def progress(self) -> tuple[int, int]:
        """Frames that are there, and how many will be."""
        wanted = (self._end - self._begin) * CHUNK
        return min(len(self._computed) * CHUNK, wanted, len(self)), min(wanted, len(self))

    def chunk(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Payloads:
        """The frames ``number * CHUNK`` and following. Raises Stopped when told to stop before they are there."""
        self._look_ahead(number)
        while True:
            try:
                return self._pending[number].result(_LOOK_S)
            except NotYet:
                if stopped():
                    raise Stopped from None

    def payload(self, number: int) -> bytes:
        """The ``data`` map of one frame."""
        chunk, within = divmod(number, CHUNK)
        return self.chunk(chunk).payload(within)

    def close(self) -> None:
        """Compute no more than is being computed."""
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()

    def _look_ahead(self, number: int) -> None:
        """Have the next chunks computed, and hold on to none of those before."""
        wanted = [number]
        for following in range(number + 1, number + AHEAD):
            if following < self._end:
                wanted.append(following)
            elif self._around:
                wanted.append(following % self._chunks)
        for old in self._pending.keys() - wanted:
            self._pending.pop(old).cancel()
        for chunk in wanted:
            if chunk not in self._pending:
                self._pending[chunk] = self._pool.submit(self._payloads, chunk)

    # on the threads that compute

    def _payloads(self, chunk: int) -> Payloads:
        payloads = self._source.encoded.get(self._key, chunk)
        if payloads is None:
            payloads = self._encoder.encode([self._pixels(chunk)])
            self._source.encoded.put(self._key, chunk, payloads)
        self._computed.add(chunk)
        return payloads

    def _quantised(self, chunk: int) -> Quantised:
        patterns = self._source.patterns.get(self._patterns_key, chunk)
        if patterns is None:
            patterns = self._optics.quantised(self._positions[chunk * CHUNK : (chunk + 1) * CHUNK])
            self._source.patterns.put(self._patterns_key, chunk, patterns)
        return patterns

    def _pixels(self, chunk: int) -> np.ndarray:
        """Pixels ``(b, channels, rows, cols)`` of a chunk."""
        patterns, readout, detector = self._quantised(chunk), self._readout, self._detector
        dtype = np.dtype(readout.dtype)
        highest = int(np.iinfo(dtype).max)
        seeds = frame_seeds(self._noise, chunk * CHUNK, len(patterns.units))
        plain = readout.binning == 1 and len(readout.channels) == 1
        # The maximum means: no data. Nothing arrives outside the simulated square.
        counts = np.zeros((len(seeds), detector.rows, detector.cols), dtype if plain else np.uint32)
        most = highest - 1 if plain else None
        amplitudes = self._response.applied(patterns.amplitudes, detector.origin)
        poisson_counts(amplitudes, patterns.units * self._electrons, seeds, counts, detector.origin, most)
        self._response.add_hot(counts, highest - 1, np.random.default_rng([self._noise, chunk, 1]))
        if plain:
            pixels = counts[:, None]
        else:
            first = np.minimum(binned(counts, readout.binning), highest - 1)
            by_channel = {"threshold_1": first}
            if len(readout.channels) > 1:
                rng = np.random.default_rng([self._noise, chunk])
                by_channel["threshold_2"] = rng.binomial(first.astype(np.int64), SECOND_THRESHOLD)
                by_channel["difference"] = first - by_channel["threshold_2"]
            pixels = np.stack([by_channel[name] for name in readout.channels], axis=1).astype(dtype)
        pixels[:, :, self._dead] = 0 if readout.mask_to_zero else highest
        return pixels
