"""ImagingSettings: what a user sets of images besides the methods: scan, pixels that count, calibration. Live or not.

In: constructor arguments and ``set`` of plans. Out: a `ScanGrid`. Threads: the callers'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from ophyd import Device

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.device.calibration_origin import CalibrationOrigin
from live4d_ophyd.device.consistent_settings import ConsistentSettings
from live4d_ophyd.device.pixel_array import PixelArray
from live4d_ophyd.device.signals import Choice, Flag, Number, Setting, Text, Vector, Whole, setting
from live4d_ophyd.engine.request import SATURATED
from live4d_ophyd.scan import MOST, ScanGrid


class ImagingSettings(ConsistentSettings, Device):
    """The settings as signals; they are in the configuration, and in every Event."""

    scan_rows = setting(Whole, value=1, least=1, most=MOST)
    scan_cols = setting(Whole, value=1, least=1, most=MOST)
    scan_serpentine = setting(Flag, value=False)
    scan_flyback = setting(Whole, value=0, least=0, most=MOST)
    scan_last_flyback = setting(Flag, value=True)
    scan_lead_in = setting(Whole, value=0, least=0, most=MOST)
    scan_step_y = setting(Number, value=1.0, positive=True)
    scan_step_x = setting(Number, value=1.0, positive=True)
    scan_unit = setting(Text, value="px")
    nodata = setting(Flag, value=True)
    saturated = setting(Choice, value=SATURATED[0], choices=SATURATED)
    bad_pixels = setting(Choice, value=checks.BAD_PIXELS[0], choices=checks.BAD_PIXELS)
    pixel_mask = setting(PixelArray, check=checks.pixel_mask, mask=True)
    gain = setting(PixelArray, check=checks.gain)
    calibration_center = setting(Vector, value=(math.nan, math.nan), units="px")
    calibration_bf_radius = setting(Number, value=math.nan, positive=True, nan=True, units="px")
    calibration_mrad_per_px = setting(Number, value=math.nan, positive=True, nan=True, units="mrad")
    calibration_ellipticity = setting(Number, value=math.nan, least=1.0, nan=True)
    calibration_ellipse_angle = setting(Number, value=math.nan, nan=True, units="deg")
    calibration_rotation = setting(Number, value=math.nan, nan=True, units="deg")
    calibration_transpose = setting(Flag, value=False)
    calibration_semiangle = setting(Number, value=math.nan, positive=True, nan=True, units="mrad")
    calibration_camera_length = setting(Number, value=math.nan, positive=True, nan=True, units="m")
    calibration_energy = setting(Number, value=math.nan, positive=True, nan=True, units="eV")
    calibration_name = setting(CalibrationOrigin)
    calibration_uid = setting(CalibrationOrigin)
    calibration_runs = setting(CalibrationOrigin)

    def put_settings(self, scan: ScanGrid, calibration: Calibration = NOT_CALIBRATED, **values: Any) -> None:
        """Put ``scan``, ``calibration`` and other ``values``, by the names of the signals."""
        for name, value in calibration_values(calibration).items():
            getattr(self, name).put(value)
        self.scan_rows.put(scan.rows)
        self.scan_cols.put(scan.cols)
        self.scan_serpentine.put(scan.serpentine)
        self.scan_flyback.put(scan.flyback)
        self.scan_last_flyback.put(scan.last_flyback)
        self.scan_lead_in.put(scan.lead_in)
        self.scan_step_y.put(scan.steps[0])
        self.scan_step_x.put(scan.steps[1])
        self.scan_unit.put(scan.unit)
        for name, value in values.items():
            getattr(self, name).put(value)

    def grid(self) -> ScanGrid:
        """The scan geometry as the signals have it now."""
        return ScanGrid(
            rows=self.scan_rows.get(),
            cols=self.scan_cols.get(),
            serpentine=self.scan_serpentine.get(),
            flyback=self.scan_flyback.get(),
            last_flyback=self.scan_last_flyback.get(),
            lead_in=self.scan_lead_in.get(),
            step=(self.scan_step_y.get(), self.scan_step_x.get()),
            unit=self.scan_unit.get(),
        )

    def calibration(self, instead: Mapping[str, Any] | None = None) -> Calibration:
        """The pattern's calibration as the signals have it now, or with those of ``instead``, by the signals' names."""
        values: dict[str, Any] = {}
        for field in fields(Calibration):
            name = f"calibration_{field.name}"
            value = instead[name] if instead and name in instead else getattr(self, name).get()
            values[field.name] = None if np.isnan(value).any() else value
        return Calibration(**values)

    def calibration_in_words(self) -> str:
        """All that a stored calibration has, to tell whether anything of it changed."""
        names = [*calibration_values(NOT_CALIBRATED), "bad_pixels", "pixel_mask", "gain"]
        readings = [reading for name in names for reading in getattr(self, name).read().items()]
        return repr([(key, reading["value"]) for key, reading in readings])

    def settings_now(self) -> dict[str, Any]:
        """Readings of all settings, those of the methods included, and not those of the detector."""
        readings: dict[str, Any] = {}
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, Setting):
                readings.update(signal.read())
        return readings


def calibration_values(calibration: Calibration) -> dict[str, Any]:
    """What the signals of a calibration are set to, by their names; NaN is not known."""
    unknown = {"center": (math.nan, math.nan)}
    values = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
    return {
        f"calibration_{name}": unknown.get(name, math.nan) if value is None else value
        for name, value in values.items()
    }
