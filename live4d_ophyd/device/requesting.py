"""Requesting: what a device asks the engine for, from all of its signals, and what it refuses to ask for.

In: the settings, the methods, the control with the detector's own settings, and the run that goes on. Out: an
`AcquisitionRequest`. Threads: the callers'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from live4d_ophyd.device.arm_per import ArmPer
from live4d_ophyd.device.method_signals import MethodSignals
from live4d_ophyd.device.run_notes import RunNotes
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.imaging.method import PATTERN, Output
from live4d_ophyd.imaging.virtual_detectors import Detector
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon


@dataclass(frozen=True)
class Pattern:
    """The mean pattern, as a method."""

    name: str = "pattern"
    enabled: bool = False

    def outputs(self, series: Any, scan: ScanGrid) -> dict[str, Output]:
        return {self.name: Output(PATTERN, (0, 0), "counts", preview=False)} if self.enabled else {}


class Requesting(MethodSignals):
    """A device that makes requests. ``control`` and ``scan`` as of `Live4D`; None where there is none."""

    def __init__(
        self,
        *args: Any,
        control: Simplon | None,
        scan: ScanStarter | None,
        arm_per: str | int,
        **kwargs: Any,
    ) -> None:
        self.control = control
        self._scan = scan
        self._arm_per = ArmPer(arm_per, controlled=control is not None)
        self._run = RunNotes()
        super().__init__(*args, **kwargs)

    def detectors(self) -> tuple[Detector, ...]:
        """The virtual detectors as the signals have them now."""
        return tuple(method for method in self.methods() if not isinstance(method, Pattern))

    def request(self, rasters: int | None = None) -> AcquisitionRequest:
        """What the engine is asked for at the next trigger, or for a movie. Raises ValueError naming what cannot be."""
        stay_armed = rasters is None and self._arm_per.stays_armed
        control = self._control()
        *detectors, pattern = self.methods()
        sides = (math.inf, math.inf) if self.control is None else self.detector.largest_frame()
        check_centers(self.name, detectors, sides)
        if self._scan is not None and control is not None and control.software_triggered:
            raise ValueError(
                f"{self.name} has {self._scan.name}, but with trigger_mode 'ints' the detector would start before the "
                "scan: use 'exts' or 'exte'"
            )
        return self.request_for(
            detectors=tuple(detectors),
            pattern=pattern.enabled,
            rasters=rasters or self._arm_per.triggers(self.grid()),
            stay_armed=stay_armed,
            control=control,
            notes=self._run.header,
        )

    def movie_request(self, rasters: int) -> AcquisitionRequest:
        """The same for a movie: without what is not in it."""
        return replace(self.request(rasters), pattern=False)

    def check_settings(self) -> None:
        """Raise ValueError for settings that do not fit together, as of an annulus whose inner radius is the larger."""
        self.request()

    def _control(self) -> Simplon | None:
        """The control with the trigger mode as the signals have it now."""
        if self.control is None:
            return None
        settings = self.detector
        return replace(
            self.control,
            trigger_mode=settings.trigger_mode.get(),
            trigger_per=settings.trigger_per.get(),
            settings=settings.set_here(),
        )

    def note_run(self, name: str, doc: dict[str, Any]) -> None:
        """Know the run: the stream's header names it, and its images keep one shape.

        ``RE.subscribe(live4d.note_run)``
        """
        self._run.note(name, doc)


def check_centers(name: str, methods: Sequence[Any], sides: tuple[float, float]) -> None:
    """Raise ValueError for a centre that lies off a detector of ``sides`` (rows, cols); infinity: not known yet."""
    rows, cols = sides
    for method in methods:
        center = getattr(method, "center", None)
        if center is not None and not (0 <= center[0] <= rows - 1 and 0 <= center[1] <= cols - 1):
            raise ValueError(
                f"{name}_{method.name}_center is {tuple(center)}: the detector has {rows:g} x {cols:g} px, "
                f"its last is ({rows - 1:g}, {cols - 1:g})"
            )
