"""Fits beside the frames: made when rows enough are there, for previews; the last one over all rows, for the result."""

import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest, refits
from live4d_ophyd.engine.errors import Cancelled, MethodFailed
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import SCAN, Images, Output, Sums
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing import MethodTests
from live4d_ophyd.testing.late_backend import LateBackend
from live4d_ophyd.testing.small_dcu import end, frames, image, start

GRID = ScanGrid(6, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


class Log(list):
    """What fits were asked for: rows there, and the fit before."""

    def __init__(self):
        super().__init__()
        self.before = lambda stop: None  # runs inside each fit


ASKED: dict[str, Log] = {}


@dataclass(frozen=True)
class Background:
    """The sum of each frame less the mean so far, which is the fit."""

    name: str = "background"
    refit_rows: int = 2
    log: str = ""

    def demand(self, series, scan):
        return Sums(("all",), ((0, np.ones(series.format.shape, np.int64)),))

    def outputs(self, series, scan):
        return {
            self.name: Output(SCAN, scan.shape, "counts"),
            f"{self.name}_level": Output((), (), "counts"),
        }

    def accumulator(self, series, scan, device):
        return Scatter(scan, 1, device)

    def refit(self, series, scan, parts, fit, stop):
        sums = Scatter.merged(parts, scan, 1)[0]
        if self.log in ASKED:
            ASKED[self.log].append((int(np.isfinite(sums).sum()) // scan.cols, fit))
            ASKED[self.log].before(stop)
        return float(np.nanmean(sums)) if np.isfinite(sums).any() else np.nan

    def results(self, series, scan, parts, fit):
        level = np.nan if fit is None else fit
        return {self.name: Scatter.merged(parts, scan, 1)[0] - level, f"{self.name}_level": np.array(level)}


@dataclass(frozen=True)
class Difference:
    """Fits to another method's image."""

    name: str = "difference"
    refit_rows: int = 1

    def demand(self, series, scan):
        return Images(("vbf",))

    def outputs(self, series, scan):
        return {self.name: Output(SCAN, scan.shape, "counts")}

    def refit(self, series, scan, parts, fit, stop):
        return float(np.nanmax(parts["vbf"]))

    def results(self, series, scan, parts, fit):
        return {self.name: parts["vbf"] - (np.nan if fit is None else fit)}


@dataclass(frozen=True)
class Running(Background):
    """The sum over all rasters of a series so far, which the fit takes along."""

    def refit(self, series, scan, parts, fit, stop):
        before = 0.0 if fit is None else fit[0]
        if self.log in ASKED:
            ASKED[self.log].append(before)
            ASKED[self.log].before(stop)
        sums = Scatter.merged(parts, scan, 1)[0]
        return before, before + float(np.nansum(sums))

    def next_raster(self, fit):
        return fit[1], fit[1]

    def results(self, series, scan, parts, fit):
        level = np.nan if fit is None else fit[1]
        return {self.name: Scatter.merged(parts, scan, 1)[0], f"{self.name}_level": np.array(level)}


class TestBackground(MethodTests):
    def method(self):
        return Background()

    def expected(self, frames, scan, series):
        sums = frames.sum(axis=(2, 3))
        level = np.nanmean(sums) if np.isfinite(sums).any() else np.nan
        return {"background": sums - level, "background_level": np.array(level)}


@pytest.fixture
def asked():
    ASKED["log"] = Log()
    yield ASKED["log"]
    del ASKED["log"]


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def acquisition(dcu, stream, *methods, rasters=1, timeout=60.0, backend=None):
    request = AcquisitionRequest(stream.source, GRID, (DISK, *methods), rasters=rasters, timeout=timeout)
    return Acquisition(request, stream, backend)


def in_rows(pixels, next_row, rasters=1):
    """The series, each row when ``next_row`` lets it."""
    yield start(number_of_images=len(pixels))
    for n, frame in enumerate(pixels):
        if n % GRID.cols == 0:
            next_row(n // GRID.cols)
        yield image(frame, n)
    yield end()


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("backend", [None, LateBackend()], ids=["at once", "late"])
def test_fits_follow_the_rows_and_the_last_one_has_them_all(dcu, pixels, asked, backend):
    def next_row(row):
        if row in (2, 4):  # as many as a fit wants: the one over them comes first
            wait_until(lambda: asked and asked[-1][0] == row)

    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, next_row))
        (raster,) = acquisition(dcu, stream, Background(log="log"), backend=backend).run()
    sums = pixels.sum(axis=(1, 2), dtype=float).reshape(GRID.shape)
    levels = [sums[:rows].mean() for rows in (2, 4)]
    assert asked[:2] == [(2, None), (4, levels[0])]
    assert asked[-1][0] == 6
    assert raster.outputs["background_level"] == sums.mean()
    np.testing.assert_array_equal(raster.outputs["background"], sums - sums.mean())


def test_previews_have_the_newest_fit(dcu, pixels, asked):
    shown = []
    go_on = threading.Event()

    def next_row(row):
        if row == 3:
            assert go_on.wait(60)

    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, next_row))
        scan = acquisition(dcu, stream, Background(log="log"), Difference())

        def look():
            outputs = scan.preview()
            if (
                outputs
                and np.isfinite(outputs["background_level"])
                and np.isfinite(outputs["difference"]).any()
            ):
                shown.append(outputs)
                go_on.set()

        scan.on_progress = look
        (raster,) = scan.run()
    sums = pixels.sum(axis=(1, 2), dtype=float).reshape(GRID.shape)
    assert shown[0]["background_level"] in [sums.flat[:n].mean() for n in range(8, 13)]
    image = raster.outputs["vbf"]
    np.testing.assert_array_equal(raster.outputs["difference"], image - image.max())


def test_each_raster_has_fits_of_its_own(dcu, asked):
    pixels = frames(3 * GRID.frames)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, lambda row: None))
        rasters = list(acquisition(dcu, stream, Background(log="log"), rasters=3).run())
    sums = pixels.sum(axis=(1, 2), dtype=float).reshape(3, *GRID.shape)
    assert [raster.outputs["background_level"] for raster in rasters] == [s.mean() for s in sums]


def test_a_method_takes_along_what_it_wants_from_raster_to_raster(dcu, asked):
    pixels = frames(3 * GRID.frames)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, lambda row: None))
        rasters = list(acquisition(dcu, stream, Running(log="log"), rasters=3).run())
    sums = pixels.sum(axis=(1, 2), dtype=float).reshape(3, -1).sum(axis=1)
    assert [raster.outputs["background_level"] for raster in rasters] == np.cumsum(sums).tolist()
    assert set(asked) == {
        0.0,
        *np.cumsum(sums)[:2].tolist(),
    }  # each fit of a raster begins with the raster before


def test_a_movie_holds_the_fits_of_the_last_raster_only(dcu):
    """One may be as large as an image, and a movie has thousands of rasters."""
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(frames(3 * GRID.frames), lambda row: None))
        scan = acquisition(dcu, stream, Background(), rasters=3)
        for raster in scan.run():
            imaging = scan.series.projection.imaging
            levels = [imaging.preview(n)["background_level"] for n in range(raster.index + 1)]
            np.testing.assert_array_equal(
                levels, [*[np.nan] * raster.index, raster.outputs["background_level"]]
            )
    assert raster.index == 2


def test_a_fit_that_lasts_holds_no_frame_up_and_is_given_up_at_the_end(dcu, pixels, asked):
    begun = threading.Event()

    def lasts(stop):
        if not begun.is_set():
            begun.set()
            wait_until(stop)

    asked.before = lasts

    def next_row(row):
        if row == 3:
            assert begun.wait(60)  # and all that follows is received while it goes on

    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, next_row))
        (raster,) = acquisition(dcu, stream, Background(log="log")).run()
    assert raster.losses.received == GRID.size
    assert len(asked) == 2  # the one that was given up, and the last
    assert asked[-1] == (6, None)  # what was given up is no fit
    sums = pixels.sum(axis=(1, 2), dtype=float)
    assert raster.outputs["background_level"] == sums.mean()


def test_a_cancelled_acquisition_stops_a_fit_at_once(dcu, pixels, asked):
    begun = threading.Event()

    def lasts(stop):
        begun.set()
        wait_until(stop)

    asked.before = lasts
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, lambda row: None))
        scan = acquisition(dcu, stream, Background(log="log"))
        canceller = threading.Thread(target=lambda: begun.wait(60) and scan.cancel())
        canceller.start()
        with pytest.raises(Cancelled):
            list(scan.run())
        canceller.join()
    assert "live4d-results" not in [thread.name for thread in threading.enumerate()]


def test_a_fit_that_fails_names_the_method(dcu, pixels, asked):
    def fail(stop):
        raise KeyError("no such aberration")

    asked.before = fail
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(in_rows(pixels, lambda row: None))
        with pytest.raises(
            MethodFailed, match=r"method background .* failed: KeyError: 'no such aberration'"
        ):
            list(acquisition(dcu, stream, Background(log="log")).run())


class Looked:
    """A share of the time that lets a method wait for three looks after each fit."""

    def __init__(self, part):
        assert part == refits.SHARE
        self.left, self.looks = 0, 0

    @property
    def wait(self):
        self.looks += 1
        self.left -= 1
        return max(0, self.left)

    @contextmanager
    def work(self):
        yield
        self.left = 4


def test_a_method_is_fitted_again_when_its_share_of_the_time_allows(monkeypatch):
    shares, fitted, rows = [], [], [2]
    monkeypatch.setattr(refits, "Share", lambda part: shares.append(Looked(part)) or shares[-1])
    monkeypatch.setattr(refits, "_LOOK_S", 0.001)
    again = threading.Event()

    class Imaging:
        refitting = (SimpleNamespace(name="method", refit_rows=1),)

        def refit(self, method, raster, stop):
            fitted.append(shares[raster].looks)
            rows[0] += 1
            if len(fitted) == 4:
                again.set()
                refitting.end()

    refitting = refits.Refits(Imaging(), 0, lambda raster: rows[0])
    assert again.wait(10)
    refitting.stop()
    assert fitted == [1, 5, 9, 13]
