"""Several connections: what is still under way when `end` comes is waited for, what is lost is not."""

import time
from contextlib import closing

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import STRAGGLER_S, OpenStream
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, end, frames, image, series, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture(params=["libzmq", "zmtp"], autouse=True)
def receiver(request, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.stream.RECEIVER", request.param)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


@pytest.fixture
def two():
    """Two senders, so that it is known which connection brings what, and the stream from both."""
    with closing(SmallDcu()) as one, closing(SmallDcu()) as other:
        endpoint = f"{one.endpoint},{other.endpoint}"
        with closing(OpenStream(DectrisSource(endpoint))) as stream:
            assert stream.connected(5)
            yield one, other, stream


def acquisition(stream, timeout=30.0):
    request = AcquisitionRequest(stream.source, GRID, (DISK,), timeout=timeout)
    return Acquisition(request, stream)


def sums(pixels, lost=()):
    image = (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape).astype(float)
    image.flat[list(lost)] = np.nan
    return image


def seconds(scan):
    """The raster, and how long it took."""
    began = time.monotonic()
    (raster,) = scan.run()
    return raster, time.monotonic() - began


def test_images_that_come_a_second_after_the_end_are_taken(two, pixels):
    one, other, stream = two
    scan = acquisition(stream)
    late = [image(pixels[n], n) for n in (9, 11)]

    def send_the_rest_after_a_silence():
        if late and scan.series.ended and scan.tracker.silence > 2 * STRAGGLER_S:
            other.send([*late])
            late.clear()

    scan.on_progress = send_the_rest_after_a_silence
    other.send([image(pixels[n], n) for n in (1, 3, 5, 7)])
    one.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2)), end()])
    (raster,) = scan.run()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))


def test_images_lost_before_newer_ones_of_each_connection_are_not_waited_for(two, pixels):
    """A connection is in order: behind frame 11, frame 5 does not come any more."""
    one, other, stream = two
    other.send([image(pixels[n], n) for n in (1, 3, 7, 9, 11)])
    one.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2)), end()])
    raster, took = seconds(acquisition(stream))
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[5]))
    assert took < 15


@pytest.mark.parametrize("lost", [[2, 3, 8], [10, 11], [0, 11], range(3, 12)], ids=str)
def test_a_scan_that_lost_images_is_over_when_each_connection_had_its_turn(pixels, lost):
    """One detector deals its messages out in turn, so that it shows who is behind."""
    messages = [message for n, message in enumerate(series(pixels)) if n - 1 not in lost]
    with (
        closing(SmallDcu()) as dcu,
        closing(OpenStream(DectrisSource(dcu.endpoint, connections=3))) as stream,
    ):
        dcu.wait_for_clients(stream.source.connections)
        dcu.send(messages)
        raster, took = seconds(acquisition(stream))
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost))
    assert raster.losses.lost == len(lost)
    assert took < 15


def test_an_end_that_overtakes_its_start_ends_the_series(two, pixels, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.series_filter.WAIT_FOR_START_S", 30.0)
    one, other, stream = two
    scan = acquisition(stream)
    rest = [start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2))]

    def send_start_when_the_end_is_there():
        if rest and sum(batch.count for batch in scan.series.source._filter._held) == 5:
            one.send([*rest])
            rest.clear()

    scan.on_progress = send_start_when_the_end_is_there
    other.send([*(image(pixels[n], n) for n in (1, 3, 7, 9)), end()])  # 5 and 11 are lost
    raster, took = seconds(scan)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[5, 11]))
    assert scan.series.ended
    assert took < 15


def test_damaged_messages_are_no_reason_to_wait(pixels):
    messages = series(pixels)
    messages[4] = messages[4][:100]
    messages[6] = messages[6][:5]
    with (
        closing(SmallDcu()) as dcu,
        closing(OpenStream(DectrisSource(dcu.endpoint, connections=2))) as stream,
    ):
        dcu.wait_for_clients(stream.source.connections)
        dcu.send(messages)
        raster, took = seconds(acquisition(stream))
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[3, 5]))
    assert raster.losses.bad == 2
    assert took < 15


def test_a_connection_that_is_cut_is_not_waited_for(two, pixels):
    one, other, stream = two
    scan = acquisition(stream)

    def cut_after_its_images():
        if scan.series.ended:
            other.close()

    scan.on_progress = cut_after_its_images
    other.send([image(pixels[n], n) for n in (1, 3)])
    one.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2)), end()])
    raster, took = seconds(scan)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[5, 7, 9, 11]))
    assert took < 15


def test_what_never_comes_is_waited_for_no_longer_than_the_timeout(two, pixels):
    one, other, stream = two
    other.send([image(pixels[n], n) for n in (1, 3)])
    one.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2)), end()])
    raster, took = seconds(acquisition(stream, timeout=2.0))
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[5, 7, 9, 11]))
    assert took >= 2.0


def test_an_end_that_comes_again_and_again_is_no_reason_to_wait(two, pixels):
    one, other, stream = two
    scan = acquisition(stream, timeout=1.0)
    until = time.monotonic() + 8.0

    def end_again():
        if scan.series.ended and time.monotonic() < until:
            other.send([end()])

    scan.on_progress = end_again
    other.send([image(pixels[n], n) for n in (1, 3)])
    one.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(0, 12, 2)), end()])
    (raster,) = scan.run()
    assert time.monotonic() < until, "ends kept the acquisition alive"
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, lost=[5, 7, 9, 11]))
