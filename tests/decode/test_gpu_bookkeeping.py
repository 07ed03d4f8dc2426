"""What the GPU decoder does around its kernels, without a GPU: torch's CPU for the device, NumPy for the kernels."""

from __future__ import annotations

import contextlib
import ctypes
import re
from importlib import resources

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4, masked_sums, on_host

from live4d_ophyd.decode import CpuDecoder, Demand, FrameFormat, Weights
from live4d_ophyd.decode.entries import OTHER_LAYOUT
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.batch import COLUMNS, FrameBatch

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")

CPU = torch.device("cpu")


def memory(address, count, dtype):
    """A view of ``count`` elements at an address."""
    size = count * np.dtype(dtype).itemsize
    return (
        np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype) if count else np.zeros(0, dtype)
    )


class Kernels:
    """Kernels with the parameters of those in kernels.cu, for bslz4 frames without pixels behind the last block."""

    def __init__(self, frame):
        self._reference = CpuDecoder(frame)
        self.launched = []
        source = resources.files("live4d_ophyd.decode.gpu").joinpath("kernels.cu").read_text()
        layout = re.search(r"#define LAYOUT ([^\n]*)\\\n([^\n]*)", source)
        source = source.replace("LAYOUT,", "".join(layout.groups()) + ",", source.count("LAYOUT,"))
        self._parameters = {
            name: len(parameters.split(","))
            for name, parameters in re.findall(r"__global__ void (\w+)\(([^)]*)\)", source)
        }

    def launch(self, name, stream, grid, block, *args):
        assert all(isinstance(arg, int) for arg in args)
        assert len(args) == self._parameters.get(name, 14)
        self.launched.append(name)
        getattr(self, name.partition("_uint")[0])(*args)

    def find_blocks(self, buffer, capacity, index, rows, first, n, *rest):
        *layout, _, _, leftover_at, _, _, status, flagged = rest
        assert leftover_at == -1
        rows = memory(rows, n, np.int64) if rows else np.arange(first, first + n)
        table = memory(index, (int(rows.max()) + 1) * COLUMNS, np.int64).reshape(-1, COLUMNS)
        batch = FrameBatch(memory(buffer, capacity, np.uint8), table, len(table))
        (part,) = self._reference.submit(batch, rows, Demand(None, patterns=True)).parts()
        self._frames = part.patterns.reshape(n, -1).view(np.uint8).copy()
        blocks = [int.from_bytes(batch.buffer[at + 8 : at + 12].tobytes(), "big") for at in table[rows, 6]]
        found = np.where(np.array(blocks) == layout[6], part.status, OTHER_LAYOUT)
        memory(status, n, np.int32)[:] = found
        memory(flagged, n, np.uint8)[:] = 0

    def check_blocks(self, *args):
        pass

    def list_blocks(
        self, n, blocks, total, block, granule, at, nbytes, status, place, wanted, decoded, stride, *_
    ):
        place, status = memory(place, blocks, np.int32), memory(status, n, np.int32)
        frames = memory(decoded, n * stride, np.uint8).reshape(n, stride)
        frames[:] = 77  # what is left of earlier work
        for b in np.flatnonzero(place >= 0):
            some = self._frames[:, b * block : min((b + 1) * block, total)]
            frames[:, place[b] * block :][:, : some.shape[1]] = np.where(
                (status == 0)[:, np.newaxis], some, 99
            )

    def judge(self, *args):
        pass

    def weigh(self, decoded, stride, n, maps, starts, places, weights, status, rule, limit, counted, sums,
              saturated, flagged):  # fmt: skip
        dtype = self._reference.format.dtype
        frames = memory(decoded, n * stride, np.uint8).reshape(n, stride).view(dtype).astype(np.int64)
        starts, good = memory(starts, maps + 1, np.int64), memory(status, n, np.int32) == 0
        places, weights = memory(places, starts[-1], np.int32), memory(weights, starts[-1], np.float64)
        for m in range(maps):
            some = slice(starts[m], starts[m + 1])
            pixels = frames[:, places[some]]
            hit = (pixels >= limit) & good[:, np.newaxis]
            total = (np.where(hit, 0, pixels) * weights[some].astype(np.int64)).sum(axis=1)
            memory(sums, n * maps, np.int64).reshape(n, maps)[:, m] = np.where(good, total, 0)
            memory(saturated, n * maps, np.uint8).reshape(n, maps)[:, m] = hit.any(axis=1)
            memory(flagged, n, np.uint8)[hit.any(axis=1)] = 1

    def blank_bad(self, nbytes, stride, status, decoded):
        n = len(self._frames)
        memory(decoded, n * stride, np.uint8).reshape(n, stride)[memory(status, n, np.int32) != 0] = 0


class Nvcomp:
    def lz4_temp_bytes(self, count, largest, unshuffle):
        return 8 * count

    def lz4_decompress(self, *args):
        pass


class Event:
    def __init__(self, **_):
        self.recorded = False

    def record(self, stream):
        self.recorded = True

    def query(self):
        return self.recorded

    synchronize = query


@pytest.fixture
def decoder_of(monkeypatch):
    from live4d_ophyd.decode.gpu import decoder as gpu

    class Stream:
        cuda_stream = 0

        def __init__(self, device):
            pass

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **kinds: empty(*args, **kinds))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch, "device", lambda *args: CPU)

    def make(shape, dtype, memory=1 << 30):
        frame = FrameFormat(*shape, np.dtype(dtype))
        kernels = Kernels(frame)
        return gpu.GpuDecoder(frame, Nvcomp(), kernels, memory=memory), kernels

    return make


def frames_of(shape, dtype, n):
    frames = np.random.default_rng(6).poisson(3, (n, *shape)).astype(dtype)
    frames[3, 0, 0] = np.iinfo(dtype).max
    return frames


def collect(decoded, n):
    """Of each entry: status, flag, sums, saturated, pattern."""
    results = {}
    for part in decoded.parts():
        arrays = [
            None if a is None else on_host(a).copy() for a in (part.sums, part.saturated, part.patterns)
        ]
        for i, at in enumerate(part.at.tolist()):
            assert at not in results
            results[at] = [part.status[i], part.flagged[i], *(None if a is None else a[i] for a in arrays)]
    assert sorted(results) == list(range(n))
    return [results[at] for at in range(n)]


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("patterns", [False, True])
@pytest.mark.parametrize("room", [1 << 30, 12_000])
@pytest.mark.parametrize("entries", [None, [5, 2, 9, 3, 0], []])
def test_parts_hold_every_entry_once(decoder_of, dtype, patterns, room, entries):
    """Good, broken and differently cut frames, in one part or several."""
    shape = (40, 56)
    frames = frames_of(shape, dtype, 12)
    blobs = [bslz4(frame, 1024 if i in (2, 5, 6) else 512) for i, frame in enumerate(frames)]
    blobs[9] = blobs[9][:-2]
    batch = batch_of(blobs, shape, dtype)
    maps = np.zeros((3, *shape), int)
    maps[0, 20:24], maps[1, 38], maps[2, 0, 0] = 1, -2, 5
    decoder, kernels = decoder_of(shape, dtype, room)
    which = None if entries is None else np.array(entries, np.int64)
    chosen = list(range(12)) if entries is None else entries
    for times in (1, 2):  # the second time in memory that was used
        got = collect(decoder.submit(batch, which, Demand(Weights(maps), patterns)), len(chosen))
        assert decoder.copies == times * bool(chosen)
        assert decoder.decodes == 2 * times * bool(chosen)  # one of each way to cut frames
        assert len(decoder._workspaces) == 1
    expected = masked_sums(frames, maps)
    for entry, (status, flagged, sums, saturated, pattern) in zip(chosen, got):
        good = entry != 9
        assert (status == f.OK) == good
        np.testing.assert_array_equal(sums, expected[entry] * good)
        assert saturated.tolist() == [False, False, entry == 3]
        assert flagged == (entry == 3)
        if patterns:
            np.testing.assert_array_equal(pattern, frames[entry] * good)
        else:
            assert pattern is None
    if chosen and room < 1 << 30 and patterns:
        assert kernels.launched.count("find_blocks") > 4


def test_submissions_under_way_have_memory_of_their_own(decoder_of):
    frames = frames_of((32, 32), "<u2", 9)
    batches = [batch_of([bslz4(x, 512) for x in frames[i::3]], (32, 32), "<u2") for i in range(3)]
    decoder, _ = decoder_of((32, 32), "<u2")
    for _ in range(2):
        under_way = [decoder.submit(batch, None, Demand(None, True)) for batch in batches]
        assert all(decoded.ready for decoded in under_way)
        for i, decoded in enumerate(under_way):
            for n, (_, _, _, _, pattern) in enumerate(collect(decoded, 3)):
                np.testing.assert_array_equal(pattern, frames[i::3][n])
    assert len(decoder._workspaces) == 3


def test_an_abandoned_submission_leaves_the_others_alone(decoder_of):
    frames = frames_of((32, 32), "<u2", 6)
    batch = batch_of([bslz4(x, 512) for x in frames], (32, 32), "<u2")
    decoder, _ = decoder_of((32, 32), "<u2", 5_000)
    parts = decoder.submit(batch, None, Demand(None, True)).parts()
    first = next(parts)
    kept = first.patterns.numpy().copy()
    collect(decoder.submit(batch, None, Demand(None, True)), 6)
    np.testing.assert_array_equal(first.patterns.numpy(), kept)
