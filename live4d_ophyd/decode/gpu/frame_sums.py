"""Sum over frames on the GPU."""

from __future__ import annotations

import numpy as np
import torch

from live4d_ophyd.decode.saturation import Saturation


def add_frames(
    patterns: torch.Tensor,
    take: np.ndarray | None,
    saturation: Saturation,
    total: torch.Tensor,
    valid: torch.Tensor,
) -> None:
    """`sum_over_frames` of torch's tensors."""
    dtype = np.dtype(str(patterns.dtype).removeprefix("torch."))
    limit = None if saturation.counted else saturation.limit(dtype)
    for frame in range(len(patterns)) if take is None else take.tolist():
        # torch has few operations for unsigned integers.
        pixels = patterns[frame].to(torch.float64)
        counts = pixels < (np.inf if limit is None else float(limit))
        total += torch.where(counts, pixels, 0.0).to(total.dtype)
        valid += counts
