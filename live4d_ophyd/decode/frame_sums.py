"""Sum over frames: what mean patterns are made of, on the device that decoded the frames.

In: patterns of a `Part`. Out: sums and numbers of counts a pixel, added to arrays on the same device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from live4d_ophyd.decode.cpu.frame_sums import add_frames
from live4d_ophyd.decode.saturation import Saturation


def sum_over_frames(
    patterns: Any, take: np.ndarray | None, saturation: Saturation, total: Any, valid: Any
) -> None:
    """Add frames to ``total``, pixel by pixel, and to ``valid`` how many of them hold a count there.

    Parameters
    ----------
    patterns : (n, q_y, q_x), a NumPy array, or a torch tensor on a GPU: then the work is enqueued on torch's current
        stream, and not waited for
    take : (k,) integers on the host: which frames, each at most once; None: all of them. Frames whose status is not 0
        must not be among them
    saturation : pixels that it finds are left out unless it counts them; NaN always is
    total : (q_y, q_x) int64 for integer pixels, float64 for floats, where the patterns are, C-contiguous
    valid : (q_y, q_x) int64, the same

    Raises ValueError for arrays of another shape or dtype, IndexError for frames that are not there.
    """
    dtype = _dtype(patterns)
    wanted = np.dtype(np.int64 if dtype.kind in "ui" else np.float64)
    for name, array, kind in (("total", total, wanted), ("valid", valid, np.dtype(np.int64))):
        shape = tuple(array.shape)
        if shape != tuple(patterns.shape[1:]) or _dtype(array) != kind:
            raise ValueError(
                f"{name} of {shape} {_dtype(array)}: expected {tuple(patterns.shape[1:])} {kind} for {dtype} pixels"
            )
        if not (array.flags.c_contiguous if isinstance(array, np.ndarray) else array.is_contiguous()):
            raise ValueError(f"{name} is not C-contiguous")
    which = np.arange(len(patterns)) if take is None else np.ascontiguousarray(take, np.int64)
    if len(which) == 0:
        return
    if which.min() < 0 or which.max() >= len(patterns):
        raise IndexError(f"frames {which.min()}..{which.max()} of {len(patterns)}")
    if isinstance(patterns, np.ndarray):
        add_frames(patterns, which, saturation, total, valid)
    elif patterns.device.type == "cpu":
        add_frames(patterns.numpy(), which, saturation, total.numpy(), valid.numpy())
    else:
        from live4d_ophyd.decode.gpu.frame_sums import add_frames as add_on_gpu

        add_on_gpu(patterns, which, saturation, total, valid)


def _dtype(array: Any) -> np.dtype:
    """NumPy's dtype of an array, or a tensor."""
    return array.dtype if isinstance(array, np.ndarray) else np.dtype(str(array.dtype).removeprefix("torch."))
