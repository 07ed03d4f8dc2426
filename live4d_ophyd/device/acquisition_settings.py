"""AcquisitionSettings: what a user sets of an acquisition besides the methods, and the request that comes of it.

In: constructor arguments and ``set`` of plans. Out: a `ScanGrid`, an `AcquisitionRequest`. Threads: the callers'.
"""

from __future__ import annotations

import math
from typing import Any

from ophyd import Device

from live4d_ophyd import checks
from live4d_ophyd.device.consistent_settings import ConsistentSettings
from live4d_ophyd.device.pixel_array import PixelArray
from live4d_ophyd.device.recording_path import check_map, check_template
from live4d_ophyd.device.signals import Choice, Flag, Number, Setting, Text, Whole, setting
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.request import SATURATED
from live4d_ophyd.scan import MOST, ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import MAX_CONNECTIONS, DectrisSource


class DwellTime(Number):
    """Count and frame time together, s; NaN, the default, leaves those of the detector. Set when it is armed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, positive=True, nan=True, **kwargs)

    def accepted(self, value: Any) -> float:
        dwell = super().accepted(value)
        if not math.isnan(dwell) and self.parent is not None and self.parent.control is None:
            raise ValueError(
                f"{self.name} = {value!r}: nobody would set it on the detector, as the device has no control; "
                f"{self.parent.name}_series_frame_time has what the detector says"
            )
        return dwell


class AcquisitionSettings(ConsistentSettings, Device):
    """The settings as signals; they are in the configuration, and in every Event."""

    connections = setting(Whole, value=1, least=1, most=MAX_CONNECTIONS)
    endpoint = setting(Text, value="", check=lambda text: checks.addresses("it", text))
    channel = setting(Text, value="")
    scan_rows = setting(Whole, value=1, least=1, most=MOST)
    scan_cols = setting(Whole, value=1, least=1, most=MOST)
    scan_serpentine = setting(Flag, value=False)
    scan_flyback = setting(Whole, value=0, least=0, most=MOST)
    scan_last_flyback = setting(Flag, value=True)
    scan_lead_in = setting(Whole, value=0, least=0, most=MOST)
    scan_step_y = setting(Number, value=1.0, positive=True)
    scan_step_x = setting(Number, value=1.0, positive=True)
    scan_unit = setting(Text, value="px")
    dwell_time = setting(DwellTime, value=math.nan, units="s")
    nodata = setting(Flag, value=True)
    saturated = setting(Choice, value=SATURATED[0], choices=SATURATED)
    pixel_mask = setting(PixelArray, check=checks.pixel_mask, mask=True)
    gain = setting(PixelArray, check=checks.gain)
    record = setting(Text, value="", check=check_template)
    record_map = setting(Text, value="", check=check_map)
    record_flyback = setting(Flag, value=False)
    timeout = setting(Number, value=10.0, positive=True, most=checks.LONGEST_S, units="s")
    movie_rasters = setting(Whole, value=10, least=1)  #: rasters of one flight (kickoff to complete)

    def put_settings(self, scan: ScanGrid, **values: Any) -> None:
        """Put ``scan`` and other ``values``, by the names of the signals."""
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

    def request_for(self, control: Simplon | None, **others: Any) -> AcquisitionRequest:
        """The request that the settings make, with ``others`` that they do not say. Raises ValueError."""
        dwell = self.dwell_time.get()
        if dwell >= self.timeout.get():  # never true of NaN
            raise ValueError(
                f"{self.name}_dwell_time is {dwell:g} s, and {self.name}_timeout, the longest silence of the stream, "
                f"{self.timeout.get():g} s: dwell times are in seconds; or make the timeout longer"
            )
        return AcquisitionRequest(
            source=DectrisSource(
                self.endpoint.get(), self.connections.get(), self.channel.get(), simplon=control
            ),
            grid=self.grid(),
            frame_time=None if math.isnan(dwell) else dwell,
            timeout=self.timeout.get(),
            nodata=self.nodata.get(),
            saturated=self.saturated.get(),
            pixel_mask=self.pixel_mask.get(),
            gain=self.gain.get(),
            **others,
        )

    def settings_now(self) -> dict[str, Any]:
        """Readings of all settings, those of the methods included, and not those of the detector."""
        readings: dict[str, Any] = {}
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, Setting):
                readings.update(signal.read())
        return readings
