"""Packed arrays: NumPy arrays as plain values for JSON, compressed, and back.

In: an array. Out: a map of its dtype, shape and bytes; or the array again, no larger than was allowed. Any thread.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np


def packed(array: np.ndarray) -> dict[str, Any]:
    """The array as a map of dtype, shape, and its C-ordered bytes, deflated and in base64."""
    data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "zlib": base64.b64encode(data).decode()}


def unpacked(value: Any, most: int) -> np.ndarray:
    """The array of such a map, read-only, of at most ``most`` numbers. Raises ValueError for what is none."""
    try:
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"numbers of the type {dtype}")
        inflating = zlib.decompressobj()
        data = inflating.decompress(base64.b64decode(value["zlib"]), most * dtype.itemsize + 1)
        if len(data) > most * dtype.itemsize:
            raise ValueError(f"more than the {most} pixels of a frame")
        return np.frombuffer(data, dtype).reshape(value["shape"])
    except (LookupError, TypeError, OverflowError, SyntaxError, zlib.error) as error:
        raise ValueError(str(error)) from error
