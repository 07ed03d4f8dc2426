"""What a series that is over has to say: why no image came, and what was wrong with those that did."""

from __future__ import annotations

import logging
import math

import numpy as np

from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.series import Series

log = logging.getLogger(__name__)

#: other clients' connections that are recognised
_OTHER_CLIENTS = 8
#: turns in a row that must look alike: by chance they do not
_TURNS = 8

#: what the user is told of saturated pixels, by what was asked for
_SATURATED = {
    "leave_out": "they were left out of the sums, which are too low; saturated='nan' would mark these positions",
    "count": "they were counted as they are",
    "nan": "these positions are NaN",
}


def report(request: AcquisitionRequest, series: Series, tracker: FrameTracker, dropped: int | None) -> None:
    """Log what is known only at the end; ``dropped``: images that the detector dropped, None: not known."""
    for reason, count in series.reasons.items():
        if count > 1:  # one was said when it came
            log.warning("series %s: %d bad: %s", series.name, count, reason)
    if tracker.saturated:
        limit = math.nan if series.projection.info is None else series.projection.info.saturation
        log.warning(
            "series %s: %d images have pixels under a virtual detector that hold no count (%s): %s",
            series.name, tracker.saturated, "NaN" if math.isnan(limit) else f"{limit:.0f} and above",
            _SATURATED[request.saturated],
        )  # fmt: skip
    if tracker.beyond:
        log.warning(
            "series %s: %d images with ids beyond the %d that %d x %d positions need were left alone; "
            "does the scan grid match the microscope's scan?",
            series.name, tracker.beyond, request.frames, *request.grid.shape,
        )  # fmt: skip
    came = tracker.came
    dealt = None if dropped else dealt_out(came, request.receivers + _OTHER_CLIENTS)
    if dealt is not None and series.all_came(range(request.receivers)):
        log.warning(
            "series %s: %d of %d images did not come, regularly %d of every %d, %s: another client reads the stream of "
            "%s, whose messages go to all clients in turn. End it: a viewer, a recorder, an engine or session that was "
            "left behind", series.name, np.count_nonzero(~came), len(came), *dealt,
            "and the detector dropped none" if dropped == 0 else "as no slow host loses them", request.endpoint,
        )  # fmt: skip


def dealt_out(came: np.ndarray, clients: int) -> tuple[int, int] | None:
    """(k, n) where k of every n images are missing, always the same ones in turn; None: they are not missing so.

    ``came`` (images,) bool; n is at most ``clients``. Images that are lost by chance, or many in a row, do not look so.
    """
    came = came[: np.max(np.flatnonzero(came), initial=-1) + 1]
    for n in range(2, 0 if came.all() else clients + 1):
        turns = came[: len(came) // (_TURNS * n) * _TURNS * n].reshape(-1, _TURNS, n)
        first = turns[:, 0]
        alike = (turns == turns[:, :1]).all(axis=(1, 2)) & first.any(axis=1) & ~first.all(axis=1)
        lossy = np.count_nonzero(~turns.all(axis=(1, 2)))
        # A client that comes, goes or is slow for a moment shifts the turns now and then.
        if lossy >= 3 and np.count_nonzero(alike) >= 0.8 * lossy:
            return round(float((~first[alike]).sum(axis=1).mean())), n
    return None


def why_nothing_came(
    request: AcquisitionRequest, series: Series, tracker: FrameTracker, connected: bool
) -> str:
    """One text for the error; ``connected``: whether the stream's address answers."""
    waited = f"within {request.timeout:g} s"
    if series.reasons:
        reason, count = series.reasons.most_common(1)[0]
        return f"no image of series {series.name} could be used; {count} were refused: {reason}"
    if series.projection.contradiction:
        return f"series {series.name} brought no image that could be used {waited}: {series.projection.contradiction}"
    if tracker.beyond:
        return (
            f"series {series.name} brought only image ids beyond the {request.frames} of the grid: "
            "does the scan grid match the microscope's scan?"
        )
    if series.key is not None and request.control is not None and series.filter.others:
        came = ", ".join(f"{count} images of series {n}" for n, count in series.filter.others.most_common(3))
        return (
            f"series {series.name} was armed and brought no image {waited}, but {came} came from {request.endpoint} "
            "and were left alone: does another session arm the detector, or does it still send an earlier series?"
        )
    if series.key is not None:
        ended = "ended without an image" if series.ended else f"brought no image {waited}"
        return f"series {series.name} {ended}: is the scan running, and triggering the detector?"
    if "start" in series.filter.unusable.values():
        reason = next(reason for reason, kind in series.filter.unusable.items() if kind == "start")
        return f"no series began {waited}: the start message that came cannot be used: {reason}"
    if tracker.strangers:
        return (
            f"{tracker.strangers} images of other series came from {request.endpoint} but no series began {waited}: "
            "the start message was missed (connect before arming), or another client took it"
        )
    if not connected:
        return f"nothing answers at {request.endpoint} {waited}: is the detector (or the simulator) on?"
    return f"{request.endpoint} answers but no series began {waited}: arm the detector, or pass control=Simplon(...)"
