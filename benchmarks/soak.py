"""`live4d bench soak`: 1,000 triggers in a row, then 10 million frames, and what both processes hold meanwhile.

The session is this process (RunEngine and device), the engine its child, as a user has them; detector and sender are
processes beside them. Resident memory, threads, sockets and other file handles are sampled after each raster, every
sum is checked, and memory's growth is fitted over the second half, when caches and allocators are warm.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from benchmarks.report import machine
from benchmarks.source import SIZES, Source

TRIGGERS, TRIGGER_GRID = 1000, (8, 8)
FRAMES, FRAME_GRID, FRAME_SIZE = 10_000_000, (512, 512), "96"
#: rasters between two samples of the triggers
_EVERY = 25


@dataclass(frozen=True)
class Resources:
    """What a process holds."""

    rss_mb: float  #: resident memory
    threads: int
    sockets: int
    files: int  #: open file handles that are no sockets

    @classmethod
    def of(cls, pid: int) -> Resources:
        """As /proc has it now."""
        process = Path(f"/proc/{pid}")
        kinds = []
        for handle in os.listdir(process / "fd"):
            with suppress(FileNotFoundError):  # the one that lists them, or one that was just closed
                kinds.append(os.readlink(process / "fd" / handle).startswith("socket:"))
        return cls(
            rss_mb=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
            threads=len(os.listdir(process / "task")),
            sockets=sum(kinds),
            files=len(kinds) - sum(kinds),
        )


@dataclass
class Samples:
    """Resources of some processes, ``at`` a number of triggers or millions of frames."""

    pids: dict[str, int]
    at: list[float] = field(default_factory=list)
    of: dict[str, list[Resources]] = field(default_factory=dict)

    def add(self, at: float) -> None:
        self.at.append(at)
        for name, pid in self.pids.items():
            self.of.setdefault(name, []).append(Resources.of(pid))

    def report(self) -> dict:
        """Every sample, and for each process the slope of its memory over the second half, MB per unit of ``at``."""
        half = len(self.at) // 2
        return {
            "at": self.at,
            "processes": {
                name: {
                    "samples": [asdict(r) for r in of],
                    "growth_mb": _slope(self.at[half:], [r.rss_mb for r in of[half:]]),
                }
                for name, of in self.of.items()
            },
        }


def _slope(x: list[float], y: list[float]) -> float | None:
    """Median of the slopes between all pairs of points: a raster whose buffers were larger does not tilt it."""
    return float(theilslopes(y, x)[0]) if len(x) > 2 else None


class _Session:
    """A RunEngine and a device; hands over the data of each Event."""

    def __init__(self, device) -> None:
        from bluesky import RunEngine

        self.RE = RunEngine({}, call_returns_result=False)
        self.device = device
        device.wait_for_connection()
        self.samples = Samples({"session": os.getpid(), "engine": device._client.pid})

    def count(self, num: int, check: Callable[[dict], None], going_on: Callable[[], bool]) -> None:
        """One run of up to ``num`` rasters, until ``going_on()`` is false."""
        from bluesky import plan_stubs as bps
        from bluesky import preprocessors as bpp

        @bpp.stage_decorator([self.device])
        @bpp.run_decorator()
        def plan() -> Iterator:
            for _ in range(num):
                if not going_on():
                    return
                yield from bps.one_shot([self.device])

        def note(name: str, doc: Any) -> None:
            if name == "event":
                check(doc["data"])

        self.RE(plan(), note)


def _triggers(deadline: float) -> dict:
    """Rasters of a simulated detector, each armed, taken and disarmed."""
    from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon
    from live4d_ophyd.sim import SimulatorProcess

    rows, cols = TRIGGER_GRID
    options = {"rows": rows, "cols": cols, "shape": (32, 32), "rate": 30e3, "frozen_noise": True}
    with SimulatorProcess(**options) as simulator:
        device = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(rows, cols),
            methods=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)],
            control=Simplon(simulator.rest_url),
        )
        with closing(device):
            session = _Session(device)
            first: list[np.ndarray] = []
            done = 0

            def check(data: dict) -> None:
                nonlocal done
                first[:] = first or [data["live4d_vbf"]]
                # The simulator repeats its counts.
                if not np.array_equal(data["live4d_vbf"], first[0]) or not np.isfinite(first[0]).all():
                    raise RuntimeError(f"the image of trigger {done} is wrong: no number is reported")
                done += 1
                if done % _EVERY == 0:
                    session.samples.add(done)

            began = time.monotonic()
            session.count(TRIGGERS, check, lambda: not done or time.monotonic() < deadline)
            took = time.monotonic() - began
    return {"wanted": TRIGGERS, "done": done, "seconds": took, **session.samples.report()}


def _frames(deadline: float) -> dict:
    """Large rasters, flat out, one a run: each connects anew."""
    from live4d_ophyd import Live4D, ScanGrid

    size = SIZES[FRAME_SIZE]
    count = FRAME_GRID[0] * FRAME_GRID[1]
    truth = size.image(count).reshape(FRAME_GRID)
    done, lost, streaming = 0, 0, 0.0
    with closing(Source(FRAME_SIZE)) as source:
        device = Live4D(
            source.endpoint, name="live4d", scan=ScanGrid(*FRAME_GRID), methods=[size.disk], timeout=30.0
        )
        with closing(device):
            session = _Session(device)

            def check(data: dict) -> None:
                nonlocal done, lost, streaming
                wrong = int((data["live4d_vbf"] != truth).sum())
                if wrong != data["live4d_frames_lost"]:
                    raise RuntimeError(
                        f"{wrong} sums are wrong, {data['live4d_frames_lost']} frames lost: no number is reported"
                    )
                done += count
                lost += data["live4d_frames_lost"]
                streaming += count / data["live4d_frame_rate"]

            while not done or (done < FRAMES and time.monotonic() < deadline):
                source.start(count)
                session.count(1, check, lambda: True)
                source.finish()
                session.samples.add(done / 1e6)
                print(f"{done / 1e6:.1f} million frames", file=sys.stderr, flush=True)
            backend = device.backend_detail.get()
    return {
        "wanted": FRAMES, "done": done, "lost": lost, "khz": done / streaming / 1e3, "backend": backend,
        "frames": size.name, **session.samples.report(),
    }  # fmt: skip


def run(minutes: float = 10.0) -> dict:
    """Both, in ``minutes`` at most: a third of them for the triggers, what is left for the frames."""
    began = time.monotonic()
    return {
        "benchmark": "soak",
        "command": "live4d bench soak",
        "minutes": minutes,
        "machine": machine(),
        "results": {
            "triggers": _triggers(began + minutes * 20),
            "frames": _frames(began + minutes * 60),
        },
    }


def table(report: dict) -> str:
    triggers, frames = report["results"]["triggers"], report["results"]["frames"]
    each = triggers["seconds"] / triggers["done"] * 1e3
    return "\n".join(
        [
            f"{triggers['done']} of {triggers['wanted']} triggers, {each:.0f} ms each",
            *_lines(triggers, "trigger {:.0f}", 1000, "1,000 triggers"),
            "",
            f"{frames['done'] / 1e6:.2f} of {frames['wanted'] / 1e6:.0f} million frames of {frames['frames']}, "
            f"{frames['khz']:.1f} kHz, {frames['lost']} lost ({frames['backend']})",
            *_lines(frames, "{:.2f} million frames", 1, "million frames"),
        ]
    )


def _lines(part: dict, where: str, unit: float, per: str) -> list[str]:
    """A process' resources at a tenth of the way and at the end, and its growth per ``unit`` of ``at``."""
    lines = [f"{'':26} {'process':8} {'MB':>7} {'threads':>8} {'sockets':>8} {'files':>6}"]
    for row in (max(0, len(part["at"]) // 10 - 1), len(part["at"]) - 1):
        for name, process in part["processes"].items():
            r = process["samples"][row]
            held = f"{r['rss_mb']:7.1f} {r['threads']:8d} {r['sockets']:8d} {r['files']:6d}"
            lines.append(f"{where.format(part['at'][row]):26} {name:8} {held}")
    for name, process in part["processes"].items():
        growth = process["growth_mb"]
        text = (
            "too short to tell"
            if growth is None
            else f"{growth * unit:+.2f} MB per {per}, over the second half"
        )
        lines.append(f"{'growth':26} {name:8} {text}")
    return lines
