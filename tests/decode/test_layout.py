"""Which blocks a GPU decodes, and where each pixel is found afterwards."""

import struct

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.decode.gpu.layout import Layout, find_layout, select_blocks
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.batch import ALGORITHM, ELEM_SIZE
from live4d_ophyd.frames.codecs import BSLZ4, BSZSTD, LZ4, OTHER_ALGORITHM, RAW, TRPX


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
    # No more than the wanted blocks, the last of which may be shorter, and the raw bytes if they are wanted.
    sizes = np.minimum(layout.block, layout.in_blocks - np.arange(layout.blocks) * layout.block)
    bytes_of_blocks = int(sizes[selection.place >= 0].sum())
    leftover = total - total % granule < total and selection.leftover_at >= 0
    assert selection.block_bytes == bytes_of_blocks
    assert selection.nbytes == bytes_of_blocks + (total % granule if leftover else 0)
    assert selection.leftover_at in (-1, bytes_of_blocks)
    assert selection.place.dtype == np.int32
    assert selection.stride >= selection.nbytes
    assert selection.stride % 64 == 0
    assert selection.count == (selection.place >= 0).sum()


def test_a_small_disk_needs_a_third_of_the_blocks():
    layout = Layout(BSLZ4, "bslz4", 4, 192 * 192 * 4, 8192, 32)
    row, col = np.indices((192, 192)) - 95.5
    selection = select_blocks(layout, 4, (np.hypot(row, col) <= 30).reshape(-1))
    assert (layout.blocks, selection.count) == (18, 6)
    assert selection.nbytes == 6 * 8192


def test_a_frame_is_blocks_a_shorter_one_and_raw_bytes():
    layout = Layout(BSLZ4, "bslz4", 2, 200, 64, 16)
    assert (layout.in_blocks, layout.blocks) == (192, 3)
    layout = Layout(BSLZ4, "bslz4", 2, 250, 64, 16)
    assert (layout.in_blocks, layout.blocks) == (240, 4)  # and 10 bytes, less than 8 pixels
    touched = np.zeros(125, bool)
    touched[[3, 124]] = True
    selection = select_blocks(layout, 2, touched)
    assert selection.place.tolist() == [0, -1, -1, -1]
    assert (selection.count, selection.block_bytes, selection.leftover_at, selection.nbytes) == (
        1,
        64,
        64,
        74,
    )
    assert selection.pixels.tolist() == [*range(32), *range(120, 125)]
    assert selection.stride == 128
    touched[[3, 124, 119]] = False, False, True
    selection = select_blocks(layout, 2, touched)
    assert selection.place.tolist() == [-1, -1, -1, 0]
    assert (selection.count, selection.block_bytes, selection.leftover_at, selection.nbytes) == (
        1,
        48,
        -1,
        48,
    )
    assert selection.pixels.tolist() == [*range(96, 120)]
    assert selection.stride == 64
    everything = select_blocks(layout, 2, None)
    assert (everything.count, everything.block_bytes, everything.nbytes) == (4, 240, 250)
    assert everything.pixels.tolist() == [*range(125)]
    assert everything.stride == 256


def test_blocks_that_do_not_begin_with_a_pixel_are_decoded_all():
    layout = Layout(LZ4, "lz4", 0, 80, 33, 1)
    touched = np.zeros(20, bool)
    touched[2] = True
    assert select_blocks(layout, 4, touched).count == layout.blocks == 3


def test_which_layouts_nvcomp_knows():
    def layout(name="bslz4", elem_size=2, block=8192):
        return Layout(BSLZ4, name, elem_size, 100_000, block, 8 * elem_size)

    assert [layout(elem_size=size).nvcomp_unshuffles for size in (1, 2, 4, 8)] == [True, True, True, False]
    assert [layout(block=size).nvcomp_unshuffles for size in (8192, 8208)] == [True, False]
    assert not layout("bszstd").nvcomp_unshuffles
    assert [layout(name).shuffled for name in ("bslz4", "bszstd", "lz4", "")] == [True, True, False, False]
    assert [layout(name).may_be_stored for name in ("bslz4", "bszstd", "lz4", "")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("number", "status"),
    [(TRPX, f.NOT_ON_GPU), (OTHER_ALGORITHM, f.UNKNOWN_ALGORITHM), (-1, f.UNKNOWN_ALGORITHM)],
)
def test_algorithms_without_a_layout_have_a_reason(number, status):
    assert found(bslz4(np.zeros((8, 8), np.uint16), 512), number) == status


def test_zstd_has_the_layout_of_its_header():
    blob = bslz4(np.zeros((8, 8), np.uint16), 512)
    assert found(blob, BSZSTD) == Layout(BSZSTD, "bszstd", 2, 128, 512, 16)
    assert found(blob, BSZSTD, elem_size=3) == f.BAD_ELEM_SIZE


def test_there_are_no_more_blocks_than_bytes_for_them():
    """Four in front of each, and one inside."""
    blocks = 8  # of 16 bytes
    header = struct.pack(">QI", 128, 16)
    assert found(header + bytes(5 * blocks - 1)) == f.BLOCK_TRUNCATED
    assert found(header + bytes(5 * blocks)) == Layout(BSLZ4, "bslz4", 2, 128, 16, 16)
    assert found(struct.pack(">QI", 128, 2**31 - 16) + bytes(5)).block == 2**31 - 16


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
        (struct.pack(">QI", 128, 512), OTHER_ALGORITHM, 2, f.UNKNOWN_ALGORITHM),
        (struct.pack(">QI", 128, 1) + bytes(600), LZ4, 2, f.BLOCK_TRUNCATED),
    ],
)
def test_what_has_no_layout_has_a_reason(blob, algorithm, elem_size, status):
    assert found(blob, algorithm, elem_size) == status


def test_a_frame_outside_its_buffer_has_no_layout():
    batch = batch_of([bytes(20)], (8, 8), "<u2")
    batch.index[0, 7] = 1 << 40
    assert find_layout(batch, 0, 128) == f.OUTSIDE_BUFFER
