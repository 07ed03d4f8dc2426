"""What an acquisition is asked for and what comes back: plain frozen values, and their form on the wire."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from live4d_ophyd.engine import checks
from live4d_ophyd.engine.series_info import SeriesInfo
from live4d_ophyd.imaging.detectors import Detector, detector_from_dict, detector_to_dict
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.simplon import Simplon

#: PULL connections in all; each has a thread of its own
MAX_RECEIVERS = 16
#: images of a series: each takes a byte of the engine's memory
MAX_FRAMES = 1 << 30
#: images of one raster; they and a pattern travel to the session in one message (wire.MAX_MESSAGE_BYTES)
MAX_IMAGES_BYTES = 800 << 20
#: what may become of pixels that hold no count
SATURATED = ("leave_out", "count", "nan")


class AcquisitionError(RuntimeError):
    """The acquisition could not be completed; the text says what, where and what to do."""


def check_images(images: Any, spec: AcquisitionSpec) -> None:
    """Raise ValueError unless this is one float64 image of the grid for each detector."""
    expected = (len(spec.detectors), *spec.grid.shape)
    if not checks.is_array(images, 3) or images.shape != expected:
        raise ValueError(f"images is {checks.shown(images)}; expected an array {expected} of float64")


@dataclass(frozen=True)
class AcquisitionSpec:
    """One series: ``rasters`` scans of ``grid``, summed over ``detectors``.

    Parameters
    ----------
    endpoint : stream v2 of the detector, ``tcp://dcu:31001``; several addresses of it with commas between
    grid : scan geometry
    detectors : virtual detectors, one image each; names differ
    rasters : scans that follow each other in one series
    stay_armed : each trigger takes the next raster of one series, and the detector stays armed between them
    control : arms and disarms the detector; None listens passively to the next series
    connections : PULL connections to each address, each with its own receive loop
    channel : data channel to use, empty for the first that the series names; images without it are bad
    nodata : pixels at the dtype's maximum hold no count
    saturated : what becomes of pixels that hold no count, those at the detector's saturation value included:
        "leave_out" of the sums, "count" them as they are, or make the position "nan"
    pixel_mask : bad pixels to leave out, (det rows, det cols), True is bad; adds to the stream's own mask
    gain : factor of each pixel, (det rows, det cols); makes images weighted sums
    pattern : also average the diffraction patterns of each raster
    frame_time : dwell time to set on the detector, s; None leaves it
    timeout : longest silence of the stream, s, from the start of listening on
    notes : what the header of the stream shall say of the scan besides its geometry (plan_name, uid)
    """

    endpoint: str
    grid: ScanGrid
    detectors: tuple[Detector, ...]
    rasters: int = 1
    stay_armed: bool = False
    control: Simplon | None = None
    connections: int = 1
    channel: str = ""
    nodata: bool = True
    saturated: str = SATURATED[0]
    pixel_mask: np.ndarray | None = None
    gain: np.ndarray | None = None
    pattern: bool = False
    frame_time: float | None = None
    timeout: float = 10.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, ScanGrid):
            raise ValueError(f"grid is {checks.shown(self.grid)}; expected a ScanGrid")
        names = [d.name for d in self.detectors]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"virtual detectors are named {names}; at least one is needed and names must differ"
            )
        addresses = checks.addresses("endpoint", self.endpoint)
        most = MAX_RECEIVERS // len(addresses)
        if not most:
            raise ValueError(
                f"endpoint has {len(addresses)} addresses; expected at most {MAX_RECEIVERS} connections"
            )
        self._set("connections", checks.whole("connections", self.connections, 1, most))
        self._set("rasters", checks.whole("rasters", self.rasters, 1, MAX_FRAMES))
        self._set("timeout", checks.seconds("timeout", self.timeout))
        if self.frame_time is not None:
            # What is too long for it the detector knows.
            dwell = checks.seconds("the dwell time", self.frame_time, ", or NaN to leave it", math.inf)
            self._set("frame_time", dwell)
        for name in ("nodata", "pattern", "stay_armed"):
            self._set(name, checks.switch(name, getattr(self, name)))
        checks.text("channel", self.channel)
        if self.saturated not in SATURATED:
            raise ValueError(
                f"saturated is {checks.shown(self.saturated)}; expected one of {', '.join(SATURATED)}"
            )
        if self.pixel_mask is not None:
            checks.pixel_mask(self.pixel_mask)
        if self.gain is not None:
            checks.gain(self.gain)
        self._check_size()
        if self.stay_armed and self.control is None:
            raise ValueError("stay_armed needs a control, which arms: without one, series are what comes")
        if self.control is not None and self.control.trigger_per == "line" and self.grid.lead_in:
            raise ValueError(
                f"trigger_per is 'line', but the scan has {self.grid.lead_in} images before its first line: lead_in "
                "must be 0"
            )

        by_line = self.control is not None and self.control.trigger_per == "line"
        if by_line and self.grid.flyback and not self.grid.last_flyback:
            raise ValueError(
                f"trigger_per is 'line', but last_flyback is False with a flyback of {self.grid.flyback} images: the "
                "detector takes as many images for the last line's pulse as for the others. Use last_flyback=True, or "
                "trigger_per='pixel'"
            )

    def _set(self, name: str, value: Any) -> None:
        """A field as the plain value that it stands for: 4 for numpy.int64(4)."""
        object.__setattr__(self, name, value)

    def _check_size(self) -> None:
        grid, n = self.grid, len(self.detectors)
        if self.frames > MAX_FRAMES:
            raise ValueError(
                f"{self.rasters} rasters of {grid.rows} x {grid.cols} positions are {self.frames} images; a series may "
                f"have {MAX_FRAMES}"
            )
        if n * grid.size * 8 > MAX_IMAGES_BYTES:
            raise ValueError(
                f"{n} images of {grid.rows} x {grid.cols} positions are larger than the {MAX_IMAGES_BYTES >> 20} MiB "
                "of one raster: fewer virtual detectors, or a smaller scan"
            )

    @property
    def frames(self) -> int:
        """Images of the whole series."""
        return self.rasters * self.grid.frames

    @property
    def rasters_per_trigger(self) -> int:
        """Rasters that one acquisition gives."""
        return 1 if self.stay_armed else self.rasters

    @property
    def frames_per_trigger(self) -> int:
        """Images of one acquisition."""
        return self.rasters_per_trigger * self.grid.frames

    @property
    def images_and_triggers(self) -> tuple[int, int]:
        """Images of each trigger, and triggers, as the control's trigger mode wants them."""
        assert self.control is not None
        if self.control.software_triggered:
            return self.frames_per_trigger, self.rasters if self.stay_armed else 1
        if self.control.trigger_per == "line":
            lines = self.rasters * self.grid.rows
            return self.frames // lines, lines
        return 1, self.frames

    def appendix(self, engine: str) -> str:
        """JSON that explains a recorded stream: ``{"scan": ..., "rasters": ..., and the notes}``.

        ``engine``, the process that arms, is in it: so that one can tell whether the detector is still armed for it.
        """
        text = {"scan": self.grid.to_dict(), "rasters": self.rasters, **self.notes, "engine": engine}
        return json.dumps(text, separators=(",", ":"), default=str)

    @property
    def receivers(self) -> int:
        """Connections in all."""
        return self.connections * len(self.endpoint.split(","))

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["grid"] = self.grid.to_dict()
        values["detectors"] = [detector_to_dict(d) for d in self.detectors]
        values["control"] = self.control.to_dict() if self.control else None
        values["notes"] = dict(self.notes)
        return values

    @classmethod
    def from_dict(cls, values: Any) -> AcquisitionSpec:
        """From its form on the wire. Raises ValueError that names what is missing, unknown or wrong."""
        checks.same_names(values, [f.name for f in fields(cls)])
        control = values["control"]
        if control is not None:
            checks.same_names(control, [f.name for f in fields(Simplon)])
        return cls(
            **{
                **values,
                "grid": ScanGrid.from_dict(values["grid"]),
                "detectors": tuple(detector_from_dict(d) for d in values["detectors"]),
                "control": None if control is None else Simplon(**control),
            }
        )


@dataclass(frozen=True)
class Losses:
    """Where the images of a raster are. ``expected = received + lost + bad``."""

    expected: int  #: images the grid has
    received: int  #: images that arrived and were decoded
    lost: int  #: images that never came
    bad: int  #: images that came and could not be decoded
    foreign: int = 0  #: images of other series, left alone; whole acquisition
    duplicates: int = 0  #: images that came again, left alone; whole acquisition
    beyond: int = 0  #: images with ids the grid does not have, left alone; whole acquisition
    saturated: int = 0  #: of those received, images with a pixel under a virtual detector that holds no count

    @classmethod
    def from_dict(cls, values: Any) -> Losses:
        losses = cls(
            **checks.checked_fields(values, dict.fromkeys((f.name for f in fields(cls)), checks.COUNT))
        )
        if losses.received + losses.lost + losses.bad != losses.expected:
            raise ValueError(
                f"{losses.received} received, {losses.lost} lost and {losses.bad} bad are not the {losses.expected} "
                "expected"
            )
        return losses


@dataclass(frozen=True)
class Raster:
    """One finished scan.

    ``images`` is (detectors, rows, cols) float64 counts, NaN where no image was decoded; ``pattern`` the mean
    diffraction pattern (det rows, det cols) float64 counts, NaN where no pixel held data, or None;
    ``rate_hz`` from the first to the last image of the raster, None for fewer than two; ``engine`` what decoded it,
    "cpu" or "gpu"; ``dropped`` images of the whole series that the detector dropped because they were not fetched in
    time, None where it was not asked: without control, and for all rasters of a movie but the last; ``info`` what the
    series says of itself.
    """

    index: int
    images: np.ndarray
    losses: Losses
    series_id: int
    rate_hz: float | None
    engine: str
    pattern: np.ndarray | None = None
    dropped: int | None = None
    info: SeriesInfo = field(default_factory=SeriesInfo)

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "losses": asdict(self.losses), "info": asdict(self.info)}

    @classmethod
    def from_dict(cls, values: Any) -> Raster:
        """From its form on the wire. Raises ValueError that names the field that is missing, unknown or wrong."""
        checked = checks.checked_fields(
            values,
            {
                "index": checks.COUNT,
                "images": checks.IMAGES,
                "losses": checks.MAP,
                "series_id": checks.COUNT,
                "rate_hz": checks.RATE_OR_NONE,
                "engine": checks.TEXT,
                "pattern": checks.PATTERN_OR_NONE,
                "dropped": checks.COUNT_OR_NONE,
                "info": checks.MAP,
            },
        )
        parts = {"losses": Losses.from_dict(checked["losses"]), "info": SeriesInfo.from_dict(checked["info"])}
        return cls(**{**checked, **parts})

    def check(self, spec: AcquisitionSpec, index: int) -> None:
        """Raise ValueError unless this is raster ``index`` of what ``spec`` asked for."""
        if self.index != index:
            raise ValueError(f"its index is {self.index}; expected {index}")
        check_images(self.images, spec)
        if self.losses.expected != spec.grid.frames:
            raise ValueError(f"it expected {self.losses.expected} images; the grid has {spec.grid.frames}")
        if (self.pattern is not None) != spec.pattern:
            raise ValueError(
                f"a pattern was {'' if spec.pattern else 'not '}asked for; got {checks.shown(self.pattern)}"
            )


@dataclass(frozen=True)
class Progress:
    """How far a running acquisition is. ``frames_received`` counts bad images too; times are in s."""

    frames_received: int
    frames_expected: int
    rate_hz: float | None
    raster: int
    saturated: int = 0  #: images of this raster with a pixel under a virtual detector that holds no count

    @classmethod
    def from_dict(cls, values: Any) -> Progress:
        """From its form on the wire. Raises ValueError that names the field that is missing, unknown or wrong."""
        kinds = {
            "frames_received": checks.COUNT,
            "frames_expected": checks.COUNT,
            "rate_hz": checks.RATE_OR_NONE,
            "raster": checks.COUNT,
            "saturated": checks.COUNT,
        }
        return cls(**checks.checked_fields(values, kinds))

    def check(self, spec: AcquisitionSpec) -> None:
        """Raise ValueError unless ``spec`` can be so far."""
        frames, rasters = spec.frames_per_trigger, spec.rasters_per_trigger
        if self.frames_expected != frames or self.frames_received > frames:
            raise ValueError(
                f"{self.frames_received} of {self.frames_expected} images; {frames} were asked for"
            )
        if self.raster >= rasters:
            raise ValueError(f"it is at raster {self.raster} of {rasters}")
