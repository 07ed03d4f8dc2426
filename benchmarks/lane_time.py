"""`python -m benchmarks.lane_time OUT.json`: where the threads of connections spend their time, a batch at a time.

From plain TCP senders onto the GPU, one connection and four. Each step is timed by the clock and by the CPU time of its
thread: the difference is spent waiting, for the socket, the device or the interpreter lock. "Profile" lists the
functions that the first lane spends most in, of one more run.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import SIZES
from live4d_ophyd.decode import choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.lane import Lane
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.pending import FramesUnderWay
from live4d_ophyd.engine.series import Series
from live4d_ophyd.sources.dectris.source import DectrisSource

CASES = (("192", 1, 1 << 19), ("192", 4, 1 << 20), ("96u32", 1, 1 << 20), ("96u32", 4, 1 << 22))
#: functions of a profile
LISTED = 25

_spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
_profiles: list[cProfile.Profile] = []


def _timed(what: str, function: Any) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        clock, cpu = time.perf_counter(), time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent = _spent[what]  # several threads: what is lost between them is little
            spent[0] += time.perf_counter() - clock
            spent[1] += time.thread_time() - cpu
            spent[2] += 1

    return timed


def _receive(backend_name: str, endpoint: str, key: str, count: int, profiled: bool) -> dict:
    backend = choose_backend(backend_name)
    warm_up()
    size, source = SIZES[key], DectrisSource(endpoint)
    request = AcquisitionRequest(source, size.grid(count), (size.disk,), timeout=20.0)
    kept = Series.accept, FramesUnderWay.finish, Lane.run
    if profiled:
        whole = Lane.run

        def run(self: Lane, stopped: Any) -> None:
            if _profiles:  # a process has one profiler
                whole(self, stopped)
                return
            _profiles.append(cProfile.Profile())
            _profiles[0].runcall(whole, self, stopped)

        Lane.run = run  # type: ignore[method-assign]
    else:
        Series.accept = _timed("accept", Series.accept)  # type: ignore[method-assign]
        FramesUnderWay.finish = _timed("finish", FramesUnderWay.finish)  # type: ignore[method-assign]
        Lane.run = _timed("lane", Lane.run)  # type: ignore[method-assign]
    _spent.clear()
    _profiles.clear()
    try:
        with closing(OpenStream(source, backend.memory)) as stream:
            acquisition = Acquisition(request, stream, backend)
            (raster,) = acquisition.run()
    finally:
        Series.accept, FramesUnderWay.finish, Lane.run = kept  # type: ignore[method-assign]
    if (raster.outputs["vbf"].reshape(-1) != size.image(count)).any():
        raise RuntimeError("sums are wrong: no number is reported")
    found: dict[str, Any] = {"khz": (raster.rate_hz or 0.0) / 1e3}
    if profiled:
        stats = pstats.Stats(_profiles[0])
        rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:LISTED]  # type: ignore[attr-defined]
        found["profile"] = [
            {
                "where": f"{Path(path).name}:{line} {name}",
                "calls": calls,
                "own_s": own,
                "with_called_s": whole_s,
            }
            for (path, line, name), (_, calls, own, whole_s, _) in rows
        ]
    else:
        batches = _spent["accept"][2]
        found |= {"batches": batches, "frames_a_batch": count / batches, "lanes": _spent["lane"][2]}
        for what, (clock, cpu, calls) in _spent.items():
            found[what] = {
                "clock_s": clock,
                "cpu_s": cpu,
                "calls": calls,
                "cpu_us_a_batch": 1e6 * cpu / batches,
            }
    return found


def main(path: Path, backend: str = "gpu") -> None:
    results: dict[str, dict] = {}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for key, connections, count in CASES:
            with closing(PlainSource(key, connections)) as source:
                for name, profiled, frames in (
                    ("warm", False, 1 << 16),
                    ("steps", False, count),
                    ("profile", True, count),
                ):
                    source.start(frames)
                    found = process.submit(_receive, backend, source.endpoint, key, frames, profiled).result()
                    source.finish()
                    if name != "warm":
                        results.setdefault(f"{SIZES[key].name}, {connections} connections", {})[name] = found
        label = process.submit(machine).result()
    report = {
        "benchmark": "lane_time",
        "command": "python -m benchmarks.lane_time OUT.json",
        "machine": label,
    }
    path.write_text(json.dumps(report | {"results": results}, indent=1) + "\n")
    for name, of in results.items():
        steps = of["steps"]
        print(f"{name}: {steps['khz']:.0f} kHz, {steps['frames_a_batch']:.0f} frames a batch")
        for what in ("accept", "finish", "lane"):
            one = steps[what]
            a_batch = f"{one['cpu_us_a_batch']:7.0f} us a batch"
            print(f"  {what:8} clock {one['clock_s']:7.3f} s, CPU {one['cpu_s']:7.3f} s, {a_batch}")
        for row in of["profile"]["profile"]:
            print(f"    {row['own_s']:7.3f} s {row['calls']:8} {row['where']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
