"""Simplon: arm, trigger and disarm a DECTRIS detector over SIMPLON 1.8.

Only what one raster scan needs; energies, thresholds and modes stay as they were set on the detector. The
description of a control (``to_dict``) travels to the engine process, which arms and, whatever happens,
disarms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import httpx

#: SIMPLON answers at once except for arm and trigger, which last as long as the detector takes.
REQUEST_TIMEOUT_S = 10.0
ARM_TIMEOUT_S = 120.0


class SimplonError(RuntimeError):
    """The detector control unit did not answer, or refused; names the request and what it said."""


@dataclass(frozen=True)
class Simplon:
    """Control of the detector at ``url`` (``http://dcu``).

    Parameters
    ----------
    url : address of the detector control unit
    trigger_mode : ``exts`` or ``exte``, the scan generator's pulses start each image; ``ints``, the whole
        raster starts with a software trigger and images follow each other at the frame time
    api : version in the request paths
    """

    url: str
    trigger_mode: str = "exts"
    api: str = "1.8.0"

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
        self.put("stream", "format", "cbor")
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

    def get(self, subsystem: str, kind: str, key: str) -> Any:
        """Value of ``/subsystem/api/.../kind/key``."""
        answer = self._request("GET", f"/{subsystem}/api/{self.api}/{kind}/{key}")
        if not isinstance(answer, dict) or "value" not in answer:
            raise SimplonError(f"GET {key} at {self.url} answered {answer!r}; expected {{'value': ...}}")
        return answer["value"]

    def put(self, subsystem: str, key: str, value: Any) -> None:
        """Set a configuration value."""
        self._request("PUT", f"/{subsystem}/api/{self.api}/config/{key}", {"value": value})

    def command(self, name: str, timeout: float | None = REQUEST_TIMEOUT_S) -> Any:
        """Run a detector command; returns its answer."""
        return self._request("PUT", f"/detector/api/{self.api}/command/{name}", None, timeout)

    def _request(
        self, method: str, path: str, body: Any = None, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> Any:
        try:
            # trust_env=False: a proxy of the user's shell must not stand between us and the detector.
            with httpx.Client(
                base_url=self.url, timeout=httpx.Timeout(timeout, connect=5.0), trust_env=False
            ) as http:
                response = http.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise SimplonError(
                f"{method} {self.url}{path}: {reason}; is the detector (or the simulator) on?"
            ) from error
        if response.is_error:
            words = response.text.strip()[:300]
            sent = f" with {body!r}" if body else ""
            raise SimplonError(f"{method} {self.url}{path}{sent}: {response.status_code} {words}")
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise SimplonError(
                f"{method} {self.url}{path} answered no JSON: {response.text[:200]!r}"
            ) from error
