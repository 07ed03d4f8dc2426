"""Simplon: configure, arm, trigger and disarm a DECTRIS detector over SIMPLON 1.6 to 1.8.

What a raster scan needs is set here: stream, triggers, dwell time. Energies, thresholds and modes stay as they are on
the detector. The description of a control (``to_dict``) travels to the engine process, which arms and, whatever
happens, disarms.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import httpx

from live4d_ophyd.simplon.rest import REQUEST_TIMEOUT_S, Parameter, Rest, SimplonError, UnknownKey

log = logging.getLogger(__name__)

#: how long arming and disarming may take, s
ARM_TIMEOUT_S = 120.0


#: how long the detector may take to be idle again after a series, or for what it does by itself, s
SETTLE_TIMEOUT_S = 30.0
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.005, 0.2
TRIGGER_MODES = ("exts", "exte", "ints")
TRIGGER_PER = ("pixel", "line")


@dataclass(frozen=True)
class Simplon:
    """Control of the detector at ``url`` (``http://dcu``).

    Parameters
    ----------
    url : address of the detector control unit
    trigger_mode : ``exts``, the scan generator's pulses start images; ``exte``, each pulse is an exposure; ``ints``,
        the whole raster starts with a software trigger and images follow each other at the frame time
    trigger_per : with ``exts``: ``pixel``, a pulse for each image; ``line``, a pulse for each line of the scan
    api : version in the request paths, "" asks the device
    """

    url: str
    trigger_mode: str = "exts"
    trigger_per: str = "pixel"
    api: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"Simplon url is {self.url!r}; it must look like http://dcu or http://10.0.0.5:80"
            )
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"Simplon url is {self.url!r}: {error}") from error
        for name, allowed in (("trigger_mode", TRIGGER_MODES), ("trigger_per", TRIGGER_PER)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Simplon {name} is {getattr(self, name)!r}; expected one of {allowed}")
        if self.trigger_per == "line" and self.trigger_mode != "exts":
            raise ValueError(
                f"Simplon trigger_per is 'line' with trigger_mode {self.trigger_mode!r}: only 'exts' takes several "
                "images a pulse"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def software_triggered(self) -> bool:
        return self.trigger_mode == "ints"

    def state(self) -> str:
        """``idle``, ``ready`` (armed), ``acquire``, ``na`` (not initialized), ``error``, or what it does by itself."""
        return str(self.get("detector", "status", "state"))

    def configure(
        self, images: int, triggers: int, frame_time: float | None = None, appendix: str = ""
    ) -> None:
        """Prepare a series of ``triggers`` triggers of ``images`` images each.

        ``frame_time`` in s, None leaves it; ``appendix`` comes back as ``user_data`` of the stream's start message.
        """
        self.make_idle()
        self._ensure("stream", "mode", "enabled")
        self._ensure_if_there("stream", "format", "cbor")
        try:
            self._ensure_if_there("stream", "header_appendix", appendix)
        except SimplonError as error:
            log.warning("the stream's header will not say what is scanned: %s", error)
        self._ensure_if_there("filewriter", "mode", "disabled")
        self._ensure("detector", "trigger_mode", self.trigger_mode)
        self._ensure("detector", "nimages", images)
        self._ensure("detector", "ntrigger", triggers)
        if frame_time is not None and frame_time > 0:
            self._set_frame_time(frame_time)

    def _set_frame_time(self, frame_time: float) -> None:
        """Expose as long as the readout leaves room for."""
        readout = self._get_if_there("detector", "config", "detector_readout_time") or 0.0
        # A frame shorter than the readout is the detector's to refuse, in its words.
        self._ensure("detector", "count_time", frame_time - readout if readout < frame_time else frame_time)
        self._ensure("detector", "frame_time", frame_time)
        real = self.get("detector", "config", "frame_time")
        if abs(real - frame_time) > 0.01 * frame_time:
            log.warning("%s: the frame time is %g s, not the %g s asked for", self.url, real, frame_time)

    def make_idle(self) -> None:
        """Bring the detector to ``idle`` from whatever it was left in, with high voltage where it has that.

        Raises SimplonError with what to do when it does not get there.
        """
        state = self.state()
        if state in ("na", "error"):
            reasons = self._get_if_there("detector", "status", "error") if state == "error" else None
            log.warning(
                "%s is in state %s (%s): initializing it; its energies, thresholds and corrections are those it starts "
                "with", self.url, state, reasons or "switched on or restarted",
            )  # fmt: skip
            self.command("initialize", timeout=ARM_TIMEOUT_S)
        elif state in ("ready", "acquire"):
            log.warning(
                "%s was left in state %s, by a session that ended or another one: disarming", self.url, state
            )
            try:
                self.disarm()
            except SimplonError as error:
                log.warning("%s: disarming failed (%s)", self.url, error)
            if self.state() in ("ready", "acquire"):
                self.abort()
        state = self.wait_idle()
        if state != "idle":
            raise SimplonError(
                f"{self.url} is in state {state} and did not get to idle within {SETTLE_TIMEOUT_S:g} s: see its web "
                "interface, or restart the control unit"
            )
        self._switch_on_high_voltage()

    def wait_idle(self, timeout: float = SETTLE_TIMEOUT_S) -> str:
        """Wait for ``idle``; returns the state, another one when ``timeout`` (s) was too short."""
        return self._wait_for("detector", "state", "idle", timeout)

    def _switch_on_high_voltage(self) -> None:
        voltage = self._get_if_there("detector", "status", "high_voltage/state")
        if voltage in (None, "READY"):
            return
        log.info("%s: high voltage is %s, switching it on", self.url, voltage)
        if voltage != "RAMPING":
            self.command("hv_enabled", timeout=ARM_TIMEOUT_S)
        voltage = self._wait_for("detector", "high_voltage/state", "READY", ARM_TIMEOUT_S)
        if voltage != "READY":
            raise SimplonError(
                f"{self.url}: high voltage is {voltage}, not READY, {ARM_TIMEOUT_S:g} s after it was switched on: are "
                "temperature and humidity within limits?"
            )

    def _wait_for(self, subsystem: str, key: str, wanted: str, timeout: float) -> str:
        deadline, pause = time.monotonic() + timeout, _SHORTEST_POLL_S
        while (value := str(self.get(subsystem, "status", key))) != wanted and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)
        return value

    def arm(self) -> int:
        """Arm; returns the id of the series that follows."""
        answer = self.command("arm", timeout=ARM_TIMEOUT_S)
        try:
            return int(answer["sequence id"])
        except (KeyError, TypeError, ValueError) as error:
            raise SimplonError(
                f"arm at {self.url} answered {answer!r}; expected {{'sequence id': n}}"
            ) from error

    def trigger(self) -> None:
        """Start the series in software; returns when the exposures are over, however long they take."""
        self.command("trigger", timeout=None)

    def disarm(self) -> None:
        """Let what was exposed be sent, then idle."""
        self.command("disarm", timeout=ARM_TIMEOUT_S)

    def abort(self) -> None:
        """Stop at once; what was not sent is dropped."""
        self.command("abort", timeout=ARM_TIMEOUT_S)

    def dropped(self) -> int | None:
        """Images the detector dropped since arm because nobody fetched them; None where it does not count them."""
        dropped = self._get_if_there("stream", "status", "dropped")
        return dropped if isinstance(dropped, int) else None

    @cached_property
    def rest(self) -> Rest:
        """The interface that all of this goes through."""
        return Rest(self.url, self.api)

    def get(self, subsystem: str, kind: str, key: str) -> Any:
        """Value of ``/subsystem/api/.../kind/key``."""
        return self.rest.read(subsystem, kind, key).value

    def put(self, subsystem: str, key: str, value: Any) -> dict[str, Parameter]:
        """Set a configuration value; returns the keys that changed with it."""
        return self.rest.write(subsystem, key, value)

    def command(self, name: str, timeout: float | None = REQUEST_TIMEOUT_S) -> Any:
        """Run a detector command; returns its answer."""
        return self.rest.command(name, timeout)

    def _ensure(self, subsystem: str, key: str, value: Any) -> None:
        """Set a configuration value unless it is there already: reading costs less than setting."""
        if self.get(subsystem, "config", key) != value:
            self.put(subsystem, key, value)

    def _ensure_if_there(self, subsystem: str, key: str, value: Any) -> None:
        try:
            self._ensure(subsystem, key, value)
        except UnknownKey:
            log.info("%s has no %s/config/%s: left out", self.url, subsystem, key)

    def _get_if_there(self, subsystem: str, kind: str, key: str) -> Any:
        """None where the device, or its firmware, lacks the key."""
        try:
            return self.get(subsystem, kind, key)
        except UnknownKey:
            return None
