"""Start, image and end messages: what is read, and what is refused with which words."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields as fields_of
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import cbor2
import numpy as np
import pytest
import stream_wire as wire
from cbor_values import PYTHON_WORDS, anything
from how_many import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from live4d_ophyd.frames.encoded_array import DTYPES, FIRST_TAG, MAX_PIXELS, array_tag, dtype_of_tag
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    GoniometerAxis,
    ImageMessage,
    OtherMessage,
    StartMessage,
    StreamError,
    read_message,
)

UTC_PLUS_1 = timezone(timedelta(hours=1))


def tagged(shape, values, order_tag=40):
    """A multi-dimensional array as cbor2 encodes it."""
    values = np.asarray(values)
    return cbor2.CBORTag(order_tag, [list(shape), cbor2.CBORTag(array_tag(values.dtype), values.tobytes())])


def start_fields():
    mask = np.arange(6, dtype="<u4")
    return {
        "type": "start",
        "series_id": 3,
        "series_unique_id": wire.UNIQUE_ID,
        "arm_date": datetime(2026, 3, 1, 12, 0, tzinfo=UTC_PLUS_1),
        "beam_center_x": 96,
        "beam_center_y": 95.5,
        "channels": ["threshold_1", "threshold_2"],
        "count_time": 3e-5,
        "countrate_correction_enabled": True,
        "countrate_correction_lookup_table": cbor2.CBORTag(70, np.arange(5, dtype="<u4").tobytes()),
        "detector_description": "DECTRIS ARINA Si",
        "detector_serial_number": "E-01-0001",
        "detector_translation": [0.0, 0.0, -0.5],
        "flatfield": {"threshold_1": tagged((2, 3), np.ones(6, "<f4"))},
        "flatfield_enabled": True,
        "frame_time": 1 / 30000,
        "goniometer": {"omega": {"start": 1.0, "increment": 0.5}},
        "image_dtype": "uint32",
        "image_size_x": 3,
        "image_size_y": 2,
        "incident_energy": 200e3,
        "incident_wavelength": 0.0251,
        "number_of_images": 65536,
        "pixel_mask": {"threshold_1": tagged((2, 3), mask)},
        "pixel_mask_enabled": True,
        "pixel_size_x": 1e-4,
        "pixel_size_y": 1e-4,
        "saturation_value": 65534,
        "sensor_material": "Si",
        "sensor_thickness": 4.5e-4,
        "threshold_energy": {"threshold_1": 30e3},
        "user_data": {"scan": [256, 256]},
        "virtual_pixel_interpolation_enabled": False,
    }


def start(**changes):
    fields = {**start_fields(), **changes}
    return wire.SELF_DESCRIBED + cbor2.dumps({k: v for k, v in fields.items() if v is not ...})


def test_start_with_all_fields():
    message = read_message(start())
    assert isinstance(message, StartMessage)
    assert message.arm_date == datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
    assert message.channels == ("threshold_1", "threshold_2")
    assert (message.beam_center_x, message.beam_center_y) == (96.0, 95.5)
    assert message.detector_translation == (0.0, 0.0, -0.5)
    assert message.goniometer == {"omega": GoniometerAxis(start=1.0, increment=0.5)}
    assert message.image_dtype == np.uint32
    assert (message.image_size_y, message.image_size_x) == (2, 3)
    assert message.number_of_images == 65536
    assert message.threshold_energy == {"threshold_1": 30e3}
    assert message.user_data == {"scan": [256, 256]}
    assert message.notes == ()
    mask = message.pixel_mask["threshold_1"]
    assert (mask.shape, mask.dtype, mask.algorithm, mask.order) == ((2, 3), np.dtype("<u4"), "", "C")
    assert np.frombuffer(mask.data, mask.dtype).tolist() == list(range(6))
    table = message.countrate_correction_lookup_table
    assert (table.shape, table.dtype, table.nbytes) == ((5,), np.dtype("<u4"), 20)


def test_start_of_header_detail_basic_and_older_firmware_leaves_fields_none():
    tables = ("flatfield", "pixel_mask", "countrate_correction_lookup_table", "image_dtype")
    message = read_message(start(**dict.fromkeys(tables, ...)))
    assert [getattr(message, name) for name in tables] == [None] * 4
    assert message.notes == ()
    assert read_message(start(beam_center_x=None, goniometer=None)).beam_center_x is None
    assert read_message(cbor2.dumps({"type": "start", "series_id": 3})) == StartMessage(3)


def test_tables_that_cannot_be_of_the_image_are_none_and_noted():
    message = read_message(
        start(
            pixel_mask={"threshold_1": bytes(4), "threshold_2": tagged((2, 3), np.ones(6, "<u4"))},
            flatfield={"threshold_1": tagged((3, 2), np.ones(6, "<f4"))},
            countrate_correction_lookup_table=bytes(4),
            image_dtype="uint24",
        )
    )
    assert message.pixel_mask["threshold_1"] is None
    assert message.pixel_mask["threshold_2"].shape == (2, 3)
    assert message.flatfield == {"threshold_1": None}
    assert message.countrate_correction_lookup_table is None
    assert message.image_dtype is None
    assert len(message.notes) == 4
    assert any("pixel_mask['threshold_1'] is a byte string of length 4;" in note for note in message.notes)
    assert any("(3, 2); expected the frame's, (2, 3)" in note for note in message.notes)


def test_image_with_all_fields():
    channels = {"threshold_1": wire.image_array(), "difference": wire.image_array((2, 3), 70)}
    message = read_message(wire.Image(image_id=12, channels=channels).message())
    assert isinstance(message, ImageMessage)
    assert (message.series_id, message.image_id, message.series_unique_id) == (7, 12, wire.UNIQUE_ID)
    assert message.real_time == message.stop_time == Fraction(1, 50)
    assert message.start_time == 0
    assert message.series_date == datetime.fromisoformat(wire.DATE)
    assert message.user_data == [1, "💙", -1.5, None, True]
    assert list(message.channels) == ["threshold_1", "difference"]
    first, second = message.channels.values()
    assert (first.shape, first.dtype, first.algorithm, first.elem_size) == (
        (4, 6),
        np.dtype("<u2"),
        "bslz4",
        2,
    )
    assert first.data == b"blob 10" + bytes(13)
    assert (second.shape, second.dtype) == ((2, 3), np.dtype("<u4"))


def test_key_order_the_outer_tag_and_unknown_keys_do_not_matter():
    fields = {**wire.Image().fields(), "new_in_2027": wire.array(wire.number(1))}
    expected = read_message(wire.image())
    for keys in itertools.islice(itertools.permutations(fields), 0, None, 400_001):
        body = wire.mapping({key: fields[key] for key in keys})
        assert read_message(body) == read_message(wire.SELF_DESCRIBED + body) == expected


def test_end_and_other_types():
    assert read_message(wire.end(5)) == EndMessage(5, wire.UNIQUE_ID)
    assert read_message(wire.mapping({"type": wire.text("telemetry")})) == OtherMessage("telemetry")


@pytest.mark.parametrize("tag", [t for t in range(64, 88) if DTYPES[t - FIRST_TAG] is not None])
def test_uncompressed_arrays_of_every_element_type(tag):
    dtype = dtype_of_tag(tag)
    values = np.arange(6).astype(dtype).reshape(2, 3)
    array = read_message(wire.image(data=wire.mapping({"a": wire.raw_image(values, tag)}))).channels["a"]
    assert (array.dtype, array.algorithm, array.elem_size) == (dtype, "", 0)
    assert np.array_equal(np.frombuffer(array.data, array.dtype).reshape(array.shape), values)
    assert array_tag(dtype) == (64 if tag == 68 else tag)  # 68 is bytes, too: "clamped"


def test_column_major_arrays_say_so():
    values = np.arange(6, dtype="<u2").reshape(2, 3)
    item = wire.image_array((2, 3), 69, wire.data(values.tobytes(order="F")), order_tag=1040)
    array = read_message(wire.image(data=wire.mapping({"a": item}))).channels["a"]
    assert array.order == "F"
    assert np.array_equal(
        np.frombuffer(array.data, array.dtype).reshape(array.shape, order=array.order), values
    )


def with_array(item):
    return wire.image(data=wire.mapping({"a": item}))


def with_shape(*shape):
    return with_array(wire.image_array(shape))


def typed(array_tag, content):
    return with_array(wire.image_array((2, 3), array_tag, content))


PREVIEW_IMAGE = {
    "type": "image",
    "series_number": 1,
    "series_unique_id": wire.UNIQUE_ID,
    "image_number": 0,
    "channels": [{"compression": "bslz4", "data_type": "uint16", "thresholds": [1], "data": [[2, 2], b"x"]}],
}
PREVIEW_START = {
    "type": "start",
    "series_number": 1,
    "channels": [{"data_type": "uint16", "thresholds": [1]}],
}

REFUSED = {
    "v1 header": (b'{"htype":"dheader-1.0","series":1,"header_detail":"basic"}', "stream v1"),
    "v1 image": (b'{"htype": "dimage-1.0", "series": 1, "frame": 0}', "stream v1"),
    "v1 end": (b'{"htype": "dseries_end-1.0", "series": 1}', "stream v1.*format=cbor"),
    "preview image": (cbor2.dumps(PREVIEW_IMAGE), "image message has the preview schema"),
    "preview start": (cbor2.dumps(PREVIEW_START), "start message has the preview schema"),
    "preview end": (cbor2.dumps({"type": "end", "series_number": 1}), "end message has the preview schema"),
    "empty": (b"", "cut off: it ends after 0 bytes"),
    "no CBOR": (b"\x1c\x00", "not CBOR"),
    "a number": (b"\x05", "the message is 5; expected a map"),
    "bytes after it": (wire.image() + b"\x00\x00", "goes on for 2 bytes"),
    "no type": (cbor2.dumps({"series_id": 1}), "type is missing"),
    "type a number": (cbor2.dumps({"type": 1}), "message: type is 1; expected text"),
    "no series": (wire.image(series_id=None), "image message: series_id is missing"),
    "no image id": (wire.image(image_id=None), "image_id is missing"),
    "no data": (wire.image(data=None), "data is missing"),
    "no channel": (wire.image(data=wire.mapping({})), "data has no channel"),
    "nameless channel": (wire.image(data=wire.mapping({"": wire.image_array()})), "channel without a name"),
    "data a list": (wire.image(data=wire.array()), "data is an array of length 0; expected a map"),
    "channel a number": (
        wire.image(data=b"\xa1\x01" + wire.image_array()),
        "a key of image message: data is 1; expected text",
    ),
    "negative image id": (wire.image(image_id=b"\x20"), "image_id is -1; expected a whole number"),
    "image id 2**63": (wire.image(image_id=wire.number(1 << 63)), "image_id is 9223372036854775808"),
    "image id true": (wire.image(image_id=b"\xf5"), "image_id is true"),
    "image id float": (wire.image(image_id=b"\xf9\x00\x00"), "image_id is 0.0"),
    "channel no array": (
        with_array(wire.number(1)),
        r"data\['a'\] is 1; expected an array with tag 40 or 1040",
    ),
    "array of tag 41": (
        with_array(wire.image_array(order_tag=41)),
        r"is tag 41 \(an array of length 2\); expected an array with tag 40",
    ),
    "one dimension": (with_shape(6), r"dimensions \S+; expected two whole numbers"),
    "three dimensions": (with_shape(1, 2, 3), "expected two whole numbers"),
    "no rows": (with_shape(0, 3), "expected two whole numbers from 1"),
    "negative rows": (
        with_array(wire.tag(40, wire.array(wire.array(b"\x20", b"\x01"), wire.tag(69, wire.data(b""))))),
        "expected two whole numbers from 1",
    ),
    "huge rows": (with_shape(MAX_PIXELS + 1, 1), "expected two whole numbers from 1"),
    "huge frame": (with_shape(MAX_PIXELS, MAX_PIXELS), f"expected at most {MAX_PIXELS}"),
    "elements untagged": (with_array(wire.tag(40, wire.array(wire.array(), b"\x40"))), "expected two whole"),
    "tag 88": (
        typed(88, wire.data(bytes(6))),
        r"tag 88 \(a byte string of length 6\); expected a typed array",
    ),
    "tag 76, reserved": (typed(76, wire.data(bytes(6))), "tag 76 has no element type"),
    "tag 87, float128": (typed(87, wire.data(bytes(96))), "tag 87 has no element type"),
    "too few bytes": (
        typed(69, wire.data(bytes(11))),
        r"11 uncompressed bytes; expected 12 .*\(2, 3\) of uint16",
    ),
    "too many bytes": (typed(70, wire.data(bytes(25))), "25 uncompressed bytes; expected 24"),
    "content text": (typed(69, wire.text("abc")), "has text 'abc' as content"),
    "content of tag 1": (
        typed(69, wire.tag(1, wire.number(0))),
        "as content; expected a byte string, or tag 56500",
    ),
    "compression of 2": (
        typed(69, wire.tag(56500, wire.array(wire.text("lz4"), b"\x40"))),
        "expected .name, size",
    ),
    "compression nameless": (typed(69, wire.compressed(b"", 2, b"")), "text ''; expected its name"),
    "compression a number": (
        typed(69, wire.tag(56500, wire.array(b"\x01", b"\x02", b"\x40"))),
        "expected its name",
    ),
    "element size 256": (
        typed(69, wire.compressed(b"bslz4", 256, b"x")),
        "element size 256; expected 0 to 255",
    ),
    "element size -1": (
        typed(69, wire.tag(56500, wire.array(wire.text("bslz4"), b"\x20", b"\x40"))),
        "element size -1; expected 0 to 255",
    ),
    "compressed text": (
        typed(69, wire.tag(56500, wire.array(wire.text("bslz4"), b"\x02", wire.text("abc")))),
        "compressed content is text 'abc'",
    ),
    "many items": (wire.image(user_data=wire.array(*[b"\x80"] * 100_001)), "more than 100000 items"),
    "65 channels": (
        wire.image(data=wire.mapping({f"c{n}": wire.image_array() for n in range(65)})),
        "data has 65 channels; expected at most 64",
    ),
    "start without id": (start(series_id=...), "start message: series_id is missing"),
    "series a text": (start(series_id="3"), "start message: series_id is text '3'; expected a whole number"),
    "end without id": (cbor2.dumps({"type": "end"}), "end message: series_id is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    raw, words = REFUSED[name]
    with pytest.raises(StreamError, match=words):
        read_message(raw)


NOTED = {
    "unique id bytes": (
        wire.image(series_unique_id=wire.data(b"01")),
        "series_unique_id is a byte string of",
    ),
    "time over zero": (wire.image(real_time=wire.rational(0, 0)), r"real_time is \[0, 0\].*denominator > 0"),
    "time a number": (wire.image(start_time=wire.number(1)), "start_time is 1; expected an array"),
    "date untagged": (
        wire.image(series_date=wire.text("today")),
        "series_date is text 'today'; expected a date",
    ),
    "date of no day": (
        wire.image(series_date=wire.tag(0, wire.text("2026-02-30T00:00:00Z"))),
        r"series_date is tag 0 \(text '2026-02-30T00:00:00Z'\); expected a date-time",
    ),
    "arm date text": (start(arm_date="yesterday"), "arm_date is text 'yesterday'; expected a date-time"),
    "center text": (start(beam_center_x="96"), "beam_center_x is text '96'; expected a number"),
    "saturation -1": (start(saturation_value=-1), "saturation_value is -1; expected a whole number from 0"),
    "goniometer a list": (start(goniometer=[]), "goniometer is an array of length 0; expected a map"),
    "goniometer text": (start(goniometer={"omega": 1}), r"goniometer\['omega'\] is 1; expected a map"),
    "flatfield a list": (start(flatfield=[]), "flatfield is an array of length 0; expected a map"),
    "mask null": (start(pixel_mask={"threshold_1": None}), r"pixel_mask\['threshold_1'\] is null; expected"),
    "energy a number": (start(threshold_energy=3e4), "threshold_energy is 30000.0; expected a map"),
    "energy huge": (start(incident_energy=10**400), "incident_energy is an integer beyond 64 bits"),
    "translation text": (
        start(detector_translation=[0, "1", 2]),
        r"detector_translation\[1\] is text '1'; expected a number",
    ),
    "images negative": (start(number_of_images=-1), "number_of_images is -1; expected a whole number"),
    "time negative": (start(count_time=-1.0), "count_time is -1.0; expected a number that is not negative"),
    "size text": (start(image_size_x="192"), "image_size_x is text '192'; expected a whole number"),
    "flag a number": (start(pixel_mask_enabled=1), "pixel_mask_enabled is 1; expected true or false"),
    "channels text": (start(channels="a"), "channels is text 'a'; expected an array"),
    "dtype a map": (start(image_dtype={}), "image_dtype is a map of length 0; expected text"),
}


@pytest.mark.parametrize("name", NOTED)
def test_an_optional_field_of_another_kind_is_none_and_noted(name):
    raw, words = NOTED[name]
    message = read_message(raw)
    assert message.series_id in (3, 7)
    (note,) = message.notes
    assert re.search(words, note), note
    field = note.split(": ")[1].split(" ")[0].split("[")[0]
    value = getattr(message, field)
    assert not value or set(value.values()) <= {None}


#: fields of a message that may be missing, and those that may be anything
OPTIONAL = {
    kind: [f.name for f in fields_of(kind) if f.name not in ("series_id", "image_id", "notes")]
    for kind in (StartMessage, ImageMessage)
}
OPTIONAL[ImageMessage].remove("channels")  # the data: needed


def python_words(notes, odd):
    """Words of Python's in the notes that the message itself does not have, as the name of a channel."""
    said = b"".join(odd.values())
    return [
        found[0] for note in notes for found in PYTHON_WORDS.finditer(note) if found[0].encode() not in said
    ]


@settings(derandomize=True, deadline=None, max_examples=examples(500))
@given(st.dictionaries(st.sampled_from(OPTIONAL[StartMessage]), anything, min_size=1, max_size=3))
def test_whatever_an_optional_field_of_start_holds_the_series_begins(odd):
    message = read_message(
        wire.mapping({"type": wire.text("start"), "series_id": wire.number(3)} | odd, indefinite=True)
    )
    assert isinstance(message, StartMessage)
    assert message.series_id == 3
    for name, item in odd.items():
        null = item.replace(wire.SELF_DESCRIBED, b"") in (b"\xf6", b"\xf7")
        if getattr(message, name) is None and name != "user_data" and not null:
            assert any(f"start message: {name}" in note for note in message.notes)
    assert not python_words(message.notes, odd)


@settings(derandomize=True, deadline=None, max_examples=examples(500))
@given(st.dictionaries(st.sampled_from(OPTIONAL[ImageMessage]), anything, min_size=1, max_size=3))
def test_whatever_an_optional_field_of_an_image_holds_it_is_an_image(odd):
    message = read_message(wire.image(**odd))
    assert isinstance(message, ImageMessage)
    assert message.image_id == 0
    assert message.channels == read_message(wire.image()).channels
    assert not python_words(message.notes, odd)


@pytest.mark.parametrize(
    ("raw", "message_type"),
    [
        (start(series_id="3"), "start"),
        (start()[:60], "start"),
        (wire.end()[:-3], "end"),
        (cbor2.dumps({"type": "end"}), "end"),
        (cbor2.dumps(PREVIEW_START), "start"),
        (wire.image(image_id=None), "image"),
        (wire.image()[:100], "image"),
        (b"\x05", ""),
        (b"", ""),
    ],
)
def test_a_message_that_is_refused_is_still_called_what_it_is(raw, message_type):
    with pytest.raises(StreamError) as refused:
        read_message(raw)
    assert refused.value.message_type == message_type


def test_every_truncation_is_refused():
    for raw in (wire.image(), wire.end(), start()):
        for length in range(len(raw)):
            with pytest.raises(StreamError):
                read_message(raw[:length])


@pytest.mark.parametrize(
    "raw",
    [
        bytes.fromhex("5bffffffffffffffff"),
        bytes.fromhex("9b7fffffffffffffff"),
        bytes.fromhex("bb0fffffffffffffff"),
        b"\x81" * 100_000,
        b"\xd9\xd9\xf7" * 100_000,
        bytes.fromhex("a164747970655f") + b"\x40" * 1000,
        bytes.fromhex("a1c5821b7fffffffffffffff0101"),
    ],
)
def test_hostile_lengths_and_nesting_are_refused_at_once(raw):
    with pytest.raises(StreamError):
        read_message(raw)
