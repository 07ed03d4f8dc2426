"""`live4d bench gpu`: copy, decode, sums and patterns of compressed frames on the GPU, from pinned host memory.

No network: batches of 8192 prepared messages, several times over. Rates are those of one thread that submits to three
decoders in turn, as receive threads do with their batches. Sums stay on the device, as accumulators do; every one is
compared with known sums, mean patterns with known means. LIVE4D_BENCH_BEFORE names another checkout, whose rates are
measured in between and shown beside.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.batches import BATCH, batch_of, pinned
from benchmarks.report import machine
from benchmarks.source import DISTINCT, SIZES, Size
from benchmarks.straightforward import CHUNK, Straightforward, image_of
from live4d_ophyd.decode import Demand, FrameFormat, Part, Weights, choose_backend, sum_over_frames
from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.imaging.virtual_detectors import Annulus, Detector, Disk, weight_maps

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


def many_maps(size: Size) -> Weights:
    """92 maps in the bright-field disk: 88 tiles (8 rings, 11 sectors), centre of mass (3), the disk."""
    y, x = np.indices((size.side, size.side)) - (size.side - 1) / 2
    inside = np.hypot(y, x) <= size.radius
    ring = np.minimum(8 * (np.hypot(y, x) / size.radius) ** 2, 7).astype(int)
    sector = ((np.arctan2(y, x) / (2 * np.pi) % 1) * 11).astype(int)
    tiles = [inside & (ring == r) & (sector == s) for r in range(8) for s in range(11)]
    rows, cols = np.indices((size.side, size.side))
    return Weights(np.stack([*tiles, inside, inside * rows, inside * cols, inside]).astype(np.int64))


def _expected(size: Size, weights: Weights) -> np.ndarray:
    """(BATCH, maps) int64."""
    frames = size.frames.reshape(len(size.frames), -1)
    # Exact: below 2^53.
    sums = frames.astype(np.float64) @ weights.maps.reshape(len(weights), -1).T.astype(np.float64)
    return np.resize(sums.astype(np.int64), (BATCH, len(weights)))


class _Images:
    """Sums of all batches, on the device, as they were decoded."""

    def __init__(self, size: Size, weights: Weights) -> None:
        import torch

        self._expected = torch.from_numpy(_expected(size, weights)).cuda()
        self._images = torch.zeros((BATCHES, *self._expected.shape), dtype=torch.int64, device="cuda")

    def add(self, lane: int, number: int, part: Part) -> None:
        assert part.sums is not None
        first = int(part.at[0])
        self._images[number, first : first + len(part.at)].copy_(part.sums)

    def right(self) -> bool:
        return bool((self._images == self._expected).all())


class _Mean:
    """Sums over the frames of each lane, and how many held a count."""

    def __init__(self, size: Size, lanes: int) -> None:
        import torch

        shape = (lanes, size.side, size.side)
        self._frames = size.frames
        self._total = torch.zeros(shape, dtype=torch.int64, device="cuda")
        self._valid = torch.zeros(shape, dtype=torch.int64, device="cuda")

    def add(self, lane: int, number: int, part: Part) -> None:
        sum_over_frames(part.patterns, None, NODATA, self._total[lane], self._valid[lane])

    def right(self) -> bool:
        times = BATCHES * BATCH // DISTINCT
        total, valid = (array.sum(axis=0).cpu().numpy() for array in (self._total, self._valid))
        expected = times * self._frames.sum(axis=0, dtype=np.int64)
        return bool((total == expected).all() and (valid == times * DISTINCT).all())


def _rate(decoders: list, batches: list[FrameBatch], demand: Demand, make_sinks: Callable[[], list]) -> dict:
    """Frames per second with one submission under way on each decoder, and copies and decodes a batch; all checked."""
    import torch

    for decoder, batch in zip(decoders, batches):
        for part in decoder.submit(batch, None, demand).parts():
            if part.patterns is not None:
                _check_patterns(decoder, part)
    sinks, bad = make_sinks(), 0
    torch.cuda.synchronize()
    before = [(decoder.copies, decoder.decodes) for decoder in decoders]
    under_way: list = []
    started = time.perf_counter()
    for n in range(BATCHES + len(decoders)):
        lane = n % len(decoders)
        if n >= len(decoders):
            for part in under_way.pop(0).parts():
                with decoders[lane].working():
                    for sink in sinks:
                        sink.add(lane, n - len(decoders), part)
                bad += np.count_nonzero(part.status)
        if n < BATCHES:
            under_way.append(decoders[lane].submit(batches[n % len(batches)], None, demand))
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if bad or not all(sink.right() for sink in sinks):
        raise RuntimeError("sums are wrong: no number is reported")
    counts = np.sum([(decoder.copies, decoder.decodes) for decoder in decoders], axis=0) - np.sum(
        before, axis=0
    )
    return {"rate": BATCHES * BATCH / seconds, "copies": counts[0] / BATCHES, "decodes": counts[1] / BATCHES}


def _check_patterns(decoder: Any, part: Part) -> None:
    with decoder.working():
        some = slice(0, DISTINCT)
        frames = _size_of(decoder.format).frames[part.at[some] % DISTINCT]
        if (part.patterns[some].cpu().numpy() != frames).any():
            raise RuntimeError("patterns are wrong: no number is reported")


def _size_of(frame: FrameFormat) -> Size:
    return next(size for size in SIZES.values() if (size.side, size.dtype) == (frame.rows, frame.dtype.name))


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


def _stages(decoder, batch: FrameBatch, demand: Demand) -> dict:
    """The copy, and all that follows it, alone, in MHz; what a submission takes of the host, in ms."""
    from live4d_ophyd.decode.gpu.layout import find_layout

    rows = np.arange(batch.count)
    workspace = decoder._new_workspace()
    with decoder.working():
        on_device = decoder._copy(batch, rows, workspace)
        plan = decoder._plan(find_layout(batch, 0, decoder.format.nbytes), demand)
    copy = _event_ms(decoder.stream, lambda: decoder._copy(batch, rows, workspace))
    decode = _event_ms(decoder.stream, lambda: decoder._device_pass.enqueue(plan, on_device, rows, workspace))
    host = []
    for _ in range(12):
        started = time.perf_counter()
        decoded = decoder.submit(batch, None, demand)
        host.append(time.perf_counter() - started)
        list(decoded.parts())
    return {
        "mhz": {"copy": BATCH / copy / 1e3, "decode and sums": BATCH / decode / 1e3},
        "submit_ms": median(host[2:]) * 1e3,
        "copy_gb_s": len(batch.buffer) / copy / 1e6,
        "blocks": [plan.layout.blocks, plan.selection.count],
    }


def _straightforward(size: Size, count: int = 4096) -> float:
    """Frames per second of the straightforward pipeline on messages that are in memory already."""
    data, offsets, _ = size.messages
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

    host = torch.from_numpy(pinned(batch_of(size)).buffer)
    device = torch.empty(host.shape, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    return BATCH / _event_ms(stream, lambda: device.copy_(host, non_blocking=True)) * 1e3


def _before(rounds: int) -> dict | None:
    """The report of the checkout that LIVE4D_BENCH_BEFORE names, by its own benchmark."""
    checkout = os.environ.get("LIVE4D_BENCH_BEFORE")
    if not checkout:
        return None
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = str(Path(__file__).resolve().parents[1])
    others = [path for path in paths if str(Path(path).resolve()) != own]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "gpu.json"
        command = [
            sys.executable,
            "-m",
            "live4d_ophyd",
            "bench",
            "gpu",
            "--rounds",
            str(rounds),
            "--out",
            str(report),
        ]
        path = os.pathsep.join([str(Path(checkout).resolve()), *others])
        environment = {k: v for k, v in os.environ.items() if k != "LIVE4D_BENCH_BEFORE"} | {
            "PYTHONPATH": path
        }
        subprocess.run(command, cwd=checkout, env=environment, check=True)
        return json.loads(report.read_text())


def _cases(size: Size, lanes: int) -> dict[str, tuple[Demand, Callable[[], list]]]:
    """What is measured: by name what is demanded, and what takes in the parts."""
    shape, disk = (size.side, size.side), detectors(size, 1)
    maps = {
        "1": weight_maps(disk, shape),
        "4": weight_maps(detectors(size, 4), shape),
        "16": weight_maps(detectors(size, 16), shape),
        "16 in the disk": weight_maps(detectors(size, 16, inside=True), shape),
        "1 over all": weight_maps(
            [Annulus("all", center=size.disk.center, inner=0, outer=size.side * 0.7)], shape
        ),
        "92 in the disk": many_maps(size),
    }
    cases: dict[str, tuple[Demand, Callable[[], list]]] = {}
    for name, weights in maps.items():
        cases[name] = Demand(weights), lambda weights=weights: [_Images(size, weights)]
    cases["patterns"] = Demand(None, True), list
    cases["mean pattern"] = Demand(None, True), lambda: [_Mean(size, lanes)]
    vbf = maps["1"]
    cases["VBF + mean pattern"] = Demand(vbf, True), lambda: [_Images(size, vbf), _Mean(size, lanes)]
    return cases


def run(rounds: int = 3) -> dict:
    started = time.perf_counter()
    backend = choose_backend("gpu")
    start_seconds = time.perf_counter() - started
    before = _before(rounds)
    results = {}
    for key in KEYS:
        size = SIZES[key]
        batch = pinned(batch_of(size))
        batches = [batch, pinned(batch), pinned(batch)]
        frame = FrameFormat(size.side, size.side, np.dtype(size.dtype))
        decoders = [backend.decoder(frame, saturation=NODATA) for _ in range(3)]
        cases = _cases(size, len(decoders))
        runs: dict[str, list[dict]] = {name: [] for name in cases}
        straightforward = []
        for _ in range(rounds):
            for name, (demand, make_sinks) in cases.items():
                runs[name].append(_rate(decoders, batches, demand, make_sinks))
            straightforward.append(_straightforward(size))
        rates = {name: median(run["rate"] for run in of) / 1e6 for name, of in runs.items()}
        stages = {name: _stages(decoders[0], batch, demand) for name, (demand, _) in cases.items()}
        results[size.name] = {
            "bytes_a_frame": len(batch.buffer) / BATCH,
            "mhz": rates,
            "mhz_range": {
                name: [f(run["rate"] for run in of) / 1e6 for f in (min, max)] for name, of in runs.items()
            },
            "mhz_before": None if before is None else before["results"][size.name]["mhz"],
            "copies_a_batch": {name: float(of[-1]["copies"]) for name, of in runs.items()},
            "decodes_a_batch": {name: float(of[-1]["decodes"]) for name, of in runs.items()},
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
        "machine": machine() | {"backend": backend.detail},
        "results": results,
    }


def table(report: dict) -> str:
    lines = [
        "one GPU, pinned memory; MHz, and ms a batch of 8192 alone: on the device, of the host to submit it"
    ]
    for name, r in report["results"].items():
        lines.append(
            f"{name}: {r['bytes_a_frame']:.0f} B a frame, copy {r['stages']['1']['mhz']['copy']:.2f} MHz, one detector"
            f" at {r['of_copy_limit']:.2f} of it, straightforward {r['straightforward_khz']:.1f} kHz"
        )
        lines.append(
            f"  {'':20} {'MHz':>7} {'[min - max]':>15} {'before':>7} {'device ms':>10} {'host ms':>8} {'blocks':>7}"
            f" {'copies':>7} {'decodes':>8}"
        )
        for case, mhz in r["mhz"].items():
            stage, (low, high) = r["stages"][case], r["mhz_range"][case]
            old = (r["mhz_before"] or {}).get(case)
            blocks = "{1}/{0}".format(*stage["blocks"])
            lines.append(
                f"  {case:20} {mhz:7.2f} {f'[{low:.2f} - {high:.2f}]':>15} {'' if old is None else f'{old:.2f}':>7}"
                f" {report['batch'] / stage['mhz']['decode and sums'] / 1e3:10.2f} {stage['submit_ms']:8.2f}"
                f" {blocks:>7} {r['copies_a_batch'][case]:7.1f}"
                f" {r['decodes_a_batch'][case]:8.1f}"
            )
    for name, r in report["results"].items():
        times = ", ".join(f"{k} {t:.2f}" for k, t in r["time_16_to_1"].items())
        lines.append(f"{name:27} time of 16 detectors to that of one: {times}")
    lines.append(f"first use to a decoded frame: {report['first_use_seconds']:.1f} s")
    return "\n".join(lines)
