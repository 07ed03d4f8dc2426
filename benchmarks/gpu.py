"""`live4d bench gpu`: copy, decode and sums of compressed frames on the GPU, from pinned host memory.

No network: batches of 8192 prepared messages, several times over. Rates are those of one thread that submits to three
decoders in turn, as a receive thread does with its batches. Every image is compared with known sums.
"""

from __future__ import annotations

import itertools
import struct
import time
from statistics import median

import cbor2
import numpy as np

from benchmarks.report import machine
from benchmarks.source import SIZES, Size, messages
from live4d_ophyd.decode import FrameFormat, Weights, choose_backend
from live4d_ophyd.imaging.detectors import Annulus, Detector, Disk, weight_maps
from live4d_ophyd.stream.batch import IMAGE_ID, FrameBatch
from live4d_ophyd.stream.index import index_batch

BATCH = 8192
BATCHES = 24
KEYS = ("192", "192u16", "96u32", "96")
#: frames after which the straightforward pipeline waits for the device
_CHUNK = 128


def detectors(size: Size, count: int, *, inside: bool = False) -> list[Detector]:
    """The bright-field disk and annuli around it to the corner; ``inside``: small disks within it."""
    if count == 1:
        return [size.disk]
    center = size.disk.center
    assert center is not None
    if inside:
        angles = np.arange(count - 1) * 2 * np.pi / (count - 1)
        places = [
            (center[0] + r, center[1] + c)
            for r, c in 0.6 * size.radius * np.array([np.sin(angles), np.cos(angles)]).T
        ]
        return [size.disk, *(Disk(f"d{n}", center=at, radius=size.radius / 3) for n, at in enumerate(places))]
    edges = np.linspace(size.radius, size.side * 0.7, count)
    return [
        size.disk,
        *(
            Annulus(f"a{n}", center=center, inner=a, outer=b)
            for n, (a, b) in enumerate(itertools.pairwise(edges))
        ),
    ]


def _pinned(batch: FrameBatch) -> FrameBatch:
    import torch

    buffer = torch.empty(len(batch.buffer), dtype=torch.uint8, pin_memory=True).numpy()
    index = torch.empty(batch.index.shape, dtype=torch.int64, pin_memory=True).numpy()
    buffer[:], index[:] = batch.buffer, batch.index
    return FrameBatch(buffer, index, batch.count)


def _batch(size: Size) -> FrameBatch:
    data, offsets, _ = messages(size)
    distinct = [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    batch = FrameBatch.from_messages([distinct[n % len(distinct)] for n in range(BATCH)])
    index_batch(batch)
    batch.index[:, IMAGE_ID] = np.arange(BATCH)
    return _pinned(batch)


def _expected(size: Size, weights: Weights) -> np.ndarray:
    frames = size.frames.reshape(len(size.frames), -1).astype(np.int64)
    sums = frames @ weights.maps.reshape(len(weights), -1).T
    return np.resize(sums, (BATCH, len(weights)))


def _rate(decoders: list, batches: list[FrameBatch], weights: Weights, expected: np.ndarray) -> float:
    """Frames per second with one submission under way on each decoder; all sums checked."""
    for decoder, batch in zip(decoders, batches):
        decoder.project(batch, weights)
    started = time.perf_counter()
    under_way: list = []
    results = []
    for n in range(BATCHES):
        if len(under_way) == len(decoders):
            results.append(under_way.pop(0).result())
        under_way.append(decoders[n % len(decoders)].submit(batches[n % len(batches)], weights))
    results += [submitted.result() for submitted in under_way]
    seconds = time.perf_counter() - started
    for sums, status in results:
        if status.any() or (sums != expected).any():
            raise RuntimeError("sums are wrong: no number is reported")
    return BATCHES * BATCH / seconds


def _event_ms(stream, work, repeats: int = 10) -> float:
    import torch

    times = []
    for _ in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(stream):
            begin.record(stream)
            work()
            end.record(stream)
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return median(times[2:])


def _stages(decoder, batch: FrameBatch, weights: Weights) -> dict:
    """Each stage alone, in MHz: the copy, all that follows it, and the sums of decoded frames."""
    import torch

    from live4d_ophyd.decode.layout import find_layout

    host = torch.from_numpy(batch.buffer)
    device = torch.empty(len(batch.buffer), dtype=torch.uint8, device="cuda")
    stream = decoder._stream
    copy = _event_ms(stream, lambda: device.copy_(host, non_blocking=True))
    rows = np.arange(batch.count)
    layout = find_layout(batch, 0, decoder.format.nbytes)
    with torch.cuda.stream(stream):
        plan = decoder._plan(layout, weights)
        index = decoder._upload(batch.index[: batch.count])
        decoded = decoder._new(BATCH * plan.selection.stride, torch.uint8)
        decoded.zero_()
        status = torch.zeros(BATCH, dtype=torch.int32, device="cuda")
    decode = _event_ms(stream, lambda: decoder._pass(layout, plan, device, index, rows, rows, None))
    sums = _event_ms(stream, lambda: decoder._weigh(plan, decoded, status, BATCH))
    mhz = {
        name: BATCH / ms / 1e3 for name, ms in (("copy", copy), ("decode and sums", decode), ("sums", sums))
    }
    return {
        "mhz": mhz,
        "copy_gb_s": len(batch.buffer) / copy / 1e6,
        "blocks": [layout.blocks, plan.selection.count],
    }


def _straightforward(size: Size, count: int = 4096) -> float:
    """Frames per second of cbor2 with a hook, nvCOMP's LZ4, an un-shuffle and a masked sum, 128 frames at a time.

    The shape of published pipelines: Python per frame and per block, a copy from pageable memory, all blocks
    decoded, pixels summed by torch, a synchronise per chunk. It gets messages that are in memory already.
    """
    import torch

    from live4d_ophyd.decode.cuda_kernels import Kernels
    from live4d_ophyd.decode.nvcomp import BlockTable, Nvcomp

    nvcomp, kernels = Nvcomp(int(torch.version.cuda.split(".")[0])), Kernels()
    data, offsets, _ = messages(size)
    raw = [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    mask = torch.from_numpy(size.disk.weights((size.side, size.side)).astype(bool)).cuda().reshape(-1)
    kind = {2: torch.int16, 4: torch.int32}[np.dtype(size.dtype).itemsize]
    item, total = np.dtype(size.dtype).itemsize, size.side**2 * np.dtype(size.dtype).itemsize
    stream = torch.cuda.current_stream()

    def hook(tag, *_):
        return tag.value if isinstance(tag, cbor2.CBORTag) else tag

    def chunk(first: int) -> np.ndarray:
        pieces, sizes = [], []
        for n in range(first, first + _CHUNK):
            message = cbor2.loads(raw[n % len(raw)], tag_hook=hook)
            _, (_, _, blob) = message["data"]["threshold_1"]
            at = 12
            while at < len(blob):
                (length,) = struct.unpack_from(">I", blob, at)
                pieces.append(blob[at + 4 : at + 4 + length])
                sizes.append(length)
                at += 4 + length
        joined = torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8).cuda()
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        blocks = -(-total // 8192)
        places = np.add.outer(np.arange(_CHUNK) * total, np.arange(blocks) * 8192).reshape(-1)
        room = np.tile(np.minimum(8192, total - np.arange(blocks) * 8192), _CHUNK)
        planes, pixels = torch.empty((2, _CHUNK * total), dtype=torch.uint8, device="cuda")
        table = torch.from_numpy(
            np.stack([starts + joined.data_ptr(), sizes, places + planes.data_ptr(), room, room]).astype(
                np.int64
            )
        ).cuda()
        status = torch.empty(len(sizes), dtype=torch.int32, device="cuda")
        nvcomp.lz4_decompress(
            BlockTable(len(sizes), *(row.data_ptr() for row in table), status.data_ptr()),
            0,
            0,
            stream.cuda_stream,
        )
        groups = total // (8 * item)
        kernels.launch(
            "unshuffle", stream, (-(-groups // 256), _CHUNK), 256,
            planes.data_ptr(), pixels.data_ptr(), _CHUNK, groups, total, 8192, item,
        )  # fmt: skip
        counts = pixels.view(kind).view(_CHUNK, -1)
        sums = (counts * mask).sum(dim=1, dtype=torch.int64)
        torch.cuda.synchronize()
        return sums.cpu().numpy()

    chunk(0)
    started = time.perf_counter()
    results = [chunk(first) for first in range(0, count, _CHUNK)]
    seconds = time.perf_counter() - started
    if (np.concatenate(results) != size.image(count)).any():
        raise RuntimeError("sums of the straightforward pipeline are wrong: no number is reported")
    return count / seconds


def run(rounds: int = 3) -> dict:
    started = time.perf_counter()
    backend = choose_backend("gpu")
    start_seconds = time.perf_counter() - started
    results = {}
    for key in KEYS:
        size = SIZES[key]
        batch = _batch(size)
        batches = [batch, _pinned(batch), _pinned(batch)]
        frame = FrameFormat(size.side, size.side, np.dtype(size.dtype))
        decoders = [backend.decoder(frame, nodata=True) for _ in range(3)]
        maps = {}
        for name, chosen in {
            "1": detectors(size, 1), "4": detectors(size, 4), "16": detectors(size, 16),
            "16 in the disk": detectors(size, 16, inside=True),
        }.items():  # fmt: skip
            maps[name] = weight_maps(chosen, frame.shape)
        known = {name: _expected(size, weights) for name, weights in maps.items()}
        runs: dict[str, list[float]] = {name: [] for name in maps}
        straightforward = []
        for _ in range(rounds):
            for name, weights in maps.items():
                runs[name].append(_rate(decoders, batches, weights, known[name]))
            straightforward.append(_straightforward(size))
        rates = {name: median(of) / 1e6 for name, of in runs.items()}
        stages = {name: _stages(decoders[0], batch, maps[name]) for name in ("1", "16")}
        results[size.name] = {
            "bytes_a_frame": len(batch.buffer) / BATCH,
            "mhz": rates,
            "mhz_range": {name: [min(of) / 1e6, max(of) / 1e6] for name, of in runs.items()},
            "stages": stages,
            "of_copy_limit": rates["1"] / stages["1"]["mhz"]["copy"],
            "time_16_to_1": rates["1"] / rates["16"],
            "straightforward_khz": median(straightforward) / 1e3,
            "ratio": rates["1"] * 1e6 / median(straightforward),
        }
    return {
        "benchmark": "gpu",
        "command": "live4d bench gpu",
        "rounds": rounds,
        "batch": BATCH,
        "first_use_seconds": start_seconds,
        "machine": machine() | {"engine": backend.detail},
        "results": results,
    }


def table(report: dict) -> str:
    lines = [
        f"{'MHz, one GPU, pinned memory':16} {'1 det.':>8} {'4':>7} {'16':>7} {'16 in disk':>11}"
        f" {'copy':>7} {'decode+sums':>12} {'sums':>7} {'of copy':>8} {'16/1 time':>10} {'straightforward':>16}"
    ]
    for name, r in report["results"].items():
        m, s = r["mhz"], r["stages"]["1"]["mhz"]
        lines.append(
            f"{name:27} {m['1']:8.2f} {m['4']:7.2f} {m['16']:7.2f} {m['16 in the disk']:11.2f} {s['copy']:7.2f}"
            f" {s['decode and sums']:12.2f} {s['sums']:7.2f} {r['of_copy_limit']:8.2f} {r['time_16_to_1']:10.2f}"
            f" {r['straightforward_khz']:9.1f} kHz"
        )
    lines.append(f"first use to a decoded frame: {report['first_use_seconds']:.1f} s")
    return "\n".join(lines)
