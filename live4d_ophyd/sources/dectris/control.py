"""Simplon: configure, arm, trigger and disarm a DECTRIS detector over SIMPLON 1.6 to 1.8.

What a raster scan needs is set here: stream, triggers, dwell time. Energies, thresholds and modes stay as they are on
the detector, unless it was restarted. A control is a plain value: it travels to the engine process, which arms and,
whatever happens, disarms.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from live4d_ophyd.sources.dectris.parameter import ROUNDED, Parameter, is_number, is_same
from live4d_ophyd.sources.dectris.rest import OLDEST_API, REQUEST_TIMEOUT_S, Rest, SimplonError, UnknownKey
from live4d_ophyd.sources.dectris.stream_settings import StreamSettings
from live4d_ophyd.urls import shown, split_login

log = logging.getLogger(__name__)

#: how long arming and disarming may take, s
ARM_TIMEOUT_S = 120.0
#: and a software trigger at most, s
LONGEST_TRIGGER_S = 1e6
#: how long the detector may take to be idle again after a series, or for what it does by itself, s
SETTLE_TIMEOUT_S = 30.0
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.005, 0.2
TRIGGER_MODES = ("exts", "exte", "ints")
TRIGGER_PER = ("pixel", "line")
#: addresses of the detectors that were initialized here and have not got their settings back yet
_bare: set[str] = set()


@dataclass(frozen=True)
class Simplon:
    """Control of the detector at ``url`` (``http://dcu``).

    A series changes these settings of the detector, and no others. ``trigger_mode``, ``nimages``, ``ntrigger`` and,
    with a dwell time, ``count_time`` and ``frame_time`` stay as the scan needs them. Of the stream, ``mode``
    (enabled), ``format`` (cbor), ``header_detail`` (all, for the pixel mask) and a ``header_appendix`` that is empty
    (what is scanned) are put back after it. The file writer is not touched.

    Parameters
    ----------
    url : address of the detector control unit; a login in it, ``http://user:password@dcu``, is kept in ``login``
    trigger_mode : ``exts``, the scan generator's pulses start frames; ``exte``, each pulse is an exposure; ``ints``,
        the whole raster starts with a software trigger and frames follow each other at the frame time
    trigger_per : with ``exts``: ``pixel``, a pulse for each frame; ``line``, a pulse for each line of the scan
    api : version in the request paths, "1.8.0"; "" asks the device
    restore_settings : a detector that was switched on or restarted is initialized, and its energies, thresholds and
        corrections are then those it starts with. True puts back those of ``settings``, and logs it; False refuses to
        arm it until somebody has called `initialize`
    settings : what the session has set, ``(("threshold/1/energy", 5e4), ...)``, in the order in which it is put back
    login : ``user:password`` where the control unit asks for one; never shown
    """

    url: str
    trigger_mode: str = "exts"
    trigger_per: str = "pixel"
    api: str = ""
    restore_settings: bool = True
    settings: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    login: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        url, login = _checked_url(self.url)
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "login", login or self.login)
        # From the wire they come as lists.
        object.__setattr__(self, "settings", tuple(dict(self.settings).items()))
        _check_api(self.api)
        if not isinstance(self.login, str):
            raise ValueError(
                f"Simplon login is a {type(self.login).__name__}; expected a text: user:password"
            )
        if not isinstance(self.restore_settings, bool):
            raise ValueError(f"Simplon restore_settings is {self.restore_settings!r}; expected True or False")
        for name, allowed in (("trigger_mode", TRIGGER_MODES), ("trigger_per", TRIGGER_PER)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Simplon {name} is {getattr(self, name)!r}; expected one of {allowed}")
        if self.trigger_per == "line" and self.trigger_mode != "exts":
            raise ValueError(
                f"Simplon trigger_per is 'line' with trigger_mode {self.trigger_mode!r}: only 'exts' takes several "
                "frames a pulse"
            )

    @property
    def software_triggered(self) -> bool:
        return self.trigger_mode == "ints"

    def state(self) -> str:
        """``idle``, ``ready`` (armed), ``acquire``, ``na`` (not initialized), ``error``, or what it does by itself."""
        return str(self.get("detector", "status", "state"))

    def configure(
        self, images: int, triggers: int, frame_time: float | None = None, appendix: str = ""
    ) -> None:
        """Prepare a series of ``triggers`` triggers of ``images`` frames each; `put_back` follows it.

        ``frame_time`` in s, None leaves it; ``appendix`` comes back as ``user_data`` of the stream's start message.
        """
        self.make_idle()
        try:
            self._stream.apply(appendix)
            self._ensure("trigger_mode", self.trigger_mode)
            self._ensure("nimages", images)
            self._ensure("ntrigger", triggers)
            if frame_time is not None and frame_time > 0:
                self._set_frame_time(frame_time)
        except BaseException:
            self.put_back()
            raise

    def put_back(self) -> None:
        """Give the stream's settings back as `configure` found them. The detector must be idle."""
        self._stream.put_back()

    @cached_property
    def _stream(self) -> StreamSettings:
        return StreamSettings(self.rest)

    def _set_frame_time(self, frame_time: float) -> None:
        """Expose as long as the readout leaves room for."""
        readout = self._get_if_there("detector", "config", "detector_readout_time")
        # A frame shorter than the readout is the detector's to refuse, in its words.
        room = is_number(readout) and readout < frame_time
        self._ensure("count_time", frame_time - readout if room else frame_time)
        self._ensure("frame_time", frame_time)

    def make_idle(self) -> None:
        """Bring the detector to ``idle`` from whatever it was left in, with high voltage where it has that.

        Raises SimplonError with what to do when it does not get there.
        """
        state = self.state()
        if state in ("na", "error"):
            reasons = self._get_if_there("detector", "status", "error") if state == "error" else None
            found = f"{self.url} is in state {state} ({reasons or 'switched on or restarted'})"
            if not self.restore_settings:
                raise SimplonError(
                    f"{found}, and because restore_settings is False not armed with the energies, thresholds and "
                    "corrections that it starts with: call control.initialize(), set them, then trigger again"
                )
            log.warning(
                "%s: initializing it; its energies, thresholds and corrections are those it starts with%s",
                found, ", but for what this session has set" if self.settings else "",
            )  # fmt: skip
            _bare.add(self.url)  # before: a request that timed out may have done it all the same
            self.initialize()
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
        if self.url in _bare:
            self._restore()
            _bare.discard(self.url)

    def initialize(self) -> None:
        """Initialize the detector. Its energies, thresholds and corrections are then those it starts with."""
        self.command("initialize", timeout=ARM_TIMEOUT_S)

    def _restore(self) -> None:
        """Put ``settings`` back. Raises SimplonError unless all of them are there in the end."""
        if not self.settings:
            return
        for key, value in self.settings:
            self._ensure(key, value)
        # A later one may have changed an earlier one.
        other = [
            f"{key} is {now!r} instead of {value!r}"
            for key, value in self.settings
            if not is_same(now := self.get("detector", "config", key), value, ROUNDED)
        ]
        if other:
            raise SimplonError(
                f"{self.url} was initialized, and {', '.join(other)}, as it was set before: set it again"
            )
        log.warning(
            "%s: put back what this session has set: %s",
            self.url, ", ".join(f"{key} = {value!r}" for key, value in self.settings),
        )  # fmt: skip

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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SimplonError(
                f"arm at {self.url} answered {answer!r}; expected {{'sequence id': n}}"
            ) from error

    def trigger(self) -> None:
        """Start the series in software; returns when the exposures are over.

        Raises SimplonError also when they take twice as long as the detector's settings say, and some: nobody may be
        there to answer any more.
        """
        images, frame_time = (self.get("detector", "config", key) for key in ("nimages", "frame_time"))
        lasts = images * frame_time if is_number(images) and is_number(frame_time) else 0.0
        lasts = lasts if lasts > 0 else 0.0  # NaN, too
        self.command("trigger", timeout=min(2 * lasts + ARM_TIMEOUT_S, LONGEST_TRIGGER_S))

    def disarm(self) -> None:
        """Let what was exposed be sent, then idle."""
        self.command("disarm", timeout=ARM_TIMEOUT_S)

    def abort(self) -> None:
        """Stop at once; what was not sent is dropped."""
        self.command("abort", timeout=ARM_TIMEOUT_S)

    def release(self) -> None:
        """Stop what another process has armed that is gone, and put back what it has left changed."""
        self.abort()
        self.wait_idle()
        self._stream.put_back_for_another()

    def dropped(self) -> int | None:
        """Frames the detector dropped since arm because nobody fetched them; None where it does not count them."""
        dropped = self._get_if_there("stream", "status", "dropped")
        return dropped if isinstance(dropped, int) and not isinstance(dropped, bool) else None

    @cached_property
    def rest(self) -> Rest:
        """The interface that all of this goes through."""
        return Rest(self.url, self.api, self.login)

    def get(self, subsystem: str, kind: str, key: str) -> Any:
        """Value of ``/subsystem/api/.../kind/key``."""
        return self.rest.read(subsystem, kind, key).value

    def put(self, subsystem: str, key: str, value: Any) -> dict[str, Parameter]:
        """Set a configuration value; returns the keys that changed with it."""
        return self.rest.write(subsystem, key, value)

    def command(self, name: str, timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Run a detector command; returns its answer."""
        return self.rest.command(name, timeout)

    def _ensure(self, key: str, value: Any) -> None:
        """Set the detector's key unless it has the value already: reading costs less than setting."""
        now = self.get("detector", "config", key)
        if not is_same(now, value):
            log.info("%s: %s from %r to %r", self.url, key, now, value)
            self.put("detector", key, value)

    def _get_if_there(self, subsystem: str, kind: str, key: str) -> Any:
        """None where the device, or its firmware, lacks the key."""
        try:
            return self.get(subsystem, kind, key)
        except UnknownKey:
            return None


def _checked_url(url: Any) -> tuple[str, str]:
    """The address without its login, and that. Raises ValueError, which does not show it either."""
    if not isinstance(url, str):
        raise ValueError(f"Simplon url is a {type(url).__name__}; expected a text like 'http://dcu'")
    wrong = ValueError(
        f"Simplon url is {shown(url)!r}; it must look like http://dcu or http://10.0.0.5:80"
        + (". In a login, write / ? # @ as %2F %3F %23 %40" if "@" in url else "")
    )
    if re.search(r"[\s\x00-\x20\x7f]", url):
        raise wrong
    try:
        parts, port = urlsplit(url), urlsplit(url).port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):  # their texts may hold the login
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise wrong
    if parts.query or parts.fragment or "@" in parts.path:
        raise wrong
    return split_login(url)


def _check_api(api: Any) -> None:
    version = re.match(r"(\d+)\.(\d+)[\w.-]*$", api, re.ASCII) if isinstance(api, str) else None
    if api == "" or (version and (int(version[1]), int(version[2])) >= OLDEST_API):
        return
    raise ValueError(
        f"Simplon api is {api!r}; expected a version from 1.6 on like '1.8.0', or '' to ask the device"
    )
