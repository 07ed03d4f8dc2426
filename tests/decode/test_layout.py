"""Which blocks a GPU decodes, and where each pixel is found afterwards."""

import struct

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.decode import framing as f
from live4d_ophyd.decode.layout import Layout, find_layout, select_blocks
from live4d_ophyd.stream.batch import ALGORITHM, BSLZ4, ELEM_SIZE, LZ4, OTHER_ALGORITHM, RAW


def decode_selected(layout: Layout, raw: bytes, selection) -> bytes:
    """What a decoder leaves in a frame's place: wanted blocks back to back, then the raw bytes if wanted."""
    place = bytearray(selection.nbytes)
    for b, where in enumerate(selection.place):
        if where >= 0:
            size = min(layout.in_blocks - b * layout.block, layout.block)
            place[where * layout.block : where * layout.block + size] = raw[b * layout.block :][:size]
    if selection.leftover_at >= 0:
        place[selection.leftover_at :] = raw[layout.in_blocks :]
    return bytes(place)


@given(
    itemsize=st.sampled_from([1, 2, 4]),
    pixels=st.integers(1, 3000),
    granules=st.integers(1, 40),
    elem_size=st.sampled_from([1, 2, 4, 8]),
    name=st.sampled_from(["bslz4", "lz4", ""]),
    odd=st.integers(0, 7),
    touched=st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 2999), st.integers(1, 300)), max_size=3)),
)
def test_selected_pixels_are_where_they_are_said_to_be(
    itemsize, pixels, granules, elem_size, name, odd, touched
):
    total = pixels * itemsize
    granule = 8 * elem_size if name == "bslz4" else 1
    block = {"bslz4": granules * granule, "lz4": granules * 16 + odd, "": total}[name]
    layout = Layout(BSLZ4, name, elem_size, total, block, granule)
    mask = None
    if touched is not None:
        mask = np.zeros(pixels, bool)
        for first, count in touched:
            mask[first : first + count] = True
    selection = select_blocks(layout, itemsize, mask)
    raw = np.random.default_rng(1).bytes(total)
    frame = np.frombuffer(raw, f"<u{itemsize}")
    found = np.frombuffer(decode_selected(layout, raw, selection), f"<u{itemsize}")
    np.testing.assert_array_equal(found, frame[selection.pixels])
    wanted = np.arange(pixels) if mask is None else np.flatnonzero(mask)
    assert np.isin(wanted, selection.pixels).all()
    assert selection.stride >= selection.nbytes
    assert selection.stride % 64 == 0
    assert selection.count == (selection.place >= 0).sum()


def test_a_small_disk_needs_a_third_of_the_blocks():
    layout = Layout(BSLZ4, "bslz4", 4, 192 * 192 * 4, 8192, 32)
    row, col = np.indices((192, 192)) - 95.5
    selection = select_blocks(layout, 4, (np.hypot(row, col) <= 30).reshape(-1))
    assert (layout.blocks, selection.count) == (18, 6)
    assert selection.nbytes == 6 * 8192


def test_nothing_wanted_is_nothing_decoded():
    selection = select_blocks(Layout(BSLZ4, "bslz4", 2, 8000, 8192, 16), 2, np.zeros(4000, bool))
    assert (selection.count, selection.nbytes, len(selection.pixels)) == (0, 0, 0)


def found(blob: bytes, algorithm=BSLZ4, elem_size=2):
    batch = batch_of([blob], (8, 8), "<u2")
    batch.index[0, ALGORITHM], batch.index[0, ELEM_SIZE] = algorithm, elem_size
    return find_layout(batch, 0, 128)


def test_layouts_are_read_from_the_data():
    blob = bslz4(np.zeros((8, 8), np.uint16), 512)
    assert found(blob) == Layout(BSLZ4, "bslz4", 2, 128, 512, 16)
    assert found(blob).nvcomp_unshuffles
    assert not found(bslz4(np.zeros((8, 8), np.uint16), 16384)).nvcomp_unshuffles
    assert not found(blob, elem_size=8).nvcomp_unshuffles
    assert found(blob, LZ4).may_be_stored
    assert found(bytes(128), RAW) == Layout(RAW, "", 2, 128, 128, 1)


@pytest.mark.parametrize(
    ("blob", "algorithm", "elem_size", "status"),
    [
        (bytes(11), BSLZ4, 2, f.BLOB_TOO_SHORT),
        (struct.pack(">QI", 128, 0), BSLZ4, 2, f.BAD_BLOCK_SIZE),
        (struct.pack(">QI", 128, 24), BSLZ4, 2, f.BAD_BLOCK_SIZE),
        (struct.pack(">QI", 128, 2**31), LZ4, 2, f.BAD_BLOCK_SIZE),
        (struct.pack(">QI", 128, 512), BSLZ4, 3, f.BAD_ELEM_SIZE),
        (struct.pack(">QI", 128, 512), OTHER_ALGORITHM, 2, f.UNREADABLE),
        (struct.pack(">QI", 128, 1) + bytes(600), LZ4, 2, f.BLOCK_TRUNCATED),
    ],
)
def test_what_has_no_layout_has_a_reason(blob, algorithm, elem_size, status):
    assert found(blob, algorithm, elem_size) == status


def test_a_frame_outside_its_buffer_has_no_layout():
    batch = batch_of([bytes(20)], (8, 8), "<u2")
    batch.index[0, 7] = 1 << 40
    assert find_layout(batch, 0, 128) == f.OUTSIDE_BUFFER
