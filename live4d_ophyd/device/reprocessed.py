"""Reprocessed: a raster of recorded frames as a device has it, so that its run reads like that of a live one.

In: what the engine was asked for, and the raster that it made. Out: data keys, readings and configuration, by the
names that `Live4D` gives them; without those of the stream, the detector and the recorder. Runs in the caller's thread.
"""

from __future__ import annotations

from typing import Any

from live4d_ophyd.device.engine_link import BackendSignals
from live4d_ophyd.device.method_signals import MethodSignals, device_class
from live4d_ophyd.device.raster_signals import RasterSignals
from live4d_ophyd.engine import AcquisitionRequest, RasterResult
from live4d_ophyd.engine.versions import software

#: what nobody knows of a file: what a detector dropped; and of a file that was not recorded now
_NOT_SAID = ("frames_dropped", "frames_recorded", "frames_unrecorded")


class Reprocessed(BackendSignals, MethodSignals, RasterSignals):
    """The signals of one request's raster."""

    @classmethod
    def of(cls, name: str, request: AcquisitionRequest) -> Reprocessed:
        """Without a raster yet. Raises ValueError for methods whose names the device has for something else."""
        made = device_class(cls, request.methods, request.grid)
        device: Reprocessed = made("", name=name, methods=request.methods)
        device.put_settings(
            request.grid, request.calibration, nodata=request.nodata, saturated=request.saturated,
            bad_pixels=request.bad_pixels, pixel_mask=request.pixel_mask, gain=request.gain,
        )  # fmt: skip
        device.versions.put(software())
        return device

    def put(self, raster: RasterResult, path: str, detail: str) -> None:
        """``path`` of its frames; ``detail`` of where they were decoded."""
        self.put_outputs(raster.outputs)
        self.put_raster(raster, path)
        self.backend.put(raster.backend)
        self.backend_detail.put(detail)

    def read(self) -> dict[str, Any]:
        return self._said(super().read())

    def describe(self) -> dict[str, Any]:
        with self.outputs_held():
            return self._said(super().describe())

    def _said(self, keys: dict[str, Any]) -> dict[str, Any]:
        unsaid = {f"{self.name}_{name}" for name in _NOT_SAID}
        return {key: value for key, value in self.without_disabled(keys).items() if key not in unsaid}
