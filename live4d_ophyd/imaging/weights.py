"""Weights of an acquisition: what its methods want summed, bad pixels and gains, as a decoder takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.imaging.method import Sums


def combined_weights(
    demands: Sequence[Sums],
    shape: tuple[int, int],
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
) -> Weights:
    """All maps of all demands, in their order.

    ``pixel_mask`` ``(q_y, q_x)``: pixels that are not 0 (or True) are bad and weigh nothing. ``gain`` ``(q_y, q_x)``:
    factor on each pixel's counts. Integer weights (exact sums) when all bands are integers and there is no gain, float
    otherwise. Raises ValueError for another shape, a gain that is not finite on a good pixel of a map, and a map
    without a good pixel.
    """
    for name, array in (("pixel_mask", pixel_mask), ("gain", gain)):
        if array is not None and np.shape(array) != tuple(shape):
            raise ValueError(f"{name} of shape {np.shape(array)} for frames of {tuple(shape)} px")
    bands = []
    for name, (first, weights) in ((n, band) for sums in demands for n, band in zip(sums.names, sums.bands)):
        if not weights.any():
            raise ValueError(f"{name} has no pixel on a frame of {shape[0]} x {shape[1]} px")
        rows = slice(first, first + len(weights))
        if pixel_mask is not None:
            weights = weights * (np.asarray(pixel_mask)[rows] == 0)
        if gain is not None:
            factors, out = np.asarray(gain)[rows], np.zeros(weights.shape)
            weights = np.multiply(weights, factors, out=out, where=weights != 0, dtype=np.float64)
            if not np.isfinite(weights).all():
                raise ValueError(
                    f"the gain of {np.count_nonzero(~np.isfinite(weights))} good pixels of detector {name} is not "
                    "finite: mark them in the pixel mask"
                )
        if not weights.any():
            raise ValueError(f"every pixel of detector {name} is masked or has a gain of 0")
        bands.append((first, weights))
    return Weights.of_bands(shape, bands)
