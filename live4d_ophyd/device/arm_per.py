"""ArmPer: for how many triggers the detector is armed at a time."""

from __future__ import annotations

from live4d_ophyd.scan import ScanGrid

#: triggers, and frames, that "run" arms for: then it arms again
RUN_TRIGGERS, RUN_FRAMES = 1000, 1 << 28


class ArmPer:
    """``per``: "trigger", "run", or a number of triggers. Raises ValueError for anything else.

    ``controlled``: whether it is the device that arms; if not, nothing but "trigger" can be.
    """

    def __init__(self, per: str | int, *, controlled: bool) -> None:
        counted = isinstance(per, int) and not isinstance(per, bool) and per >= 1
        if per not in ("trigger", "run") and not counted:
            raise ValueError(f"arm_per is {per!r}; expected 'trigger', 'run' or a number of triggers")
        if per != "trigger" and not controlled:
            raise ValueError(f"arm_per is {per!r}, but without control it is not the device that arms")
        self._per = per
        self.stays_armed = per != "trigger"  #: between triggers

    def triggers(self, grid: ScanGrid) -> int:
        """How many rasters of ``grid`` it is armed for."""
        if isinstance(self._per, int):
            return self._per
        return max(1, min(RUN_TRIGGERS, RUN_FRAMES // grid.frames)) if self.stays_armed else 1
