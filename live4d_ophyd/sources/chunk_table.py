"""chunk_table: where the chunks of a dataset lie in its file, by libhdf5 alone, without Python for each chunk.

h5py calls a Python function a chunk, 3 us; a scan of 1024 x 1024 then takes 3 s before its first frame is read. Here
libhdf5 calls compiled code, through the function of h5py's that holds h5py's lock.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
import time
from typing import Any

import h5py
import numpy as np
from numba import carray, cfunc, types

from live4d_ophyd.frames import memory

#: what `chunk_table` is read by, as h5py declares it; of an h5py that declares another its Python way is taken
_DECLARED = b"herr_t (hid_t, hid_t, H5D_chunk_iter_op_t, void *)"
_MOST_DIMS = 4
#: tables that are kept: of files that are read again, as by the tasks of a cluster
_MOST_KEPT = 4
#: a file that was changed so recently may be changed again without a later time, s
_SETTLED_S = 2.0
_kept: dict[tuple, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
_lock = threading.Lock()  # of what is kept: who wants the same waits for it
_DEFAULT = 0  # list of properties


def chunk_table(dataset: h5py.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First byte in the file, bytes, and mask of skipped filters, of each chunk, in the order of the chunks.

    Each (chunks,) int64, read-only; of a chunk that was never written -1, 0 and 0. For at most four dimensions. Of the
    last few files it is kept, as long as they are as they were.
    """
    file = os.stat(dataset.file.filename)
    if time.time() - file.st_mtime < _SETTLED_S:
        return _read(dataset)
    key = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, dataset.name)
    with _lock:
        found = _kept.pop(key, None)
        _kept[key] = found = _read(dataset) if found is None else found
        while len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
        return found


def _read(dataset: h5py.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sides = [-(-size // side) for size, side in zip(dataset.shape, dataset.chunks)]
    count = math.prod(sides)
    at, nbytes, masks = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    strides = [math.prod(sides[axis + 1 :]) for axis in range(len(sides))]
    iterate = _iterate()
    if iterate is None:

        def note(chunk: Any) -> None:
            n = sum(o // c * s for o, c, s in zip(chunk.chunk_offset, dataset.chunks, strides))
            at[n], nbytes[n], masks[n] = chunk.byte_offset, chunk.size, chunk.filter_mask

        dataset.id.chunk_iter(note)
        return _frozen(at, nbytes, masks)
    where = np.zeros(5 + 2 * _MOST_DIMS, np.int64)
    where[:5] = count, len(sides), at.ctypes.data, nbytes.ctypes.data, masks.ctypes.data
    where[5 : 5 + len(sides)] = dataset.chunks
    where[5 + _MOST_DIMS : 5 + _MOST_DIMS + len(sides)] = strides
    iterate(dataset.id.id, _DEFAULT, _note().address, where.ctypes.data)
    return _frozen(at, nbytes, masks)


def _frozen(*arrays: np.ndarray) -> Any:
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _iterate() -> Any:
    """H5Dchunk_iter as h5py wraps it: with its lock, and errors raised. None where it has no such."""
    capsule = getattr(h5py.defs, "__pyx_capi__", {}).get("H5Dchunk_iter")
    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    if capsule is None or not api.PyCapsule_IsValid(capsule, _DECLARED):
        return None
    wrapped = ctypes.PYFUNCTYPE(
        ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
    )
    return wrapped(api.PyCapsule_GetPointer(capsule, _DECLARED))


@functools.cache
def _note() -> Any:
    """Made when a file is read: half a second of numba's even from its cache, and most sessions read none."""
    pointer = types.CPointer
    told = pointer(types.uint64), types.uint32, types.uint64, types.uint64, pointer(types.int64)
    return cfunc(types.int32(*told), cache=True)(_note_chunk)


def _note_chunk(offsets, mask, address, size, where):  # type: ignore[no-untyped-def]
    """``where``: chunks in all, dims, addresses of the three arrays, sides of a chunk, strides."""
    told = carray(where, (5 + 2 * _MOST_DIMS,))
    first = carray(offsets, (_MOST_DIMS,))
    n = 0
    for axis in range(told[1]):
        n += np.int64(first[axis]) // told[5 + axis] * told[5 + _MOST_DIMS + axis]
    if 0 <= n < told[0]:
        memory.store_i64(told[2] + 8 * n, np.int64(address))
        # Before HDF5 1.14 the size has 32 bits, and what is above them is no part of it.
        memory.store_i64(told[3] + 8 * n, np.int64(size & np.uint64(0xFFFFFFFF)))
        memory.store_i64(told[4] + 8 * n, np.int64(mask))
    return np.int32(0)
