"""How long the RunEngine's loop is held up, with catalog, pictures and previews and without:
`python -m benchmarks.loop ROUNDS REPORT.json COUNTS`.

A call that the loop should make every 5 ms says how late it is. Bluesky gives a suspender 0.1 s to be heard.
"""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.source import SIZES, Source

PERIOD_S = 0.005
LONG_S = 0.05
COUNTS = 200


class LoopWatch:
    """Notes how late an event loop makes its calls."""

    def __init__(self, loop) -> None:
        self._loop = loop
        self._late: list[float] = []
        self._going = False

    @contextmanager
    def watching(self):
        self._late.clear()
        self._going = True
        begin = time.perf_counter()
        self._loop.call_soon_threadsafe(self._call)
        try:
            yield
        finally:
            self._going = False
            self._took = time.perf_counter() - begin

    def _call(self, due: float | None = None) -> None:
        now = self._loop.time()
        if due is not None:
            self._late.append(now - due)
        if self._going:
            self._loop.call_at(now + PERIOD_S, self._call, now + PERIOD_S)

    def report(self) -> dict:
        late = np.array(self._late)
        return {
            "seconds": self._took,
            "longest_ms": float(1e3 * late.max()),
            "p99_9_ms": float(1e3 * np.quantile(late, 0.999)),
            "share_above_50_ms": float(late[late > LONG_S].sum() / self._took),
        }


def _streamed(session, key: str, rate: float, scan: tuple[int, int], detectors: int) -> dict:
    """One `bp.count` on a paced stream, previews at 5 Hz."""
    from bluesky import plans as bp

    from live4d_ophyd import Disk, Live4D, ScanGrid, live_preview

    disk = SIZES[key].disk
    disks = [
        Disk(f"d{n}", center=disk.center, radius=disk.radius * (n + 1) / detectors) for n in range(detectors)
    ]
    with closing(Source(key)) as source:
        device = Live4D(
            source.endpoint, name="live4d", scan=ScanGrid(*scan), methods=disks, timeout=30.0, backend="cpu"
        )
        with closing(device):
            device.wait_for_connection()
            session.RE.preprocessors[:] = [live_preview([device])]
            watch = LoopWatch(session.RE.loop)
            source.start(scan[0] * scan[1], rate)
            with watch.watching():
                session.RE(bp.count([device]))
            source.finish()
    return watch.report()


def _counts(session, number: int) -> dict:
    """So many runs of a small raster in one plan."""
    from bluesky import plans as bp

    from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon, live_preview
    from live4d_ophyd.sim import SimulatorProcess

    def counts():
        for _ in range(number):
            yield from bp.count([device])

    with SimulatorProcess(rows=16, cols=16, shape=(48, 48), rate=20e3, frozen_noise=True) as simulator:
        device = Live4D(
            simulator.stream_endpoint, name="live4d", scan=ScanGrid(16, 16), methods=[Disk("vbf", radius=8)],
            control=Simplon(simulator.rest_url), backend="cpu",
        )  # fmt: skip
        with closing(device):
            device.wait_for_connection()
            session.RE.preprocessors[:] = [live_preview([device])]
            session.RE(bp.count([device]))  # the simulator has computed its frames
            watch = LoopWatch(session.RE.loop)
            with watch.watching():
                session.RE(counts())
    return watch.report()


def measure(make_session, rounds: int, counts: int = COUNTS) -> dict:
    """By case, whole and bare (without catalog and pictures), interleaved: what each round saw."""
    cases = {
        "64x64, previews at 5 Hz": lambda session: _streamed(session, "96", 800.0, (64, 64), 1),
        "512x512, 3 detectors": lambda session: _streamed(session, "192", 30e3, (512, 512), 3),
        f"{counts} counts in a row": lambda session: _counts(session, counts),
    }
    results: dict = {case: {"whole": [], "bare": []} for case in cases}
    with tempfile.TemporaryDirectory() as directory:
        sessions = {
            kind: make_session(Path(directory) / kind, figure=whole, catalog=whole)
            for kind, whole in (("whole", True), ("bare", False))
        }
        gc.collect()
        gc.freeze()  # as the session's startup files do
        for _ in range(rounds):
            for case, run_case in cases.items():
                for kind, session in sessions.items():
                    results[case][kind].append(run_case(session))
    return results


def table(results: dict) -> list[str]:
    """The worst of the rounds."""
    lines = [f"{'the loop was late':26} {'session':8} {'longest':>10} {'99.9 %':>9} {'above 50 ms':>12}"]
    for case, kinds in results.items():
        for kind, rounds in kinds.items():
            worst = {key: max(r[key] for r in rounds) for key in rounds[0]}
            lines.append(
                f"{case:26} {kind:8} {worst['longest_ms']:7.1f} ms {worst['p99_9_ms']:6.1f} ms"
                f" {worst['share_above_50_ms']:11.2%}"
            )
    return lines


if __name__ == "__main__":
    import json
    import sys

    from benchmarks.report import machine
    from benchmarks.session import Session

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    results = measure(Session, rounds, *map(int, sys.argv[3:4]))
    print("\n".join(table(results)))
    report = {
        "benchmark": "loop",
        "command": f"python -m benchmarks.loop {' '.join(sys.argv[1:])}",
        "rounds": rounds,
    }
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(
            json.dumps(report | {"machine": machine(), "results": results}, indent=1) + "\n"
        )
