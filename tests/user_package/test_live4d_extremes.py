"""The user's methods keep the contract, tested as a user would test them."""

import numpy as np
from live4d_extremes import BrightestPixel, Relative

from live4d_ophyd.testing import MethodTests


class TestBrightestPixel(MethodTests):
    def method(self):
        return BrightestPixel("peak", border=2)

    def expected(self, frames, scan, series):
        return {"peak": frames[:, :, 2:-2, 2:-2].max(axis=(2, 3))}


class TestRelative(MethodTests):
    def method(self):
        return Relative("share", "peak", "total")

    def images(self, frames, scan, series):
        total = frames.sum(axis=(2, 3))
        total[0, :2] = 0  # divided by: the share is unknown there
        return {"peak": frames.max(axis=(2, 3)), "total": total}

    def expected(self, frames, scan, series):
        share = frames.max(axis=(2, 3)) / frames.sum(axis=(2, 3))
        share[0, :2] = np.nan
        return {"share": share}
