"""Mutated messages before a page that nobody may read: no crash, no number that read_message refuses."""

from __future__ import annotations

import numpy as np
import stream_wire as wire
from guard_page import GuardedMemory
from how_many import examples

from live4d_ophyd.frames.batch import (
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    COLUMNS,
    ELEM_SIZE,
    END,
    IMAGE,
    IMAGE_ID,
    MULTIPART,
    NO_CHANNEL,
    OTHER,
    ROWS,
    SERIES_ID,
    START,
    STATUS,
    UNIQUE_ID,
    UNUSUAL,
)
from live4d_ophyd.frames.encoded_array import dtype_of_tag
from live4d_ophyd.sources.dectris.index import SCRATCH_SIZE, channel_name, hash_unique_id, index_message
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    ImageMessage,
    StartMessage,
    StreamError,
    read_message,
)

MUTATIONS = examples(100_000)

#: what a mutation puts in: heads of all kinds, lengths that lie, break codes, tags, half texts
TOKENS = [
    *(
        bytes([byte])
        for byte in (0x00, 0x1B, 0x3B, 0x5F, 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xE0, 0xF6, 0xF8, 0xFF)
    ),
    *(
        bytes.fromhex(h)
        for h in ("5b7fffffffffffffff", "7b7fffffffffffffff", "9b00000000ffffffff", "bbffffffff")
    ),
    *(
        bytes.fromhex(h)
        for h in ("d9d9f7", "d828", "d90410", "d845", "d9dcb4", "c249010000000000000000", "fb7ff8")
    ),
    *(bytes.fromhex(h) for h in ("1818", "190018", "1a00000018", "1b0000000000000018", "1bffffffffffffffff")),
    *(bytes.fromhex(h) for h in ("62c328", "63eda080", "f97e00", "faffffffff", "fbffffffffffffffff", "f814")),
    *(
        wire.text(key)
        for key in ("type", "data", "image_id", "series_id", "image", "start", "end", "lz4", "bslz4")
    ),
    wire.tag(0, wire.text(wire.DATE)),
    wire.tag(0, wire.text("2025-02-29T00:00:00Z")),
    wire.tag(0, wire.text("2025-01-01T24:00:00Z")),
    wire.rational(1, 0),
    wire.array(wire.number(1), wire.text("a")),
    wire.mapping({"a": wire.image_array(), "b": wire.number(0)}),
    wire.mapping([("a", wire.image_array()), ("a", wire.image_array((2, 2)))]),
    wire.image_array(),
]


def sources():
    pixels = np.arange(24, dtype=">u2").reshape(4, 6)
    several = {
        "threshold_1": wire.image_array(),
        "b": wire.raw_image(pixels, 65),
        "c": wire.image_array((3, 3), 85),
    }
    fields = wire.Image(image_id=300, width=2, channels=several).fields()
    return [
        wire.image(),
        wire.Image(series_id=70_000, image_id=5, width=8, channels=several).message(),
        wire.mapping(fields, indefinite=True),
        wire.mapping(dict(reversed(fields.items()))),
        wire.end(),
        wire.mapping({"type": wire.text("start"), "series_id": wire.number(2), "mask": wire.image_array()}),
    ]


def misfit(random: np.random.Generator) -> bytes:
    """A message in shuffled key order with a value that does not belong there, or with a key twice."""
    fields = list(wire.Image(image_id=3, width=int(random.choice([0, 4]))).fields().items())
    key, value = fields[random.integers(0, len(fields))]
    _, other = fields[random.integers(0, len(fields))]
    new = [TOKENS[random.integers(0, len(TOKENS))], other, wire.array(value), value][random.integers(0, 4)]
    changed = [(key, new), *fields] if random.integers(0, 3) == 0 else [*dict([*fields, (key, new)]).items()]
    return wire.mapping([changed[i] for i in random.permutation(len(changed))])


def mutate(raw: bytes, random: np.random.Generator) -> bytes:
    """One to three changes: a byte, a bit, a token in or over, a part away or doubled, the end away."""
    message = bytearray(raw)
    for _ in range(random.integers(1, 4)):
        if not message:
            break
        kind, at = random.integers(0, 8), int(random.integers(0, len(message)))
        if kind <= 1:
            message[at] = random.integers(0, 256)
        elif kind == 2:
            message[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 3:
            message[at:at] = TOKENS[random.integers(0, len(TOKENS))]
        elif kind == 4:
            token = TOKENS[random.integers(0, len(TOKENS))]
            message[at : at + len(token)] = token
        elif kind == 5:
            del message[at : at + int(random.integers(1, 12))]
        elif kind == 6:
            other = int(random.integers(0, len(message)))
            message[other:other] = message[at : at + int(random.integers(1, 40))]
        else:
            del message[at:]
    return bytes(message)


def read(raw: bytes):
    try:
        return read_message(raw)
    except StreamError:
        return None


def assert_same_image(row, address, raw, message, channel):
    array = message.channels[channel or next(iter(message.channels))]
    found = (row[SERIES_ID], row[IMAGE_ID], row[ROWS], row[COLS], row[ELEM_SIZE], row[UNIQUE_ID])
    expected = (message.series_id, message.image_id, *array.shape, array.elem_size)
    assert found == (*expected, hash_unique_id(message.series_unique_id))
    assert dtype_of_tag(int(row[ARRAY_TAG])) == array.dtype
    start = int(row[BLOB_OFFSET]) - address
    assert raw[start : start + int(row[BLOB_LENGTH])] == array.data


def test_mutated_messages():
    random = np.random.default_rng(20261122)
    originals, memory = sources(), GuardedMemory()
    row, scratch = np.zeros(COLUMNS, np.int64), np.zeros(SCRATCH_SIZE, np.int64)
    names = [(name, channel_name(name)) for name in ("", "threshold_1", "b")]
    kinds = {StartMessage: START, ImageMessage: IMAGE, EndMessage: END}
    counts = dict.fromkeys(("taken", "left to Python", "refused"), 0)
    for i in range(MUTATIONS):
        raw = misfit(random) if i % 4 == 0 else originals[i % len(originals)]
        if i % 8 != 0:
            raw = mutate(raw, random)
        address = memory.place(raw)
        channel, channel_bytes = names[i % len(names)]
        # Offsets count from address 0 here, so that they are addresses themselves.
        status = index_message(address, len(raw), 0, row, channel_bytes, scratch)
        message = read(raw)
        assert status == row[STATUS]
        assert MULTIPART <= status <= OTHER
        if status == IMAGE:
            assert isinstance(message, ImageMessage), raw.hex()
            assert_same_image(row, address, raw, message, channel)
            counts["taken"] += 1
        elif message is not None:
            assert status in (UNUSUAL, NO_CHANNEL, kinds.get(type(message), OTHER)), raw.hex()
            counts["left to Python"] += 1
        else:
            assert not row[BLOB_OFFSET:].any()
            counts["refused"] += 1
    assert min(counts.values()) > MUTATIONS // 100, counts


def test_every_truncation_of_every_message():
    memory = GuardedMemory()
    row, scratch = np.zeros(COLUMNS, np.int64), np.zeros(SCRATCH_SIZE, np.int64)
    for raw in sources():
        assert index_message(memory.place(raw), len(raw), 0, row, channel_name(""), scratch) >= 0
        for length in range(len(raw)):
            part = raw[:length]
            assert index_message(memory.place(part), length, 0, row, channel_name(""), scratch) < 0
            assert read(part) is None


def test_random_bytes():
    random = np.random.default_rng(1)
    memory = GuardedMemory()
    row, scratch = np.zeros(COLUMNS, np.int64), np.zeros(SCRATCH_SIZE, np.int64)
    for _ in range(examples(20_000)):
        raw = (
            wire.SELF_DESCRIBED
            + bytes([0xA0 | random.integers(0, 32)])
            + random.bytes(random.integers(0, 64))
        )
        assert index_message(memory.place(raw), len(raw), 0, row, channel_name(""), scratch) != IMAGE
