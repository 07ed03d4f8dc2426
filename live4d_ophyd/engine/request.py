"""AcquisitionRequest: what an acquisition is asked for. A plain frozen value, and its form on the wire."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from live4d_ophyd.engine import checks
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.method import Method, Output
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon

#: PULL connections in all; each has a thread of its own
MAX_RECEIVERS = 16
#: images of a series: each takes a byte of the engine's memory
MAX_FRAMES = 1 << 30
#: outputs of one raster; they travel to the session in one message (process.protocol.MAX_MESSAGE_BYTES)
MAX_OUTPUTS_BYTES = 800 << 20
#: what may become of pixels that hold no count
SATURATED = ("leave_out", "count", "nan")


@dataclass(frozen=True)
class AcquisitionRequest:
    """One series: ``rasters`` scans of ``grid``, imaged by ``methods``.

    Parameters
    ----------
    endpoint : stream v2 of the detector, ``tcp://dcu:31001``; several addresses of it with commas between
    grid : scan geometry
    methods : what makes images of the frames, virtual detectors among it; names and outputs differ
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
    frame_time : dwell time to set on the detector, s; None leaves it
    timeout : longest silence of the stream, s, from the start of listening on
    notes : what the header of the stream shall say of the scan besides its geometry (plan_name, uid)
    """

    endpoint: str
    grid: ScanGrid
    methods: tuple[Method, ...]
    rasters: int = 1
    stay_armed: bool = False
    control: Simplon | None = None
    connections: int = 1
    channel: str = ""
    nodata: bool = True
    saturated: str = SATURATED[0]
    pixel_mask: np.ndarray | None = None
    gain: np.ndarray | None = None
    frame_time: float | None = None
    timeout: float = 10.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, ScanGrid):
            raise ValueError(f"grid is {checks.shown(self.grid)}; expected a ScanGrid")
        self._check_methods()
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
        for name in ("nodata", "stay_armed"):
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

    def _check_methods(self) -> None:
        names = [method.name for method in self.methods]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"the methods are named {names}; at least one is needed and names must differ")
        keys = [key for method in self.methods for key in method.outputs(None, self.grid)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"two of the methods {names} give the output {twice[0]!r}: choose other names")
        if not keys:
            raise ValueError(f"none of the methods {names} is enabled: at least one is needed")

    def outputs(self) -> dict[str, Output]:
        """What each raster gives; lengths that depend on the detector are 0."""
        return {
            key: output for method in self.methods for key, output in method.outputs(None, self.grid).items()
        }

    def _check_size(self) -> None:
        grid, outputs = self.grid, self.outputs()
        if self.frames > MAX_FRAMES:
            raise ValueError(
                f"{self.rasters} rasters of {grid.rows} x {grid.cols} positions are {self.frames} images; a series may "
                f"have {MAX_FRAMES}"
            )
        if sum(math.prod(output.shape) for output in outputs.values()) * 8 > MAX_OUTPUTS_BYTES:
            raise ValueError(
                f"{len(outputs)} images of {grid.rows} x {grid.cols} positions are larger than the "
                f"{MAX_OUTPUTS_BYTES >> 20} MiB of one raster: fewer methods, or a smaller scan"
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
        values["methods"] = [registry.to_dict(method) for method in self.methods]
        values["control"] = self.control.to_dict() if self.control else None
        values["notes"] = dict(self.notes)
        return values

    @classmethod
    def from_dict(cls, values: Any, *, allow_modules: bool = False) -> AcquisitionRequest:
        """From its form on the wire; ``allow_modules``: methods may be named as ``module:Class``.

        Raises ValueError that names what is missing, unknown or wrong."""
        checks.same_names(values, [f.name for f in fields(cls)])
        control = values["control"]
        if control is not None:
            checks.same_names(control, [f.name for f in fields(Simplon)])
        return cls(
            **{
                **values,
                "grid": ScanGrid.from_dict(values["grid"]),
                "methods": tuple(
                    registry.from_dict(m, allow_modules=allow_modules) for m in values["methods"]
                ),
                "control": None if control is None else Simplon(**control),
            }
        )
