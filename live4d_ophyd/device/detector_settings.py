"""DetectorSettings: the detector's own parameters as ophyd signals, with the units and limits that it gives them.

In: ``set`` of plans. Out: SIMPLON requests. A set value is checked here before anything is sent, and all that the
detector changes with it is read again. What is read may be a second old, or, while the detector does not answer, older.
Threads: those of the callers, and one for each ``set`` while it lasts; they take turns in the order of the calls.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Kind, Signal
from ophyd.status import Status

from live4d_ophyd.device.signals import SETTING, Choice, Settling, setting
from live4d_ophyd.sources.dectris.control import TRIGGER_MODES, TRIGGER_PER, Simplon
from live4d_ophyd.sources.dectris.parameter import Parameter
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey

log = logging.getLogger(__name__)

#: how long a value counts as known, s
FRESH_S = 1.0
#: and how long when the detector did not answer: asking may take it many seconds
SILENT_S = 30.0
_NUMPY = {"number": "<f8", "integer": "<i8"}
#: what others depend on is put back first, what depends on all others last
_FIRST = ("roi_mode", "binning_mode", "pixel_format", "incident_energy")
_LAST = ("count_time", "frame_time")


class SimplonSignal(Signal):
    """One key of the detector.

    ``keys``: where to find it, ``config/frame_time``, the first that the detector has. One that it does not have is
    left out of readings, and raises UnknownKey when it is used all the same.
    """

    def __init__(self, *args: Any, keys: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keys = tuple(keys)
        self._kind_if_there: Kind | None = None  #: while it is left out
        self._parameter: Parameter | None = None
        self._ask_at = -np.inf

    @property
    def _control(self) -> Simplon:
        assert self.parent is not None, "a SimplonSignal is a component of DetectorSettings"
        return self.parent.control

    @property
    def asked(self) -> bool:
        """Whether the detector has answered once."""
        return self._ask_at > -np.inf

    @property
    def missing(self) -> bool:
        """Whether the detector was asked and does not have it."""
        return self._kind_if_there is not None

    def look(self) -> None:
        """Ask the detector, unless that was a moment ago. Raises SimplonError when nothing is known of the value."""
        if self.stale:
            self.ask()

    def ask(self) -> bool:
        """`look`, however fresh the value is; until the answer is there it counts as before. Says whether it came."""
        try:
            for key in self._keys:
                try:
                    self.learn(self._control.rest.read("detector", *key.split("/", 1)))
                    return True
                except UnknownKey:
                    continue
        except SimplonError as error:
            if not self.asked:
                raise
            # The images of a scan must not be lost because its detector went away.
            self.parent.silent(error)
            return False
        self._parameter = None
        self.keep(FRESH_S)
        if self._kind_if_there is None:
            self._kind_if_there = self.kind  # type: ignore[has-type]
            self.kind = Kind.omitted
        return True

    def learn(self, parameter: Parameter) -> None:
        """Take what the detector says of the key."""
        self._parameter = parameter
        self.keep(FRESH_S)
        if self._kind_if_there is not None:
            self.kind, self._kind_if_there = self._kind_if_there, None
        value = parameter.in_documents[1]
        if value != self._readback:
            super().put(value, force=True)

    @property
    def stale(self) -> bool:
        """Whether the detector is asked when the value is wanted next."""
        return time.monotonic() >= self._ask_at

    def keep(self, seconds: float) -> None:
        """Use the value that is known for so long, or longer if that was said before."""
        self._ask_at = max(self._ask_at, time.monotonic() + seconds)

    def forget(self) -> None:
        """Ask again when the value is wanted next."""
        if self.asked:
            self._ask_at = time.monotonic()

    @property
    def hints(self) -> dict[str, Any]:
        """Its name, for tables and plots of plans that move it."""
        return {"fields": [self.name]}

    def _known(self) -> Parameter:
        self.look()
        if self._parameter is None:
            raise UnknownKey(
                f"{self.name}: the detector at {self._control.url} has no {' or '.join(self._keys)}"
            )
        return self._parameter

    def get(self, **kwargs: Any) -> Any:
        """The value in the detector. Raises UnknownKey where it has none, SimplonError where it cannot be asked."""
        return self._known().in_documents[1]

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Raise ValueError with the detector's limits unless it would take ``value``."""
        self._known().check(_plain(value))

    def put(self, value: Any, *, force: bool = False, **kwargs: Any) -> None:
        """Set it, and read again what changed with it.

        Raises ValueError, SimplonError with the detector's words, or when it keeps another value.
        """
        known, value = self._known(), _plain(value)
        if not force:
            known.check(value)
        subsystem, _, key = known.key.split("/", 2)
        assert self.parent is not None
        # One at a time: what another sets meanwhile may change this, and would look like disobedience.
        with self.parent.setting:
            self.parent.before_put()
            changed = self._control.put(subsystem, key, value)
            self.parent.remember(key, changed)
            self.parent.learn(changed)

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        """As `put`; what is out of limits is refused at once, thresholds may take the detector seconds."""
        self.check_value(value)
        status = Status(self, timeout=timeout, settle_time=settle_time or 0)
        assert self.parent is not None

        def put() -> None:
            try:
                if before is not None:
                    before.join()
                self.put(value)
            except Exception as error:
                status.set_exception(error)
            else:
                status.set_finished()

        thread = threading.Thread(target=put, name=f"{self.name}-set", daemon=True)
        before = self.parent.queue_up(thread)
        thread.start()
        return status

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value; (0, 0), as ophyd has it, where the detector gives none."""
        known = self._known()
        if known.minimum is None and known.maximum is None:
            return 0.0, 0.0
        return (
            -np.inf if known.minimum is None else known.minimum,
            np.inf if known.maximum is None else known.maximum,
        )

    def describe(self) -> dict[str, Any]:
        known = self._known()
        dtype, _ = known.in_documents
        entry: dict[str, Any] = {"source": f"{self._control.url}/{known.key}", "dtype": dtype, "shape": []}
        if dtype in _NUMPY:
            entry["dtype_numpy"] = _NUMPY[dtype]
        if known.unit:
            entry["units"] = known.unit
        if known.minimum is not None:
            entry["lower_ctrl_limit"] = known.minimum
        if known.maximum is not None:
            entry["upper_ctrl_limit"] = known.maximum
        if known.allowed:
            entry["enum_strs"] = [str(value) for value in known.allowed]
        return {self.name: entry}


class SimplonFact(SimplonSignal):
    """A key that stays as it is while the detector is switched on: asked for once a stage, recorded with the run."""

    def ask(self) -> bool:
        if self._parameter is not None and not self.stale:
            return True
        return super().ask()

    def learn(self, parameter: Parameter) -> None:
        super().learn(parameter)
        self.keep(np.inf)

    def known_number(self) -> float | None:
        """The value as a number, without asking the detector; None where that is not known, or none."""
        value = None if self._parameter is None else self._parameter.value
        return value if isinstance(value, int | float) else None


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

    def look(self) -> None:
        """Ask the detector for all values; those it does not have are left out of readings. Raises SimplonError."""
        before = [signal for signal in self._asking() if signal.missing]
        stale = [signal for signal in self._asking() if signal.stale]
        for signal in stale:
            signal.look()
        for signal in stale:
            signal.keep(FRESH_S)  # of a slow detector, the first answers are old when the last ones come
        gone = [signal for signal in self._asking() if signal.missing and signal not in before]
        if gone:
            names = ", ".join(signal.attr_name for signal in gone)
            log.info("%s: the detector at %s has no %s: left out", self.name, self.control.url, names)

    def forget(self) -> None:
        """Ask the detector for everything when it is wanted next."""
        for signal in self._asking():
            signal.forget()

    def as_armed(self) -> dict[str, Any]:
        """Readings of all settings, asked for anew: what the detector was armed with."""
        for signal in self._asking():
            if not signal.ask():
                break  # to ask for the others, too, may take minutes, and the Event waits for them
        return super().read()

    def hold(self) -> None:
        """Take what is known for the truth, without asking, until `forget`: readings must not wait for a request."""
        for signal in self._asking():
            if signal.asked:
                signal.keep(np.inf)

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

    def learn(self, changed: dict[str, Parameter]) -> None:
        """Take what the detector says of some keys."""
        by_key = {parameter.key: parameter for parameter in changed.values()}
        for signal in self._asking():
            if signal._parameter is not None and signal._parameter.key in by_key:
                signal.learn(by_key[signal._parameter.key])

    def summary(self) -> None:
        """Print each setting with its value, unit, and what the detector allows."""
        self.look()
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
                signal.keep(SILENT_S)

    def read(self) -> Any:
        self.look()
        return super().read()

    def describe(self) -> Any:
        self.look()
        return super().describe()

    def read_configuration(self) -> Any:
        self.look()
        return super().read_configuration()

    def describe_configuration(self) -> Any:
        self.look()
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


class DetectorSettings(Settling, _OfDetector):
    """What a user sets on the detector, ``bps.mv(live4d.detector.frame_time, 33.3e-6)``, and its ``status``.

    Settings are recorded with every run. What was set here is put back when the detector was restarted
    (``Simplon(restore_settings=...)``). ``trigger_mode`` and ``trigger_per`` are those of `Simplon`; numbers of images
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
    x_pixel_size = _fact("x_pixel_size")
    y_pixel_size = _fact("y_pixel_size")
    status = Cpt(DetectorStatus, "", kind="omitted")

    def check_settings(self) -> None:
        """Trigger mode and who triggers have to fit the scan: the device knows."""
        if isinstance(self.parent, Settling):
            self.parent.check_settings()

    def largest_frame(self) -> tuple[float, float]:
        """(det rows, det cols) of frames that are neither binned nor cut, px; infinity where it is not known yet."""
        sides = (signal.known_number() for signal in (self.y_pixels, self.x_pixels))
        rows, cols = (math.inf if side is None else side for side in sides)
        return rows, cols

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trigger_mode.put(self.control.trigger_mode)
        self.trigger_per.put(self.control.trigger_per)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
