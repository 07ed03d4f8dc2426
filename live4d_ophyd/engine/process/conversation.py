"""Conversation: what the engine may say of one acquisition, checked against what it was asked for.

In: decoded messages, in the order they came. Out: whether they belong to it; WireError that names what is wrong with
them. Pure values: no sockets, no threads. Errors cross the wire by `failure`, and come back by `error_of`.
"""

from __future__ import annotations

from typing import Any

from live4d_ophyd.decode import EngineUnavailable, GpuLost
from live4d_ophyd.engine.errors import AcquisitionError
from live4d_ophyd.engine.process.protocol import WireError
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Progress, RasterResult, check_outputs
from live4d_ophyd.sources.dectris.rest import SimplonError

#: errors that keep their class from the engine to the session; any other becomes an AcquisitionError
_CLASSES: dict[str, type[Exception]] = {
    c.__name__: c for c in (GpuLost, EngineUnavailable, AcquisitionError, SimplonError, ValueError)
}
#: an acquisition's last event is one of these
FINAL = ("done", "failed", "lost")


def failure(error: BaseException) -> dict[str, str]:
    """The fields of ``failed`` and ``refused`` that say what went wrong: ``error``, the class, and ``reason``."""
    name = next((name for name, kind in _CLASSES.items() if isinstance(error, kind)), "")
    words = str(error) or type(error).__name__
    # The words of other errors, a KeyError's say, mean little without their class.
    return {
        "error": name or "AcquisitionError",
        "reason": words if name else f"{type(error).__name__}: {words}",
    }


def error_of(event: dict[str, Any]) -> Exception:
    """The exception that a ``failed``, ``refused`` or ``lost`` event stands for, in its own class."""
    if event["kind"] == "lost":
        error: Exception = event["error"]
        return error
    kind = _CLASSES.get(event.get("error", ""), AcquisitionError)
    return kind(event.get("reason") or "the engine gave no reason")


class Conversation:
    """``armed`` once, ``progress`` at any time, each raster in its order, then ``done`` or ``failed``."""

    def __init__(self, generation: int, request: AcquisitionRequest) -> None:
        self.generation = generation
        self.request = request
        self._armed = False
        self._rasters = 0
        self._asked = request.rasters_per_trigger

    def accept(self, message: dict[str, Any]) -> bool:
        """Whether the message is of this acquisition, not of one before. Raises WireError if it is wrong."""
        kind, generation = message["kind"], message.get("generation")
        if type(generation) is not int or generation > self.generation:
            raise WireError(
                f"{kind}: the generation is {generation!r}; expected {self.generation}, which runs, or an earlier one"
            )
        if generation < self.generation:
            return False
        try:
            self._check(kind, message)
        except ValueError as error:
            raise WireError(f"{kind}: {error}") from error
        return True

    def _check(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "armed":
            if self._armed:
                raise ValueError("the detector was said to be armed before")
            self._armed = True
        elif kind == "progress":
            Progress.from_dict(message.get("progress")).check(self.request)
            outputs = message.get("outputs")
            if outputs is not None:
                check_outputs(outputs, self.request, preview=True)
        elif kind == "raster":
            if self._rasters == self._asked:
                raise ValueError(f"one more than the {self._asked} that were asked for")
            RasterResult.from_dict(message.get("raster")).check(self.request, self._rasters)
            self._rasters += 1
        elif kind == "done":
            if self._rasters < self._asked:
                raise ValueError(f"{self._rasters} of {self._asked} rasters came before it")
            if not self._armed:
                raise ValueError("the detector was not said to be armed, or listened to, before it")
        elif kind == "failed":
            for name in ("error", "reason"):
                if not isinstance(message.get(name), str) or not message[name]:
                    raise ValueError(f"{name} is {message.get(name)!r}; expected a text")
        else:
            raise ValueError("no such kind of message")
