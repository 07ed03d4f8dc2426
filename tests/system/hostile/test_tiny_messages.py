"""A few bytes that claim to be a huge detector cost an engine neither memory nor time."""

from contextlib import closing

import cbor2
import numpy as np
import pytest
from system.hostile.rogue import MIB, Cost, Events, claimed, engine, message

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.process.protocol import Done, Failed
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, end, frames, image, series

#: 67 million pixels take a busy machine a minute or two
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SIDE = 8192
SIZE = {"image_size_x": SIDE, "image_size_y": SIDE, "image_dtype": "uint16", "channels": ["threshold_1"]}
METHODS = (
    Disk("vbf", radius=1000),
    Annulus("adf", inner=1500, outer=4000),
    Disk("soft", radius=1000, soft=True),
    MeanPattern("mean"),
)

TINY = {
    "start": [message("start", number_of_images=12, **SIZE)],
    "start and image": [
        message("start", number_of_images=12, **SIZE),
        message("image", image_id=0, data={"threshold_1": claimed(SIDE, SIDE, bytes(16))}),
    ],
    "a larger detector than there can be": [
        message("start", number_of_images=12, **SIZE | {"image_size_x": 2 * SIDE, "image_size_y": 2 * SIDE}),
        message("image", image_id=0, data={"threshold_1": claimed(2 * SIDE, 2 * SIDE, bytes(2 * MIB))}),
    ],
    "images only": [
        message("image", image_id=n, data={"threshold_1": claimed(SIDE, SIDE, bytes(16))}) for n in range(3)
    ],
    "image of another algorithm": [
        message("start", number_of_images=12, **SIZE),
        message("image", image_id=0, data={"threshold_1": claimed(SIDE, SIDE, bytes(16), "bszstd")}),
    ],
    "8 kB of an algorithm that nothing decodes": [
        message("start", number_of_images=12, **SIZE),
        message("image", image_id=0, data={"threshold_1": claimed(SIDE, SIDE, bytes(20_000), "foo")}),
    ],
    "a pixel mask of an algorithm that nothing decodes": [
        message(
            "start",
            number_of_images=12,
            pixel_mask={"threshold_1": claimed(SIDE, SIDE, bytes(20_000), "foo", itemsize=4)},
            **SIZE,
        )
    ],
    "pixel mask": [
        message(
            "start",
            number_of_images=12,
            pixel_mask={"threshold_1": claimed(SIDE, SIDE, bytes(16), itemsize=4)},
            **SIZE,
        )
    ],
}


@pytest.fixture(scope="module")
def client():
    with engine() as spawned:
        yield spawned


def taken(client, number, messages, methods=METHODS):
    with closing(SmallDcu()) as dcu:
        dcu.send(messages)
        events = Events()
        grid = ScanGrid(3, 4)
        client.acquire(
            number, AcquisitionRequest(DectrisSource(dcu.endpoint), grid, methods, timeout=1.0), events
        )
        last = events.last()
    return last


@pytest.mark.parametrize("number", range(len(TINY)), ids=TINY)
def test_a_huge_detector_in_a_few_bytes_is_not_believed(client, number):
    cost = Cost(client.pid)
    last = taken(client, 1 + number, list(TINY.values())[number])
    assert isinstance(last, Failed)
    assert cost.peak < 200 * MIB  # it was 9 to 13 GB
    assert cost.cpu < 5  # and 36 s
    assert cost.kept < 100 * MIB


def test_a_header_of_terse_that_lies_ends_no_engine(client):
    """The vendor's decoder believes it."""
    head = '<Terse prolix_bits="16" signed="0" block="12" memory_size="4096" number_of_values="{}"/>'
    blob = head.format(SIDE * SIDE).encode() + bytes(4096)
    array = cbor2.CBORTag(40, [[512, 512], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["trpx", 2, blob]))])
    size = SIZE | {"image_size_x": 512, "image_size_y": 512}
    images = [message("image", image_id=n, data={"threshold_1": array}) for n in range(12)]
    messages = [message("start", number_of_images=12, **size), *images]
    assert isinstance(taken(client, 80, messages, (Disk("vbf", radius=6),)), Failed | Done)


def test_what_half_a_megabyte_can_be_costs_what_is_said_and_is_freed(client):
    """A frame of zeros, 255 times as large: the most that LZ4 makes plausible."""
    frame = image(np.zeros((SIDE, SIDE), np.uint16), 0)
    assert len(frame) < MIB
    cost = Cost(client.pid)
    last = taken(client, 90, [message("start", number_of_images=12, **SIZE), frame, end()])
    assert isinstance(last, Done)
    assert cost.peak < 4 << 30  # three detectors, one of them soft, and the mean pattern, in float64
    assert cost.cpu < 60
    assert isinstance(taken(client, 91, series(frames(12)), (Disk("vbf", radius=6),)), Done)
    assert cost.kept < 200 * MIB


def test_a_real_series_comes_through_after_them(client):
    last = taken(client, 100, series(frames(12)), (Disk("vbf", radius=6),))
    assert isinstance(last, Done)


@pytest.mark.parametrize(
    "message",
    [
        b"\x80" * (20 * MIB),
        b"\x9b" + (1 << 40).to_bytes(8, "big"),
        b"\x5b" + (1 << 40).to_bytes(8, "big"),
        b"\xbb" + b"\x7f" * 8,
    ],
    ids=["lists", "a list of 2^40", "bytes of 2^40", "a map"],
)
def test_cbor_that_claims_or_becomes_much_more_than_it_is_is_not_decoded(client, message):
    """To the engine's own port: by a session that is none."""
    import zmq

    cost = Cost(client.pid)
    with zmq.Context() as context, context.socket(zmq.DEALER) as rogue:
        rogue.linger = 0
        rogue.connect(client.endpoint)
        rogue.send(message)
        assert rogue.poll(20_000), "no answer"
        assert b"Refused" in rogue.recv()
    assert cost.peak < 200 * MIB  # 20 MiB of empty lists become 1.5 GB
    assert cost.cpu < 5
    assert cbor2.loads(b"\x80") == []
