"""DetectorSettings: the detector's own parameters as ophyd signals, with the units and limits that it gives them.

In: ``set`` of plans. Out: SIMPLON requests. A set value is checked here before anything is sent, and all that the
detector changes with it is read again. What is read may be a second old, or, while the detector does not answer, older.
Threads: those of the callers, and one for each ``set`` while it lasts; they take turns in the order of the calls.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd.device.consistent_settings import ConsistentSettings
from live4d_ophyd.device.signals import SETTING, Choice, setting
from live4d_ophyd.device.simplon_signal import FRESH_S, SimplonFact, SimplonSignal
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.sources.dectris.control import TRIGGER_MODES, TRIGGER_PER, Simplon
from live4d_ophyd.sources.dectris.parameter import Parameter
from live4d_ophyd.sources.dectris.rest import SimplonError

log = logging.getLogger(__name__)

#: how long a value counts as known when the detector did not answer: asking may take it many seconds, s
SILENT_S = 30.0
#: part of a frame that is counted, below which a warning says so; the readout takes less
COUNTED = 0.9
#: what others depend on is put back first, what depends on all others last
_FIRST = ("roi_mode", "binning_mode", "pixel_format", "incident_energy")
_LAST = ("count_time", "frame_time")
#: edge of the square of pixels that is one
_BINNING = {"off": 1} | {f"{n}x{n}": n for n in (1, 2, 4, 8)}


class _OfDetector(Device):
    """A device whose components ask the detector before they are read."""

    def __init__(self, *args: Any, control: Simplon | None = None, **kwargs: Any) -> None:
        self._own_control = control
        #: called before a setting is changed
        self.before_put: Callable[[], None] = lambda: None
        #: held while something is set, which may take seconds
        self.setting = threading.RLock()
        self._queue = threading.Lock()
        self._last_set: threading.Thread | None = None
        self._set_here: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    @property
    def control(self) -> Simplon:
        if self._own_control is not None:
            return self._own_control
        assert self.parent is not None
        return self.parent.control

    def _asking(self) -> Iterator[SimplonSignal]:
        for name in self.component_names:
            if isinstance(signal := getattr(self, name), SimplonSignal):
                yield signal

    def refresh(self) -> None:
        """Ask the detector for all values; those it does not have are left out of readings. Raises SimplonError."""
        before = [signal for signal in self._asking() if signal.missing]
        stale = [signal for signal in self._asking() if signal.stale]
        for signal in stale:
            signal.refresh()
        for signal in stale:
            signal.hold(FRESH_S)  # of a slow detector, the first answers are old when the last ones come
        gone = [signal for signal in self._asking() if signal.missing and signal not in before]
        if gone:
            names = ", ".join(signal.attr_name for signal in gone)
            log.info("%s: the detector at %s has no %s: left out", self.name, self.control.url, names)

    def invalidate(self) -> None:
        """Ask the detector for everything when it is wanted next."""
        for signal in self._asking():
            signal.invalidate()

    def as_armed(self) -> dict[str, Any]:
        """Readings of all settings, asked for anew: what the detector was armed with."""
        for signal in self._asking():
            if not signal.ask():
                break  # to ask for the others, too, may take minutes, and the Event waits for them
        return super().read()

    def hold(self) -> None:
        """Hold what is known, without asking, until `invalidate`: readings must not wait for a request."""
        for signal in self._asking():
            if signal.asked:
                signal.hold(np.inf)

    def queue_up(self, thread: threading.Thread) -> threading.Thread | None:
        """Have ``thread`` set something; returns the one to wait for before."""
        with self._queue:
            before, self._last_set = self._last_set, thread
        return before

    def remember(self, key: str, changed: dict[str, Parameter]) -> None:
        """Note that ``key`` was set here, and what that changed of what was set before."""
        self._set_here |= {
            name: parameter.value
            for name, parameter in changed.items()
            if name == key or name in self._set_here
        }

    def set_here(self) -> tuple[tuple[str, Any], ...]:
        """What was set in this session, by the detector's keys, in the order in which it can be put back."""
        order = {key: n for n, key in enumerate((*_FIRST, "", *_LAST))}
        return tuple(sorted(self._set_here.copy().items(), key=lambda item: order.get(item[0], order[""])))

    def update(self, changed: dict[str, Parameter]) -> None:
        """Use what the detector says of some keys."""
        by_key = {parameter.key: parameter for parameter in changed.values()}
        for signal in self._asking():
            if signal._parameter is not None and signal._parameter.key in by_key:
                signal.update(by_key[signal._parameter.key])

    def summary(self) -> None:
        """Print each setting with its value, unit, and what the detector allows."""
        self.refresh()
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, _OfDetector):
                signal.summary()
            elif isinstance(signal, SimplonSignal):
                if signal._parameter is not None:
                    print(f"{signal.dotted_name:34} {signal._parameter}")
            else:
                print(f"{signal.dotted_name:34} {signal.get()!r}")

    def silent(self, error: SimplonError) -> None:
        """The detector did not answer: say so, and use what is known of it for a while."""
        log.warning("%s: %s; its last known settings are used", self.name, error)
        for signal in self._asking():
            if signal.asked:
                signal.hold(SILENT_S)

    def read(self) -> Any:
        self.refresh()
        return super().read()

    def describe(self) -> Any:
        self.refresh()
        return super().describe()

    def read_configuration(self) -> Any:
        self.refresh()
        return super().read_configuration()

    def describe_configuration(self) -> Any:
        self.refresh()
        return super().describe_configuration()


def _setting(key: str) -> Any:
    return Cpt(SimplonSignal, keys=(f"config/{key}",), kind=SETTING)


def _fact(*keys: str) -> Any:
    return Cpt(SimplonFact, keys=tuple(f"config/{key}" for key in keys), kind="config")


def _status(*keys: str) -> Any:
    return Cpt(SimplonSignal, keys=tuple(f"status/{key}" for key in keys), kind="normal")


class DetectorStatus(_OfDetector):
    """How the detector is, for the baseline: ``SupplementalData(baseline=[live4d.detector.status])``."""

    state = _status("state")
    # Later firmware calls these by their own names, earlier by the sensor's.
    temperature = _status("temperature", "board_000/th0_temp")
    humidity = _status("humidity", "board_000/th0_humidity")
    high_voltage = _status("high_voltage/state")


class DetectorSettings(ConsistentSettings, _OfDetector):
    """What a user sets on the detector, ``bps.mv(live4d.detector.frame_time, 33.3e-6)``, and its ``status``.

    Settings are recorded with every run. What was set here is put back when the detector was restarted
    (``Simplon(restore_settings=...)``). ``trigger_mode`` and ``trigger_per`` are those of `Simplon`; numbers of frames
    and triggers follow from the scan.
    """

    trigger_mode = setting(Choice, value=TRIGGER_MODES[0], choices=TRIGGER_MODES)
    trigger_per = setting(Choice, value=TRIGGER_PER[0], choices=TRIGGER_PER)
    count_time = _setting("count_time")
    frame_time = _setting("frame_time")
    incident_energy = _setting("incident_energy")
    threshold_1_energy = _setting("threshold/1/energy")
    threshold_1_mode = _setting("threshold/1/mode")
    threshold_2_energy = _setting("threshold/2/energy")
    threshold_2_mode = _setting("threshold/2/mode")
    threshold_difference_mode = _setting("threshold/difference/mode")
    binning_mode = _setting("binning_mode")
    roi_mode = _setting("roi_mode")
    pixel_format = _setting("pixel_format")
    compression = _setting("compression")
    mask_to_zero = _setting("mask_to_zero")
    pixel_mask_applied = _setting("pixel_mask_applied")
    flatfield_correction_applied = _setting("flatfield_correction_applied")
    countrate_correction_applied = _setting("countrate_correction_applied")
    virtual_pixel_correction_applied = _setting("virtual_pixel_correction_applied")
    #: what the detector is, in the configuration only
    description = _fact("description")
    detector_number = _fact("detector_number")  #: its serial number
    software_version = _fact("software_version")
    firmware_version = _fact("eiger_fw_version", "fw_version")
    y_pixels = _fact("y_pixels_in_detector")
    x_pixels = _fact("x_pixels_in_detector")
    #: of a pixel as it is sent; follows other settings
    bit_depth = Cpt(SimplonSignal, keys=("config/bit_depth_image",), kind="config")
    x_pixel_size = _fact("x_pixel_size")
    y_pixel_size = _fact("y_pixel_size")
    status = Cpt(DetectorStatus, "", kind="omitted")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._times_warned_of: tuple[float, float] | None = None
        super().__init__(*args, **kwargs)
        self.trigger_mode.put(self.control.trigger_mode)
        self.trigger_per.put(self.control.trigger_per)

    def check_settings(self) -> None:
        """Trigger mode and who triggers have to fit the scan: the device knows."""
        if isinstance(self.parent, ConsistentSettings):
            self.parent.check_settings()

    def largest_frame(self) -> tuple[float, float]:
        """(det rows, det cols) of frames that are neither binned nor cut, px; infinity where it is not known yet."""
        sides = (signal.known_number() for signal in (self.y_pixels, self.x_pixels))
        rows, cols = (math.inf if side is None else side for side in sides)
        return rows, cols

    def frames_said(self) -> FrameFormat | None:
        """What the detector says of the frames that it would send, without asking it; None where that is not known.

        The stream has the last word: a region of interest may make them smaller.
        """
        (rows, cols), bits = self.largest_frame(), self.bit_depth.known_number()
        binning = self.binning_mode._parameter
        edge = 1 if binning is None else _BINNING.get(binning.value)
        if not math.isfinite(rows * cols) or bits not in (8, 16, 32) or edge is None:
            return None
        rows, cols = int(rows) // edge, int(cols) // edge
        return FrameFormat(rows, cols, np.dtype(f"u{int(bits) // 8}")) if min(rows, cols) > 0 else None

    def as_armed(self) -> dict[str, Any]:
        readings = super().as_armed()
        self.warn_of_short_exposure()
        return readings

    def warn_of_short_exposure(self) -> None:
        """Log a warning, once for the same times, where the detector counts for a part of each frame only.

        A frame time that is set alone leaves the count time: most of the dose might be lost unsaid.
        """
        count, frame = self.count_time.known_number(), self.frame_time.known_number()
        if count is None or frame is None or (count, frame) == self._times_warned_of:
            return
        self._times_warned_of = (count, frame)
        if count < COUNTED * frame:
            both = f"; {self.parent.name}.dwell_time sets both" if self.parent is not None else ""
            log.warning(
                "%s: of each frame of %g s only %g s are counted (count_time): %.0f %% of the dose is lost%s",
                self.name, frame, count, 100 * (1 - count / frame), both,
            )  # fmt: skip
