"""`live4d bench stream`: from sockets to images on the GPU, senders in their own processes on the same machine.

The receiving side is what a session runs: first `Acquisition` alone in a process, then a RunEngine scan with figure
and live preview and the engine in its own process, without and with a busy Python thread in the session.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import by_devices
from benchmarks.by_devices import backend_of, cards_here, compared
from benchmarks.gpu import copy_rate, detectors
from benchmarks.methods import method_sets
from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import SIZES, Source
from live4d_ophyd.decode import Backend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest, refits
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.process.worker import PROGRESS_PERIOD_S
from live4d_ophyd.sources.dectris import stream as stream_module
from live4d_ophyd.sources.dectris.source import DectrisSource

#: size, senders (one connection each), virtual detectors, frames
CASES = (
    ("192", 1, 1, 512 * 1024), ("192", 4, 1, 1024 * 1024), ("192", 4, 4, 1024 * 1024), ("192", 4, 16, 1024 * 1024),
    ("192u16", 1, 1, 512 * 1024), ("192u16", 4, 1, 1024 * 1024),
    ("96u32", 1, 1, 1024 * 1024), ("96u32", 4, 1, 4096 * 1024), ("96u32", 4, 16, 4096 * 1024),
    ("96", 1, 1, 1024 * 1024), ("96", 4, 1, 4096 * 1024),
)  # fmt: skip
SESSION = (("192", 4, (1024, 1024)), ("96u32", 4, (2048, 2048)))

#: frames for the straightforward pipeline, which is slow
_STRAIGHTFORWARD = 32 * 1024

_backends: dict[str, Backend] = {}
_LOOK_S = refits._LOOK_S


def _receive(
    backend: str, endpoint: str, key: str, count: int, maps: int | str, receiver: str, live: bool
) -> tuple[np.ndarray, dict]:
    """Image of the first detector, rates and latencies; runs in a process of its own.

    ``maps``: so many virtual detectors, or the name of a set of methods, with fits and previews if ``live``.
    """
    stream_module.RECEIVER = receiver
    refits._LOOK_S = _LOOK_S if live else threading.TIMEOUT_MAX
    if backend not in _backends:
        warm_up()
        _backends[backend] = choose_backend(backend)
    size = SIZES[key]
    methods = detectors(size, maps) if isinstance(maps, int) else method_sets(size)[maps]
    request = AcquisitionRequest(
        DectrisSource(endpoint), size.grid(count), tuple(methods), timeout=20.0, calibration=size.calibration
    )
    waits: list[np.ndarray] = []
    last = [0.0, 0.0]  # when the newest frames were in the images, by the clock and in CPU time
    with closing(OpenStream(DectrisSource(endpoint), _backends[backend].memory)) as stream:
        acquisition = Acquisition(request, stream, _backends[backend])
        finish = acquisition.tracker.finish

        def note(ids: np.ndarray, good: np.ndarray, received_ns: np.ndarray, *others: Any) -> None:
            finish(ids, good, received_ns, *others)
            waits.append(time.monotonic_ns() - received_ns)
            last[:] = time.monotonic(), time.process_time()

        acquisition.tracker.finish = note  # type: ignore[method-assign]
        done = threading.Event()
        looks = threading.Thread(target=_look, args=(acquisition, done), daemon=True)
        if isinstance(maps, str) and live:
            looks.start()
        cpu = time.process_time()
        try:
            (raster,) = acquisition.run()
        finally:
            done.set()
        if looks.ident is not None:
            looks.join()
        over = time.monotonic()
        first = float(acquisition.tracker._first[0])
        cpu = last[1] - cpu
    latency = np.concatenate(waits) / 1e6
    return raster.outputs["vbf"].reshape(-1), {
        "khz": count / (last[0] - first) / 1e3,
        "results_s": over - last[0],  # last fits, images
        "numbers": {name: float(output) for name, output in raster.outputs.items() if output.ndim == 0},
        "lost": raster.losses.lost,
        "bad": raster.losses.bad,
        "backend": raster.backend,
        "cores": cpu / (last[0] - first),
        "latency_ms": {p: float(np.percentile(latency, float(p))) for p in ("50", "99", "99.9")},
    }


def _look(acquisition: Acquisition, done: threading.Event) -> None:
    """Previews as often as the engine makes them while somebody looks."""
    while not done.wait(PROGRESS_PERIOD_S):
        acquisition.preview()


def measure(
    process: ProcessPoolExecutor,
    source: Source,
    key: str,
    count: int,
    maps: int | str,
    rate: float = 0.0,
    backend: str = "gpu",
    receiver: str = stream_module.RECEIVER,
    live: bool = True,
) -> dict:
    """One series of ``count`` frames in ``process``: rate, latencies, cores. Raises RuntimeError for wrong sums."""
    source.start(count, rate)
    image, found = process.submit(
        _receive, backend, source.endpoint, key, count, maps, receiver, live
    ).result()
    sender = source.finish()
    wrong = int((image != SIZES[key].image(count)).sum())
    if wrong:
        raise RuntimeError(f"{wrong} of {count} sums are wrong: no number is reported")
    return found | {"sender_cores": sender["cpu_seconds"] / sender["seconds"]}


def _receive_straightforward(endpoint: str, key: str, count: int) -> tuple[np.ndarray, float]:
    from benchmarks.straightforward import receive

    return receive(endpoint, SIZES[key], count)


def _straightforward(process: ProcessPoolExecutor, source: Source, key: str) -> float:
    """Frames per second of the straightforward pipeline, from the same senders."""
    source.start(_STRAIGHTFORWARD)
    sums, seconds = process.submit(_receive_straightforward, source.endpoint, key, _STRAIGHTFORWARD).result()
    source.finish()
    if (sums != SIZES[key].image(_STRAIGHTFORWARD)).any():
        raise RuntimeError("sums of the straightforward pipeline are wrong: no number is reported")
    return _STRAIGHTFORWARD / seconds


def _sessions(rounds: int) -> dict:
    """Flat-out streams under a RunEngine, in interleaved rounds; see benchmarks.session."""
    import matplotlib

    from benchmarks.session import Session

    matplotlib.use("Agg")
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        session = Session(Path(directory), catalog=False)
        for key, senders, scan in SESSION:
            with closing(Source(key, senders)) as source:
                session.count(source, key, 0.0, (64, 64), "idle", backend="gpu")
                runs: dict[str, list[dict]] = {state: [] for state in ("idle", "spinning thread")}
                for _ in range(rounds):
                    for state, of in runs.items():
                        of.append(session.count(source, key, 0.0, scan, state, backend="gpu"))
                results[f"{SIZES[key].name}, {senders} connections"] = {
                    "runs": runs,
                    "khz": {state: median(r["khz"] for r in of) for state, of in runs.items()},
                }
    return results


def _by_devices(rounds: int, devices: Sequence[int]) -> dict:
    """Rates with so many GPUs, in the same rounds, from senders that cost next to nothing."""
    results = {}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        cards = process.submit(cards_here).result()
        backends = {count: backend_of(count, cards) for count in devices}
        for (key, frames), senders, methods in itertools.product(
            (("192", 1 << 20), ("96u32", 1 << 20)), (4, 8), ("VBF", "all")
        ):
            with closing(PlainSource(key, senders)) as source:
                khz: dict[int, list[float]] = {count: [] for count in devices}
                for backend in backends.values():
                    measure(process, source, key, 16 * 1024, methods, backend=backend)
                for _ in range(rounds):
                    for count, backend in backends.items():
                        found = measure(process, source, key, frames, methods, backend=backend)
                        khz[count].append(found["khz"])
            rates = compared(khz, "khz")
            results[f"{SIZES[key].name}, {senders} connections, {methods}"] = rates
            print(SIZES[key].name, senders, methods, rates["khz"], file=sys.stderr, flush=True)
    return {
        "benchmark": "stream",
        "command": f"live4d bench stream --devices {','.join(map(str, devices))} --rounds {rounds}",
        "rounds": rounds,
        "cards": cards,
        "machine": machine() | {"backend": choose_backend(backends[devices[-1]]).detail},
        "devices": results,
    }


def run(rounds: int = 3, devices: Sequence[int] = ()) -> dict:
    if devices:
        return _by_devices(rounds, devices)
    results = {}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for key, senders, maps, count in CASES:
            with closing(Source(key, senders)) as source:
                measure(process, source, key, 16 * 1024, maps)
                runs, straightforward = [], []
                for _ in range(rounds):
                    runs.append(measure(process, source, key, count, maps))
                    straightforward.append(_straightforward(process, source, key))
                copy = process.submit(copy_rate, SIZES[key]).result()
                middle = sorted(runs, key=lambda r: r["khz"])[len(runs) // 2]
                print(
                    f"{SIZES[key].name}, {senders} connections: {middle['khz']:.0f} kHz",
                    file=sys.stderr,
                    flush=True,
                )
                results[f"{SIZES[key].name}, {senders} connections, {maps} detectors"] = middle | {
                    "khz_range": [min(r["khz"] for r in runs), max(r["khz"] for r in runs)],
                    "frames": count,
                    "straightforward_khz": median(straightforward) / 1e3,
                    "ratio": median(r["khz"] * 1e3 / s for r, s in zip(runs, straightforward)),
                    "of_copy_limit": middle["khz"] * 1e3 / copy,
                }
        with closing(Source("192")) as source:
            paced = measure(process, source, "192", 300_000, 1, 30e3)
    return {
        "benchmark": "stream",
        "command": "live4d bench stream",
        "rounds": rounds,
        "machine": machine() | {"backend": choose_backend("gpu").detail},
        "results": results,
        "paced 192x192 u32 at 30 kHz": paced,
        "sessions": _sessions(rounds),
    }


def table(report: dict) -> str:
    if "devices" in report:
        return by_devices.table("end to end over loopback TCP", report["devices"], "khz", 0)
    lines = [
        f"{'end to end over loopback TCP, GPU':45} {'kHz':>7} {'range':>15} {'cores':>6} {'senders':>8} {'p99 ms':>7}"
        f" {'of copy':>8} {'straightforward':>16} {'ratio':>6}"
    ]
    for name, r in report["results"].items():
        low, high = r["khz_range"]
        lines.append(
            f"{name:45} {r['khz']:7.1f} {low:7.1f}-{high:<7.1f} {r['cores']:6.1f} {r['sender_cores']:8.1f}"
            f" {r['latency_ms']['99']:7.1f} {r['of_copy_limit']:8.3f} {r['straightforward_khz']:12.1f} kHz"
            f" {r['ratio']:6.1f}"
        )
    paced = report["paced 192x192 u32 at 30 kHz"]
    lines.append(
        "paced 192x192 u32 at 30 kHz: received to image, ms: "
        + ", ".join(f"{p} % {ms:.1f}" for p, ms in paced["latency_ms"].items())
    )
    for name, r in report["sessions"].items():
        busy = r["khz"]["spinning thread"] / r["khz"]["idle"]
        alone = report["results"][f"{name}, 1 detectors"]["khz"]
        lines.append(
            f"{'RunEngine, figure, preview: ' + name:45} {r['khz']['idle']:7.1f} ({r['khz']['idle'] / alone:.2f} of the"
            f" above), with a spinning thread {r['khz']['spinning thread']:.1f} ({busy:.2f} of idle)"
        )
    return "\n".join(lines)
