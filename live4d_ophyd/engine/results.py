"""What an acquisition gives: rasters with where their frames are, and progress. Plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.engine.recorder import MOST_CHANNELS, RecordedFile
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series_record import SeriesRecord


def check_outputs(
    outputs: Mapping[str, np.ndarray], request: AcquisitionRequest, *, preview: bool = False
) -> None:
    """Raise ValueError unless these are the outputs asked for, float64; with ``preview`` some of those shown."""
    asked = {name: o for name, o in request.outputs().items() if o.preview or not preview}
    if unknown := [name for name in outputs if name not in asked]:
        raise ValueError(
            f"the output {checks.shown(unknown[0])} was not asked for; expected {', '.join(asked)}"
        )
    if not preview and (missing := [name for name in asked if name not in outputs]):
        raise ValueError(f"the output {missing[0]!r} is missing; expected {', '.join(asked)}")
    for name, array in outputs.items():
        shape = asked[name].shape
        fits = len(array.shape) == len(shape) and all(n in (m, 0) for m, n in zip(array.shape, shape))
        if array.dtype != np.float64 or not fits:
            raise ValueError(f"{name} is {checks.shown(array)}; expected an array {shape} of float64")


@dataclass(frozen=True)
class Losses:
    """Where the frames of a raster are. ``expected = received + lost + bad``."""

    expected: int  #: frames the grid has
    received: int  #: frames that arrived and were decoded
    lost: int  #: frames that never came
    bad: int  #: frames that came and could not be decoded
    foreign: int = 0  #: frames of other series, ignored; whole acquisition
    duplicates: int = 0  #: frames that came again, ignored; whole acquisition
    beyond: int = 0  #: frames with ids the grid does not have, ignored; whole acquisition
    saturated: int = 0  #: of those received, frames with a pixel under a virtual detector that holds no count

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.count(name, value)
        if self.received + self.lost + self.bad != self.expected:
            raise ValueError(
                f"{self.received} received, {self.lost} lost and {self.bad} bad are not the {self.expected} expected"
            )


@dataclass(frozen=True)
class ChannelResult:
    """Of a raster in a further channel: where its frames are, and what the series says of the channel.

    Frames that never came are lost in every channel; those that came and have no numbers in this one are bad in it.
    """

    losses: Losses
    info: SeriesRecord


@dataclass(frozen=True)
class RasterResult:
    """One finished scan.

    ``outputs`` are the methods' arrays, float64, NaN where nothing is known, by name: `Method.outputs`;
    ``rate_hz`` from the first to the last frame of the raster, None for fewer than two; ``backend`` what decoded it,
    "cpu" or "gpu"; ``dropped`` frames of the whole series that the detector dropped because they were not fetched in
    time, None where it was not asked: without control, and for all rasters of a movie but the last; ``info`` what the
    series says of itself; ``recorded`` the file of its frames, None where they were not to be recorded; ``further``
    what there is to say of each channel that is imaged besides the source's, by its name.
    """

    index: int
    outputs: dict[str, np.ndarray]
    losses: Losses
    series_id: int
    rate_hz: float | None
    backend: str
    dropped: int | None = None
    info: SeriesRecord = field(default_factory=SeriesRecord)
    recorded: RecordedFile | None = None
    further: dict[str, ChannelResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.count("index", self.index)
        checks.count("series_id", self.series_id)
        checks.rate("rate_hz", self.rate_hz)
        if self.dropped is not None:
            checks.count("dropped", self.dropped)

    def check(self, request: AcquisitionRequest, index: int) -> None:
        """Raise ValueError unless this is raster ``index`` of what ``request`` asked for."""
        if self.index != index:
            raise ValueError(f"its index is {self.index}; expected {index}")
        check_outputs(self.outputs, request)
        if self.losses.expected != request.grid.frames:
            raise ValueError(f"it expected {self.losses.expected} frames; the grid has {request.grid.frames}")
        if set(self.further) != set(request.channels):
            raise ValueError(
                f"it has the channels {checks.shown([*self.further])}; expected {request.channels}"
            )
        for channel, there in self.further.items():
            if there.losses.expected != request.grid.frames:
                raise ValueError(
                    f"channel {checks.shown(channel)} expected {there.losses.expected} frames; the grid has "
                    f"{request.grid.frames}"
                )
        if (self.recorded is None) != (request.record is None):
            raise ValueError(f"frames are to be recorded: {request.record is not None}; it says otherwise")
        recorded = self.recorded
        if recorded is not None and (
            recorded.shape[:2] != request.grid.shape
            or recorded.frames > request.grid.size
            or recorded.frames + recorded.unrecorded > request.grid.frames * (1 + MOST_CHANNELS)
            or recorded.corrupt > request.grid.size
        ):
            raise ValueError(
                f"what it recorded, {checks.shown(recorded)}, is not of {request.grid.shape} positions"
            )


@dataclass(frozen=True)
class Progress:
    """How far a running acquisition is. ``frames_received`` counts bad frames too; times are in s."""

    frames_received: int
    frames_expected: int
    rate_hz: float | None
    raster: int
    saturated: int = 0  #: frames of this raster with a pixel under a virtual detector that holds no count

    def __post_init__(self) -> None:
        for name in ("frames_received", "frames_expected", "raster", "saturated"):
            checks.count(name, getattr(self, name))
        checks.rate("rate_hz", self.rate_hz)

    def check(self, request: AcquisitionRequest) -> None:
        """Raise ValueError unless ``request`` can be so far."""
        frames, rasters = request.series.frames_per_trigger, request.series.rasters_per_trigger
        if self.frames_expected != frames or self.frames_received > frames:
            raise ValueError(
                f"{self.frames_received} of {self.frames_expected} frames; {frames} were asked for"
            )
        if self.raster >= rasters:
            raise ValueError(f"it is at raster {self.raster} of {rasters}")
