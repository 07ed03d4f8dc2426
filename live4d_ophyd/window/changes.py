"""Changes: settings that an operator changes in the window, set by the RunEngine, at once or between two rasters.

In: values by the names of a device's signals, from the GUI's thread. Out: ``set`` messages. While no plan runs they
are a plan of their own. While one runs they wait for the moment before its next raster, if its images are not
compared with each other: `between_rasters`, a preprocessor, then puts them among the plan's own messages, in the
RunEngine's thread. Each Event records the settings that its raster was taken with.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted, short_uid

from live4d_ophyd.live.messages import LoopMsg, Plan, each_by
from live4d_ophyd.window.progress import RasterClock

log = logging.getLogger(__name__)


#: what becomes of a change
SET, WAITS, REFUSED = "set", "waits", "refused"


class Changes:
    """Of one device and the RunEngine that runs it; ``clock`` watches its rasters.

    `request` and `flush` are for the GUI's thread, the rest for any.
    """

    def __init__(self, device: Any, RE: Any, clock: RasterClock) -> None:
        self._device, self.RE, self._clock = device, RE, clock
        self._lock = threading.Lock()
        self._waiting: dict[str, Any] = {}
        self._runs: dict[Hashable, Mapping[str, Any]] = {}  # metadata of the open ones, by run key
        self._flying = False
        self._followed = 0  # plans that run within `between_rasters`
        self._setting = False
        self.words: deque[str] = deque(maxlen=20)  #: for the operator: what became of changes that waited

    @property
    def waiting(self) -> dict[str, Any]:
        """Values that wait for the next raster, by the names of signals."""
        with self._lock:
            return dict(self._waiting)

    def request(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """Have ``values`` set, by the names of signals: what becomes of them, and in words.

        `SET`: the RunEngine was idle and has set them. `WAITS`: it will, before the next raster. `REFUSED`: it may not,
        or the device does not take them; nothing changes.
        """
        named = self._named(values)
        try:
            self._device.check_change({**self.waiting, **values})
        except ValueError as error:
            return REFUSED, str(error)
        if self.RE.state == "idle":
            return self._set(values)
        if reason := self._why_not():
            return REFUSED, f"{', '.join(values)} cannot be set now: {reason}"
        with self._lock:
            self._waiting.update(values)
        return WAITS, f"{named}: {when(values)}"

    def flush(self) -> None:
        """Set what still waits, if no plan runs any more."""
        if self.RE.state != "idle" or self._setting:
            return
        with self._lock:
            values, self._waiting = self._waiting, {}
        if values:
            self.words.append(self._set(values)[1])

    def between_rasters(self, plan: Plan) -> Plan:
        """A preprocessor for ``RE.preprocessors``: the same messages, changes that wait before those of a raster."""
        self._followed += 1
        try:
            yield from self._apply()
            return (yield from each_by(self._follow, plan))
        finally:
            self._followed -= 1
            if not self._followed:
                self._runs.clear()
                self._flying = False

    def _follow(self, msg: Msg) -> Plan:
        mine = msg.obj is self._device
        match msg.command:
            case "open_run":
                yield from self._apply()
                self._runs[msg.run] = msg.kwargs
            case "close_run":
                self._runs.pop(msg.run, None)
                self._flying = False
            case "trigger" if mine:
                yield from self._apply()
                status = yield msg
                self._clock.watch(status)
                return status
            case "kickoff" if mine:
                self._flying = True
            case "complete" if mine:
                status = yield msg
                self._clock.watch(status)
                return status
        return (yield msg)

    def _apply(self) -> Plan:
        """Set what waits, if what runs allows it. It never fails the plan."""
        if self._why_not():
            return
        with self._lock:
            # The data keys of a run are fixed.
            kept = {name: value for name, value in self._waiting.items() if self._runs and is_switch(name)}
            values = {name: value for name, value in self._waiting.items() if name not in kept}
            self._waiting = kept
        if not values:
            return
        try:
            # Again: the plan may have set others meanwhile. A set that fails would fail the plan, too.
            self._device.check_change(values)
        except ValueError as error:
            self.words.append(str(error))
            return
        group = short_uid("live-window")
        messages = [
            LoopMsg("set", getattr(self._device, name), value, group=group) for name, value in values.items()
        ]
        messages.append(LoopMsg("wait", None, group=group))
        try:
            for message in messages:
                yield message
        except (ValueError, FailedStatus) as error:
            self.words.append(_reason(error))
        else:
            self.words.append(f"{self._named(values)}: set")
        for message in messages:  # a rewind must not bring back what the operator has changed since
            message.exclude_from_rewind()

    def _set(self, values: Mapping[str, Any]) -> tuple[str, str]:
        self._setting = True
        try:
            moves = [part for name, value in values.items() for part in (getattr(self._device, name), value)]
            self.RE(bps.mv(*moves))
        except (ValueError, FailedStatus) as error:
            return REFUSED, _reason(error)
        except RunEngineInterrupted:
            return REFUSED, f"{', '.join(values)}: the RunEngine was interrupted while it set them"
        except Exception as error:  # of anything else that the RunEngine runs, such as another preprocessor
            log.exception("the RunEngine could not set %s", dict(values))
            return REFUSED, f"{', '.join(values)}: the RunEngine could not set them, {error!r}"
        finally:
            self._setting = False
        return SET, self._named(values)

    def _why_not(self) -> str:
        """Why what runs now does not allow a change; empty if it does."""
        if not self._followed:
            return (
                ""
                if self._setting
                else "the plan that runs began before the window was there; wait for its end"
            )
        for start in list(self._runs.values()):
            plan = start.get("plan_name", "the plan that runs")
            if start.get("motors"):
                return f"{plan} compares its images, which must have the same detectors; wait for its end"
            if "calibration" in str(start.get("purpose", "")):
                return f"{plan} sets detectors itself; wait for its end"
        if self._flying:
            return "a movie is one series, and runs with the settings that it began with; wait for its end"
        return ""

    def _named(self, values: Mapping[str, Any]) -> str:
        """``vbf_radius 15.2 px, vbf_center (46.8, 48.9) px``."""
        return ", ".join(
            f"{name} {shown(value)} {_units(self._device, name)}".rstrip() for name, value in values.items()
        )


def is_switch(name: str) -> bool:
    """Whether a setting switches a method on or off, and with it data keys."""
    return name.endswith("_enabled")


def when(values: Iterable[str]) -> str:
    """From when on values will be set that wait, by their names."""
    return "from the next run" if any(map(is_switch, values)) else "from the next raster"


def shown(value: Any) -> str:
    """A setting's value for people, numbers with as many digits as matter on a pattern."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float | int):
        return f"{value:.4g}"
    if isinstance(value, tuple) and len(value) > 4:
        return f"{len(value)} positions"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    return str(value)


def _units(device: Any, name: str) -> str:
    signal = getattr(device, name)
    (entry, *_) = signal.describe().values()
    return str(entry.get("units") or "")


def _reason(error: Exception) -> str:
    """Of a FailedStatus that of the setting."""
    return str(error.__cause__ or error)
