"""Simplon: arm, trigger and disarm a DECTRIS detector over SIMPLON 1.6 to 1.8.

Only what one raster scan needs; energies, thresholds and modes stay as they were set on the detector. The
description of a control (``to_dict``) travels to the engine process, which arms and, whatever happens,
disarms.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import httpx

from live4d_ophyd.simplon.rest import REQUEST_TIMEOUT_S, Parameter, Rest, SimplonError, UnknownKey

log = logging.getLogger(__name__)

#: how long arming and disarming may take, s
ARM_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Simplon:
    """Control of the detector at ``url`` (``http://dcu``).

    Parameters
    ----------
    url : address of the detector control unit
    trigger_mode : ``exts`` or ``exte``, the scan generator's pulses start each image; ``ints``, the whole
        raster starts with a software trigger and images follow each other at the frame time
    api : version in the request paths, "" asks the device
    """

    url: str
    trigger_mode: str = "exts"
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
        if self.trigger_mode not in ("exts", "exte", "ints"):
            raise ValueError(
                f"Simplon trigger_mode is {self.trigger_mode!r}; expected 'exts', 'exte' or 'ints'"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def software_triggered(self) -> bool:
        return self.trigger_mode == "ints"

    def configure(self, frames: int, frame_time: float | None = None) -> None:
        """Prepare a series of ``frames`` images; ``frame_time`` in s, None leaves it as it is."""
        if self.get("detector", "status", "state") == "na":
            self.command("initialize", timeout=ARM_TIMEOUT_S)
        if self.get("detector", "status", "state") != "idle":
            # Left armed by somebody: a session that crashed, or an earlier series that nobody ended.
            self.command("disarm", timeout=ARM_TIMEOUT_S)
        self.put("stream", "mode", "enabled")
        self._put_if_there("stream", "format", "cbor")
        images, triggers = (frames, 1) if self.software_triggered else (1, frames)
        self.put("detector", "trigger_mode", self.trigger_mode)
        self.put("detector", "nimages", images)
        self.put("detector", "ntrigger", triggers)
        if frame_time is not None and frame_time > 0:
            # The readout time is subtracted by the detector: a count time of the whole frame is cut to fit.
            self.put("detector", "frame_time", frame_time)
            self.put("detector", "count_time", frame_time)

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

    def dropped(self) -> int:
        """Images the detector dropped since arm because nobody fetched them."""
        return int(self.get("stream", "status", "dropped"))

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

    def _put_if_there(self, subsystem: str, key: str, value: Any) -> None:
        try:
            self.put(subsystem, key, value)
        except UnknownKey:
            log.info("%s has no %s/config/%s: left out", self.url, subsystem, key)
