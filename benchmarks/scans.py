"""`live4d bench scans`: what a frame costs over the size of the scan and the number of methods, and
what fits and images of large scans take.

From compressed frames in memory, one lane, on the GPU if there is one, else on the CPU. In the first two tables the
cost is CPU time of the lane's thread, and on a GPU time of the clock. Every bright-field sum is checked. The third
table is of whole scans, each in a process of its own: the time of one fit, of one preview and of the result, and how
much memory it took at most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.batches import BATCH, batch_of
from benchmarks.by_devices import cards_here
from benchmarks.methods import Lane, method_sets, prepared_for
from benchmarks.report import machine
from benchmarks.source import SIZES, ScannedSize
from live4d_ophyd.decode import FrameFormat, choose_backend
from live4d_ophyd.decode.decoder import Part
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.preparation import Prepared
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid

SIDES = (64, 256, 1024)
SETS = ("VBF", "VBF, parallax", "VBF, CoM, parallax, strain")
NUMBERS = (1, 4, 16, 64)
#: batches of a measurement
BATCHES = 4
WHOLE = (256, 512, 1024)


@dataclass(frozen=True)
class _InBlocks:
    """Frames at the rows and columns that they were simulated at, whole scans of `EDGE` beside each other."""

    imaging: Imaging

    @property
    def prepared(self) -> Prepared:
        return self.imaging.prepared

    def add(self, positions: np.ndarray, part: Part) -> None:
        cols, edge = self.imaging._scan.cols, ScannedSize.EDGE
        block, frame = np.divmod(positions, edge**2)
        down, right = np.divmod(block, cols // edge)
        row, col = np.divmod(frame, edge)
        self.imaging.add((down * edge + row) * cols + right * edge + col, part)


class Scans:
    """Frames of one size, and imaging of them on what there is."""

    def __init__(self, size: ScannedSize) -> None:
        self.size, self.backend = size, choose_backend("gpu" if cards_here() else "cpu")
        self._frame = FrameFormat(size.side, size.side, np.dtype(size.dtype))
        batches = [batch_of(size, number) for number in range(size.EDGE**2 // BATCH)]
        self._lane = Lane(0, self.backend, self._frame, batches)

    def imaging(self, methods: Sequence[Method], scan: ScanGrid) -> Imaging:
        return Imaging(prepared_for(self.size, self._frame, methods, scan), scan)

    def scan(self, side: int) -> ScanGrid:
        return ScanGrid(side, side, step=self.size.STEP_NM, unit="nm")

    def feed(self, imaging: Imaging | _InBlocks, batches: int) -> float:
        """Seconds: of the lane's thread on a CPU, of the clock on a GPU."""
        began = time.perf_counter()
        self._lane.run(imaging, 0, batches)
        if self.backend.name == "cpu":
            return self._lane.cpu
        synchronise()
        return time.perf_counter() - began

    def cost(self, methods: Sequence[Method], side: int) -> float:
        """us a frame, and the bright-field sums right."""
        imaging = self.imaging(methods, self.scan(side))
        self.feed(imaging, BATCHES)  # memory is made, and touched
        took = self.feed(imaging, BATCHES)
        count = min(BATCHES * BATCH, side**2)
        found = imaging.preview(0)["vbf"].ravel()[:count]
        if (found != self.size.image(count)).any():
            raise RuntimeError("sums are wrong: no number is reported")
        return 1e6 * took / (BATCHES * BATCH)


def synchronise() -> None:
    import torch

    torch.cuda.synchronize()


def tables(key: str, rounds: int) -> dict:
    """us a frame by set of methods and scan, and by number of virtual detectors; interleaved."""
    scans = Scans(SIZES[key])  # type: ignore[arg-type]
    size, sets = scans.size, method_sets(scans.size)
    radii = np.linspace(size.radius / 4, size.radius, NUMBERS[-1]).tolist()
    names = [f"disk_{n}" for n in range(len(radii) - 1)] + ["vbf"]
    disks = [Disk(name, center=size.disk.center, radius=radius) for name, radius in zip(names, radii)]
    cases: dict[str, Callable[[], float]] = {
        f"{name}, {side} x {side}": lambda name=name, side=side: scans.cost(sets[name], side)
        for name in SETS
        for side in SIDES
    }
    cases |= {
        f"{count} virtual detectors, 256 x 256": lambda count=count: scans.cost(disks[-count:], 256)
        for count in NUMBERS
    }
    cost: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, measured in cases.items():
            cost[name].append(measured())
            print(name, f"{cost[name][-1]:.2f} us a frame", file=sys.stderr, flush=True)
    return {"backend": scans.backend.name, "us_a_frame": {name: median(of) for name, of in cost.items()}}


def whole(key: str, side: int, set_: str) -> dict[str, Any]:
    """One scan through the methods, its fits and its images; in a process of its own."""
    scans = Scans(SIZES[key])  # type: ignore[arg-type]
    methods = method_sets(scans.size)[set_]
    warm = scans.imaging(methods, scans.scan(64))
    scans.feed(warm, 1)
    _timed(warm)
    del warm
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far
    imaging = scans.imaging(methods, scans.scan(side))
    found = {"feed_s": scans.feed(_InBlocks(imaging), side**2 // BATCH), **_timed(imaging)}
    if "parallax_reason" in (given := imaging.preview(0)):
        found |= {"reason": float(given["parallax_reason"]), "c10": float(given["parallax_C10"])}
    found |= {"host_mb": _resident("VmHWM") - before, "frames": side**2}
    if scans.backend.name == "gpu":
        import torch

        found["gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def _resident(what: str) -> float:
    """Memory of this process, now or at most, MB."""
    line = next(of for of in Path("/proc/self/status").read_text().splitlines() if of.startswith(what))
    return int(line.split()[1]) / 1024


def _timed(imaging: Imaging) -> dict[str, float]:
    took = {}
    for name, work in {
        "refit_s": lambda: [imaging.refit(method, 0, lambda: False) for method in imaging.refitting],
        "preview_s": lambda: imaging.preview(0),
        "result_s": lambda: imaging.result(0),
    }.items():
        began = time.perf_counter()
        work()
        took[name] = time.perf_counter() - began
    return took


def run(rounds: int = 3) -> dict[str, Any]:
    report: dict[str, Any] = {"benchmark": "scans", "command": f"live4d bench scans --rounds {rounds}"}
    report |= {"machine": machine(), "frames": SIZES["192scan"].name, "rounds": rounds}
    report |= tables("192scan", rounds)
    report["whole"] = {}
    for set_ in SETS:
        for side in WHOLE:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                found = process.submit(whole, "192scan", side, set_).result()
            report["whole"][f"{set_}, {side} x {side}"] = found
            print(f"{set_}, {side} x {side}: {found['result_s']:.1f} s", file=sys.stderr, flush=True)
    return report


def table(report: dict) -> str:
    lines = [f"{'from compressed frames, ' + report['backend']:45} {'us a frame':>10}"]
    lines += [f"{name:45} {us:10.2f}" for name, us in report["us_a_frame"].items()]
    lines.append(
        f"{'whole scans':45} {'fit, s':>8} {'preview, s':>10} {'result, s':>10} {'host, MB':>9} {'GPU, MB':>8}"
    )
    for name, r in report["whole"].items():
        lines.append(
            f"{name:45} {r['refit_s']:8.2f} {r['preview_s']:10.2f} {r['result_s']:10.2f} {r['host_mb']:9.0f}"
            f" {r.get('gpu_mb', 0):8.0f}"
        )
    return "\n".join(lines)
