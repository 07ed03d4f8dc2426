"""HDF5's bitshuffle filter, by other people than us: arrays as ``bslz4`` of the stream, framing included, and back."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np


def write_bslz4(pixels: np.ndarray) -> bytes:
    """Content of an array in blocks of 8192 bytes."""
    with h5py.File("array.h5", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset("array", data=pixels, chunks=pixels.shape, **hdf5plugin.Bitshuffle())
        return chunk.id.read_direct_chunk((0,) * pixels.ndim)[1]


def read_bslz4(content: bytes, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The array, whatever its blocks' size."""
    with h5py.File("array.h5", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset("array", shape, dtype, chunks=tuple(shape), **hdf5plugin.Bitshuffle())
        chunk.id.write_direct_chunk((0,) * len(shape), content)
        return chunk[()]
