"""The protocol between session and engine: typed messages, as versioned CBOR over ZMQ, nothing executable.

Messages are frozen dataclasses. On the wire each is a map with ``v``, the version, ``kind``, the name of its class, and
its fields as `encoding` makes them. What is not a message, every byte of it, is a ProtocolError that names the field.
In which order the messages of an acquisition come is in `conversation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, get_args

import cbor2
import numpy as np

from live4d_ophyd.checks import has_too_many_items, printable, shown, whole
from live4d_ophyd.engine.errors import (
    AcquisitionError,
    EngineLost,
    NoMethod,
    ProtocolError,
    as_fields,
    from_fields,
)
from live4d_ophyd.engine.process.encoding import KIND, Encoding
from live4d_ophyd.engine.process.previews import Rows
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Progress, RasterResult
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.sources import registry as sources
from live4d_ophyd.sources.source import FrameSource

VERSION = 12
#: characters of a text for a person
LONGEST_TEXT = 4000
#: bytes that a Probe may ask for
MOST_PROBED = 1 << 20
#: data items that a message may consist of: arrays are byte strings
MAX_ITEMS = 1_000_000
#: tags that cbor2 makes objects of: dates, patterns, references, ... None of them is in a message.
_TAGS = (*range(0, 64), 100, 256, 258, 260, 261, 1004, 43000, 55799)


# From the session --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """A session comes; ``backend`` is what it wants frames decoded on: "auto", "cpu" or "gpu".

    ``parts``: it comes back, and has received so many parts (`delivery`) of what the engine sent before.
    """

    backend: str = "auto"
    parts: int | None = None


@dataclass(frozen=True)
class Acquire:
    """Start an acquisition; generations of a session go up."""

    generation: int
    request: AcquisitionRequest


@dataclass(frozen=True)
class Cancel:
    """End this acquisition, and all before it."""

    generation: int


@dataclass(frozen=True)
class Preview:
    """Send a preview when there is one, and none before it has arrived; ``whole``: what came before is not there."""

    whole: bool = False


@dataclass(frozen=True)
class Received:
    """So many parts have arrived in all, of what must and of previews: more may come."""

    parts: int
    previews: int


@dataclass(frozen=True)
class Bye:
    """The session ends, and does not come back."""


@dataclass(frozen=True)
class Release:
    """Drop the connections to the stream at once, and leave the detector idle; Released follows."""


@dataclass(frozen=True)
class Probe:
    """Send so many bytes back, at most `MOST_PROBED`: how fast is the link?"""

    size: int

    def __post_init__(self) -> None:
        whole("size", self.size, 0, MOST_PROBED)


# From the engine, to the session -----------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """Answers Hello. ``detail`` says what the backend runs on, or why it was chosen; ``versions``, the software.

    ``knows``: the session was here before, and what it has not received follows. ``heard``: how many of its orders
    (Acquire, Cancel, Release) have come in all.
    """

    pid: int
    backend: str
    detail: str
    versions: str
    knows: bool = False
    heard: int = 0


@dataclass(frozen=True)
class Failure:
    """An error in texts, see `errors`."""

    kind: str
    reason: str
    remedy: str = ""
    method: str = ""

    def __post_init__(self) -> None:
        from_fields(**vars(self))

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(**as_fields(error))

    @property
    def error(self) -> Exception:
        """In the class that it had in the engine; a text that no terminal shows, or that nobody reads, is cut."""
        return from_fields(
            **{name: printable(words, LONGEST_TEXT, "\n") for name, words in vars(self).items()}
        )


@dataclass(frozen=True)
class Refused:
    """A message cannot be obeyed: one of the acquisition ``generation``, or with None another.

    ``hello_first``: the engine does not know this session, and obeys none of its messages.
    """

    failure: Failure
    generation: int | None = None
    hello_first: bool = False


@dataclass(frozen=True)
class Released:
    """Answers Release."""


@dataclass(frozen=True, eq=False)
class Probed:
    """Answers Probe: ``data`` (size,) uint8."""

    data: np.ndarray


@dataclass(frozen=True)
class Alive:
    """Nothing; tells the engine whether the session is still connected."""


@dataclass(frozen=True)
class LogLine:
    """A warning of the engine's log; ``level`` as in `logging`, from DEBUG to CRITICAL."""

    level: int
    text: str

    def __post_init__(self) -> None:
        whole("level", self.level, 10, 50)


# Events of an acquisition ------------------------------------------------------------------------


@dataclass(frozen=True)
class Armed:
    """The detector is armed and listened to; without control, the stream is listened to."""

    generation: int


@dataclass(frozen=True, eq=False)
class ProgressMade:
    """How far it is, a few times a second.

    ``outputs`` so far, float64 by name: what the session makes of a PreviewMade. Never on the wire.
    """

    generation: int
    progress: Progress
    outputs: dict[str, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class PreviewMade:
    """What is new of the outputs so far since preview ``number`` - 1; all of them in number 0."""

    generation: int
    number: int
    progress: Progress
    outputs: dict[str, Rows]


@dataclass(frozen=True)
class RasterDone:
    """One raster is over."""

    generation: int
    raster: RasterResult


@dataclass(frozen=True)
class Done:
    """The acquisition is over, all its rasters came before."""

    generation: int


@dataclass(frozen=True)
class Failed:
    """The acquisition is over, and failed with ``error``."""

    generation: int
    failure: Failure

    @property
    def error(self) -> Exception:
        return self.failure.error


@dataclass(frozen=True)
class Lost:
    """The engine is gone, and the acquisition with it. Says the session's end; never on the wire."""

    generation: int
    error: EngineLost


FromSession = Hello | Acquire | Cancel | Preview | Received | Release | Bye | Probe
FromEngine = (
    Ready
    | Refused
    | Released
    | Probed
    | Alive
    | LogLine
    | Armed
    | ProgressMade
    | PreviewMade
    | RasterDone
    | Done
    | Failed
)
#: what goes past others in one piece, and may come late or never
ASIDE = (Ready, Refused, Released, Probed, Alive, LogLine, ProgressMade)
#: what the session must know to have come
ORDERS = (Acquire, Cancel, Release)
#: what the caller of an acquisition hears
Event = Armed | ProgressMade | RasterDone | Done | Failed | Lost
#: an acquisition's last event is one of these
FINAL = (Done, Failed, Lost)

# On the wire -------------------------------------------------------------------------------------


def _encoding(allow_modules: bool) -> Encoding:
    """Methods and sources go by the names by which their registries find their classes."""
    encoding = Encoding()

    def class_of(kind: str) -> type:
        try:
            return registry.class_of(kind, allow_modules=allow_modules)
        except ValueError as error:
            raise NoMethod(str(error)) from error

    encoding.by_kind(Method, registry.kind_of, class_of)
    encoding.by_kind(FrameSource, sources.kind_of, sources.class_of)
    return encoding


_plain_encoding, _open_encoding = _encoding(False), _encoding(True)


def encode(message: FromSession | FromEngine) -> bytes:
    """The message as bytes. Raises TypeError for a value that cannot be sent, ValueError for a class like that."""
    values = _plain_encoding.tagged(message, type(message).__name__)
    return cbor2.dumps({"v": VERSION, **values}, default=_encode_number)


def from_session(raw: bytes, *, allow_modules: bool = False) -> FromSession:
    """The session's message of these bytes. Raises ProtocolError; NoMethod for methods that are not to be had here.

    ``allow_modules``: methods may be named as ``module:Class``, which is then imported.
    """
    return _decode(raw, FromSession, _open_encoding if allow_modules else _plain_encoding)


def from_engine(raw: bytes) -> FromEngine:
    """The engine's message of these bytes. Raises ProtocolError."""
    return _decode(raw, FromEngine, _plain_encoding)


def generation_of(raw: bytes) -> int | None:
    """The acquisition that a message is of which cannot be used; None where it does not say."""
    try:
        generation = _load(raw).get("generation")
    except ProtocolError:
        return None
    return generation if type(generation) is int else None


def _decode(raw: bytes, messages: Any, encoding: Encoding) -> Any:
    values = _load(raw)
    kinds = {kind.__name__: kind for kind in get_args(messages)}
    kind = values.pop(KIND)
    if kind not in kinds:
        raise ProtocolError(f"{shown(kind)} is no message; expected one of {', '.join(kinds)}")
    try:
        return encoding.structure(values, kinds[kind])
    except AcquisitionError:
        raise
    except Exception as error:
        raise ProtocolError(f"{kind}: {error}") from error


def _load(raw: bytes) -> dict[str, Any]:
    """The plain values of a message of this version, with its kind."""
    if has_too_many_items(raw, MAX_ITEMS):
        raise ProtocolError(f"not a message of the engine's protocol: more than {MAX_ITEMS} items")
    try:
        values = cbor2.loads(
            raw,
            tag_hook=_refuse_tag,
            semantic_decoders=dict.fromkeys(_TAGS, _refuse_tag),
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except Exception as error:  # cbor2 raises many kinds
        raise ProtocolError(f"not a message of the engine's protocol: {error}") from error
    if type(values) is not dict or type(values.get(KIND)) is not str:
        raise ProtocolError(f"not a message of the engine's protocol: {shown(values)}")
    version = values.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise ProtocolError(
            f"the other side speaks version {shown(version)} of the engine's protocol, this one {VERSION}",
            remedy="install the same live4d-ophyd on both",
        )
    return values


def _encode_number(encoder: cbor2.CBOREncoder, value: Any) -> None:
    if not isinstance(value, np.generic):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    encoder.encode(value.item())


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("a CBOR tag, which no message has")
