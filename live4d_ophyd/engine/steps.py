"""Steps: a detector that stays armed for many triggers, one raster each. Is the next frame the next raster's first?

Pulses are counted from when it was armed: one missed, or one too many, and every later raster would be shifted. So a
series ends where that cannot be excluded. Runs in the acquisition's thread.
"""

from __future__ import annotations

from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.sources.source import DetectorControl

#: how long a whole raster is watched for frames beyond it: a scan that is too long brings them right behind, s
SETTLE_S = 0.05
#: with several connections, how long frames may be behind a raster's last one, or behind `end`, s
STRAGGLER_S = 0.5


class OutOfStep(Exception):
    """The next raster needs another series; says why."""


class Steps:
    """Of one series, whose frames `tracker` books."""

    def __init__(self, tracker: FrameTracker) -> None:
        self._tracker = tracker
        self._seen = (-1, 0)  # raster, and how many of its frames had arrived
        self._seen_at = 0.0

    def over(self, raster: int, now: float) -> bool:
        """Nothing more comes of the raster, as far as frames tell: there is no `end` between two."""
        tracker = self._tracker
        if not tracker.reached_end(raster):
            return False
        seen = (raster, tracker.arrived(raster))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        whole = tracker.complete(raster)
        return tracker.finished_of(raster) == seen[1] and now - self._seen_at >= (
            SETTLE_S if whole else STRAGGLER_S
        )

    def kept(self, raster: int) -> bool:
        """Whether the raster ended where it should."""
        return self._tracker.reached_end(raster) and not self._tracker.went_beyond(raster)

    def check(self, raster: int, control: DetectorControl) -> None:
        """Before the trigger of a raster: raise OutOfStep if the detector is not armed for it any more."""
        if self._tracker.went_beyond(raster - 1):
            raise OutOfStep("frames came between two triggers")
        if why := control.why_out_of_step():
            raise OutOfStep(why)
