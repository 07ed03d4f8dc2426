"""One data channel makes an image: the series names it once, and frames without it are bad."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import end, frames, image, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture
def low():
    return frames(GRID.frames)


@pytest.fixture
def high():
    return frames(GRID.frames, seed=7) // 2


def take(stream, channel="", **options):
    """The acquisition when it is over, and its raster."""
    request = AcquisitionRequest(
        replace(stream.source, channel=channel), GRID, (DISK,), timeout=20.0, **options
    )
    acquisition = Acquisition(request, stream)
    (raster,) = acquisition.run()
    return acquisition, raster


def sums(pixels):
    return (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape).astype(float)


def two_channels(low, high, first=lambda n: "low", names=("low", "high"), **ids):
    """Images whose first channel is ``first(n)``."""
    for n in range(GRID.frames):
        both = dict(zip(names, (low[n], high[n])))
        yield image(None, n, channels={first(n): both[first(n)], **both}, **ids)


@pytest.mark.parametrize("announced", [{}, {"channels": ["low", "high"]}], ids=["first frame", "start"])
def test_the_order_of_channels_does_not_matter(dcu, low, high, announced):
    turning = two_channels(low, high, lambda n: ("low", "high")[n % 2])
    dcu.send([start(number_of_images=12, **announced), *turning, end()])
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        acquisition, raster = take(stream)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(low))
    assert acquisition.series.source.channel == "low"


def test_start_names_the_channel_not_the_first_image(dcu, low, high):
    messages = two_channels(low, high, lambda n: "high")
    dcu.send([start(number_of_images=12, channels=["low", "high"]), *messages, end()])
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        acquisition, raster = take(stream)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(low))
    assert acquisition.series.source.channel == "low"


@pytest.mark.parametrize("asked", ["", "low"])
def test_an_image_without_the_channel_is_bad_and_says_so(dcu, low, high, caplog, asked):
    messages = list(two_channels(low, high))
    messages[5] = image(None, 5, channels={"high": high[5]})
    dcu.send([start(number_of_images=12), *messages, end()])
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        _, raster = take(stream, channel=asked)
    truth = sums(low)
    truth.flat[5] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert (raster.losses.received, raster.losses.bad, raster.losses.lost) == (11, 1, 0)
    assert "no channel 'low'" in caplog.text
    assert "the frame has high" in caplog.text


def test_images_that_overtake_start_on_another_connection_are_of_its_channel(dcu, low, high):
    messages = list(two_channels(low, high, lambda n: "high"))
    with closing(OpenStream(DectrisSource(dcu.endpoint, connections=3))) as stream:
        assert stream.connected(2)
        dcu.send([*messages[:6], start(number_of_images=12, channels=["low"]), *messages[6:], end()])
        acquisition, raster = take(stream)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(low))
    assert acquisition.series.source.channel == "low"


def test_each_series_has_its_own_channel(dcu, low, high):
    """What came behind a series was indexed for its channel, and is the next one's."""
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        other = two_channels(low, high, names=("low", "high"), series_id=2, unique_id="B")
        dcu.send(
            [
                start(1, "A", 12),
                *(image(high[n], n, 1, "A") for n in range(GRID.frames)),
                end(1, "A"),
                start(2, "B", 12, channels=["high"]),
                *other,
                end(2, "B"),
            ]
        )
        first, raster_1 = take(stream)
        second, raster_2 = take(stream)
    np.testing.assert_array_equal(raster_1.outputs["vbf"], sums(high))
    np.testing.assert_array_equal(raster_2.outputs["vbf"], sums(high))
    assert (first.series.source.channel, second.series.source.channel) == ("threshold_1", "high")


def test_images_of_other_series_need_not_have_the_channel(dcu, low, high):
    strays = [image(high[0], n, 99, "OLD") for n in range(5)]
    dcu.send([start(number_of_images=12), *strays, *two_channels(low, high), end()])
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        _, raster = take(stream, channel="high")
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(high))
    assert (raster.losses.foreign, raster.losses.bad) == (5, 0)


def test_the_mask_is_that_of_the_channel(dcu, low, high):
    import cbor2

    def mask(row):
        pixels = np.zeros(low.shape[1:], "<u4")
        pixels[row, 16] = 1
        return cbor2.CBORTag(40, [list(pixels.shape), cbor2.CBORTag(70, pixels.tobytes())])

    masks = {"high": mask(10), "low": mask(12)}
    dcu.send([start(number_of_images=12, pixel_mask=masks), *two_channels(low, high), end()])
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        _, raster = take(stream)
    clean = low.copy()
    clean[:, 12, 16] = 0
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(clean))
