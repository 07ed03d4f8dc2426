"""What a series that is over has to say: why no frame came, and what was wrong with those that did."""

from __future__ import annotations

import logging
import math

import numpy as np

from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series import Series

log = logging.getLogger(__name__)

#: what the user is told of saturated pixels, by what was asked for
_SATURATED = {
    "leave_out": "they were left out of the sums, which are too low; saturated='nan' would mark these positions",
    "count": "they were counted as they are",
    "nan": "these positions are NaN",
}


def report(request: AcquisitionRequest, series: Series, tracker: FrameTracker, dropped: int | None) -> None:
    """Log what is known only at the end; ``dropped``: frames that the detector dropped, None: not known."""
    for reason, count in series.reasons.items():
        if count > 1:  # one was said when it came
            log.warning("series %s: %d bad: %s", series.name, count, reason)
    if tracker.saturated:
        limit = math.nan if series.projection.info is None else series.projection.info.saturation
        log.warning(
            "series %s: %d frames have pixels under a virtual detector that hold no count (%s): %s",
            series.name, tracker.saturated, "NaN" if math.isnan(limit) else f"{limit:.0f} and above",
            _SATURATED[request.saturated],
        )  # fmt: skip
    if tracker.beyond:
        log.warning(
            "series %s: %d frames with ids beyond the %d that %d x %d positions need were ignored; "
            "does the scan grid match the microscope's scan?",
            series.name, tracker.beyond, request.series.frames, *request.grid.shape,
        )  # fmt: skip
    came = tracker.came
    if why := series.source.why_frames_miss(came, dropped):
        log.warning(
            "series %s: %d of %d frames did not come, %s",
            series.name,
            np.count_nonzero(~came),
            len(came),
            why,
        )


def why_nothing_came(request: AcquisitionRequest, series: Series, tracker: FrameTracker) -> str:
    """One text for the error."""
    waited = f"within {request.timeout:g} s"
    if series.reasons:
        reason, count = series.reasons.most_common(1)[0]
        return f"no frame of series {series.name} could be used; {count} were refused: {reason}"
    if series.projection.contradiction:
        return f"series {series.name} brought no frame that could be used {waited}: {series.projection.contradiction}"
    if tracker.beyond:
        return (
            f"series {series.name} brought only frame ids beyond the {request.series.frames} of the grid: "
            "does the scan grid match the microscope's scan?"
        )
    return series.source.why_nothing_came(waited, series.ended)
