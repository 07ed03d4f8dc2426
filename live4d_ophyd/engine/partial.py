"""A part of a raster: some of its frames, taken by one thread, and the raster that the parts of several processes make.

In: a request whose source brings a part of the frames. Out: `PartialRaster`, which can be pickled, and of all of them
the `RasterResult` that one process would have made. Runs in the caller's thread.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from live4d_ophyd.decode import Backend
from live4d_ophyd.decode.decoder import Demand
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.lane import Lane
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.preparation import Prepared
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import ChannelResult, Losses, RasterResult
from live4d_ophyd.engine.series import Series
from live4d_ophyd.engine.series_record import SeriesRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PartialRaster:
    """What some frames of a raster gave; ``accumulators`` as of `Imaging.parts`.

    Without a frame that can be read there is neither ``prepared`` nor ``info``, and no accumulator.
    """

    losses: Losses  #: of the whole grid: frames of other parts are lost in it
    series_id: int
    backend: str
    accumulators: list[list[Any]]
    prepared: Prepared | None
    info: SeriesRecord | None
    reasons: Counter[str]  #: of bad frames
    further: Mapping[str, Losses] = field(default_factory=dict)  #: in further channels
    further_info: Mapping[str, SeriesRecord] = field(default_factory=dict)


def acquire_part(request: AcquisitionRequest, backend: Backend) -> PartialRaster:
    """Take the frames that ``request.source`` brings on its one connection, to the end.

    Raises what the source and the methods do, ValueError and MethodFailed among it.
    """
    with closing(OpenStream(request.source, backend.memory)) as opened:
        tracker = FrameTracker(request.grid, 1, request.channels)
        series = Series(request, tracker, opened.next_series(request.source), opened.preparation)
        (connection,) = series.source.connections
        Lane(connection, series, backend.of_lane(0)).run(lambda: series.ended)
        losses, _ = tracker.close(0)
        imaging, projection = series.projection.imaging, series.projection
        return PartialRaster(
            losses,
            0 if series.key is None else series.key[0],
            projection.backend,
            [] if imaging is None else imaging.parts(0),
            # Weight maps may be large, and results need none.
            None if imaging is None else _without_maps(imaging.prepared),
            projection.info,
            series.reasons,
            tracker.further_losses,
            projection.further_info,
        )


def merge(request: AcquisitionRequest, parts: Sequence[PartialRaster], seconds: float) -> RasterResult:
    """The raster of all its parts, by the methods' own results; ``seconds``: how long they took together.

    Raises NothingCame where no frame could be read; MethodFailed.
    """
    reasons = sum((part.reasons for part in parts), Counter[str]())
    for reason, frames in reasons.most_common():
        log.warning("%s: %d bad frames: %s", request.source.name, frames, reason)
    losses = _merged([part.losses for part in parts])
    known = next((part for part in parts if part.prepared is not None), None)
    if known is None or not losses.received:
        raise NothingCame(f"{request.source.name} has no frame that can be read")
    assert known.prepared is not None
    assert known.info is not None
    imaging = Imaging(known.prepared, request.grid)
    for part in parts:
        imaging.take_over(0, part.accumulators)
    return RasterResult(
        0,
        imaging.result(0),
        losses,
        known.series_id,
        (losses.received + losses.bad) / seconds,
        "+".join(sorted({part.backend for part in parts if part.backend})),
        None,
        known.info,
        further={
            channel: ChannelResult(_merged([part.further[channel] for part in parts]), info)
            for channel, info in known.further_info.items()
        },
    )


def _without_maps(prepared: Prepared) -> Prepared:
    channels = {
        name: replace(channel, demand=Demand(None, False)) for name, channel in prepared.channels.items()
    }
    return replace(prepared, channels=channels)


def _merged(losses: Sequence[Losses]) -> Losses:
    """Each frame is of one part: what a part does not have is lost only if no other has it."""
    names = ("received", "bad", "foreign", "duplicates", "beyond", "saturated")
    total = {name: int(np.sum([getattr(one, name) for one in losses])) for name in names}
    expected = losses[0].expected
    return Losses(expected=expected, lost=expected - total["received"] - total["bad"], **total)
