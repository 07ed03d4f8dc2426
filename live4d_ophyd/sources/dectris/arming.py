"""SimplonControl: one series on a detector, from the claim on it until it is left idle.

In: what a series is to have. Out: requests to the control unit, by `Simplon`. Runs in the acquisition's thread;
``trigger`` may run in another one.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

from live4d_ophyd.sources.dectris.claim import ENGINE_ID, Claim, marked_by
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError
from live4d_ophyd.sources.source import SeriesKey, SeriesRequest

log = logging.getLogger(__name__)

#: how long the detector may take to be idle after it was told to abort, s
IDLE_TIMEOUT_S = 2.0


class SimplonControl:
    """Of the detector that ``simplon`` arms; a `DetectorControl`."""

    def __init__(self, simplon: Simplon) -> None:
        self._simplon = simplon
        self._claim = Claim(simplon.url)
        self._header: str | None = None
        self._prepared = False
        #: whether the detector may be armed by us
        self.armed = False

    @property
    def software_triggered(self) -> bool:
        return self._simplon.software_triggered

    def claim(self) -> str:
        """Have the detector for this process alone; "" then, else who has it, in words."""
        if self._claim.acquire():
            return ""
        return (
            f"the detector at {self._simplon.url} is used by another engine on this machine (process "
            f"{self._claim.holder()})"
        )

    def release(self) -> None:
        self._claim.release()

    def most_rasters(self, series: SeriesRequest) -> int:
        """How many of its rasters one series can have, as the detector limits the triggers of one."""
        limit = self._simplon.rest.read("detector", "config", "ntrigger").maximum
        triggers = images_and_triggers(self._simplon, series)[1] // series.rasters
        if limit is None or triggers * series.rasters <= limit:
            return series.rasters
        return max(1, int(limit) // triggers)

    def prepare(self, series: SeriesRequest) -> None:
        """Configure the detector; this also enables its stream, without which some do not listen on its port."""
        self._simplon.configure(
            *images_and_triggers(self._simplon, series), series.frame_time, header(series, ENGINE_ID)
        )
        self._prepared = True
        # As it is there: what is to be put back is noted in it, too. Devices that have no header, or refuse it, cannot
        # tell later either.
        there = self._header_there()
        self._header = there if marked_by(there) == ENGINE_ID else None

    def arm(self) -> SeriesKey:
        self.armed = True  # before the answer: a request that timed out may have armed all the same
        return self._simplon.arm(), 0

    def trigger(self) -> None:
        self._simplon.trigger()

    def why_out_of_step(self) -> str:
        """Between two triggers of a series: why the detector is not armed for the next; "" where it is."""
        state = self._simplon.state()
        if state not in ("ready", "acquire"):
            return f"the detector is in state {state}"
        return "" if self._is_ours() else "another session armed the detector"

    def finish(self, wait: float) -> int | None:
        """Leave the detector idle, for which it gets ``wait`` s by itself; it is disarmed if it takes longer.

        Returns how many frames it dropped; None where it does not say.
        """
        if not self.armed:
            return None
        self.armed = False
        try:
            # Asked first: disarming may take minutes, but not from a control unit that does not answer.
            if self._simplon.wait_idle(wait) != "idle":
                if not self._is_ours():
                    return None
                self._simplon.disarm()
        except SimplonError as error:
            self._log_still_armed(error)
            return None
        dropped = None
        try:
            dropped = self._simplon.dropped()
        except SimplonError as error:
            log.warning("it is not known how many frames the detector dropped: %s", error)
        self._simplon.put_back()  # afterwards: the stream's settings may reset its counter
        return dropped

    def abort(self, exposing: bool) -> None:
        """Leave the detector idle, though the series is not over; ``exposing``: frames may be under way."""
        if not self._prepared or (self.armed and not self._is_ours()):
            return
        try:
            if self.armed and exposing:
                self._simplon.abort()
                self._simplon.wait_idle(IDLE_TIMEOUT_S)
            elif self.armed and self._simplon.state() in ("ready", "acquire"):
                self._simplon.disarm()
        except SimplonError as error:
            self._log_still_armed(error)
        else:
            self._simplon.put_back()

    def _log_still_armed(self, error: SimplonError) -> None:
        log.error("the detector may still be armed, and its stream as the scan needed it: %s", error)

    def _is_ours(self) -> bool:
        """Whether the detector is still armed for this process, as far as it tells."""
        if self._header is None or self._header_there() in (None, self._header):
            return True
        log.warning("%s has been armed by another session meanwhile: it is left as it is", self._simplon.url)
        return False

    def _header_there(self) -> str | None:
        try:
            return str(self._simplon.get("stream", "config", "header_appendix"))
        except SimplonError:
            return None


def header(series: SeriesRequest, engine: str) -> str:
    """JSON that explains a recorded stream: ``{"scan": ..., "rasters": ..., and the notes}``.

    ``engine``, the process that arms, is in it: so that one can tell whether the detector is still armed for it.
    """
    text = {"scan": asdict(series.grid), "rasters": series.rasters, **series.notes, "engine": engine}
    return json.dumps(text, separators=(",", ":"), default=str)


def images_and_triggers(simplon: Simplon, series: SeriesRequest) -> tuple[int, int]:
    """Frames of each trigger, and triggers, as the trigger mode wants them."""
    if simplon.software_triggered:
        return series.frames_per_trigger, series.rasters if series.stay_armed else 1
    if simplon.trigger_per == "line":
        lines = series.rasters * series.grid.rows
        return series.frames // lines, lines
    return 1, series.frames


def check(simplon: Simplon, series: SeriesRequest) -> None:
    """Raise ValueError for a series that the trigger mode cannot take."""
    if simplon.trigger_per != "line":
        return
    grid = series.grid
    if grid.lead_in:
        raise ValueError(
            f"trigger_per is 'line', but the scan has {grid.lead_in} frames before its first line: lead_in must be 0"
        )
    if grid.flyback and not grid.last_flyback:
        raise ValueError(
            f"trigger_per is 'line', but last_flyback is False with a flyback of {grid.flyback} frames: the detector "
            "takes as many frames for the last line's pulse as for the others. Use last_flyback=True, or "
            "trigger_per='pixel'"
        )
