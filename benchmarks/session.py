"""`live4d bench session`: streams kept up with while a whole Bluesky session runs beside them.

The session is this process: RunEngine, live preview into the catalog, live figure, BestEffortCallback. The
engine and the sender, a plain TCP socket, are processes of their own on the same cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from numbers import Real
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import SIZES, Source

#: (size, paced rate in Hz, scan)
PACED = (("192", 30e3, (512, 512)), ("96", 120e3, (1024, 512)))
FLAT_OUT = (("192", 0.0, (512, 512)), ("96", 0.0, (1024, 512)))


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _idle():
    yield


@contextmanager
def _spinning_thread():
    """A pure-Python thread in the session that never sleeps: it takes a core and the interpreter lock."""
    stop = threading.Event()

    def spin() -> None:
        n = 0
        while not stop.is_set():
            n += 1

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _spinning_process():
    """The same in a process of its own: it takes a core only. What it costs is the machine's, not the design's."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


STATES = {"idle": _idle, "spinning thread": _spinning_thread, "spinning process": _spinning_process}


class Session:
    """RunEngine, figure, preview and catalog, as profile_collection sets them up."""

    def __init__(self, directory: Path, *, figure: bool = True, catalog: bool = True) -> None:
        from bluesky import RunEngine

        from live4d_ophyd import Live4DBestEffortCallback

        self.RE = RunEngine({})
        if figure:
            bec = Live4DBestEffortCallback(image_directory=directory)
            bec.disable_table()
            bec.disable_heading()
            self.RE.subscribe(bec)
        if catalog:
            from live4d_ophyd import open_catalog
            from live4d_ophyd.storage import record

            record(self.RE, open_catalog(directory / "catalog", name="live4d-bench", overwrite=True))
        self.events: list[dict] = []
        self.previews = 0
        self._streams: dict[str, str] = {}
        self.RE.subscribe(self._note)

    def _note(self, name: str, doc: dict) -> None:
        if name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            if self._streams[doc["descriptor"]] == "primary":
                self.events.append(doc["data"])
            else:
                self.previews += 1

    def count(
        self,
        source: Source,
        key: str,
        rate: float,
        scan: tuple[int, int],
        state: str,
        backend: str = "cpu",
        beside: Sequence[Any] = (),
    ) -> dict:
        """One `bp.count` on a stream; what arrived, and the share of the cores each process took.

        ``beside``: methods besides the bright field, whose sums are checked.
        """
        from bluesky import plans as bp

        from live4d_ophyd import Live4D, live_preview

        size = SIZES[key]
        device = Live4D(
            source.endpoint,
            name="live4d",
            scan=replace(size.grid(scan[0] * scan[1]), rows=scan[0], cols=scan[1]),
            methods=[size.disk, *beside],
            calibration=size.calibration,
            timeout=30.0,
            backend=backend,
        )
        self.RE.preprocessors[:] = [live_preview([device])]
        self.events.clear()
        self.previews = 0
        count = scan[0] * scan[1]
        with closing(device):
            device.wait_for_connection()
            pid = device._engine().pid
            assert pid is not None
            before = (_cpu_of(pid), time.process_time(), time.perf_counter())
            source.start(count, rate)
            with STATES[state]():
                self.RE(bp.count([device]))
            took = time.perf_counter() - before[2]
            engine_cpu = _cpu_of(pid) - before[0]
            session_cpu = time.process_time() - before[1]
            sender = source.finish()
        (data,) = self.events
        wrong = int((data["live4d_vbf"].ravel() != size.image(count)).sum())
        if wrong != data["live4d_frames_lost"]:
            raise RuntimeError(
                f"{wrong} sums are wrong, {data['live4d_frames_lost']} frames lost: no number is reported"
            )
        streaming = count / data["live4d_frame_rate"]
        return {
            "khz": data["live4d_frame_rate"] / 1e3,
            "frames": count,
            "lost": data["live4d_frames_lost"],
            "bad": data["live4d_frames_bad"],
            "previews": self.previews,
            "numbers": {
                key.removeprefix("live4d_"): float(data[key])
                for key in sorted(data)
                if key.startswith(("live4d_parallax_", "live4d_strain_")) and isinstance(data[key], Real)
            },
            "sender_late_ms": 1e3 * sender["late_s"],
            "engine_us_a_frame": 1e6 * engine_cpu / count,
            "cores": {
                "sender": sender["cpu_seconds"] / streaming,
                "engine": engine_cpu / streaming,
                "session": session_cpu / took,
            },
        }


def run(rounds: int = 3) -> dict:
    """Paced streams once in each state of the session; flat-out streams in interleaved rounds."""
    import matplotlib

    matplotlib.use("Agg")
    results: dict = {"paced": {}, "flat_out": {}}
    with tempfile.TemporaryDirectory() as directory:
        session = Session(Path(directory))
        for key, rate, scan in PACED:
            with closing(PlainSource(key)) as source:
                session.count(source, key, rate, (64, 64), "idle")
                results["paced"][f"{SIZES[key].name} at {rate / 1e3:g} kHz"] = {
                    state: session.count(source, key, rate, scan, state) for state in STATES
                }
        for key, rate, scan in FLAT_OUT:
            with closing(PlainSource(key)) as source:
                session.count(source, key, rate, (64, 64), "idle")
                runs: dict[str, list[dict]] = {state: [] for state in STATES}
                for _ in range(rounds):
                    for state in STATES:
                        runs[state].append(session.count(source, key, rate, scan, state))
                ratios = {
                    state: median(r["khz"] / i["khz"] for r, i in zip(of, runs["idle"]))
                    for state, of in runs.items()
                }
                results["flat_out"][SIZES[key].name] = {"runs": runs, "ratio_to_idle": ratios}
    return {
        "benchmark": "session",
        "command": "live4d bench session",
        "rounds": rounds,
        "machine": machine(),
        "results": results,
    }


def table(report: dict) -> str:
    lines = [
        f"{'stream':26} {'session':16} {'kHz':>7} {'lost':>6} {'previews':>9} {'late ms':>8} {'us/frame':>9}"
        "   cores: sender engine session"
    ]

    def line(stream: str, state: str, r: dict) -> str:
        shares = r["cores"]
        return (
            f"{stream:26} {state:16} {r['khz']:7.1f} {r['lost']:6d} {r['previews']:9d}"
            f" {r['sender_late_ms']:8.1f} {r['engine_us_a_frame']:9.1f}"
            f"          {shares['sender']:6.2f} {shares['engine']:6.2f} {shares['session']:7.2f}"
        )

    for stream, states in report["results"]["paced"].items():
        lines += [line(stream, state, r) for state, r in states.items()]
    for stream, result in report["results"]["flat_out"].items():
        for state, runs in result["runs"].items():
            middle = sorted(runs, key=lambda r: r["khz"])[len(runs) // 2]
            text = line(f"{stream}, flat out", state, middle)
            lines.append(f"{text}   {result['ratio_to_idle'][state]:.2f} of idle")
    return "\n".join(lines)
