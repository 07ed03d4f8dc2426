"""Messages against those of real detectors and against the project's own reader."""

import re
from datetime import datetime
from fractions import Fraction

import cbor2
import numpy as np
import pytest
from captures import EIGER2_16M, EIGER2_500K, needs_captures

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sim.encode import (
    Header,
    ImageTemplate,
    Series,
    end_message,
    new_unique_id,
    start_message,
)
from live4d_ophyd.sim.payloads import PayloadEncoder
from live4d_ophyd.sources.dectris.messages import EndMessage, ImageMessage, StartMessage, read_message

SERIES = Series(7, "01GRXWT80JSDY2FNW8SGCCDZD9", "2026-11-22T15:49:05.281+01:00")
CHANNELS = ("threshold_1", "threshold_2", "difference")


def frames(shape=(12, 20), dtype="uint16", channels=1, count=3):
    return np.random.default_rng(0).integers(0, 250, (count, channels, *shape)).astype(dtype)


@needs_captures
def test_image_and_end_are_byte_for_byte_those_of_a_real_detector():
    raw = (EIGER2_500K / "000001.cbor").read_bytes()
    real = read_message(raw)
    pixels = np.stack([decode_array(array) for array in real.channels.values()])[None]
    payloads = PayloadEncoder((514, 1030), "uint16", tuple(real.channels)).encode([pixels])
    date = re.search(rb"series_date\xc0x\x1d(.{29})", raw)[1].decode()
    series = Series(real.series_id, real.series_unique_id, date)
    message = ImageTemplate(series, 0.02, 999995 / 50e6, [1, "💙"]).message(0, payloads.payload(0))
    blob = raw.index(b"bslz4") + 7
    assert message[:blob] == raw[:blob]
    again = read_message(message)
    assert list(again.channels) == list(real.channels)
    for name, array in real.channels.items():
        assert np.array_equal(decode_array(again.channels[name]), decode_array(array))
    assert end_message(series) == (EIGER2_500K / "000011.cbor").read_bytes()


@needs_captures
def test_start_has_the_keys_of_a_recorded_one_in_its_order():
    recorded = cbor2.loads((EIGER2_16M / "start.cbor").read_bytes())
    # The recorded one has no self-described tag (3 bytes), with which cbor2 returns other types.
    mine = cbor2.loads(start_message(SERIES, Header(12, 20, "uint16"), "all")[3:])
    assert [key for key in mine if key not in ("image_dtype", "user_data")] == list(recorded)
    tables = ("countrate_correction_lookup_table", "flatfield", "pixel_mask")
    for key in recorded:
        if key not in tables:
            assert type(mine[key]) is type(recorded[key]), key


def test_start_says_what_the_detector_does():
    mask = np.zeros((12, 20), np.uint32)
    mask[3, 4] = 2
    header = Header(
        rows=12,
        cols=20,
        dtype="uint32",
        channels=CHANNELS,
        number_of_images=99,
        count_time=1e-5,
        frame_time=2e-5,
        beam_center=(9.5, 5.25),
        user_data='{"rows": 9}',
        pixel_mask=mask,
    )
    start = read_message(start_message(SERIES, header, "all"))
    assert isinstance(start, StartMessage)
    assert (start.series_id, start.series_unique_id) == (7, SERIES.unique_id)
    assert start.arm_date == datetime.fromisoformat(SERIES.date)
    assert start.channels == CHANNELS
    assert start.image_dtype == np.dtype("<u4")
    assert (start.image_size_x, start.image_size_y) == (20, 12)
    assert (start.count_time, start.frame_time, start.number_of_images) == (1e-5, 2e-5, 99)
    assert (start.beam_center_x, start.beam_center_y) == (9.5, 5.25)
    assert start.user_data == '{"rows": 9}'
    assert np.array_equal(decode_array(start.pixel_mask["difference"]), mask)
    assert (decode_array(start.flatfield["threshold_2"]) == 1).all()
    assert start.notes == ()


def test_header_detail_leaves_out_what_it_should():
    header = Header(12, 20, "uint16")
    everything = cbor2.loads(start_message(SERIES, header, "all"))
    basic = cbor2.loads(start_message(SERIES, header, "basic"))
    assert set(everything) - set(basic) == {"countrate_correction_lookup_table", "flatfield", "pixel_mask"}
    assert list(cbor2.loads(start_message(SERIES, header, "none"))) == [
        "type",
        "series_id",
        "series_unique_id",
        "user_data",
    ]
    with pytest.raises(ValueError, match=r"header_detail is 'some'.*none, basic, all"):
        start_message(SERIES, header, "some")


@pytest.mark.parametrize("image_id", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
def test_image_ids_are_shortest_cbor_integers_and_times_follow_them(image_id):
    payload = PayloadEncoder((12, 20), "uint16").encode([frames()]).payload(0)
    raw = ImageTemplate(SERIES, 1e-5, 8e-6).message(image_id, payload)
    assert raw.startswith(b"\xd9\xd9\xf7\xa9\x64type\x65image")
    assert b"image_id" + cbor2.dumps(image_id) + b"\x69real_time" in raw
    image = read_message(raw)
    assert isinstance(image, ImageMessage)
    assert image.image_id == image_id
    content = cbor2.loads(raw)
    assert Fraction(*content["start_time"]) == image_id * Fraction(1, 100_000)
    assert Fraction(*content["stop_time"]) - Fraction(*content["start_time"]) == Fraction(
        *content["real_time"]
    )
    assert content["real_time"] == (400, 50_000_000)


@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_all_channels_come_back(dtype, compression):
    pixels = frames((13, 21), dtype, channels=3, count=5)
    payloads = PayloadEncoder((13, 21), dtype, CHANNELS, compression).encode([pixels[:2], pixels[2:]])
    template = ImageTemplate(SERIES, 1e-5, 1e-5, {"note": 1})
    assert len(payloads) == 5
    for n in range(5):
        image = read_message(template.message(n, payloads.payload(n)))
        assert tuple(image.channels) == CHANNELS
        assert image.user_data == {"note": 1}
        for channel, expected in zip(CHANNELS, pixels[n]):
            decoded = decode_array(image.channels[channel])
            assert decoded.dtype == np.dtype(dtype)
            assert np.array_equal(decoded, expected)


def test_first_blob_is_where_the_index_says():
    payloads = PayloadEncoder((12, 20), "uint16", CHANNELS).encode([frames(channels=3)])
    image = read_message(ImageTemplate(SERIES, 1, 1).message(0, payloads.payload(2)))
    offset, length = int(payloads.blob_offset[2]), int(payloads.blob_length[2])
    assert payloads.payload(2)[offset : offset + length] == image.channels["threshold_1"].data


def test_end_names_the_series():
    assert read_message(end_message(SERIES)) == EndMessage(7, SERIES.unique_id)


def test_unique_ids_are_ulids_that_sort_by_time():
    first, second = new_unique_id(), new_unique_id()
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", first)
    assert first != second
    assert first[:10] <= second[:10]
