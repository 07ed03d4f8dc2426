"""The methods of this package keep the contract, each with its numbers by plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.drawn_detectors import Mask, Points, Polygon
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.pattern_statistics import LastPattern, MaxPattern, StdPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import ABF, Annulus, Disk
from live4d_ophyd.testing import MethodTests

CENTER = (5.5, 7.0)


def distance(shape):
    row, col = np.indices(shape)
    return np.hypot(row - CENTER[0], col - CENTER[1])


class TestDisk(MethodTests):
    def method(self):
        return Disk("vbf", CENTER, radius=4)

    def expected(self, frames, scan, series):
        return {"vbf": (frames * (distance(self.shape) <= 4)).sum(axis=(2, 3))}


class TestSoftAnnulus(MethodTests):
    def method(self):
        return Annulus("adf", CENTER, inner=2, outer=5, soft=True)

    def expected(self, frames, scan, series):
        far = distance(self.shape)
        weights = np.clip(5.5 - far, 0, 1) - np.clip(2.5 - far, 0, 1)
        return {"adf": (frames * weights).sum(axis=(2, 3))}


class TestSegments(MethodTests):
    def method(self):
        return Segments("dpc", CENTER, outer=5, sectors=2)

    def expected(self, frames, scan, series):
        inside = distance(self.shape) <= 5
        # Sector 0 is from +x to -x by way of +y, sector 1 the rest; no row lies on the line between them.
        below = np.indices(self.shape)[0] > CENTER[0]
        return {
            "dpc_0_0": (frames * (inside & below)).sum(axis=(2, 3)),
            "dpc_0_1": (frames * (inside & ~below)).sum(axis=(2, 3)),
        }


class TestCenterOfMass(MethodTests):
    def method(self):
        return CenterOfMass("com", Disk("com", CENTER, radius=4))

    def expected(self, frames, scan, series):
        row, col = np.indices(self.shape)
        inside = frames * (distance(self.shape) <= 4)
        total = inside.sum(axis=(2, 3))
        return {
            "com_sum": total,
            "com_y": (inside * row).sum(axis=(2, 3)) / total - CENTER[0],
            "com_x": (inside * col).sum(axis=(2, 3)) / total - CENTER[1],
        }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
class TestMeanPattern(MethodTests):
    @pytest.fixture(autouse=True)
    def _of_dtype(self, dtype):
        self.dtype = dtype

    def method(self):
        return MeanPattern()

    def expected(self, frames, scan, series):
        here = frames[np.isfinite(frames[..., 0, 0])]
        return {"pattern": here.mean(axis=0) if len(here) else np.full(self.shape, np.nan)}


class TestPoints(MethodTests):
    def method(self):
        return Points("spots", [(3, 4), (4, 5), (9, 12)], radius=2)

    def expected(self, frames, scan, series):
        row, col = np.indices(self.shape)
        spots = [np.hypot(row - r, col - c) <= 2 for r, c in ((3, 4), (4, 5), (9, 12))]
        return {"spots": (frames * np.any(spots, axis=0)).sum(axis=(2, 3))}


class TestPolygon(MethodTests):
    def method(self):
        return Polygon("cell", [(2, 3), (2, 9), (7, 9), (7, 3)])

    def expected(self, frames, scan, series):
        return {"cell": frames[:, :, 2:7, 3:9].sum(axis=(2, 3))}


class TestMask(MethodTests):
    array = np.random.default_rng(3).normal(size=(12, 16))

    def method(self):
        return Mask("random", self.array)

    def expected(self, frames, scan, series):
        return {"random": (frames * self.array).sum(axis=(2, 3))}


class TestDetectorInAnotherUnit(MethodTests):
    def series(self):
        return replace(super().series(), calibration=Calibration(CENTER, bf_radius=4.0))

    def method(self):
        return ABF()

    def expected(self, frames, scan, series):
        far = distance(self.shape)
        used = {"inner": 2.0, "outer": 4.0, "center_row": CENTER[0], "center_col": CENTER[1]}
        return {
            "abf": (frames * ((far > 2) & (far <= 4))).sum(axis=(2, 3)),
            **{f"abf_{name}_px": np.array(value) for name, value in used.items()},
        }


class _OfPatterns(MethodTests):
    """Frames with pixels that hold no count, one of which never does; one pixel is masked."""

    rtol = 1e-10

    @pytest.fixture(autouse=True, params=["uint8", "uint16", "uint32"])
    def _of_dtype(self, request):
        self.dtype = request.param

    def frames(self):
        frames = super().frames()
        most = np.iinfo(self.dtype).max
        frames[np.random.default_rng(9).random(frames.shape) < 0.1] = most
        frames[:, 3, 4] = most
        return frames

    def series(self):
        return replace(super().series(), saturation=np.iinfo(self.dtype).max)

    def counts(self, frames):
        here = frames[np.isfinite(frames[..., 0, 0])]
        return np.where(here == np.iinfo(self.dtype).max, np.nan, here)


class TestMaxPattern(_OfPatterns):
    def method(self):
        return MaxPattern()

    def expected(self, frames, scan, series):
        counts = self.counts(frames)
        highest = np.max(np.where(np.isnan(counts), -1, counts), axis=0, initial=-1)
        return {"max_pattern": np.where(highest < 0, np.nan, highest)}


class TestStdPattern(_OfPatterns):
    def method(self):
        return StdPattern()

    def expected(self, frames, scan, series):
        counts = np.ma.masked_invalid(self.counts(frames))
        return {
            "std_pattern": np.ma.filled(counts.std(axis=0), np.nan)
            if len(counts)
            else np.full(self.shape, np.nan)
        }


class TestLastPattern(_OfPatterns):
    def method(self):
        return LastPattern()

    def expected(self, frames, scan, series):
        counts = self.counts(frames)
        return {"last_pattern": counts[-1] if len(counts) else np.full(self.shape, np.nan)}
