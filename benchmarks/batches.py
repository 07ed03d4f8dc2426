"""Batches of prepared messages in memory, for benchmarks without a network."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.source import Size
from live4d_ophyd.frames.batch import IMAGE_ID, FrameBatch
from live4d_ophyd.sources.dectris.index import index_batch

#: messages of a batch
BATCH = 8192


def pinned(batch: FrameBatch) -> FrameBatch:
    """A copy in memory that a GPU reads without help of the host."""
    import torch

    buffer = torch.empty(len(batch.buffer), dtype=torch.uint8, pin_memory=True).numpy()
    index = torch.empty(batch.index.shape, dtype=torch.int64, pin_memory=True).numpy()
    buffer[:], index[:] = batch.buffer, batch.index
    return FrameBatch(buffer, index, batch.count)


def batch_of(size: Size, number: int = 0) -> FrameBatch:
    """The messages of frames ``number`` `BATCH` and so on, `BATCH` of them, indexed from 0."""
    data, offsets, _ = size.messages
    distinct = [data[a:b] for a, b in itertools.pairwise(offsets)]
    frames = np.arange(number * BATCH, (number + 1) * BATCH) % len(distinct)
    batch = FrameBatch.from_messages([distinct[n].tobytes() for n in frames])
    index_batch(batch)
    batch.index[:, IMAGE_ID] = np.arange(BATCH)
    return batch
