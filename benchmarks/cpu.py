"""`live4d bench cpu`: the engine on the CPU end to end against two baselines, in interleaved rounds; decoding alone.

LIVE4D_BENCH_BEFORE names another checkout, whose engine takes part in each round.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.baseline import receive
from benchmarks.report import machine
from benchmarks.source import SIZES, Source
from live4d_ophyd.decode import CpuDecoder, Demand, FrameFormat, Weights, sum_over_frames
from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.imaging.virtual_detectors import weight_maps
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.index import index_batch
from live4d_ophyd.sources.dectris.source import DectrisSource

#: frames of one measurement: one to two seconds each
COUNTS = {
    "live4d": {"192": 128 * 1024, "96": 256 * 1024},
    "one thread": {"192": 32 * 1024, "96": 64 * 1024},
    "pool of 4": {"192": 16 * 1024, "96": 32 * 1024},
}


def _live4d(endpoint: str, key: str, count: int) -> np.ndarray:
    size = SIZES[key]
    request = AcquisitionRequest(DectrisSource(endpoint), ScanGrid(1, count), (size.disk,), timeout=30.0)
    with closing(OpenStream(DectrisSource(endpoint))) as stream:
        (raster,) = Acquisition(request, stream).run()
    return raster.outputs["vbf"][0]


def _one_thread(endpoint: str, key: str, count: int) -> np.ndarray:
    return receive(endpoint, count, _mask(key), 1)


def _pool(endpoint: str, key: str, count: int) -> np.ndarray:
    return receive(endpoint, count, _mask(key), 4)


def _mask(key: str) -> np.ndarray:
    size = SIZES[key]
    return size.disk.weights((size.side, size.side)).astype(bool)


#: what a process of the other checkout runs: for each size that it reads, one run of its own engine
_ASKED = """
import json, sys
from benchmarks.cpu import _measure, _own_process
from benchmarks.source import Source
known = {}
for line in sys.stdin:
    key = line.strip()
    if key not in known:
        known[key] = _own_process(), Source(key)
        _measure("live4d", *known[key], key)
    print(json.dumps(_measure("live4d", *known[key], key)), flush=True)
for process, source in known.values():
    process.shutdown()
    source.close()
"""


class _Before:
    """The engine of another checkout."""

    def __init__(self, checkout: str) -> None:
        own = str(Path(__file__).resolve().parents[1])
        paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != own]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(checkout).resolve()), *paths])}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ASKED], cwd=checkout, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def measure(self, key: str) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{key}\n")
        self._process.stdin.flush()
        found: dict = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate()


CONTESTANTS = {"live4d": _live4d, "one thread": _one_thread, "pool of 4": _pool}


def _receive(name: str, endpoint: str, key: str, count: int) -> tuple[np.ndarray, float, float]:
    """Sums, seconds and CPU seconds of one contestant; runs in the contestant's own process."""
    if name == "live4d":
        warm_up()
    wall, cpu = time.perf_counter(), time.process_time()
    image = CONTESTANTS[name](endpoint, key, count)
    return image, time.perf_counter() - wall, time.process_time() - cpu


def _measure(name: str, process: ProcessPoolExecutor, source: Source, key: str) -> dict:
    """One run: images by the receiver's wall time, connecting included, and the CPU both sides took."""
    count = COUNTS[name][key]
    source.start(count)
    image, seconds, cpu = process.submit(_receive, name, source.endpoint, key, count).result()
    sender = source.finish()
    wrong = int((image != SIZES[key].image(count)).sum())
    if wrong:
        raise RuntimeError(f"{name}: {wrong} of {count} sums are wrong: no number is reported")
    return {
        "khz": count / seconds / 1e3,
        "receiver_cpu_us": cpu / count * 1e6,
        "sender_cpu_us": sender["cpu_seconds"] / count * 1e6,
    }


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(series: int = 40, count: int = 256 * 1024) -> list[float]:
    """Resident memory of the receiving process after each of several long series, MB."""
    sizes = []
    with closing(Source("96")) as source, _own_process() as process:
        for _ in range(series):
            source.start(count, 100e3)
            process.submit(_receive, "live4d", source.endpoint, "96", count).result()
            source.finish()
            sizes.append(process.submit(_memory_mb).result())
    return sizes


def decoding(key: str, rounds: int) -> dict[str, float]:
    """us of one core that a frame takes from memory, for several demands: medians of interleaved rounds, CPU time.

    Sums over all pixels need LZ4 of all blocks and nothing else to speak of: what bounds all that needs patterns.
    """
    size = SIZES[key]
    data, offsets, _ = size.messages
    batch = FrameBatch.from_messages([data[a:b].tobytes() for a, b in itertools.pairwise(offsets)])
    index_batch(batch)
    shape = (size.side, size.side)
    decoder = CpuDecoder(FrameFormat(*shape, np.dtype(size.dtype)))
    vbf, whole = weight_maps([size.disk], shape), Weights(np.ones((1, *shape), np.int64))
    total, valid = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    demands = {
        "VBF": Demand(vbf), "sum over all pixels": Demand(whole), "patterns": Demand(None, True),
        "mean pattern": Demand(None, True), "VBF + mean pattern": Demand(vbf, True),
    }  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in demands}
    for _ in range(3 + 4 * rounds):
        for name, demand in demands.items():
            started = time.thread_time()
            for part in decoder.submit(batch, None, demand).parts():
                if "mean" in name:
                    sum_over_frames(part.patterns, None, NODATA, total, valid)
            spent[name].append((time.thread_time() - started) / batch.count * 1e6)
    times = 2 * (3 + 4 * rounds)
    if (total != times * size.frames.sum(axis=0, dtype=np.int64)).any():
        raise RuntimeError("mean patterns are wrong: no number is reported")
    return {name: median(of[3:]) for name, of in spent.items()}


def _own_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def run(rounds: int = 5) -> dict:
    """Interleaved rounds of every contestant at every size; medians, extremes and ratios of medians."""
    results = {}
    checkout = os.environ.get("LIVE4D_BENCH_BEFORE")
    for key in ("192", "96"):
        size = SIZES[key]
        with closing(Source(key)) as source, ExitStack() as stack:
            before = stack.enter_context(closing(_Before(checkout))) if checkout else None
            own = {name: stack.enter_context(_own_process()) for name in CONTESTANTS}
            for name in CONTESTANTS:
                _measure(name, own[name], source, key)  # imports, caches, page tables
            if before is not None:
                before.measure(key)
            runs = {name: [] for name in (*CONTESTANTS, *(["before"] if before else []))}
            for _ in range(rounds):
                for name, of in runs.items():
                    of.append(
                        before.measure(key) if name == "before" else _measure(name, own[name], source, key)
                    )
            khz = {name: median(r["khz"] for r in of) for name, of in runs.items()}
            results[size.name] = {
                "message_bytes": source.message_bytes,
                "decoding_us": decoding(key, rounds),
                "runs": {
                    name: {
                        "khz": khz[name],
                        "khz_range": [min(r["khz"] for r in of), max(r["khz"] for r in of)],
                        "receiver_cpu_us": median(r["receiver_cpu_us"] for r in of),
                        "sender_cpu_us": median(r["sender_cpu_us"] for r in of),
                        "ratio": median(a["khz"] / b["khz"] for a, b in zip(runs["live4d"], of)),
                    }
                    for name, of in runs.items()
                },
            }
    return {
        "memory_mb": memory(),
        "benchmark": "cpu",
        "command": f"live4d bench cpu --rounds {rounds}",
        "rounds": rounds,
        "machine": machine(),
        "results": results,
    }


def table(report: dict) -> str:
    lines = [
        f"{'end to end, sender on the same cores':38} {'kHz':>8} {'range':>16} {'CPU us':>8} {'live4d is':>10}"
    ]
    for size, result in report["results"].items():
        for name, run_ in result["runs"].items():
            low, high = run_["khz_range"]
            lines.append(
                f"{size + ', ' + name:38} {run_['khz']:8.1f} {low:7.1f}-{high:<8.1f} "
                f"{run_['receiver_cpu_us']:8.1f} {run_['ratio']:8.1f} x"
            )
    for size, result in report["results"].items():
        took = ", ".join(f"{name} {us:.1f}" for name, us in result["decoding_us"].items())
        lines.append(f"{size}, one core, us a frame: {took}")
    sizes = report["memory_mb"]
    lines.append(
        f"resident memory over {len(sizes)} x 262144 frames at 100 kHz, MB: "
        f"{sizes[0]:.0f} after the first, {sizes[len(sizes) // 2]:.0f} half way, {sizes[-1]:.0f} after the last"
    )
    return "\n".join(lines)
