"""What the file of a recorded raster says of it, from what an acquisition was asked for and what its series says."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from live4d_ophyd.decode import decode_array
from live4d_ophyd.engine.header_scan import note_of
from live4d_ophyd.engine.recorded_settings import noted
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series import Series
from live4d_ophyd.engine.series_record import saturation_value
from live4d_ophyd.engine.versions import software
from live4d_ophyd.frames.codecs import CODECS
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.recording.template import Channel, Recorded
from live4d_ophyd.sources.source import SeriesHeader

log = logging.getLogger(__name__)


def recorded_as(request: AcquisitionRequest, series: Series, codec: int) -> Recorded:
    """``codec``: the number of that which compressed the frames. Once their format is known."""
    header, projection = series.source.header, series.projection
    assert projection.frame is not None
    assert request.record is not None
    shape = projection.frame.shape
    said: dict[str, Any] = {}
    if header is not None:
        names = ("detector", "unique_id", "energy", "threshold", "count_time", "frame_time")
        said = {name: getattr(header, name) for name in names}
        said["saturation"] = saturation_value(header)
        said |= _tables(header, shape)
    return Recorded(
        request.grid,
        projection.frame,
        CODECS[codec],
        channel=series.source.channel,
        series=-1 if series.key is None else series.key[0],
        software=software(),
        notes={
            **({} if header is None else note_of(header.note)),
            **request.notes,
            **request.record.notes,
            "source": request.source.name,
            "backend": projection.backend,
            **noted(request),
        },
        flyback=request.record.flyback,
        others=tuple(
            Channel(name, threshold=None if other is None else other.threshold, **_tables(other, shape))
            for name, other in projection.other_channels.items()
        ),
        **said,
    )


def _tables(header: SeriesHeader | None, shape: tuple[int, int]) -> dict[str, Any]:
    if header is None:
        return {}
    return {
        "pixel_mask": _decoded(header.pixel_mask, shape, "pixel mask"),
        "flatfield": _decoded(header.flatfield, shape, "flat field"),
    }


def _decoded(array: EncodedArray | None, shape: tuple[int, int], what: str) -> np.ndarray | None:
    """None also for one that does not fit the frames."""
    if array is None or array.shape != shape:
        return None
    try:
        return decode_array(array)
    except ValueError as error:
        log.warning("the recorded file has no %s: %s", what, error)
        return None
