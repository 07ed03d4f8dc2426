"""How fast a backend decodes frames whose sums are known, and whether it finds them: for `live4d doctor`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

import numpy as np

from live4d_ophyd.decode import (
    Backend,
    Decoded,
    Decoder,
    Demand,
    FrameFormat,
    Saturation,
    Weights,
    describe_status,
)
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    IMAGE_ID,
    LENGTH,
    OFFSET,
    ROWS,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import BSLZ4
from live4d_ophyd.imaging.virtual_detectors import Disk, weight_maps
from live4d_ophyd.sim.compress import compress

#: how long a rate is measured, s
RATE_S = 1.0


@dataclass(frozen=True)
class _KnownFrames:
    """Compressed frames and what they must sum to."""

    format: FrameFormat
    blobs: list[bytes]
    weights: Weights
    sums: np.ndarray  #: (n, 1) int64


@dataclass(frozen=True)
class Measured:
    """What a backend decodes, and whether rightly."""

    khz: float
    wrong: str = ""  #: what is wrong with the sums

    def __str__(self) -> str:
        return self.wrong or f"decodes {self.khz:.4g} kHz of 192x192 u32 (disk of 30 px), sums exact"


@cache
def _known_frames() -> _KnownFrames:
    """64 frames of 2e4 electrons in a disk, and a few beside it."""
    frame = FrameFormat(192, 192, np.dtype(np.uint32))
    weights = weight_maps([Disk("disk", radius=30)], frame.shape)
    inside = weights.maps[0] != 0
    mean = np.where(inside, 2e4 / inside.sum(), 0.01)
    pixels = np.random.default_rng(1).poisson(mean, (64, *frame.shape)).astype(frame.dtype)
    sums = pixels[:, inside].sum(axis=1, dtype=np.int64)[:, np.newaxis]
    return _KnownFrames(frame, [compress(pattern, "bslz4") for pattern in pixels], weights, sums)


def _fill(batch: FrameBatch, known: _KnownFrames) -> None:
    """As many of the known frames, over and over, as the batch takes; indexed as if they had been received."""
    position = batch.count = 0
    for row, blob in enumerate(islice(cycle(known.blobs), len(batch.index))):
        if position + len(blob) > batch.capacity:
            break
        batch.buffer[position : position + len(blob)] = np.frombuffer(blob, np.uint8)
        index = batch.index[row]
        index[:] = 0
        index[IMAGE_ID] = row
        index[[OFFSET, BLOB_OFFSET]] = position
        index[[LENGTH, BLOB_LENGTH]] = len(blob)
        index[[ROWS, COLS, ARRAY_TAG]] = *known.format.shape, known.format.tag
        index[[ALGORITHM, ELEM_SIZE]] = BSLZ4, known.format.dtype.itemsize
        batch.count = row + 1
        position += -(-len(blob) // 64) * 64


def measure(backend: Backend) -> Measured:
    """Rate of one thread with as many batches under way as a receive thread has; all sums are compared."""
    known = _known_frames()
    lanes = []
    for _ in range(backend.in_flight + 1):
        batch = backend.memory.batch()
        _fill(batch, known)
        lanes.append((backend.decoder(known.format, saturation=Saturation()), batch))
    wrong: list[str] = []

    demand = Demand(known.weights)

    def compare(decoder: Decoder, decoded: Decoded) -> None:
        for part in decoded.parts():
            with decoder.working():
                assert part.sums is not None
                sums = part.sums if isinstance(part.sums, np.ndarray) else part.sums.cpu().numpy()
            if bad := part.status[part.status != 0].tolist():
                wrong.append(f"{len(bad)} of {len(sums)} good frames are refused: {describe_status(bad[0])}")
            elif differ := np.count_nonzero(sums != known.sums[part.at % len(known.sums)]):
                wrong.append(f"{differ} of {len(sums)} sums are wrong")

    for decoder, batch in lanes:  # the first batch of each pays for memory and plans
        compare(decoder, decoder.submit(batch, None, demand))
    under_way: deque[tuple[Decoder, Decoded]] = deque()
    frames = 0
    started = time.perf_counter()
    for decoder, batch in cycle(lanes):
        if len(under_way) == len(lanes):
            compare(*under_way.popleft())
        if wrong or time.perf_counter() - started > RATE_S:
            break
        under_way.append((decoder, decoder.submit(batch, None, demand)))
        frames += batch.count
    for submitted in under_way:
        compare(*submitted)
    khz = frames / (time.perf_counter() - started) / 1e3
    return Measured(khz, wrong[0] if wrong else "")
