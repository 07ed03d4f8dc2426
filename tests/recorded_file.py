"""Recorded files of a test's frames."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from live4d_ophyd.frames.codecs import BY_NAME
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.recording.raster_file import RasterFile
from live4d_ophyd.recording.template import CORRUPT, GOOD, Channel, Recorded
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.compress import compress


def recorded_file(
    path: Path, frames: np.ndarray, scan: ScanGrid, *, lost=(), corrupt=(), codec="bslz4", close=True, others=None,
    came=None, masks=None, **known,
) -> Path:  # fmt: skip
    """A file of ``frames``, (n, q_y, q_x), without those ``lost``; of those ``corrupt`` half of the bytes are kept.

    ``came``: of those that were lost, the ones that came and were not recorded are True.
    ``others``: frames of further channels, by their names; numbers of those lost go on there. ``masks``: theirs.
    With ``flyback=True`` among ``known``, the frames behind those of the scan belong to no position.
    """
    channels = tuple(Channel(name, pixel_mask=(masks or {}).get(name)) for name in others or {})
    what = Recorded(
        scan, FrameFormat(*frames.shape[1:], frames.dtype), BY_NAME[codec], others=channels, **known
    )
    frames = np.concatenate([frames, *(others or {}).values()])
    file = RasterFile(path, what)
    numbers = np.setdiff1d(np.arange(len(frames)), lost)
    blobs = [compress(frames[n], codec or "none") for n in numbers]
    blobs = [blob[: len(blob) // 2] if n in corrupt else blob for n, blob in zip(numbers, blobs)]
    sizes = np.array([len(blob) for blob in blobs])
    data = b"".join(blobs)
    memory = np.frombuffer(mmap.mmap(-1, -(-len(data) // 4096) * 4096), np.uint8)
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    states = np.where(np.isin(numbers, corrupt), CORRUPT, GOOD).astype(np.uint8)
    skipped = np.full(len(numbers), codec == "")
    file.append(memory, len(data), [(numbers, np.cumsum(sizes) - sizes, sizes, skipped, states)])
    if close:
        file.close(complete=True, came=came)
    else:
        file.checkpoint()
    return path
