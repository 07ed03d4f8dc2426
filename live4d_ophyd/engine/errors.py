"""What goes wrong with an acquisition: the errors that a caller can tell apart, and how they cross to the session.

An error of the engine is raised in the session as the same class, with the same words. `PUBLIC` are the classes that
do; of any other the nearest ancestor among them is raised, and where there is none an EngineFault.

    AcquisitionError
    +-- Cancelled
    +-- NothingCame
    +-- NoStream
    +-- ScanMismatch
    +-- DetectorInUse
    +-- MethodFailed
    +-- NoMethod
    +-- ClusterFailed
    +-- EngineFault
    +-- EngineInUse
    +-- EngineLost
    +-- NoEngine
    +-- ProtocolError
    BackendUnavailable, with GpuError, GpuMemoryError and GpuLost (`decode`)
    SourceError (`sources.source`), with SimplonError and UnknownKey
    ValueError: settings that do not fit the detector, or each other
    MemoryError
"""

from __future__ import annotations

import sys
import traceback
from asyncio import CancelledError
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from live4d_ophyd.decode.errors import BackendUnavailable, GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.sources import registry as sources

#: What the code of a method may raise, whatever it is: `sys.exit` in it must end neither a thread nor the engine.
#: KeyboardInterrupt is the user's.
RAISED_BY_METHODS = (Exception, SystemExit, CancelledError)


class AcquisitionError(RuntimeError):
    """The acquisition could not be completed.

    ``reason`` says what happened and where; ``remedy`` what to do, "" where the reason says it or nothing is known. The
    text is both.
    """

    #: what it says besides the reason: keyword arguments, and attributes
    details: ClassVar[tuple[str, ...]] = ("remedy",)

    def __init__(self, reason: str = "", *, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class Cancelled(AcquisitionError):
    """The acquisition was told to stop."""


class NothingCame(AcquisitionError):
    """No frame of the series could be used in the time: the reason says what was seen instead."""


class NoStream(AcquisitionError):
    """The stream's address does not answer, though the detector's control unit does. Nothing was armed."""


class ScanMismatch(AcquisitionError):
    """The microscope scans something else than the scan grid says."""


class DetectorInUse(AcquisitionError):
    """Another engine on this machine has the detector."""


class RecordingFailed(AcquisitionError):
    """Frames cannot be recorded where they should."""


class MethodFailed(AcquisitionError):
    """A method raised an error; ``method`` is its name."""

    details = ("remedy", "method")

    def __init__(self, reason: str = "", *, remedy: str = "", method: str = "") -> None:
        super().__init__(reason, remedy=remedy)
        self.method = method

    @classmethod
    def of(cls, method: Any, error: BaseException) -> MethodFailed:
        """What ``method`` raised, in words, and where in its own file."""
        failed = f"the method {method.name} ({type(method).__name__}) failed"
        return cls(f"{failed}: {type(error).__name__}: {error}{_place(method, error)}", method=method.name)


def refuse_method(method: Any, error: BaseException) -> NoReturn:
    """Raise what a method raised before a frame came: a ValueError that names it as it is, since its parameters do not
    fit; anything else as MethodFailed.
    """
    if isinstance(error, ValueError) and method.name in str(error):
        raise error
    raise MethodFailed.of(method, error) from error


def _place(method: Any, error: BaseException) -> str:
    """``(line 17 of my_methods.py)``: the innermost of the module that the method is from; "" where that has none."""
    module = sys.modules.get(type(method).__module__)
    file = getattr(module, "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" (line {lines[-1]} of {Path(file).name})" if file and lines else ""


class NoMethod(AcquisitionError):
    """The engine does not have a method's class, or does not take it."""


class ClusterFailed(AcquisitionError):
    """The cluster that frames were to be reprocessed on does not answer, lacks something, or its workers died."""


class EngineFault(AcquisitionError):
    """The engine failed at something that it should be able to do. Its log has the traceback."""


class EngineInUse(AcquisitionError):
    """The engine serves another session."""


class EngineLost(AcquisitionError):
    """The engine process is gone; the reason says how it ended."""


class NoEngine(AcquisitionError):
    """No engine answered in the time."""


class ProtocolError(AcquisitionError):
    """Session or engine sent what the other cannot use; the reason names the message and the field."""


_PUBLIC: tuple[type[Exception], ...] = (
    AcquisitionError, Cancelled, NothingCame, NoStream, ScanMismatch, DetectorInUse, RecordingFailed, MethodFailed,
    NoMethod, ClusterFailed, EngineFault, EngineInUse, EngineLost, NoEngine, ProtocolError, BackendUnavailable,
    GpuError, GpuMemoryError, GpuLost, *sources.ERRORS, ValueError, MemoryError,
)  # fmt: skip
#: errors that keep their class from the engine to the session
PUBLIC = {kind.__name__: kind for kind in _PUBLIC}


def as_fields(error: BaseException) -> dict[str, str]:
    """An error as texts: ``kind``, a name in `PUBLIC`; ``reason``; and the details that its class has."""
    public = next((kind for kind in type(error).__mro__ if PUBLIC.get(kind.__name__) is kind), None)
    words = str(error) or type(error).__name__
    if public is None:
        # The words of other errors, a KeyError's say, mean little without their class.
        return {"kind": EngineFault.__name__, "reason": f"{type(error).__name__}: {words}"}
    details = {name: getattr(error, name) for name in getattr(public, "details", ()) if getattr(error, name)}
    told = error.reason if isinstance(error, AcquisitionError | BackendUnavailable) else ""
    reason = told or words
    return {"kind": public.__name__, "reason": reason, **details}


def from_fields(kind: str, reason: str, **details: str) -> Exception:
    """The error of these texts. Raises ValueError where they are of none of `PUBLIC`."""
    public = PUBLIC.get(kind)
    if public is None:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(PUBLIC)}")
    if not reason:
        raise ValueError("reason is ''; expected a text")
    given: dict[str, Any] = {name: text for name, text in details.items() if text}
    for name in given:
        if name not in getattr(public, "details", ()):
            raise ValueError(f"{name} is {given[name]!r}; a {kind} has none")
    return public(reason, **given)
