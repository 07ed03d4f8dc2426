"""ImagingSettings: what a user sets of images besides the methods: scan, pixels that count, calibration. Live or not.

In: constructor arguments and ``set`` of plans. Out: a `ScanGrid`. Threads: the callers'.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ophyd import Device

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
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
    pixel_mask = setting(PixelArray, check=checks.pixel_mask, mask=True)
    gain = setting(PixelArray, check=checks.gain)
    calibration_center = setting(Vector, value=(math.nan, math.nan), units="px")
    calibration_bf_radius = setting(Number, value=math.nan, positive=True, nan=True, units="px")
    calibration_mrad_per_px = setting(Number, value=math.nan, positive=True, nan=True, units="mrad")

    def put_settings(self, scan: ScanGrid, calibration: Calibration = NOT_CALIBRATED, **values: Any) -> None:
        """Put ``scan``, ``calibration`` and other ``values``, by the names of the signals."""
        self.calibration_center.put(calibration.center or (math.nan, math.nan))
        self.calibration_bf_radius.put(calibration.bf_radius or math.nan)
        self.calibration_mrad_per_px.put(calibration.mrad_per_px or math.nan)
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

    def calibration(self) -> Calibration:
        """The pattern's calibration as the signals have it now."""
        center, radius, mrad = (
            signal.get()
            for signal in (self.calibration_center, self.calibration_bf_radius, self.calibration_mrad_per_px)
        )
        return Calibration(*(None if np.isnan(value).any() else value for value in (center, radius, mrad)))

    def settings_now(self) -> dict[str, Any]:
        """Readings of all settings, those of the methods included, and not those of the detector."""
        readings: dict[str, Any] = {}
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, Setting):
                readings.update(signal.read())
        return readings
