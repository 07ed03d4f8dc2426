"""`start` and the frames contradict each other: frames that agree are taken, and both values are said."""

from contextlib import closing

import cbor2
import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import end, frames, image, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def acquisition(stream, grid=GRID, timeout=20.0):
    request = AcquisitionRequest(stream.source, grid, (DISK,), timeout=timeout)
    return Acquisition(request, stream)


def take(dcu, messages, grid=GRID, timeout=20.0):
    dcu.send(messages)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        (raster,) = acquisition(stream, grid, timeout).run()
    return raster


def sums(pixels, grid=GRID):
    weights = DISK.weights(pixels.shape[1:])
    return (pixels.astype(np.int64) * weights).sum(axis=(1, 2)).reshape(grid.shape).astype(float)


def announcing(rows=24, cols=32, dtype="uint16", images=12):
    return start(number_of_images=images, image_size_y=rows, image_size_x=cols, image_dtype=dtype)


@pytest.mark.parametrize(
    ("announced", "words"),
    [
        ({"rows": 32, "cols": 24}, "announces 32 x 24 px of uint16, but the frames are 24 x 32 px of uint16"),
        ({"dtype": "uint32"}, "announces 24 x 32 px of uint32, but the frames are 24 x 32 px of uint16"),
    ],
    ids=["size", "dtype"],
)
def test_images_that_agree_with_each_other_are_right(dcu, pixels, caplog, announced, words):
    messages = [image(frame, n) for n, frame in enumerate(pixels)]
    raster = take(dcu, [announcing(**announced), *messages, end()])
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))
    assert words in caplog.text


def test_the_byte_order_is_the_images(dcu, pixels, caplog):
    def big_endian(frame):
        return cbor2.CBORTag(40, [list(frame.shape), cbor2.CBORTag(65, frame.astype(">u2").tobytes())])

    messages = [image(frame, n, data={"threshold_1": big_endian(frame)}) for n, frame in enumerate(pixels)]
    raster = take(dcu, [announcing(), *messages, end()])
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))
    assert "announces" not in caplog.text


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (frames(1, (32, 24))[0], "the frame is 32 x 24 px of uint16, the others are 24 x 32 px of uint16"),
        (
            frames(1, dtype="uint32")[0],
            "the frame is 24 x 32 px of uint32, the others are 24 x 32 px of uint16",
        ),
    ],
    ids=["size", "dtype"],
)
def test_one_odd_image_is_bad_and_all_say_what_they_say(dcu, pixels, caplog, odd, words):
    messages = [image(frame, n) for n, frame in enumerate(pixels)]
    messages[7] = image(odd, 7)
    raster = take(dcu, [announcing(), *messages, end()])
    truth = sums(pixels)
    truth.flat[7] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert f"bad frame: {words}, the start message announces 24 x 32 px of uint16" in caplog.text


@pytest.mark.parametrize("first_is_odd", [True, False], ids=["odd frame", "wrong start"])
def test_the_second_image_tells_who_is_right(dcu, pixels, caplog, first_is_odd):
    """However long it takes: the first frame waits."""
    messages = [image(frame, n) for n, frame in enumerate(pixels)]
    first = image(frames(1, (32, 24))[0], 0) if first_is_odd else messages[0]
    announced = announcing() if first_is_odd else announcing(32, 24)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        scan = acquisition(stream)

        def send_rest_when_the_first_is_there():
            if scan.tracker.begun and messages:
                dcu.send([*messages[1:], end()])
                messages.clear()

        scan.on_progress = send_rest_when_the_first_is_there
        dcu.send([announced, first])
        (raster,) = scan.run()
    truth = sums(pixels)
    if first_is_odd:
        truth.flat[0] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)


def test_a_scan_of_one_image_needs_no_second(dcu, pixels):
    grid = ScanGrid(1, 1)
    raster = take(dcu, [announcing(32, 24, images=1), image(pixels[0], 0), end()], grid)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels[:1], grid))


def test_the_only_image_before_the_end_is_taken(dcu, pixels):
    raster = take(dcu, [announcing(32, 24), image(pixels[3], 3), end()])
    assert (raster.losses.received, raster.losses.lost) == (1, 11)
    assert raster.outputs["vbf"].flat[3] == sums(pixels).flat[3]


def test_a_single_image_that_nothing_follows_is_an_error_with_both_values(dcu, pixels):
    words = "announces 32 x 24 px of uint16, what came is 24 x 32 px of uint16"
    with pytest.raises(NothingCame, match=words):
        take(dcu, [announcing(32, 24), image(pixels[0], 0)], timeout=0.5)


def test_an_unknown_compression_names_itself(dcu, pixels, caplog):
    compressed = cbor2.CBORTag(69, cbor2.CBORTag(56500, ["zip9", 2, bytes(100)]))
    messages = [image(frame, n) for n, frame in enumerate(pixels)]
    messages[4] = image(None, 4, channels={}, data={"threshold_1": cbor2.CBORTag(40, [[24, 32], compressed])})
    raster = take(dcu, [announcing(), *messages, end()])
    assert raster.losses.bad == 1
    assert "bad frame: unknown compression algorithm: zip9" in caplog.text
