"""The GPU decodes what the CPU decodes, to the same numbers, bit for bit where weights are integers."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from decode_oracle import (
    all_parts,
    batch_of,
    bslz4,
    lz4_blocks,
    masked_sums,
    on_host,
    patterns_of,
    project,
    project_all,
    shuffle,
)
from test_decode_fuzz import mutate
from test_saturation import clipped, maps_of

from live4d_ophyd.decode import (
    CpuDecoder,
    Demand,
    FrameFormat,
    Saturation,
    Weights,
    choose_backend,
    sum_over_frames,
)
from live4d_ophyd.decode.errors import GpuMemoryError
from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, BLOB_OFFSET, FrameBatch
from live4d_ophyd.frames.codecs import BSLZ4, LZ4, RAW, number_of

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def backend():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return choose_backend("gpu")


def gpu(backend, shape, dtype, saturation=NODATA):
    return backend.decoder(FrameFormat(*shape, np.dtype(dtype)), saturation=saturation)


def counts(shape, dtype, n=5, seed=3):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    frames = rng.poisson(3, (n, *shape)).astype(dtype)
    frames[0, 0, 0] = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
    if dtype.kind == "u":
        frames[-1] = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return frames


def disk(shape, radius, value=1):
    row, col = np.indices(shape)
    inside = np.hypot(row - shape[0] / 2, col - shape[1] / 2) <= radius
    return np.where(inside, value, 0)


SHAPES = [(192, 192), (96, 96), (514, 1030), (33, 21), (7, 7), (1, 3)]


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [8192, 512, 65536])
def test_pixels_and_sums_of_bslz4(backend, shape, dtype, block):
    frames = counts(shape, dtype)
    batch = batch_of([bslz4(frame, block) for frame in frames], shape, dtype)
    decoder = gpu(backend, shape, dtype)
    pixels, status = patterns_of(decoder, batch)
    assert not status.any()
    np.testing.assert_array_equal(pixels, frames)
    maps = np.stack([np.ones(shape, int), disk(shape, min(shape) / 6), np.indices(shape)[0] - 5])
    sums, status = project(decoder, batch, Weights(maps))
    assert not status.any()
    assert sums.dtype == np.int64
    np.testing.assert_array_equal(sums, masked_sums(frames, maps))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4"])
@pytest.mark.parametrize("encode", ["bslz4", "lz4", "raw"])
def test_every_dtype_and_algorithm_agrees_with_the_cpu(backend, dtype, encode):
    shape = (33, 21)
    frames = counts(shape, dtype)
    write, code = {
        "bslz4": (lambda a: bslz4(a, 512), BSLZ4),
        "lz4": (lambda a: lz4_blocks(a, 500), LZ4),
        "raw": (np.ndarray.tobytes, RAW),
    }[encode]
    batch = batch_of([write(frame) for frame in frames], shape, dtype, code)
    decoder, reference = gpu(backend, shape, dtype), CpuDecoder(FrameFormat(*shape, np.dtype(dtype)))
    np.testing.assert_array_equal(patterns_of(decoder, batch)[0], frames)
    for maps in (np.ones((1, *shape), int), np.random.default_rng(1).normal(size=(5, *shape))):
        sums, status = project(decoder, batch, Weights(maps))
        expected, _ = project(reference, batch, Weights(maps))
        assert not status.any()
        np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("elem_size", [1, 2, 4, 8])
def test_an_element_size_that_is_not_the_dtype(backend, elem_size):
    frames = counts((33, 21), "<u4")
    batch = batch_of([bslz4(x, 512, elem_size) for x in frames], (33, 21), "<u4", elem_size=elem_size)
    decoder = gpu(backend, (33, 21), "<u4")
    np.testing.assert_array_equal(patterns_of(decoder, batch)[0], frames)
    maps = np.ones((1, 33, 21), int)
    np.testing.assert_array_equal(project(decoder, batch, Weights(maps))[0], masked_sums(frames, maps))


@pytest.mark.parametrize("maps", [1, 2, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("kind", [int, float])
def test_any_number_of_maps(backend, maps, kind):
    shape = (64, 48)
    frames = counts(shape, "<u2", 37)
    weights = np.random.default_rng(5).integers(-9, 9, (maps, *shape)).astype(kind)
    batch = batch_of([bslz4(frame, 2048) for frame in frames], shape, "<u2")
    sums, _ = project(gpu(backend, shape, "<u2"), batch, Weights(weights))
    expected, _ = project(CpuDecoder(FrameFormat(*shape, np.dtype("<u2"))), batch, Weights(weights))
    if kind is int:
        np.testing.assert_array_equal(sums, expected)
    else:
        np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-6)


def test_sums_beyond_what_float64_holds_are_exact(backend):
    shape = (64, 64)
    frames = np.full((2, *shape), 2**32 - 2, np.uint32)
    frames[1, 3, 3] = 1
    maps = np.full((1, *shape), 2**18 + 1)
    batch = batch_of([bslz4(frame) for frame in frames], shape, "<u4")
    sums, _ = project(gpu(backend, shape, "<u4"), batch, Weights(maps))
    np.testing.assert_array_equal(sums, masked_sums(frames, maps))
    assert abs(int(sums[0, 0])) > 2**53


def test_pixels_without_data_count_when_asked_to(backend):
    frames = counts((16, 16), "<u2")
    batch = batch_of([bslz4(frame) for frame in frames], (16, 16), "<u2")
    maps = np.ones((1, 16, 16), int)
    sums, _ = project(gpu(backend, (16, 16), "<u2", Saturation(nodata=False)), batch, Weights(maps))
    np.testing.assert_array_equal(sums, masked_sums(frames, maps, nodata=False))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_saturated_pixels_are_found_as_on_the_cpu(backend, dtype, counted):
    rng = np.random.default_rng(5)
    saturation = Saturation(value=200, counted=counted)
    frames, maps = clipped((103, 51), dtype, 200, rng), Weights(maps_of((103, 51), rng))
    batch = batch_of([bslz4(frame) for frame in frames], (103, 51), dtype)
    reference = CpuDecoder(FrameFormat(103, 51, np.dtype(dtype)), saturation=saturation)
    on_cpu = project_all(reference, batch, maps)
    found = project_all(gpu(backend, (103, 51), dtype, saturation), batch, maps)
    for of_gpu, of_cpu in zip(found, on_cpu):
        np.testing.assert_array_equal(of_gpu, of_cpu)
    assert on_cpu.saturated.any()


def test_bad_frames_are_named_and_leave_the_others_alone(backend):
    frames = counts((64, 64), "<u2", 8)
    blobs = [bslz4(frame, 2048) for frame in frames]
    blobs[1] = blobs[1][:5]
    blobs[2] = struct.pack(">Q", 99) + blobs[2][8:]
    blobs[3] = blobs[3][:-3]
    blobs[4] = blobs[4] + b"x"
    blobs[5] = blobs[5][:16] + bytes([0x00, 0xFF, 0xFF]) + blobs[5][19:]
    batch = batch_of(blobs, (64, 64), "<u2")
    batch.index[6, 8] = 63
    maps = np.ones((1, 64, 64), int)
    sums, status = project(gpu(backend, (64, 64), "<u2"), batch, Weights(maps))
    expected = masked_sums(frames, maps)
    assert status[[0, 7]].tolist() == [0, 0]
    np.testing.assert_array_equal(sums[[0, 7]], expected[[0, 7]])
    assert not sums[1:7].any()
    assert status[1:5].tolist() == [f.BLOB_TOO_SHORT, f.WRONG_TOTAL, f.BLOCK_TRUNCATED, f.LEFT_OVER]
    assert status[5] in (f.BAD_LZ4, f.SHORT_BLOCK)
    assert status[6] == f.WRONG_SHAPE


def test_frames_of_different_layouts_in_one_batch(backend):
    frames = counts((48, 64), "<u4", 9)
    blobs = [bslz4(frame, (8192, 1024, 1 << 20)[i % 3]) for i, frame in enumerate(frames)]
    blobs[4], blobs[5] = lz4_blocks(frames[4], 1000), frames[5].tobytes()
    batch = batch_of(blobs, (48, 64), "<u4")
    batch.index[4, ALGORITHM], batch.index[5, ALGORITHM] = LZ4, RAW
    decoder = gpu(backend, (48, 64), "<u4")
    maps = np.stack([disk((48, 64), 9), np.ones((48, 64), int)])
    sums, status = project(decoder, batch, Weights(maps))
    assert not status.any()
    np.testing.assert_array_equal(sums, masked_sums(frames, maps))
    np.testing.assert_array_equal(patterns_of(decoder, batch)[0], frames)


def named(algorithm: str, blobs: list[bytes], shape, dtype) -> FrameBatch:
    """Batch of whole image messages: an algorithm that is not known is named only there."""
    import cbor2

    from live4d_ophyd.frames.encoded_array import array_tag
    from live4d_ophyd.sources.dectris.index import index_batch

    dtype = np.dtype(dtype)
    messages = [
        cbor2.dumps(
            {
                "type": "image", "series_id": 1, "image_id": i,
                "data": {"t": cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(array_tag(dtype), cbor2.CBORTag(
                    56500, [algorithm, dtype.itemsize, blob]))])},
            }
        )
        for i, blob in enumerate(blobs)
    ]  # fmt: skip
    batch = FrameBatch.from_messages(messages)
    index_batch(batch)
    assert (batch.index[: batch.count, ALGORITHM] == number_of(algorithm)).all()
    return batch


def zstd_raw(data: bytes) -> bytes:
    """A Zstandard frame of one raw block, RFC 8878: no compressor needed to write it."""
    size = struct.pack("<I", len(data))
    return bytes.fromhex("28b52ffda0") + size + struct.pack("<I", len(data) << 3 | 1)[:3] + data


def bszstd(pixels: np.ndarray, block: int, compress=zstd_raw) -> bytes:
    raw = pixels.tobytes()
    out = [struct.pack(">QI", len(raw), block)]
    granule = 8 * pixels.itemsize
    at = 0
    while len(raw) - at >= granule:
        size = min(len(raw) - at, block) // granule * granule
        data = compress(shuffle(np.frombuffer(raw[at : at + size], pixels.dtype)))
        out.append(struct.pack(">I", len(data)) + data)
        at += size
    return b"".join(out) + raw[at:]


def test_bszstd_through_nvcomp(backend):
    frames = counts((33, 21), "<u2")
    blobs = [bszstd(frame, 512) for frame in frames]
    blobs[2] = blobs[2][:-1]
    batch = named("bszstd", blobs, (33, 21), "<u2")
    maps = np.ones((1, 33, 21), int)
    sums, status = project(gpu(backend, (33, 21), "<u2"), batch, Weights(maps))
    good = [0, 1, 3, 4]
    np.testing.assert_array_equal(sums[good], masked_sums(frames, maps)[good])
    assert not status[good].any()
    assert status[2] == f.LEFT_OVER


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_bszstd_of_a_compressor(backend, dtype):
    """Blocks of all kinds: noise, few counts, nothing."""
    zstandard = pytest.importorskip("zstandard")  # a bare host with a GPU may lack it
    shape = (192, 192)
    frames = np.concatenate([counts(shape, dtype, 60), np.zeros((4, *shape), dtype)])
    frames[::2, 60:] = 0
    compress = zstandard.ZstdCompressor().compress
    batch = named("bszstd", [bszstd(frame, 8192, compress) for frame in frames], shape, dtype)
    maps = np.stack([np.ones(shape, int), disk(shape, 20)])
    decoder = gpu(backend, shape, dtype)
    sums, status = project(decoder, batch, Weights(maps))
    assert not status.any()
    np.testing.assert_array_equal(sums, masked_sums(frames, maps))
    np.testing.assert_array_equal(patterns_of(decoder, batch)[0], frames)


def test_trpx_is_refused_by_name(backend):
    batch = named("trpx", [b"anything at all"] * 2, (8, 8), "<u2")
    _, status = project(gpu(backend, (8, 8), "<u2"), batch, Weights(np.ones((1, 8, 8), int)))
    assert (status == f.NOT_ON_GPU).all()
    assert "trpx" in f.describe_status(int(status[0]))
    batch = named("rot13", [b"anything at all"], (8, 8), "<u2")
    _, status = project(gpu(backend, (8, 8), "<u2"), batch, Weights(np.ones((1, 8, 8), int)))
    assert status[0] == f.UNKNOWN_ALGORITHM


def test_a_dtype_without_kernel_is_refused_with_the_remedy(backend):
    with pytest.raises(ValueError, match="backend='cpu'"):
        gpu(backend, (8, 8), "<f8")


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_mutated_frames_never_change_a_neighbour(backend, dtype):
    """The GPU refuses what the CPU refuses and finds the same sums in all else."""
    shape = (40, 37)
    rng = np.random.default_rng(20261122)
    frames = rng.poisson(np.where(disk(shape, 9), 8, 0.1), (3, *shape)).astype(dtype)
    frames[2] = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    originals = [bslz4(frame, block) for frame in frames for block in (64, 512, 8192)]
    lz4s = [lz4_blocks(frame, 600) for frame in frames]
    maps = Weights(np.stack([np.ones(shape, int), disk(shape, 5)]))
    decoder = gpu(backend, shape, dtype)
    reference = CpuDecoder(FrameFormat(*shape, np.dtype(dtype)))
    refused = 0
    for _ in range(20):
        blobs, codes = [], []
        for i in range(300):
            source, code = (originals, BSLZ4) if i % 4 else (lz4s, LZ4)
            blob = source[int(rng.integers(len(source)))]
            blobs.append(mutate(blob, rng) if i % 3 else blob)
            codes.append(code)
        batch = batch_of(blobs, shape, dtype)
        batch.index[: batch.count, ALGORITHM] = codes
        sums, status = project(decoder, batch, maps)
        expected, expected_status = project(reference, batch, maps)
        assert not status[::3].any()
        np.testing.assert_array_equal(status == 0, expected_status == 0)
        np.testing.assert_array_equal(sums, expected)
        refused += int((status != 0).sum())
    assert refused > 1000


def test_a_batch_is_decoded_in_parts_when_memory_is_short(backend):
    frames = counts((64, 64), "<u4", 40)
    batch = batch_of([bslz4(frame) for frame in frames], (64, 64), "<u4")
    decoder = gpu(backend, (64, 64), "<u4")
    decoder.memory = 150_000
    maps = np.ones((1, 64, 64), int)
    decoded = decoder.submit(batch, None, Demand(Weights(maps), patterns=True))
    at, memory = [], set()
    for part in decoded.parts():
        at.append(part.at)
        memory.add(part.patterns.data_ptr())
        np.testing.assert_array_equal(part.patterns.cpu().numpy(), frames[part.at])
        np.testing.assert_array_equal(part.sums.cpu().numpy(), masked_sums(frames, maps)[part.at])
    assert len(at) > 3
    np.testing.assert_array_equal(np.concatenate(at), np.arange(40))
    assert len(memory) == 1
    assert (decoder.copies, decoder.decodes) == (1, 1)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4"])
@pytest.mark.parametrize("shape", [(192, 192), (33, 21), (7, 7)])
def test_sums_and_patterns_of_one_submission_are_those_of_the_cpu(backend, dtype, shape):
    """Frames that are good, refused, and cut in several ways, in one batch that is copied once."""
    rng = np.random.default_rng(8)
    frames = counts(shape, dtype, 24)
    blobs = [bslz4(frame, (8192, 512, 64)[i % 3]) for i, frame in enumerate(frames)]
    blobs[4], blobs[9] = lz4_blocks(frames[4], 1000), frames[9].tobytes()
    blobs[6], blobs[7] = blobs[6][:-2], blobs[7][:9]
    batch = batch_of(blobs, shape, dtype)
    batch.index[4, ALGORITHM], batch.index[9, ALGORITHM] = LZ4, RAW
    batch.index[11, 8] = 5  # another number of rows
    weights = Weights(rng.integers(-3, 4, (5, *shape)))
    demand = Demand(weights, patterns=True)
    decoder, reference = gpu(backend, shape, dtype), CpuDecoder(FrameFormat(*shape, np.dtype(dtype)))
    for entries in (None, np.array([23, 4, 6, 0, 9, 11, 13])):
        got, wanted = ({}, {})
        for results, parts in (
            (got, decoder.submit(batch, entries, demand).parts()),
            (wanted, reference.submit(batch, entries, demand).parts()),
        ):
            for part in parts:
                arrays = [on_host(array).copy() for array in (part.sums, part.saturated, part.patterns)]
                for n, at in enumerate(part.at.tolist()):
                    assert at not in results
                    results[at] = [part.status[n] == 0, part.flagged[n], *(array[n] for array in arrays)]
        assert sorted(got) == sorted(wanted) == list(range(24 if entries is None else len(entries)))
        for at, values in wanted.items():
            for of_gpu, of_cpu in zip(got[at], values):
                if dtype == "<f4":
                    np.testing.assert_allclose(of_gpu, of_cpu, rtol=1e-12, atol=1e-9)
                else:
                    np.testing.assert_array_equal(of_gpu, of_cpu)
    assert decoder.copies == 2


def test_patterns_alone_and_sums_alone(backend):
    frames = counts((48, 64), "<u2", 9)
    batch = batch_of([bslz4(frame) for frame in frames], (48, 64), "<u2")
    decoder = gpu(backend, (48, 64), "<u2")
    (part,) = decoder.submit(batch, None, Demand(None, patterns=True)).parts()
    assert part.sums is None
    assert part.saturated is None
    np.testing.assert_array_equal(part.patterns.cpu().numpy(), frames)
    (part,) = decoder.submit(batch, None, Demand(Weights(np.ones((1, 48, 64), int)))).parts()
    assert part.patterns is None
    assert part.sums.is_cuda
    assert part.flagged.tolist() == [i in (0,) or bool((frames[i] == 65535).any()) for i in range(9)]
    assert list(decoder.submit(batch, np.zeros(0, np.int64), Demand(None, True)).parts()) == []


def test_submissions_under_way_do_not_share_memory(backend):
    frames = counts((64, 64), "<u4", 30)
    batches = [batch_of([bslz4(x) for x in frames[i::3]], (64, 64), "<u4") for i in range(3)]
    decoder = gpu(backend, (64, 64), "<u4")
    for _ in range(3):
        under_way = [decoder.submit(batch, None, Demand(None, True)) for batch in batches]
        for i, decoded in enumerate(under_way):
            for part in decoded.parts():
                np.testing.assert_array_equal(part.patterns.cpu().numpy(), frames[i::3][part.at])
    assert len(decoder._workspaces) == 3
    assert (decoder.copies, decoder.decodes) == (9, 9)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4"])
@pytest.mark.parametrize("shape", [(192, 192), (33, 21), (1, 3)])
def test_the_sum_over_frames_is_that_of_the_cpu(backend, dtype, shape):
    import torch

    frames = counts(shape, dtype, 300)
    batch = batch_of([bslz4(frame) for frame in frames], shape, dtype)
    decoder = gpu(backend, shape, dtype)
    kind = np.float64 if dtype == "<f4" else np.int64
    (part,) = decoder.submit(batch, None, Demand(None, patterns=True)).parts()
    for saturation in (NODATA, Saturation(value=4), Saturation(nodata=False), Saturation(counted=True)):
        for take in (None, np.arange(3, 250), np.array([299, 0, 7]), np.zeros(0, np.int64)):
            sums = np.full(shape, 3, kind), np.full(shape, 4)
            with decoder.working():
                on_gpu = [torch.from_numpy(array).cuda() for array in sums]
                sum_over_frames(part.patterns, take, saturation, *on_gpu)
                found = [array.cpu().numpy() for array in on_gpu]
            sum_over_frames(frames, take, saturation, *sums)
            np.testing.assert_allclose(found[0], sums[0], rtol=1e-12 if kind is np.float64 else 0)
            np.testing.assert_array_equal(found[1], sums[1])


def test_more_layouts_than_are_kept_are_refused_and_nothing_else(backend):
    frames = counts((16, 16), "<u2", 12)
    blobs = [bslz4(frame, 16 * (i + 1)) for i, frame in enumerate(frames)]
    batch = batch_of(blobs, (16, 16), "<u2")
    maps = np.ones((1, 16, 16), int)
    sums, status = project(gpu(backend, (16, 16), "<u2"), batch, Weights(maps))
    good = status == 0
    assert 8 <= good.sum() < 12
    assert (status[~good] == f.MANY_LAYOUTS).all()
    np.testing.assert_array_equal(sums[good], masked_sums(frames, maps)[good])


def test_submissions_overlap(backend):
    frames = counts((96, 96), "<u2", 64)
    batches = [batch_of([bslz4(x) for x in frames[i::4]], (96, 96), "<u2") for i in range(4)]
    maps = np.stack([np.ones((96, 96), int), disk((96, 96), 15)])
    weights, decoder = Weights(maps), gpu(backend, (96, 96), "<u2")
    under_way = [decoder.submit(batch, None, Demand(weights)) for batch in batches]
    for i, decoded in enumerate(under_way):
        sums, status, _ = all_parts(decoder, batches[i], weights, None, decoded)
        assert decoded.ready
        assert not status.any()
        np.testing.assert_array_equal(sums, masked_sums(frames[i::4], maps))


def test_no_rows_and_no_touched_blocks(backend):
    frames = counts((64, 64), "<u2")
    batch = batch_of([bslz4(x) for x in frames], (64, 64), "<u2")
    decoder = gpu(backend, (64, 64), "<u2")
    sums, status = project(decoder, batch, Weights(np.ones((1, 64, 64), int)), np.zeros(0, np.int64))
    assert sums.shape == (0, 1)
    assert status.shape == (0,)
    sums, status = project(decoder, batch, Weights(np.zeros((2, 64, 64), int)))
    assert not sums.any()
    assert not status.any()


def test_rows_of_a_received_batch_in_pinned_memory(backend):
    frames = counts((64, 64), "<u2", 6)
    source = batch_of([bslz4(x) for x in frames], (64, 64), "<u2")
    batch = backend.memory.batch()
    batch.buffer[: len(source.buffer)] = source.buffer
    batch.index[:6] = source.index[:6]
    batch.count = 6
    rows = np.array([4, 1, 2])
    maps = np.ones((1, 64, 64), int)
    sums, _ = project(gpu(backend, (64, 64), "<u2"), batch, Weights(maps), rows)
    np.testing.assert_array_equal(sums, masked_sums(frames[rows], maps))
    assert batch.index[0, BLOB_OFFSET] == 0
    assert batch.index[0, BLOB_LENGTH] > 0


def test_full_memory_is_named_and_passes(backend):
    import torch

    frames = counts((192, 192), "<u4", 50)
    batch = batch_of([bslz4(frame) for frame in frames] * 20, (192, 192), "<u4")
    decoder = gpu(backend, (192, 192), "<u4")
    weights = Weights(np.ones((1, 192, 192), int))
    torch.cuda.empty_cache()
    hoard = []
    for size in (1 << 30, 16 << 20):
        while torch.cuda.mem_get_info()[0] > 4 * size:
            hoard.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    with pytest.raises(GpuMemoryError, match="backend='cpu'"):
        project(decoder, batch, weights)
    hoard.clear()
    torch.cuda.empty_cache()
    sums, status = project(decoder, batch, weights)
    assert not status.any()
    np.testing.assert_array_equal(sums[:50], masked_sums(frames, weights.maps))


LOSE_THE_GPU = """
import numpy as np
from live4d_ophyd.decode import Demand, FrameFormat, GpuLost, Saturation, Weights, choose_backend
from live4d_ophyd.frames.batch import FrameBatch
backend = choose_backend("gpu")
decoder = backend.decoder(FrameFormat(8, 8, np.dtype("<u2")), saturation=Saturation())
decoder._device_pass._launch("unshuffle", (1, 1), 32, 0, 0, 1, 32, 64, 64, 2)  # reads and writes address 0
batch = FrameBatch.from_messages([bytes(140)])
batch.index[0, 2:] = [0, 1, 0, 0, 0, 140, 8, 8, 69, 1, 2, 0]
batch.buffer[7], batch.buffer[10] = 128, 32
try:
    list(decoder.submit(batch, None, Demand(Weights(np.ones((1, 8, 8), int)))).parts())
except GpuLost as error:
    print("lost:", error)
"""


def test_a_failing_gpu_is_told_from_a_bad_frame(backend):
    """In a process of its own: nothing works on a GPU in a process where it failed once."""
    run = subprocess.run([sys.executable, "-c", LOSE_THE_GPU], capture_output=True, text=True, timeout=100)
    assert run.stdout.startswith("lost: the GPU failed: CUDA error"), run.stdout + run.stderr
