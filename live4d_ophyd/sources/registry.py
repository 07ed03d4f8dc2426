"""Sources by name: what crosses to the engine is a kind and plain fields. New ones are named here."""

from __future__ import annotations

from typing import Any

from live4d_ophyd.sources.dectris import stream
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.sources.source import SourceError

_KINDS: dict[str, type] = {"dectris": DectrisSource, "file": FileSource}
#: what goes wrong with them, and keeps its class on the way to the session
ERRORS: tuple[type[SourceError], ...] = (SourceError, SimplonError, UnknownKey)


def warm_up() -> None:
    """Compile what receives, or load it from the cache."""
    stream.warm_up()


def kind_of(source: Any) -> str:
    """The name by which an engine finds the class of a source. Raises ValueError for a class that is no source."""
    for kind, of in _KINDS.items():
        if type(source) is of:
            return kind
    raise ValueError(f"{source!r} is no source of frames; expected one of {', '.join(_KINDS)}")


def class_of(kind: str) -> type:
    """The class of a kind. Raises ValueError for another."""
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is no source of frames; expected one of {', '.join(_KINDS)}")
    return _KINDS[kind]
