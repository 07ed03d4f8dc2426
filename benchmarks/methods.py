"""`live4d bench methods`: what methods cost, from compressed frames in memory to images, on one or several GPUs.

No network: lanes, a thread each, decode batches of 8192 prepared messages and feed the methods as receive threads do.
Lanes go to devices in turn. Every VBF sum is compared with the known one, all outputs with those of one device. Without
a GPU one lane decodes on the CPU, and what is reported is the CPU time of its thread.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks import by_devices
from benchmarks.batches import BATCH, batch_of, pinned
from benchmarks.by_devices import backend_of, cards_here, compared
from benchmarks.report import machine
from benchmarks.source import ENERGY_EV, SIZES, Size
from live4d_ophyd.decode import Backend, FrameFormat, choose_backend
from live4d_ophyd.decode.saturation import NODATA
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.preparation import Preparation, Prepared
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.dpc import DPC, IDPC
from live4d_ophyd.imaging.drawn_detectors import Points, Polygon
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.imaging.parallax import Parallax
from live4d_ophyd.imaging.pattern_statistics import MaxPattern, StdPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.strain import Strain
from live4d_ophyd.imaging.virtual_detectors import Annulus
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesInfo

#: batches that a lane decodes in a measurement
BATCHES = 24
LANES = (4, 8)
KEYS = ("192", "96u32")


def method_sets(size: Size) -> dict[str, tuple[Method, ...]]:
    """Methods that are measured together, by name."""
    disk, center = size.disk, size.disk.center
    adf = Annulus("adf", center=center, inner=1.2 * size.radius, outer=3 * size.radius)
    tiles = Segments("tiles", center=center, inner=0.3 * size.radius, outer=size.radius, rings=4, sectors=12)
    mass = CenterOfMass("com", replace(disk, name="com_disk"))
    # What an operator looks at: annular bright and dark field, a cell between the disks, a few spots, phase contrast.
    (row, col), radius = center or ((size.side - 1) / 2,) * 2, size.radius
    corners = [
        (row + y * radius, col + x * radius) for y, x in ((-0.5, 1.2), (-0.5, 2.2), (0.5, 2.2), (0.5, 1.2))
    ]
    spots = [(row + y * radius, col + x * radius) for y, x in ((1.7, 0), (-1.7, 0), (0, 1.7), (0, -1.7))]
    # 13 disks of nanobeam diffraction. What is under their windows makes no difference to the cost.
    strain = Strain(
        "strain", (row, col), g1=(0.66 * radius, 0.0), g2=(0.0, 0.66 * radius), radius=0.27 * radius
    )
    live = (
        disk,
        Annulus("abf", center=center, inner=0.5 * radius, outer=radius),
        adf,
        Points("spots", spots, radius=0.3 * radius),
        Polygon("cell", corners),
        mass,
        DPC("dpc"),
        IDPC("idpc"),
    )
    fitting = {}
    if size.calibration.bf_radius is not None:  # for frames that show a specimen
        parallax = Parallax("parallax")
        fitting = {
            "VBF, parallax": (disk, parallax),
            "VBF, CoM, parallax, strain": (disk, mass, parallax, strain),
        }
    return {
        "VBF": (disk,),
        **fitting,
        "VBF, 4 detectors, CoM": live,
        "VBF, 4 detectors, CoM, mean pattern": (*live, MeanPattern()),
        "mean pattern": (disk, MeanPattern()),
        "maximum pattern": (disk, MaxPattern()),
        "standard deviation pattern": (disk, StdPattern()),
        "VBF, strain windows": (disk, strain),
        "all": (disk, adf, tiles, mass, MeanPattern()),
    }


class Lane:
    """Decodes its batches in turn, two under way, and feeds the methods."""

    def __init__(
        self, number: int, backend: Backend, frame: FrameFormat, batches: Sequence[FrameBatch]
    ) -> None:
        self._number, self._decoder = number, backend.decoder(frame, saturation=NODATA)
        self._batches = [pinned(batch) for batch in batches] if backend.name == "gpu" else batches
        self._in_flight = max(1, backend.in_flight)

    def run(self, imaging: Imaging, first: int, batches: int) -> None:
        """``first``: the number of the lane's first batch in the series."""
        cpu = time.thread_time()
        under_way: deque[tuple[int, Any]] = deque()
        rows, demand = np.arange(BATCH), imaging.prepared.channels[""].demand
        for n in range(batches + self._in_flight):
            if n >= self._in_flight:
                begin, decoded = under_way.popleft()
                for part in decoded.parts():
                    with self._decoder.working():
                        imaging.add(begin + part.at, part)
            if n < batches:
                decoded = self._decoder.submit(self._batches[n % len(self._batches)], rows, demand)
                under_way.append(((first + n) * BATCH, decoded))
        self.cpu = time.thread_time() - cpu


def prepared_for(size: Size, frame: FrameFormat, methods: Sequence[Method], scan: ScanGrid) -> Prepared:
    """What frames of this size are asked for."""
    request = AcquisitionRequest(
        DectrisSource("tcp://dcu:31001"), scan, tuple(methods), calibration=size.calibration
    )
    series = SeriesInfo((1, 0), frame, saturation=int(np.iinfo(size.dtype).max), energy=ENERGY_EV)
    return Preparation().prepare(request, series, {})


def _measure(
    backend: Backend, size: Size, methods: Sequence[Method], lanes: int, batches: int, batch: FrameBatch
) -> tuple[float, dict[str, np.ndarray]]:
    """Frames per second, and the outputs."""
    scan = size.grid(lanes * batches * BATCH)
    frame = FrameFormat(size.side, size.side, np.dtype(size.dtype))
    prepared = prepared_for(size, frame, methods, scan)
    workers = [Lane(n, backend.of_lane(n), frame, [batch, batch]) for n in range(lanes)]
    for worker in workers:  # what is made once, or compiled
        worker.run(Imaging(prepared, scan), 0, 2)
    imaging, errors = Imaging(prepared, scan), []

    def work(worker: Lane, first: int) -> None:
        try:
            worker.run(imaging, first, batches)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker, n * batches)) for n, worker in enumerate(workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for where in imaging._devices(0):
        if where is not None:
            import torch

            torch.cuda.synchronize(where)
    seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    outputs = imaging.result(0)
    if (outputs["vbf"].reshape(-1) != np.resize(size.image(BATCH), scan.size)).any():
        raise RuntimeError("sums are wrong: no number is reported")
    if backend.name == "cpu":
        seconds = workers[0].cpu  # others may have the core meanwhile
    return lanes * batches * BATCH / seconds, outputs


def _on_the_cpu(rounds: int) -> dict:
    backend, results = choose_backend("cpu"), {}
    for key in ("192", "192u16", "96u32", "96"):
        size = SIZES[key]
        batch, sets = batch_of(size), method_sets(size)
        rates: dict[str, list[float]] = {name: [] for name in sets}
        for _ in range(rounds):
            for name, methods in sets.items():
                rates[name].append(_measure(backend, size, methods, 1, 1, batch)[0])
        for name, of in rates.items():
            results[f"{size.name}, {name}"] = {
                "khz": median(of) / 1e3,
                "khz_range": [min(of) / 1e3, max(of) / 1e3],
            }
    return {
        "benchmark": "methods",
        "command": f"live4d bench methods --rounds {rounds}",
        "rounds": rounds,
        "machine": machine() | {"backend": "cpu"},
        "cpu": results,
    }


def run(rounds: int = 3, devices: Sequence[int] = (1,), batches: int = BATCHES) -> dict:
    cards = cards_here()
    if not cards:
        return _on_the_cpu(rounds)
    backends = {count: choose_backend(backend_of(count, cards)) for count in devices}
    results: dict[str, dict] = {}
    for key, lanes in itertools.product(KEYS, LANES):
        size = SIZES[key]
        batch = batch_of(size)
        for name, methods in method_sets(size).items():
            rates: dict[int, list[float]] = {count: [] for count in devices}
            reference: dict[str, np.ndarray] | None = None
            for _ in range(rounds):
                for count, backend in backends.items():
                    rate, outputs = _measure(backend, size, methods, lanes, batches, batch)
                    rates[count].append(rate / 1e6)
                    reference = reference or outputs
                    for output, array in outputs.items():
                        if not np.array_equal(array, reference[output], equal_nan=True):
                            raise RuntimeError(f"{output} differs between {devices} devices")
            found = compared(rates, "mhz")
            results[f"{size.name}, {lanes} lanes, {name}"] = found
            print(name, size.name, lanes, found["mhz"], file=sys.stderr, flush=True)
    return {
        "benchmark": "methods",
        "command": f"live4d bench methods --devices {','.join(map(str, devices))} --rounds {rounds}",
        "rounds": rounds,
        "cards": cards,
        "machine": machine() | {"backend": backends[devices[-1]].detail},
        "results": results,
    }


def table(report: dict) -> str:
    if "cpu" in report:
        lines = [f"{'compressed frames in memory to images':45} {'kHz a core':>10} {'range':>15}"]
        for name, r in report["cpu"].items():
            low, high = r["khz_range"]
            lines.append(f"{name:45} {r['khz']:10.1f} {low:7.1f}-{high:<7.1f}")
        return "\n".join(lines)
    return by_devices.table("compressed frames in memory to images", report["results"], "mhz", 2)
