"""RasterSignals: what a raster brings besides the outputs of methods: counts of frames, and what its series says.

In: a `RasterResult`, in the engine client's thread. Out: signals with the kind "normal".
"""

from __future__ import annotations

import logging
import math
from dataclasses import fields

from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd.device.channel_signals import put_channel
from live4d_ophyd.device.signals import Value
from live4d_ophyd.engine import RasterResult

log = logging.getLogger(__name__)


class RasterSignals(Device):
    """The numbers and texts of the newest raster."""

    frames_expected = Cpt(Value, value=0, kind="normal")
    frames_received = Cpt(Value, value=0, kind="normal")
    frames_lost = Cpt(Value, value=0, kind="normal")
    frames_bad = Cpt(Value, value=0, kind="normal")
    frames_dropped = Cpt(Value, value=math.nan, kind="normal")  #: by the detector itself; NaN: not known
    frames_saturated = Cpt(Value, value=0, kind="normal")
    #: that can be decoded, and are in the file, or are not; and the file, as it is seen here
    frames_recorded = Cpt(Value, value=0, kind="normal")
    frames_unrecorded = Cpt(Value, value=0, kind="normal")
    recorded_file = Cpt(Value, value="", kind="normal")
    series_id = Cpt(Value, value=0, kind="normal")
    #: what the series says of itself, and what was made of its pixels: `SeriesInfo`
    series_unique_id = Cpt(Value, value="", kind="normal")
    series_channel = Cpt(Value, value="", kind="normal")
    series_detector = Cpt(Value, value="", kind="normal")
    series_energy = Cpt(Value, value=math.nan, units="eV", kind="normal")
    series_threshold = Cpt(Value, value=math.nan, units="eV", kind="normal")
    series_count_time = Cpt(Value, value=math.nan, units="s", kind="normal")
    series_frame_time = Cpt(Value, value=math.nan, units="s", kind="normal")
    series_saturation = Cpt(Value, value=math.nan, units="counts", kind="normal")
    series_pixels_masked = Cpt(Value, value=0, kind="normal")
    series_pixels_spread = Cpt(Value, value=0, kind="normal")
    series_pixel_mask = Cpt(Value, value="", kind="normal")
    series_detector_mask = Cpt(Value, value="", kind="normal")
    frame_rate = Cpt(Value, value=math.nan, units="Hz", kind="normal")

    def put_raster(self, raster: RasterResult, recorded_file: str = "") -> None:
        """Put all of ``raster`` but the outputs of methods into the signals; what was lost is logged.

        ``recorded_file``: where the file of its frames is seen here.
        """
        losses = raster.losses
        self.frames_expected.put(losses.expected)
        self.frames_received.put(losses.received)
        self.frames_lost.put(losses.lost)
        self.frames_bad.put(losses.bad)
        self.frames_dropped.put(math.nan if raster.dropped is None else float(raster.dropped))
        self.frames_saturated.put(losses.saturated)
        recorded = raster.recorded
        self.frames_recorded.put(0 if recorded is None else recorded.frames)
        self.frames_unrecorded.put(0 if recorded is None else recorded.unrecorded)
        self.recorded_file.put(recorded_file)
        self.series_id.put(raster.series_id)
        for said in fields(raster.info):
            getattr(self, f"series_{said.name}").put(getattr(raster.info, said.name))
        self.frame_rate.put(math.nan if raster.rate_hz is None else raster.rate_hz)
        for channel, there in raster.further.items():
            put_channel(self, channel, there)
            if there.losses.bad:
                log.warning(
                    "%s: series %d: %d of %d frames bad in channel %r", self.name, raster.series_id,
                    there.losses.bad, there.losses.expected, channel,
                )  # fmt: skip
        if losses.lost or losses.bad:
            log.warning(
                "%s: series %d: %d of %d frames lost, %d bad", self.name, raster.series_id, losses.lost,
                losses.expected, losses.bad,
            )  # fmt: skip
        if recorded is not None and recorded.unrecorded:
            log.warning(
                "%s: series %d: %d of %d frames not recorded", self.name, raster.series_id, recorded.unrecorded,
                losses.received,
            )  # fmt: skip
