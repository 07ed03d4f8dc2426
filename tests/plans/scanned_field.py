"""A Live4D whose engine is a formula: stripes that defocus blurs, and a bright-field disk.

The device is the real one; only what answers ``acquire`` is replaced. Rasters come from threads of its own, when
``open_gate`` lets them.
"""

from __future__ import annotations

import threading

import numpy as np
from ophyd.sim import SynAxis

from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid
from live4d_ophyd.engine.process.protocol import Done, Failed, Failure, RasterDone
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Losses, RasterResult
from live4d_ophyd.imaging import method

SCAN = (24, 32)
DETECTOR = (64, 64)
BEST_DEFOCUS = 12.0
CENTER, RADIUS = (30.3, 33.8), 11.4


class Axis(SynAxis):
    """A motor with a unit."""

    def __init__(self, *, unit: str = "nm", **kwargs):
        super().__init__(**kwargs)
        self.unit = unit

    def describe(self):
        return {key: {**value, "units": self.unit} for key, value in super().describe().items()}


class FormulaEngine:
    """The part of EngineClient that a device uses."""

    alive = True
    backend = "formula"
    backend_detail = "for tests"
    versions = "formula 1"

    def __init__(self, defocus: SynAxis) -> None:
        self.defocus = defocus
        self.gate = threading.Semaphore(0)
        self.closed = False
        self.contrast = 1.0
        self.counts = 1000
        self.beam_on_detector = True
        self.lattice: tuple | None = None  #: g1 and g2 of a crystal, whose disks have a radius of 6 px
        self.hot = 0  #: pixels that count 40 in every frame, in row 3 from column 5 on
        self.fails_at: int | None = None
        self.asked: list[AcquisitionRequest] = []
        self.threads: list[threading.Thread] = []
        self.open_gate(10_000)

    def open_gate(self, rasters: int) -> None:
        """Let so many more rasters through."""
        self.gate.release(rasters)

    def close_gate(self) -> None:
        """No more rasters, until it is opened again."""
        while self.gate.acquire(blocking=False):
            pass

    def wait_ready(self, timeout=None):
        """It always is."""

    def request_preview(self):
        """It has none."""

    def acquire(self, generation, request, on_event):
        self.asked.append(request)
        thread = threading.Thread(target=self._take, args=(generation, request, on_event), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _take(self, generation, request, on_event):
        for index in range(request.rasters):
            self.gate.acquire()
            if self.closed:
                return
            if self.fails_at == len(self.asked):
                on_event(Failed(generation, Failure("NothingCame", "no frame for 10 s")))
                return
            on_event(RasterDone(generation, self._raster(request, index)))
        on_event(Done(generation))

    def _raster(self, request, index):
        away = (self.defocus.position - BEST_DEFOCUS) / 40
        stripes = np.sin(np.arange(request.grid.cols))[np.newaxis, :] * np.ones((request.grid.rows, 1))
        image = self.counts * (1 + 0.2 * self.contrast / (1 + away**2) * stripes)
        made = {method.SCAN: image, method.PATTERN: self._pattern(), (): np.array(RADIUS)}
        outputs = {name: made[output.dims] for name, output in request.outputs().items()}
        losses = Losses(request.grid.frames, request.grid.frames, 0, 0)
        return RasterResult(
            index,
            outputs,
            losses,
            len(self.asked),
            30e3,
            "formula",
        )

    def _pattern(self):
        if not self.beam_on_detector:
            return np.random.default_rng(0).poisson(0.02, DETECTOR).astype(float)
        rows, cols = np.indices(DETECTOR)
        distance = np.hypot(rows - CENTER[0], cols - CENTER[1])
        pattern = 50 * np.clip(RADIUS - distance + 0.5, 0, 1) + 0.1
        if self.lattice is not None:
            pattern += 49.9 * np.clip(6.0 - distance + 0.5, 0, 1) - pattern + 0.1
            for order in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, -1)):
                row, col = CENTER + np.array(order) @ np.array(self.lattice)
                pattern += 5 * np.clip(6.0 - np.hypot(rows - row, cols - col) + 0.5, 0, 1)
        pattern.reshape(-1)[3 * DETECTOR[1] + 5 :][: 7 * self.hot : 7] = 40
        return pattern

    def cancel(self, generation):
        pass

    def release(self):
        pass

    def close(self):
        self.closed = True
        self.open_gate(len(self.threads) + 1)
        for thread in self.threads:
            thread.join()


def scanned_field(defocus: SynAxis) -> tuple[Live4D, FormulaEngine]:
    """Device and engine; the engine's raster depends on ``defocus``."""
    live4d = Live4D(
        "tcp://nowhere:1",
        name="live4d",
        scan=ScanGrid(*SCAN, step=0.5, unit="nm"),
        methods=[
            Disk("vbf", radius=10),
            Annulus("adf", inner=14, outer=30),
            Disk("spot", center=(5, 5), radius=2),
        ],
    )
    engine = FormulaEngine(defocus)
    live4d._client = engine
    return live4d, engine
