"""`live4d bench gpu`: copy, decode and sums of compressed frames on the GPU, from pinned host memory.

No network: batches of 8192 prepared messages, several times over. Rates are those of one thread that submits to three
decoders in turn, as a receive thread does with its batches. Every image is compared with known sums.
"""

from __future__ import annotations

import itertools
import time
from functools import cache
from statistics import median

import numpy as np

from benchmarks.report import machine
from benchmarks.source import SIZES, Size, messages
from benchmarks.straightforward import CHUNK, Straightforward, image_of
from live4d_ophyd.decode import FrameFormat, Weights, choose_backend
from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.frames.batch import IMAGE_ID, FrameBatch
from live4d_ophyd.imaging.virtual_detectors import Annulus, Detector, Disk, weight_maps
from live4d_ophyd.sources.dectris.index import index_batch

BATCH = 8192
BATCHES = 96
KEYS = ("192", "192u16", "96u32", "96")


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
    images, bad = np.empty((BATCHES, *expected.shape)), 0
    images[:] = 0  # touches the memory: an engine has had its images before the frames come
    under_way: list = []
    started = time.perf_counter()
    for n in range(BATCHES + len(decoders)):
        if n >= len(decoders):
            images[n - len(decoders)], status, _ = under_way.pop(0).result()
            bad += np.count_nonzero(status)
        if n < BATCHES:
            under_way.append(decoders[n % len(decoders)].submit(batches[n % len(batches)], weights))
    seconds = time.perf_counter() - started
    if bad or (images != expected).any():
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

    from live4d_ophyd.decode.gpu.layout import find_layout

    host = torch.from_numpy(batch.buffer)
    device = torch.empty(len(batch.buffer), dtype=torch.uint8, device="cuda")
    stream = decoder.stream
    copy = _event_ms(stream, lambda: device.copy_(host, non_blocking=True))
    rows = np.arange(batch.count)
    layout = find_layout(batch, 0, decoder.format.nbytes)
    with torch.cuda.stream(stream):
        plan = decoder._plan(layout, weights)
        index = decoder._upload(batch.index[: batch.count])
        frames, maps = BATCH * plan.selection.stride, len(weights)
        # Zeros: good statuses, and as fast to sum as counts.
        memory, (decoded, status, *results) = decoder._carve(
            frames, 4 * BATCH, 8 * BATCH * maps, BATCH * maps
        )
        memory.zero_()
    decode = _event_ms(stream, lambda: decoder._pass(layout, plan, device, index, rows, rows, None))
    sums = _event_ms(stream, lambda: decoder._weigh(plan, decoded, status, BATCH, *results))
    mhz = {
        name: BATCH / ms / 1e3 for name, ms in (("copy", copy), ("decode and sums", decode), ("sums", sums))
    }
    return {
        "mhz": mhz,
        "copy_gb_s": len(batch.buffer) / copy / 1e6,
        "blocks": [layout.blocks, plan.selection.count],
    }


def _straightforward(size: Size, count: int = 4096) -> float:
    """Frames per second of the straightforward pipeline on messages that are in memory already."""
    data, offsets, _ = messages(size)
    raw = [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    pipeline = Straightforward(size)

    def chunk(first: int) -> np.ndarray:
        images = [image_of(raw[n % len(raw)]) for n in range(first, first + CHUNK)]
        return pipeline.sums([image[1] for image in images if image])

    chunk(0)
    started = time.perf_counter()
    results = [chunk(first) for first in range(0, count, CHUNK)]
    seconds = time.perf_counter() - started
    if (np.concatenate(results) != size.image(count)).any():
        raise RuntimeError("sums of the straightforward pipeline are wrong: no number is reported")
    return count / seconds


@cache
def copy_rate(size: Size) -> float:
    """Frames per second that a copy of the compressed messages to the device alone would allow."""
    import torch

    host = torch.from_numpy(_batch(size).buffer)
    device = torch.empty(host.shape, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    return BATCH / _event_ms(stream, lambda: device.copy_(host, non_blocking=True)) * 1e3


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
        decoders = [backend.decoder(frame, saturation=NODATA) for _ in range(3)]
        maps = {}
        for name, chosen in {
            "1": detectors(size, 1), "4": detectors(size, 4), "16": detectors(size, 16),
            "16 in the disk": detectors(size, 16, inside=True),
            "1 over all": [Annulus("all", center=size.disk.center, inner=0, outer=size.side * 0.7)],
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
            "time_16_to_1": {
                "within the disk": rates["1"] / rates["16 in the disk"],
                "over all": rates["1 over all"] / rates["16"],
                "over all to 1 in the disk": rates["1"] / rates["16"],
            },
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
        f"{'one GPU, pinned memory, MHz':27} {'1 det.':>8} {'4':>7} {'16':>7} {'16 in disk':>11} {'1 over all':>11}"
        f" {'copy':>7} {'decode+sums':>12} {'sums':>7} {'of copy':>8} {'straightforward':>16}"
    ]
    for name, r in report["results"].items():
        m, s = r["mhz"], r["stages"]["1"]["mhz"]
        lines.append(
            f"{name:27} {m['1']:8.2f} {m['4']:7.2f} {m['16']:7.2f} {m['16 in the disk']:11.2f}"
            f" {m['1 over all']:11.2f} {s['copy']:7.2f} {s['decode and sums']:12.2f} {s['sums']:7.2f}"
            f" {r['of_copy_limit']:8.2f} {r['straightforward_khz']:12.1f} kHz"
        )
    for name, r in report["results"].items():
        times = ", ".join(f"{k} {t:.2f}" for k, t in r["time_16_to_1"].items())
        lines.append(f"{name:27} time of 16 detectors to that of one: {times}")
    lines.append(f"first use to a decoded frame: {report['first_use_seconds']:.1f} s")
    return "\n".join(lines)
