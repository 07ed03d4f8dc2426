"""The index: what the walk takes, what it says of the rest, and that it agrees with read_message."""

from __future__ import annotations

import cbor2
import numpy as np
import pytest
import stream_wire as wire
from captures import EIGER2_16M, EIGER2_500K, needs_captures
from cbor_values import anything
from how_many import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import typeof

from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    END,
    IMAGE,
    IMAGE_ID,
    INCOMPLETE,
    LENGTH,
    MALFORMED,
    NO_CHANNEL,
    OFFSET,
    OTHER,
    RECEIVED_NS,
    ROWS,
    SERIES_ID,
    START,
    STATUS,
    TRAILING,
    TRUNCATED,
    UNIQUE_ID,
    UNUSUAL,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import BSLZ4, BSZSTD, LZ4, OTHER_ALGORITHM, RAW, TRPX
from live4d_ophyd.frames.encoded_array import DTYPES, FIRST_TAG, MAX_PIXELS, dtype_of_tag
from live4d_ophyd.sources.dectris.index import (
    MAX_CHANNELS,
    channel_name,
    fill_from_message,
    hash_unique_id,
    index_batch,
    index_images,
)
from live4d_ophyd.sources.dectris.messages import ImageMessage, StreamError, read_message

NUMBERS = {"": RAW, "bslz4": BSLZ4, "lz4": LZ4, "bszstd": BSZSTD, "trpx": TRPX}

#: the same examples in every run; no deadline, since the first one compiles
seeded = settings(derandomize=True, deadline=None, max_examples=examples(300))


def index_one(raw, channel=""):
    """The index row of one message, and the batch."""
    batch = FrameBatch.from_messages([raw])
    index_batch(batch, channel)
    return batch.index[0], batch


def status_of(raw, channel=""):
    return index_one(raw, channel)[0][STATUS]


def assert_agrees(row, batch, message, channel=""):
    """The row says of an image what `read_message` says."""
    assert isinstance(message, ImageMessage)
    array = message.channels[channel or next(iter(message.channels))]
    assert (row[SERIES_ID], row[IMAGE_ID]) == (message.series_id, message.image_id)
    assert row[UNIQUE_ID] == hash_unique_id(message.series_unique_id)
    assert (row[ROWS], row[COLS]) == array.shape
    assert dtype_of_tag(int(row[ARRAY_TAG])) == array.dtype
    assert (row[ALGORITHM], row[ELEM_SIZE]) == (
        NUMBERS.get(array.algorithm, OTHER_ALGORITHM),
        array.elem_size,
    )
    start = int(row[BLOB_OFFSET])
    assert row[OFFSET] <= start
    assert start + row[BLOB_LENGTH] <= row[OFFSET] + row[LENGTH]
    assert batch.buffer[start : start + int(row[BLOB_LENGTH])].tobytes() == array.data


values = st.recursive(
    st.one_of(
        st.integers(0, 2**63 - 1).map(wire.number),
        st.integers(0, 2**63 - 1).map(lambda n: wire.head(wire.NEGATIVE, n)),
        st.binary(max_size=20).map(wire.data),
        st.text(max_size=20).map(wire.text),
        st.floats().map(cbor2.dumps),
        st.sampled_from([b"\xf4", b"\xf5", b"\xf6", b"\xf7", b"\xf9\x7e\x01", b"\xfb" + b"\xff" * 8]),
        st.just(wire.tag(0, wire.text(wire.DATE))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: wire.array(*items)),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(wire.mapping),
    ),
    max_leaves=8,
)
known_tags = [tag for tag in range(64, 88) if DTYPES[tag - FIRST_TAG] is not None]
widths = st.sampled_from([0, 1, 2, 4, 8])


@st.composite
def arrays(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    tag, width = draw(st.sampled_from(known_tags)), draw(widths)
    blob = draw(st.binary(max_size=40))
    if draw(st.booleans()):
        size = shape[0] * shape[1] * dtype_of_tag(tag).itemsize
        return wire.image_array(shape, tag, wire.data(blob.ljust(size, b"r")[:size], width), width=width)
    algorithm = draw(st.sampled_from([b"bslz4", b"lz4", b"bszstd", b"trpx", "größe".encode(), b"x" * 20]))
    content = wire.compressed(algorithm, draw(st.integers(0, 255)), blob, width)
    return wire.image_array(shape, tag, content, width=width)


@st.composite
def images(draw):
    """A legal image message in some encoding, and the names of its channels."""
    names = draw(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=MAX_CHANNELS, unique=True))
    source = wire.Image(
        series_id=draw(st.integers(0, 2**63 - 1)),
        image_id=draw(st.integers(0, 2**63 - 1)),
        width=draw(widths),
        channels={name: draw(arrays()) for name in names},
    )
    fields = {
        **draw(st.dictionaries(st.text(max_size=20), values, max_size=3)),
        **source.fields(),
        "user_data": draw(values),
    }
    for optional in ("series_unique_id", "real_time", "series_date", "start_time", "stop_time", "user_data"):
        if draw(st.booleans()):
            del fields[optional]
    keys = draw(st.permutations(list(fields)))
    body = wire.mapping(
        {key: fields[key] for key in keys}, indefinite=draw(st.booleans()), width=draw(widths)
    )
    return (wire.SELF_DESCRIBED if draw(st.booleans()) else b"") + body, names


@seeded
@given(images(), st.data())
def test_every_legal_image_is_on_the_fast_path_and_agrees(image, choice):
    raw, names = image
    channel = choice.draw(st.sampled_from(["", *names]))
    row, batch = index_one(raw, channel)
    assert row[STATUS] == IMAGE
    assert_agrees(row, batch, read_message(raw), channel)


@seeded
@given(images())
def test_a_channel_that_is_not_there_is_named(image):
    raw, _ = image
    assert status_of(raw, "a name of more than 12 letters") == NO_CHANNEL


@seeded
@given(images(), st.data())
def test_every_truncation_is_refused(image, choice):
    raw, _ = image
    length = choice.draw(st.integers(0, len(raw) - 1))
    assert status_of(raw[:length]) < 0
    with pytest.raises(StreamError):
        read_message(raw[:length])


def test_messages_of_a_batch_are_told_apart():
    messages = [
        cbor2.dumps({"type": "start", "series_id": 4, "mask": cbor2.CBORTag(40, [[1, 1], b"x"])}),
        wire.Image(series_id=4, image_id=0).message(),
        wire.Image(series_id=4, image_id=1).message()[:-1],
        wire.end(4),
        wire.mapping({"type": wire.text("telemetry")}),
        wire.Image(series_id=4, image_id=2).message(),
    ]
    batch = FrameBatch.from_messages(messages)
    index_batch(batch)
    assert batch.status.tolist() == [START, IMAGE, TRUNCATED, END, OTHER, IMAGE]
    assert batch.image_id.tolist() == [-1, 0, 1, -1, -1, 2]
    assert batch.column(SERIES_ID).tolist() == [4, 4, 4, 4, -1, 4]
    expected = hash_unique_id(wire.UNIQUE_ID)
    assert batch.column(UNIQUE_ID).tolist() == [0, expected, expected, expected, 0, expected]


def test_a_row_that_is_used_again_keeps_nothing():
    batch = FrameBatch.from_messages([wire.image()])
    batch.index[0, STATUS:] = 99
    index_batch(batch, "difference")
    assert batch.index[0, STATUS] == NO_CHANNEL
    assert not batch.index[0, BLOB_OFFSET:RECEIVED_NS].any()
    assert batch.index[0, RECEIVED_NS] == 99  # the receiver's


def test_rows_outside_the_buffer_are_an_error():
    batch = FrameBatch.from_messages([wire.image()])
    batch.index[0, LENGTH] = len(batch.buffer) + 1
    with pytest.raises(ValueError, match="not inside its buffer"):
        index_batch(batch)


def test_start_and_end_are_found_with_whatever_they_hold():
    content = [wire.tag(35, wire.text("(")), b"\x9f\x01\xff", b"\x7f\x61a\xff", b"\xa1\xa0\x01", b"\xe0"]
    fields = {f"k{i}": value for i, value in enumerate(content)}
    for kind, status in (("start", START), ("end", END), ("other", OTHER)):
        assert status_of(wire.mapping({**fields, "type": wire.text(kind)})) == status
        assert status_of(wire.mapping({**fields, "type": wire.text(kind)}, indefinite=True)) == status
    assert status_of(wire.mapping({"type": wire.text("start"), "series_id": b"\x20"})) == START


array = wire.image_array()
nine = {f"c{i}": array for i in range(MAX_CHANNELS + 1)}
pieces = wire.tag(40, wire.array(b"\x82\x02\x03", wire.tag(64, b"\x5f\x43abc\x43def\xff")))

# Legal or nearly legal: (message, does read_message accept it?)
UNUSUAL_MESSAGES = {
    "nine channels": (wire.image(data=wire.mapping(nine)), True),
    "column-major": (wire.image(data=wire.mapping({"a": wire.image_array(order_tag=1040)})), True),
    "content in pieces": (wire.image(data=wire.mapping({"a": pieces})), True),
    "indefinite channels": (wire.image(data=wire.mapping({"a": array}, indefinite=True)), True),
    "type in pieces": (wire.image(type=b"\x7f\x65image\xff"), True),
    "unknown tag skipped": (wire.image(user_data=wire.tag(4, wire.array(b"\x01", b"\x02"))), True),
    "regular expression": (wire.image(user_data=wire.tag(35, wire.text("("))), True),
    "indefinite list": (wire.image(user_data=b"\x9f\x01\xff"), True),
    "map with list keys": (wire.image(user_data=b"\xa1\x80\x01"), True),
    "simple value": (wire.image(user_data=b"\xe0"), True),
    "simple value in two bytes": (wire.image(user_data=b"\xf8\x10"), False),
    "integer of 64 bits": (wire.image(user_data=wire.number(2**63)), True),
    "deep nesting": (wire.image(user_data=b"\x81" * 100 + b"\x00"), True),
    "very deep nesting": (wire.image(user_data=b"\x81" * 1000 + b"\x00"), False),
    "no UTF-8 skipped": (wire.image(user_data=b"\x62\xc3\x28"), True),
    "surrogate skipped": (wire.image(user_data=b"\x63\xed\xa0\x80"), True),
    "overlong skipped": (wire.image(user_data=b"\x62\xc0\x80"), True),
    "date in lower case": (wire.image(series_date=wire.tag(0, wire.text("2026-01-01t00:00:00z"))), True),
    "date with space": (wire.image(series_date=wire.tag(0, wire.text("2026-01-01 00:00:00Z"))), True),
    "date of no day": (wire.image(user_data=wire.tag(0, wire.text("2025-02-29T00:00:00Z"))), True),
    "nameless channel": (wire.image(data=wire.mapping({"": array})), False),
    "no rows": (wire.image(data=wire.mapping({"a": wire.image_array((0, 4))})), False),
    "huge": (wire.image(data=wire.mapping({"a": wire.image_array((MAX_PIXELS, 2))})), False),
    "float128": (wire.image(data=wire.mapping({"a": wire.image_array(array_tag=83)})), False),
    "raw of wrong size": (
        wire.image(data=wire.mapping({"a": wire.image_array((2, 2), 64, wire.data(b"123"))})),
        False,
    ),
    "image id as bignum": (wire.image(image_id=wire.tag(2, wire.data(b"\x05"))), True),
    "type twice": (wire.mapping([("type", wire.text("image")), *wire.Image().fields().items()]), True),
    "channel twice": (wire.image(data=wire.mapping([("a", array), ("a", array)])), True),
    "self-described twice": (2 * wire.SELF_DESCRIBED + wire.image()[3:], True),
    "fifty thousand items": (wire.image(user_data=wire.array(*[b"\x80"] * 50_000)), True),
    "broken second channel": (wire.image(data=wire.mapping({"a": array, "b": b"\x01"})), False),
}


@pytest.mark.parametrize("name", UNUSUAL_MESSAGES)
def test_what_the_walk_does_not_understand_is_left_to_python(name):
    raw, legal = UNUSUAL_MESSAGES[name]
    assert status_of(raw) == UNUSUAL
    if legal:
        assert isinstance(read_message(raw), ImageMessage)
    else:
        with pytest.raises(StreamError):
            read_message(raw)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", TRUNCATED),
        (b'{"htype":"dheader-1.0","series":1}', MALFORMED),
        (b"\x05", MALFORMED),
        (b"\x1c", MALFORMED),
        (wire.image() + b"\x00", TRAILING),
        (wire.end() + b"\x00", TRAILING),
        (wire.mapping({}), INCOMPLETE),
        (wire.image(type=None), INCOMPLETE),
        (wire.image(image_id=None), INCOMPLETE),
        (wire.image(series_id=None), INCOMPLETE),
        (wire.image(data=None), INCOMPLETE),
        (bytes.fromhex("bb7fffffffffffffff"), TRUNCATED),
        (bytes.fromhex("bbffffffffffffffff"), TRUNCATED),
        (bytes.fromhex("a16474797065" + "7b7fffffffffffffff"), TRUNCATED),
        (wire.image(user_data=bytes.fromhex("9b7fffffffffffffff")), TRUNCATED),
        (
            wire.image(data=wire.mapping({"a": wire.image_array(content=b"\x5b\x7f" + b"\xff" * 7)})),
            TRUNCATED,
        ),
        (wire.image(user_data=b"\xff"), MALFORMED),
        (wire.tag(1, wire.image()), UNUSUAL),
    ],
)
def test_broken_messages_have_a_status_that_says_why(raw, status):
    assert status_of(raw) == status
    with pytest.raises(StreamError):
        read_message(raw)


def test_a_float_of_all_ones_is_not_the_end_of_the_map():
    raw = wire.mapping({"user_data": b"\xfb" + b"\xff" * 8, **wire.Image().fields()}, indefinite=True)
    assert status_of(raw) == IMAGE


@seeded
@given(
    st.dictionaries(
        st.sampled_from(
            ["series_unique_id", "real_time", "series_date", "start_time", "stop_time", "user_data", "new"]
        ),
        anything,
        min_size=1,
        max_size=3,
    )
)
def test_whatever_optional_fields_hold_both_ways_into_the_index_take_the_image(odd):
    raw = wire.image(**odd)
    row, batch = index_one(raw)
    assert row[STATUS] in (IMAGE, UNUSUAL)
    walked = row.copy()
    message = read_message(raw)
    assert fill_from_message(batch, 0, message) == IMAGE
    assert_agrees(row, batch, message)
    if walked[STATUS] == IMAGE:
        np.testing.assert_array_equal(walked, row)


@pytest.mark.parametrize(
    "field",
    [{"real_time": wire.rational(0, 0)}, {"series_date": wire.text("today")}, {"series_unique_id": b"\x05"}],
)
def test_plain_values_of_another_kind_cost_no_python(field):
    assert status_of(wire.image(**field)) == IMAGE


def test_images_are_indexed_again_for_another_channel():
    channels = {"a": wire.image_array((4, 6)), "b": wire.image_array((2, 3))}
    messages = [
        wire.Image(image_id=0, channels=channels).message(),
        wire.Image(image_id=1, channels={"a": wire.image_array()}).message(),
        wire.Image(image_id=2, channels=dict(reversed(channels.items()))).message(),
        wire.Image(image_id=3, channels=channels).message(user_data=b"\xe0"),  # only Python reads it
    ]
    batch = FrameBatch.from_messages(messages)
    index_batch(batch)
    fill_from_message(batch, 3, read_message(messages[3]))
    batch.column(RECEIVED_NS)[:] = [5, 6, 7, 8]
    index_images(batch, np.arange(4), "b")
    assert batch.status.tolist() == [IMAGE, NO_CHANNEL, IMAGE, IMAGE]
    assert batch.column(ROWS).tolist() == [2, 0, 2, 2]
    assert batch.image_id.tolist() == [0, 1, 2, 3]
    assert batch.column(RECEIVED_NS).tolist() == [5, 6, 7, 8]


def test_a_channel_costs_no_compilation():
    """The name comes in mid-stream: what is compiled before the first message must do for it, too."""
    assert typeof(channel_name("threshold_1")) == typeof(channel_name(""))
    assert channel_name("größe").tobytes() == "größe".encode()


@pytest.mark.parametrize("name", [n for n, (_, legal) in UNUSUAL_MESSAGES.items() if legal])
def test_legal_unusual_messages_come_into_the_index_after_all(name):
    raw, _ = UNUSUAL_MESSAGES[name]
    row, batch = index_one(raw)
    message = read_message(raw)
    status = fill_from_message(batch, 0, message)
    if name in ("column-major", "content in pieces"):
        assert status == row[STATUS] == UNUSUAL
    else:
        assert status == row[STATUS] == IMAGE
        assert_agrees(row, batch, message)
    assert fill_from_message(batch, 0, message, "none") == NO_CHANNEL


@seeded
@given(images(), st.data())
def test_both_ways_into_the_index_fill_the_same_row(image, choice):
    raw, names = image
    channel = choice.draw(st.sampled_from(["", *names]))
    walked, batch = index_one(raw, channel)
    walked = walked.copy()
    assert fill_from_message(batch, 0, read_message(raw), channel.encode()) == IMAGE
    filled = batch.index[0]
    for column in (SERIES_ID, UNIQUE_ID, IMAGE_ID, BLOB_LENGTH, ROWS, COLS, ALGORITHM, ELEM_SIZE):
        assert filled[column] == walked[column]
    assert_agrees(filled, batch, read_message(raw), channel)


def test_fill_from_start_and_end():
    batch = FrameBatch.from_messages(
        [wire.end(9), cbor2.dumps({"type": "start", "series_id": 9}), b"\xa1\x64type\x61x"]
    )
    statuses = [fill_from_message(batch, row, read_message(batch.message(row))) for row in range(3)]
    assert statuses == batch.status.tolist() == [END, START, OTHER]
    assert batch.column(SERIES_ID).tolist() == [9, 9, -1]
    assert batch.column(UNIQUE_ID).tolist() == [hash_unique_id(wire.UNIQUE_ID), 0, 0]


@seeded
@given(st.text(max_size=40))
def test_unique_ids_have_the_same_hash_from_both_sides(unique_id):
    row, _ = index_one(wire.image(series_unique_id=wire.text(unique_id)))
    assert row[UNIQUE_ID] == hash_unique_id(unique_id) != 0


def test_the_hash_is_fnv_1a():
    assert hash_unique_id("a") % 2**64 == 0xAF63DC4C8601EC8C
    assert hash_unique_id("foobar") % 2**64 == 0x85944171F73967E8
    assert hash_unique_id(None) == 0


@needs_captures
@pytest.mark.parametrize("channel", ["threshold_1", "threshold_2", "difference"])
def test_captured_images(channel):
    files = sorted(EIGER2_500K.glob("*.cbor"))
    batch = FrameBatch.from_messages([file.read_bytes() for file in files])
    index_batch(batch, channel)
    assert batch.status.tolist() == [IMAGE, IMAGE, IMAGE, END]
    assert batch.image_id.tolist() == [0, 1, 2, -1]
    for row, file in enumerate(files[:3]):
        assert_agrees(batch.index[row], batch, read_message(file.read_bytes()), channel)
        # A second reader, without any of this package: cbor2 alone.
        content = cbor2.loads(file.read_bytes())["data"][channel].value[1].value.value
        start, length = batch.index[row, [BLOB_OFFSET, BLOB_LENGTH]]
        assert batch.buffer[start : start + length].tobytes() == content[2]


@needs_captures
def test_captured_start_with_strings_for_tables():
    message = read_message((EIGER2_16M / "start.cbor").read_bytes())
    assert message.pixel_mask == message.flatfield == {"threshold_1": None}
    assert message.countrate_correction_lookup_table is None
    assert message.image_dtype is None
    assert (message.image_size_y, message.image_size_x) == (4362, 4148)
    assert message.threshold_energy.keys() == {"threshold_1", "threshold_2"}
    assert len(message.notes) == 3


def test_dtypes_and_tags_of_rfc_8746():
    assert [dtype_of_tag(tag) for tag in (64, 69, 70, 85)] == [
        np.dtype(c) for c in ("u1", "<u2", "<u4", "<f4")
    ]
    assert [dtype_of_tag(tag) for tag in (65, 74, 82)] == [np.dtype(c) for c in (">u2", ">i4", ">f8")]
