"""Sum over frames on the GPU: one kernel in torch's current stream, added to what is there."""

from __future__ import annotations

import numpy as np
import torch

from live4d_ophyd.decode.gpu.kernels import PIXELS, PIXELS_A_THREAD, add_frames_name, kernels_of
from live4d_ophyd.decode.saturation import Saturation

_THREADS = 256
#: thread blocks that fill a large GPU, each with as many frames as are left for it
_BLOCKS = 1024


def add_frames(
    patterns: torch.Tensor,
    take: np.ndarray,
    saturation: Saturation,
    total: torch.Tensor,
    valid: torch.Tensor,
) -> None:
    """`sum_over_frames` of tensors on a GPU. Frames may lie apart, the pixels of one lie together."""
    rows, cols = patterns.shape[1:]
    dtype = np.dtype(str(patterns.dtype).removeprefix("torch."))
    if dtype.name not in PIXELS:
        raise ValueError(f"patterns of {dtype} have no GPU kernel ({', '.join(PIXELS)} have)")
    if patterns.stride()[1:] != (cols, 1):
        raise ValueError(
            f"patterns with strides {patterns.stride()}: the pixels of a frame must lie together"
        )
    n, first, which = len(take), int(take[0]), None
    if take[-1] - first != n - 1 or (np.diff(take) != 1).any():
        which = torch.from_numpy(take).pin_memory().to(patterns.device, non_blocking=True)
    limit = None if saturation.counted else saturation.limit(dtype)
    pixels = rows * cols
    across = -(-pixels // (_THREADS * PIXELS_A_THREAD))
    # A grid has at most 65535 blocks in its second dimension.
    chunk = max(1, -(-n * across // _BLOCKS), -(-n // 65535))
    kernels_of(patterns.device.index).launch(
        add_frames_name(dtype.name), torch.cuda.current_stream(patterns.device), (across, -(-n // chunk)), _THREADS,
        patterns.data_ptr(), patterns.stride(0) * dtype.itemsize, 0 if which is None else which.data_ptr(), first,
        n, pixels, chunk, int(limit is not None), limit or 0, total.data_ptr(), valid.data_ptr(),
    )  # fmt: skip
