"""What an acquisition is asked for and what comes back: plain frozen values, and their form on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from live4d_ophyd.imaging.detectors import Detector, detector_from_dict, detector_to_dict
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.simplon import Simplon


class AcquisitionError(RuntimeError):
    """The acquisition could not be completed; the text says what, where and what to do."""


@dataclass(frozen=True)
class AcquisitionSpec:
    """One series: ``rasters`` scans of ``grid``, summed over ``detectors``.

    Parameters
    ----------
    endpoint : stream v2 of the detector, ``tcp://dcu:31001``; several addresses of it with commas between
    grid : scan geometry
    detectors : virtual detectors, one image each; names differ
    rasters : scans that follow each other in one series
    control : arms and disarms the detector; None listens passively to the next series
    connections : PULL connections to each address, each with its own receive loop
    channel : data channel to use, empty for the first that the series names; images without it are bad
    nodata : pixels at the dtype's maximum hold no data and count as nothing
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
    control: Simplon | None = None
    connections: int = 1
    channel: str = ""
    nodata: bool = True
    pixel_mask: np.ndarray | None = None
    gain: np.ndarray | None = None
    pattern: bool = False
    frame_time: float | None = None
    timeout: float = 10.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [d.name for d in self.detectors]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"virtual detectors are named {names}; at least one is needed and names must differ"
            )
        if self.rasters < 1 or self.connections < 1:
            raise ValueError(
                f"rasters is {self.rasters}, connections {self.connections}; each must be at least 1"
            )
        if self.frame_time is not None and not self.frame_time > 0:
            raise ValueError(
                f"the dwell time is {self.frame_time} s; it must be positive, or NaN to leave it"
            )
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout} s; it must be positive")
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

    @property
    def frames(self) -> int:
        """Images of the whole series."""
        return self.rasters * self.grid.frames

    @property
    def images_and_triggers(self) -> tuple[int, int]:
        """Images of each trigger, and triggers, as the control's trigger mode wants them."""
        assert self.control is not None
        if self.control.software_triggered:
            return self.frames, 1
        if self.control.trigger_per == "line":
            lines = self.rasters * self.grid.rows
            return self.frames // lines, lines
        return 1, self.frames

    def appendix(self) -> str:
        """JSON that explains a recorded stream: ``{"scan": ..., "rasters": ..., and the notes}``."""
        text = {"scan": self.grid.to_dict(), "rasters": self.rasters, **self.notes}
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
    def from_dict(cls, values: dict[str, Any]) -> AcquisitionSpec:
        control = values["control"]
        return cls(
            **{
                **values,
                "grid": ScanGrid.from_dict(values["grid"]),
                "detectors": tuple(detector_from_dict(d) for d in values["detectors"]),
                "control": Simplon(**control) if control else None,
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


@dataclass(frozen=True)
class Raster:
    """One finished scan.

    ``images`` is (detectors, rows, cols) float64 counts, NaN where no image was decoded; ``pattern`` the mean
    diffraction pattern (det rows, det cols) float64 counts, NaN where no pixel held data, or None;
    ``rate_hz`` from the first to the last image of the raster, None for fewer than two; ``engine`` what decoded it,
    "cpu" or "gpu"; ``dropped`` images of the whole series that the detector dropped because they were not fetched in
    time, None where it was not asked: without control, and for all rasters of a movie but the last.
    """

    index: int
    images: np.ndarray
    losses: Losses
    series_id: int
    rate_hz: float | None
    engine: str
    pattern: np.ndarray | None = None
    dropped: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "losses": asdict(self.losses)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Raster:
        return cls(**{**values, "losses": Losses(**values["losses"])})


@dataclass(frozen=True)
class Progress:
    """How far a running acquisition is. ``frames_received`` counts bad images too; times are in s."""

    frames_received: int
    frames_expected: int
    rate_hz: float | None
    raster: int
