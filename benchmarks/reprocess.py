"""`live4d bench reprocess`: recorded frames to an image, beside h5py + hdf5plugin + NumPy on the same file.

And by processes of a dask.distributed cluster on this machine, which is up before. The file is in the page cache.
Rounds are interleaved; every sum is compared with the known one.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np

from benchmarks.report import machine
from benchmarks.source import SIZES, Size
from live4d_ophyd.offline import reprocess_file
from live4d_ophyd.scan import ScanGrid

#: frames of a file, and those that the straightforward way reads
FRAMES, STRAIGHTFORWARD = 1 << 16, 1 << 12
KEYS = ("192", "192u16", "96u32", "96")
#: processes of a cluster, of a thread each
WORKERS = (1, 2)
_times = itertools.count(1)


def write(path: Path, size: Size) -> None:
    """A file of `FRAMES` frames, one a chunk, bitshuffle with LZ4."""
    import hdf5plugin

    shape = (FRAMES, size.side, size.side)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "entry/data/data", shape, size.dtype, chunks=(1, *shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        distinct = len(size.frames)
        dataset[:distinct] = size.frames
        chunks = [dataset.id.read_direct_chunk((n, 0, 0))[1] for n in range(distinct)]
        for n in range(distinct, FRAMES):
            dataset.id.write_direct_chunk((n, 0, 0), chunks[n % distinct])


def straightforward(path: Path, size: Size) -> float:
    """Frames a second of h5py, hdf5plugin and NumPy."""
    weights = size.disk.weights((size.side, size.side)).astype(bool)
    with h5py.File(path) as file:
        dataset = file["entry/data/data"]
        started, sums = time.perf_counter(), []
        for first, end in itertools.pairwise(range(0, STRAIGHTFORWARD + 1, 256)):
            sums.append(dataset[first:end][:, weights].sum(axis=1, dtype=np.int64))
        seconds = time.perf_counter() - started
    if (np.concatenate(sums) != size.image(STRAIGHTFORWARD)).any():
        raise RuntimeError("sums of the straightforward way are wrong: no number is reported")
    return STRAIGHTFORWARD / seconds


def measure(path: Path, size: Size, **where: Any) -> float:
    """Frames a second, opening the file included; ``where`` as of `reprocess`."""
    os.utime(path, (next(_times),) * 2)  # as of a file that was never read: where its frames lie is not known
    started = time.perf_counter()
    raster = reprocess_file(path, [size.disk], ScanGrid(FRAMES // 256, 256), quiet=True, **where)
    seconds = time.perf_counter() - started
    if (raster.outputs["vbf"].reshape(-1) != size.image(FRAMES)).any():
        raise RuntimeError("sums are wrong: no number is reported")
    return FRAMES / seconds


@contextmanager
def clusters() -> Iterator[dict[str, Any]]:
    """Clients by what the report calls them; none without dask.distributed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        yield {}
        return
    with ExitStack() as stack:
        found = {}
        for workers in WORKERS:
            options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
            cluster = stack.enter_context(LocalCluster(workers, **options))
            found[f"cluster of {workers}"] = stack.enter_context(Client(cluster))
        yield found


def run(rounds: int = 3) -> dict:
    results = {}
    with tempfile.TemporaryDirectory() as folder, clusters() as clients:
        ways = {"1 thread": {"workers": 1}} | {name: {"cluster": client} for name, client in clients.items()}
        for key in KEYS:
            size, path = SIZES[key], Path(folder) / f"{key}.h5"
            write(path, size)
            for where in ({}, *ways.values()):
                measure(path, size, **where)  # into the page cache, and what is compiled
            ours, theirs = [], []
            others: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                ours.append(measure(path, size))
                theirs.append(straightforward(path, size))
                for name, where in ways.items():
                    others[name].append(measure(path, size, **where))
            path.unlink()
            results[size.name] = {
                "khz": median(ours) / 1e3,
                "khz_range": [min(ours) / 1e3, max(ours) / 1e3],
                "straightforward_khz": median(theirs) / 1e3,
                "ratio": median(a / b for a, b in zip(ours, theirs)),
                "others": {
                    name: {
                        "khz": median(rates) / 1e3,
                        "khz_range": [min(rates) / 1e3, max(rates) / 1e3],
                        "of_local": median(a / b for a, b in zip(rates, ours)),
                    }
                    for name, rates in others.items()
                },
            }
    return {
        "benchmark": "reprocess",
        "command": f"live4d bench reprocess --rounds {rounds}",
        "rounds": rounds,
        "frames": FRAMES,
        "machine": machine(),
        "results": results,
    }


def table(report: dict) -> str:
    lines = [f"{'recorded frames to an image':30} {'kHz':>8} {'range':>17} {'h5py, NumPy':>12} {'ratio':>6}"]
    for name, r in report["results"].items():
        low, high = r["khz_range"]
        lines.append(
            f"{name:30} {r['khz']:8.1f} {low:8.1f}-{high:<8.1f} {r['straightforward_khz']:8.1f} kHz {r['ratio']:6.1f}"
        )
        for way, other in r["others"].items():
            low, high = other["khz_range"]
            lines.append(
                f"  {way:28} {other['khz']:8.1f} {low:8.1f}-{high:<8.1f} {other['of_local']:5.2f} of the local rate"
            )
    return "\n".join(lines)
