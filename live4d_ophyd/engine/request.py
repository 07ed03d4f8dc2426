"""AcquisitionRequest: what an acquisition is asked for. A plain frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.engine.errors import RAISED_BY_METHODS, refuse_method
from live4d_ophyd.engine.recorder import Recording
from live4d_ophyd.imaging.method import Method, Output
from live4d_ophyd.imaging.of_channel import channels_of
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import FrameSource, SeriesRequest

#: frames of a series: each takes a byte of the engine's memory
MAX_FRAMES = 1 << 30
#: outputs of one raster; they travel to the session in one message (process.sockets.MAX_MESSAGE_BYTES)
MAX_OUTPUTS_BYTES = 800 << 20
#: what may become of pixels that hold no count
SATURATED = ("leave_out", "count", "nan")


@dataclass(frozen=True)
class AcquisitionRequest:
    """One series: ``rasters`` scans of ``grid``, imaged by ``methods``.

    Parameters
    ----------
    source : where the frames come from
    grid : scan geometry
    methods : what makes images of the frames, virtual detectors among it; names and outputs differ. Those that are
        `OfChannel` take the frames of a further channel, the others those of the source's
    rasters : scans that follow each other in one series
    stay_armed : each trigger takes the next raster of one series, and the detector stays armed between them
    nodata : pixels at the dtype's maximum hold no count
    saturated : what becomes of pixels that hold no count, those at the detector's saturation value included:
        "leave_out" of the sums, "count" them as they are, or make the position "nan"
    pixel_mask : bad pixels to leave out, (det rows, det cols), True is bad; adds to the stream's own mask
    bad_pixels : "exclude": bad pixels weigh nothing, and sums lack what they would have counted; "spread": each one's
        weight goes to its good neighbours, equally, as if it counted their mean
    gain : factor of each pixel, (det rows, det cols); makes images weighted sums
    calibration : of the pattern, for virtual detectors that are not in px
    frame_time : dwell time to set on the detector, s; None leaves it
    timeout : longest silence of the stream, s, from the start of listening on
    record : where the compressed frames are recorded; None: nowhere
    notes : what the header of the stream shall say of the scan besides its geometry (plan_name, uid)
    """

    source: FrameSource
    grid: ScanGrid
    methods: tuple[Method, ...]
    rasters: int = 1
    stay_armed: bool = False
    nodata: bool = True
    saturated: str = SATURATED[0]
    pixel_mask: np.ndarray | None = None
    gain: np.ndarray | None = None
    bad_pixels: str = checks.BAD_PIXELS[0]
    calibration: Calibration = NOT_CALIBRATED
    frame_time: float | None = None
    timeout: float = 10.0
    record: Recording | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, ScanGrid):
            raise ValueError(f"grid is {checks.shown(self.grid)}; expected a ScanGrid")
        if not isinstance(self.calibration, Calibration):
            raise ValueError(f"calibration is {checks.shown(self.calibration)}; expected a Calibration")
        self._check_methods()
        self._set("rasters", checks.whole("rasters", self.rasters, 1, MAX_FRAMES))
        self._set("timeout", checks.seconds("timeout", self.timeout))
        if self.frame_time is not None:
            # What is too long for it the detector knows.
            dwell = checks.seconds("the dwell time", self.frame_time, ", or NaN to leave it", math.inf)
            self._set("frame_time", dwell)
        for name in ("nodata", "stay_armed"):
            self._set(name, checks.switch(name, getattr(self, name)))
        if self.saturated not in SATURATED:
            raise ValueError(
                f"saturated is {checks.shown(self.saturated)}; expected one of {', '.join(SATURATED)}"
            )
        checks.bad_pixels(self.bad_pixels)
        if self.pixel_mask is not None:
            checks.pixel_mask(self.pixel_mask)
        if self.gain is not None:
            checks.gain(self.gain)
        self._check_size()
        if self.stay_armed and not self.source.armed_here:
            raise ValueError(
                "stay_armed needs a source that is armed (a control): without one, series are what comes"
            )
        self.source.check(self.series)

    def _set(self, name: str, value: Any) -> None:
        """A field as the plain value that it stands for: 4 for numpy.int64(4)."""
        object.__setattr__(self, name, value)

    def _check_methods(self) -> None:
        names = [method.name for method in self.methods]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"the methods are named {names}; at least one is needed and names must differ")
        keys = []
        for method in self.methods:
            try:
                keys += list(method.outputs(None, self.grid))
            except RAISED_BY_METHODS as error:
                refuse_method(method, error)
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"two of the methods {names} give the output {twice[0]!r}: choose other names")
        if not keys:
            raise ValueError(f"none of the methods {names} is enabled: at least one is needed")

    def outputs(self) -> dict[str, Output]:
        """What each raster gives; lengths that depend on the detector are 0."""
        return {
            key: output for method in self.methods for key, output in method.outputs(None, self.grid).items()
        }

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that are imaged besides the source's."""
        return channels_of(self.methods)

    def _check_size(self) -> None:
        grid, outputs = self.grid, self.outputs()
        if self.series.frames > MAX_FRAMES:
            raise ValueError(
                f"{self.rasters} rasters of {grid.rows} x {grid.cols} positions are {self.series.frames} frames; a "
                f"series may have {MAX_FRAMES}"
            )
        if sum(math.prod(output.shape) for output in outputs.values()) * 8 > MAX_OUTPUTS_BYTES:
            raise ValueError(
                f"{len(outputs)} images of {grid.rows} x {grid.cols} positions are larger than the "
                f"{MAX_OUTPUTS_BYTES >> 20} MiB of one raster: fewer methods, or a smaller scan"
            )

    @property
    def series(self) -> SeriesRequest:
        """What the source is asked for."""
        return SeriesRequest(self.grid, self.rasters, self.stay_armed, self.frame_time, self.notes)
