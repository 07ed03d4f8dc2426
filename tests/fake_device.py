"""A device with the data keys, preview and status of Live4D, its raster advanced by hand or by time.

Comes in: ``advance(n)`` or ``rows_per_s``. Fenced like the real one: a cancelled exposure changes nothing.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
from bluesky import RunEngine
from ophyd import Component as Cpt
from ophyd import Device, Kind, Signal
from ophyd.status import DeviceStatus


@contextmanager
def run_engine():
    """A RunEngine whose thread and event loop are gone afterwards."""
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(timeout=10)
    engine.loop.close()


class ImageSignal(Signal):
    """A 2-D float64 image."""

    def describe(self):
        shape = list(np.shape(self.get()))
        return {
            self.name: {
                "source": f"SIM:{self.name}",
                "dtype": "array",
                "shape": shape,
                "dtype_numpy": "<f8",
                "units": "counts",
                "dims": ["scan_y", "scan_x"],
            }
        }


class WatchedStatus(DeviceStatus):
    """A status with bluesky's progress protocol."""

    def __init__(self, device, total):
        super().__init__(device)
        self.total = total
        self.begin = time.time()
        self.watchers = []

    def watch(self, func):
        self.watchers.append(func)

    def report(self, frames):
        elapsed = time.time() - self.begin
        for func in self.watchers:
            func(
                name=self.device.name,
                current=frames,
                initial=0,
                target=self.total,
                unit="frames",
                precision=0,
                fraction=frames / self.total,
                time_elapsed=elapsed,
                time_remaining=None,
                rate=frames / elapsed if elapsed else None,
            )


class FakePreview:
    """What the device has seen so far, under the same image keys as the device."""

    def __init__(self, device):
        self._device = device
        self.name = f"{device.name}_preview"
        self.parent = None
        self.reads = []  # whether an exposure was going on, one a read

    @property
    def hints(self):
        return {"fields": []}

    def describe(self):
        images = {key: value for signal in self._device.images for key, value in signal.describe().items()}
        fraction = {"source": "SIM", "dtype": "number", "shape": []}
        return {**images, f"{self._device.name}_live_fraction": fraction}

    def read(self):
        device = self._device
        self.reads.append(device.status is not None and not device.status.done)
        with device.lock:  # image and fraction of one moment
            now = device.changed_at
            seen = {
                signal.name: {"value": image, "timestamp": now} for signal, image in device.partial_images()
            }
            fraction = device.seen / device.shape[0]
        return {**seen, f"{device.name}_live_fraction": {"value": fraction, "timestamp": now}}

    def read_configuration(self):
        return self._device.read_configuration()

    def describe_configuration(self):
        return self._device.describe_configuration()


class FakeLive4D(Device):
    """Rasters line by line: ``rows_per_s`` lines a second, or as the test calls ``advance``."""

    vbf = Cpt(ImageSignal, value=np.zeros((1, 1)), kind="normal")
    adf = Cpt(ImageSignal, value=np.zeros((1, 1)), kind="normal")
    vbf_mean = Cpt(Signal, value=0.0, kind="hinted")
    vbf_contrast = Cpt(Signal, value=0.0, kind="hinted")
    frames_received = Cpt(Signal, value=0, kind="normal")
    scan_step_y = Cpt(Signal, value=0.5, kind="config")
    scan_step_x = Cpt(Signal, value=0.25, kind="config")
    scan_unit = Cpt(Signal, value="nm", kind="config")

    def __init__(self, *, name, shape=(16, 24), rows_per_s=None, detectors=("vbf",), seed=1):
        super().__init__("", name=name)
        self.shape = shape
        self.rows_per_s = rows_per_s
        self.images = [self.vbf, self.adf][: len(detectors)]
        for signal in (self.vbf, self.adf):
            signal.put(np.full(shape, np.nan))
        self.adf.kind = Kind.normal if len(detectors) > 1 else Kind.omitted
        self.random = np.random.default_rng(seed)
        self.preview = FakePreview(self)
        self.status = None
        self.seen = 0
        self.triggers = 0
        self.changed_at = 0.0
        self.lock = threading.RLock()
        self.triggered = threading.Event()
        self.complete = [self._specimen(signal) for signal in self.images]

    def _specimen(self, signal):
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        waves = np.sin(x / 3 + self.images.index(signal)) * np.cos(y / 4)
        return 1000 + 100 * waves + self.random.normal(0, 10, self.shape)

    def partial_images(self):
        for signal, image in zip(self.images, self.complete):
            seen = np.full(self.shape, np.nan)
            seen[: self.seen] = image[: self.seen]
            yield signal, seen

    def trigger(self):
        with self.lock:
            self.triggers += 1
            self.seen = 0
            self.changed_at = time.time()
            status = self.status = WatchedStatus(self, self.shape[0] * self.shape[1])
        if self.rows_per_s:
            threading.Thread(target=self._raster, args=(status,), daemon=True).start()
        self.triggered.set()
        return status

    def _raster(self, status):
        for _ in range(self.shape[0]):
            time.sleep(1 / self.rows_per_s)  # the beam's dwell time, not a synchronisation
            self.advance(1, status)

    def advance(self, rows, status=None):
        """Expose ``rows`` more lines; the last one finishes the status."""
        with self.lock:
            status = status or self.status
            if status is not self.status or status.done:
                return
            self.seen = min(self.seen + rows, self.shape[0])
            self.changed_at = time.time()
            status.report(self.seen * self.shape[1])
            if self.seen == self.shape[0]:
                for signal, image in zip(self.images, self.complete):
                    signal.put(image)
                self.vbf_mean.put(float(self.complete[0].mean()))
                self.vbf_contrast.put(float(self.complete[0].std() / self.complete[0].mean()))
                self.frames_received.put(status.total)
                status.set_finished()

    def fail(self, reason):
        """End the exposure with an error."""
        self.status.set_exception(RuntimeError(reason))

    def _cancel(self):
        with self.lock:
            if self.status is not None and not self.status.done:
                self.status.set_finished()

    def pause(self):
        self._cancel()

    def unstage(self):
        self._cancel()
        return super().unstage()
