"""Saturation: which pixel values are no counts, and what sums make of them. One rule for both backends.

Any thread; values only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: what kernels take for "no limit": above every pixel that they sum
NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Saturation:
    """Pixels at or above a limit hold no count: they are found and, unless ``counted``, left out of sums.

    Parameters
    ----------
    nodata : the dtype's maximum, and NaN of float frames, hold no data
    value : the count at which the detector saturates, as it says; None where it is not known
    counted : saturated pixels count as they are; they are found all the same
    """

    nodata: bool = True
    value: int | None = None
    counted: bool = False

    def limit(self, dtype: np.dtype) -> int | None:
        """The lowest pixel value that is no count; None: every value is one."""
        limits = [] if self.value is None else [self.value]
        if np.dtype(dtype).kind in "ui":
            most = int(np.iinfo(dtype).max)
            limits = [value for value in limits if value <= most] + [most] * self.nodata
        return min(limits, default=None)

    def rule(self, dtype: np.dtype) -> tuple[int, int, bool]:
        """(limit, its bits, counted) for the kernels of unsigned integers."""
        limit = self.limit(dtype)
        limit = NO_LIMIT if limit is None else min(limit, NO_LIMIT)
        return limit, limit.bit_length(), self.counted

    def found_in(self, pixels: np.ndarray) -> np.ndarray:
        """Which pixels hold no count, bool of their shape."""
        limit = self.limit(pixels.dtype)
        found = np.zeros(pixels.shape, bool) if limit is None else pixels >= limit
        if pixels.dtype.kind == "f" and self.nodata:
            found |= np.isnan(pixels)
        return found


#: pixels at the dtype's maximum are left out, nothing else is known
NODATA = Saturation()
