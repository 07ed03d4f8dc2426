"""AcquisitionSettings: what a user sets of an acquisition besides the methods, and the request that comes of it.

In: constructor arguments and ``set`` of plans. Out: an `AcquisitionRequest`. Threads: the callers'.
"""

from __future__ import annotations

import math
from typing import Any

from live4d_ophyd import checks
from live4d_ophyd.device.imaging_settings import ImagingSettings
from live4d_ophyd.device.recording_path import check_map, check_template
from live4d_ophyd.device.signals import Flag, Number, Text, Whole, setting
from live4d_ophyd.engine import AcquisitionRequest
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


class AcquisitionSettings(ImagingSettings):
    """Those of the stream and the detector, as signals."""

    connections = setting(Whole, value=1, least=1, most=MAX_CONNECTIONS)
    endpoint = setting(Text, value="", check=lambda text: checks.addresses("it", text))
    channel = setting(Text, value="")
    dwell_time = setting(DwellTime, value=math.nan, units="s")
    record = setting(Text, value="", check=check_template)
    record_map = setting(Text, value="", check=check_map)
    record_flyback = setting(Flag, value=False)
    timeout = setting(Number, value=10.0, positive=True, most=checks.LONGEST_S, units="s")
    movie_rasters = setting(Whole, value=10, least=1)  #: rasters of one flight (kickoff to complete)

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
            bad_pixels=self.bad_pixels.get(),
            pixel_mask=self.pixel_mask.get(),
            gain=self.gain.get(),
            calibration=self.calibration(),
            **others,
        )
