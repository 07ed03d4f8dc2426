"""`live4d bench receive`: what receiving costs, with libzmq and without: CPU time a frame, and the rate.

Both receivers in turns, with a plain TCP sender, which costs next to nothing and so shows the receiver's own limit, and
with libzmq's. Every frame must have come, and decoded ones must have the right sums. Where there is a GPU, also from
sockets to an image on it.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median

import numpy as np

from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import DISTINCT, SIZES, Source
from live4d_ophyd.decode import BackendUnavailable, CpuBackend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream, warm_up
from live4d_ophyd.frames.batch import IMAGE, FrameBatch
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris import stream
from live4d_ophyd.sources.dectris.source import DectrisSource

RECEIVERS = ("libzmq", "zmtp")
SENDERS = {"plain": PlainSource, "libzmq": Source}
#: sender, size, frames, rate in Hz (0: flat out), what is done with them: "stall 0.1" holds the GIL for so many s
CASES = (
    ("plain", "192", 128 * DISTINCT, 0, "receive"),
    ("plain", "96", 512 * DISTINCT, 0, "receive"),
    ("plain", "96", 256 * DISTINCT, 0, "decode"),
    ("plain", "192", 120 * DISTINCT, 30_000, "stall 0"),
    ("plain", "192", 120 * DISTINCT, 30_000, "decode"),
    ("plain", "96", 256 * DISTINCT, 120_000, "decode"),
    ("plain", "96", 256 * DISTINCT, 120_000, "stall 0"),
    ("plain", "96", 256 * DISTINCT, 120_000, "stall 0.1"),
    ("plain", "96", 512 * DISTINCT, 120_000, "stall 1"),
    ("libzmq", "192", 64 * DISTINCT, 0, "receive"),
    ("libzmq", "96", 128 * DISTINCT, 0, "receive"),
)
#: sender, size, connections, frames
GPU_CASES = (
    ("plain", "192", 1, 512 * 1024), ("plain", "192", 4, 1024 * 1024),
    ("plain", "96u32", 1, 1024 * 1024), ("plain", "96u32", 4, 4096 * 1024),
    ("libzmq", "192", 1, 256 * 1024), ("libzmq", "192", 4, 1024 * 1024),
    ("libzmq", "96u32", 1, 512 * 1024), ("libzmq", "96u32", 4, 2048 * 1024),
)  # fmt: skip


@dataclass(frozen=True)
class _Cost:
    """What a series took: seconds of CPU and of the clock, how often the process waited, how late the sender was, s."""

    cpu: float
    wall: float
    waits: int
    late: float = 0.0

    @classmethod
    def so_far(cls) -> _Cost:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, time.perf_counter(), used.ru_nvcsw)

    def until_now(self) -> _Cost:
        now = _Cost.so_far()
        return _Cost(now.cpu - self.cpu, now.wall - self.wall, now.waits - self.waits)


def receive(source: Source, key: str, count: int, rate: float, stall: float | None = None) -> _Cost:
    """Take all frames and do nothing with them, but hold the GIL for ``stall`` s when half of them are there.

    Measured from the first frame to the last.
    """
    batches = [FrameBatch.allocate() for _ in range(3)]
    seen = np.zeros(count, bool)
    with closing(stream.receiver_of(source.endpoint)) as receiver:
        source.start(count, rate)
        taken, turn, began = 0, 0, _Cost.so_far()
        while taken < count:
            batch = receiver.receive(batches[turn % 3], wait=10.0)
            if not batch.count:
                raise RuntimeError(f"{taken} of {count} frames came")
            if turn == 0:
                began = _Cost.so_far()
            ids = batch.image_id[batch.status == IMAGE]
            seen[ids] = True
            taken += len(ids)
            turn += 1
            if stall and taken > count // 2:
                ctypes.PyDLL(None).usleep(int(1e6 * stall))
                stall = None
        cost = began.until_now()
        (report,) = source.reports()
    if not seen.all():
        raise RuntimeError("frames are missing")
    return replace(cost, late=report.get("late_s", 0.0))


def decode(source: Source, key: str, count: int, rate: float) -> _Cost:
    """The engine's acquisition of one bright-field image on the CPU."""
    size = SIZES[key]
    detector = DectrisSource(source.endpoint)
    request = AcquisitionRequest(detector, ScanGrid(count // DISTINCT, DISTINCT), (size.disk,), timeout=20.0)
    with closing(OpenStream(detector)) as opened:
        source.start(count, rate)
        began = _Cost.so_far()
        (raster,) = Acquisition(request, opened, CpuBackend()).run()
        cost = began.until_now()
        (report,) = source.reports()
    np.testing.assert_array_equal(raster.outputs["vbf"].reshape(-1), size.image(count))
    return replace(cost, late=report.get("late_s", 0.0))


def _on_cpu(rounds: int) -> list[dict]:
    rows = []
    for sender, key, count, rate, what in CASES:
        results: dict[str, list[_Cost]] = {name: [] for name in RECEIVERS}
        with closing(SENDERS[sender](key)) as source:
            for _ in range(rounds):
                for name, taken in results.items():
                    stream.RECEIVER = name
                    if what == "decode":
                        taken.append(decode(source, key, count, rate))
                    else:
                        taken.append(receive(source, key, count, rate, float(what.partition(" ")[2] or 0)))
            about = {"bytes": source.message_bytes, "rate": rate, "what": what}
            row = {"sender": sender, "size": SIZES[key].name, **about}
        for name, taken in results.items():
            row[f"{name}_us"] = round(1e6 * median(cost.cpu for cost in taken) / count, 2)
            row[f"{name}_khz"] = round(count / median(cost.wall for cost in taken) / 1e3, 1)
            row[f"{name}_late_ms"] = round(1e3 * median(cost.late for cost in taken), 1)
            row[f"{name}_waits_hz"] = round(median(cost.waits / cost.wall for cost in taken))
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def _on_gpu(rounds: int) -> list[dict]:
    from benchmarks.stream import measure as measure_on_gpu  # needs torch

    rows = []
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for sender, key, connections, count in GPU_CASES:
            results: dict[str, list[dict]] = {name: [] for name in RECEIVERS}
            with closing(SENDERS[sender](key, connections)) as source:
                for name in RECEIVERS:  # kernels, page tables
                    measure_on_gpu(process, source, key, 16 * 1024, 1, receiver=name)
                for _ in range(rounds):
                    for name, taken in results.items():
                        taken.append(measure_on_gpu(process, source, key, count, 1, receiver=name))
            row = {"sender": sender, "size": SIZES[key].name, "connections": connections}
            for name, taken in results.items():
                row[f"{name}_khz"] = round(median(found["khz"] for found in taken), 1)
                row[f"{name}_us"] = round(median(1e3 * f["cores"] / f["khz"] for f in taken), 2)
                row[f"{name}_late_ms"] = round(median(found["latency_ms"]["99"] for found in taken), 1)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def run(rounds: int = 3) -> dict:
    stream.RECEIVER = "zmtp"  # so that both are warmed up
    warm_up()
    report = {"benchmark": "receive", "command": f"live4d bench receive --rounds {rounds}", "rounds": rounds}
    try:
        gpu = choose_backend("gpu").detail
    except BackendUnavailable:
        return report | {"machine": machine(), "rows": _on_cpu(rounds)}
    return report | {
        "machine": machine() | {"backend": gpu},
        "rows": _on_cpu(rounds),
        "gpu": _on_gpu(rounds),
    }


def table(report: dict) -> str:
    lines = [
        f"{'sender, size, rate, what':50} {'libzmq us':>10} {'kHz':>7} {'zmtp us':>10} {'kHz':>7}"
        "   waits/s: libzmq, zmtp"
    ]
    for row in report["rows"]:
        rate = f"{row['rate'] / 1e3:g} kHz" if row["rate"] else "flat out"
        name = f"{row['sender']}, {row['size']}, {rate}, {row['what']}"
        waits = " ".join(f"{row[f'{receiver}_waits_hz']:7d}" for receiver in RECEIVERS)
        lines.append(f"{_line(name, row)}          {waits}")
    for row in report.get("gpu", ()):
        lines.append(_line(f"{row['sender']}, {row['size']}, {row['connections']} connections, GPU", row))
    return "\n".join(lines)


def _line(name: str, row: dict) -> str:
    return f"{name:50}" + "".join(f" {row[f'{r}_us']:10.2f} {row[f'{r}_khz']:7.1f}" for r in RECEIVERS)
