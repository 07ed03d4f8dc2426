"""Requesting: what a device asks the engine for, from all of its signals, and what it refuses to ask for.

In: the settings, the methods, the control with the detector's own settings, and the run that goes on. Out: an
`AcquisitionRequest`. Threads: the callers'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.device.acquisition_settings import AcquisitionSettings
from live4d_ophyd.device.arm_per import ArmPer
from live4d_ophyd.device.method_signals import MethodSignals
from live4d_ophyd.device.recording_path import expand
from live4d_ophyd.device.run_notes import RunNotes
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.recorder import Recording
from live4d_ophyd.sources.dectris.control import Simplon


class Requesting(MethodSignals, AcquisitionSettings):
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

    def request(self, rasters: int | None = None) -> AcquisitionRequest:
        """What the engine is asked for at the next trigger, or for a movie. Raises ValueError naming what cannot be."""
        stay_armed = rasters is None and self._arm_per.stays_armed
        control = self._control()
        methods = self.methods()
        check_centers(self.name, methods, self.calibration(), self._sides())
        self.check_outputs(methods)
        if (channel := self.channel.get()) in (imaged := self.further_channels):
            raise ValueError(
                f"the channel of {self.name} is {channel!r}, which is imaged besides it: expected one other than "
                f"{', '.join(imaged)}"
            )
        if self._scan is not None and control is not None and control.software_triggered:
            raise ValueError(
                f"{self.name} has {self._scan.name}, but with trigger_mode 'ints' the detector would start before the "
                "scan: use 'exts' or 'exte'"
            )
        return self.request_for(
            methods=self.methods_on_channels(),
            rasters=rasters or self._arm_per.triggers(self.grid()),
            stay_armed=stay_armed,
            control=control,
            record=self._recording(),
            notes=self._run.header,
        )

    def _recording(self) -> Recording | None:
        if not (template := self.record.get()):
            return None
        run = self._run
        known = run.header if run.began is None else {**run.header, "time": run.began}
        path = expand(template, known, self.name)
        notes = {"device": self.name, "baseline": run.baseline}
        return Recording(path, notes, flyback=self.record_flyback.get())

    def movie_request(self, rasters: int) -> AcquisitionRequest:
        """The same for a movie: without methods that give nothing whose size is known before a series."""
        request = self.request(rasters)
        known = [
            method
            for method in request.methods
            if any(all(output.shape) for output in method.outputs(None, request.grid).values())
        ]
        return replace(request, methods=tuple(known))

    def check_settings(self) -> None:
        """Raise ValueError for settings that do not fit together, as of an annulus whose inner radius is the larger."""
        self.request()

    def check_change(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError where settings could not have these values, by the names of signals. Nothing is set."""
        accepted = {name: getattr(self, name).accepted(value) for name, value in values.items()}
        methods = self.methods(accepted)
        check_centers(self.name, methods, self.calibration(accepted), self._sides())
        self.check_outputs(methods)

    def _sides(self) -> tuple[float, float]:
        """(rows, cols) of the detector, px; infinity where it is not known."""
        return (math.inf, math.inf) if self.control is None else self.detector.largest_frame()

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


def check_centers(
    name: str, methods: Sequence[Any], calibration: Calibration, sides: tuple[float, float]
) -> None:
    """Raise ValueError for a centre that lies off a detector of ``sides`` (rows, cols); infinity: not known yet."""
    rows, cols = sides
    parts = [(method.name, part) for method in methods for part in (method, *vars(method).values())]
    for owner, part in [("calibration", calibration), *parts]:
        center = getattr(part, "center", None) if is_dataclass(part) else None
        if center is not None and not (0 <= center[0] <= rows - 1 and 0 <= center[1] <= cols - 1):
            raise ValueError(
                f"{name}_{owner}_center is {tuple(center)}: the detector has {rows:g} x {cols:g} px, "
                f"its last is ({rows - 1:g}, {cols - 1:g})"
            )
