"""What a run may hold: its documents as they can be stored exactly, or a refusal that names what cannot.

Comes in: one run's documents. Go out: the same, every number of the type that its column or array has, to the
backup and the catalog alike. A document that would be stored as something else goes to neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Set
from enum import Enum
from typing import Any, cast

import numpy as np
from event_model import EventPage, unpack_event_page
from tiled.utils import safe_json_dump

from live4d_ophyd.storage.columns import Array, Column, Refused
from live4d_ophyd.storage.names import PLAIN, is_plain_name, keys_fault, stream_fault


class Unstorable(ValueError):
    """A document holds something that the catalog cannot hold as what it is; nothing of it was stored."""


class Storable:
    """Passes one run's documents to ``write`` as they are stored; raises `Unstorable`, and then goes on.

    The first descriptor of a stream says what its keys hold, also for Events after a ``configure``.
    """

    def __init__(self, write: Callable[[str, dict], Any]) -> None:
        self._write = write
        self._streams: dict[str, _Stream] = {}  # by name
        self._stream_of: dict[str, _Stream] = {}  # by descriptor

    def __call__(self, name: str, doc: dict) -> None:
        if "descriptor" in doc and doc["descriptor"] not in self._stream_of:
            raise Unstorable(f"this {name} document is of a descriptor that could not be stored")
        match name:
            case "start":
                doc = check_start(doc)
            case "descriptor":
                stream = self._streams.get(doc["name"]) or _Stream(doc)
                doc = _metadata(doc, f"stream {doc['name']!r}: ", finite=False)
                self._streams[doc["name"]] = self._stream_of[doc["uid"]] = stream
            case "event":
                doc = self._stream_of[doc["descriptor"]].event(doc)
            case "event_page":
                for event in unpack_event_page(cast(EventPage, doc)):
                    self("event", event)
                return
        self._write(name, doc)


class _Stream:
    """The columns and arrays of one stream as its Events so far have made them."""

    def __init__(self, descriptor: Mapping[str, Any]) -> None:
        self._name = descriptor["name"]
        self._keys: dict[str, Column | Array] = {}
        for key, data_key in descriptor["data_keys"].items():
            if "external" not in data_key:
                self._keys[key] = (Array if data_key["dtype"] == "array" else Column).of(data_key)
        arrays = {key: isinstance(kind, Array) for key, kind in self._keys.items()}
        fault = stream_fault(self._name) or keys_fault(arrays)
        if fault:
            raise Unstorable(f"stream {self._name!r} cannot be stored: {fault}. Rename it")

    def event(self, doc: dict) -> dict:
        keys, data, timestamps = dict(self._keys), dict(doc["data"]), dict(doc["timestamps"])
        for key in filter(keys.__contains__, doc["data"]):
            what = f"key {key!r}"
            try:
                keys[key], data[key] = keys[key].holding(data[key])
                what = f"timestamp of {key!r}"
                _, timestamps[key] = Column(float, used=True).holding(timestamps[key])
            except Refused as reason:
                raise Unstorable(f"stream {self._name!r}, {what}: {reason}") from None
            if data[key] is Array.NOTHING:
                del data[key]
        self._keys = keys
        return {**doc, "time": float(doc["time"]), "data": data, "timestamps": timestamps}


def check_start(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A start document as it is stored; raises `Unstorable`."""
    if not is_plain_name(doc["uid"]):
        raise Unstorable(f"the run's uid is {doc['uid']!r}; it names a file: expected {PLAIN}")
    return storable_metadata(doc)


def storable_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A run's metadata as they are stored; raises `Unstorable` with the key and the type of what cannot be."""
    return _metadata(metadata, "metadata ", finite=True)


class _Uncut(np.ndarray):
    """A number that the catalog's writer does not cut off at 2**53, as it does Python's and those it can iterate."""

    __iter__ = None  # type: ignore[assignment]


def _metadata(value: Any, where: str, *, finite: bool) -> Any:
    """``value`` as JSON has it. NaN and infinity, which that has not, are refused, or null where not ``finite``."""

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
            value = value.item()
        match value:
            case Mapping():
                for key in value:
                    if not isinstance(key, str):
                        raise Unstorable(
                            f"{where}{path!r} has the key {key!r} of type {type(key).__name__}; keys are text"
                        )
                return {key: plain(item, f"{path}.{key}" if path else key) for key, item in value.items()}
            case np.ndarray() if _is_plain(value):
                return value.tolist()  # a pixel mask has millions of elements
            case np.ndarray() | list() | tuple() | range():
                return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
            case bool() | None:
                return value
            case int() | float() if _is_json_number(value):
                return value if abs(value) < 2**53 else np.asarray(value).view(_Uncut)
            case float() if not finite:
                return None
            case int() | float() | bytes() | Set():  # what the catalog would make something else of
                pass
            case str() | Enum() if type(value) is not str and _has_json(value):
                # Its class may be one of the session's own, which the catalog's process does not know.
                return json.loads(safe_json_dump(value))
            case _ if _has_json(value):  # dates and paths become their text
                return value
        text = repr(value)
        raise Unstorable(
            f"{where}{path!r} cannot be stored: {text[:60]}{'...' * (len(text) > 60)} is of type "
            f"{type(value).__name__}. Expected text, true/false, null, finite numbers of up to 64 bits, or lists and "
            "dicts of these"
        )

    return plain(value, "")


def _is_plain(array: np.ndarray) -> bool:
    """Whether JSON and the catalog's writer take every element as it is."""
    if array.dtype.kind in "iuf" and array.size:
        return bool(array.min() > -(2**53) and array.max() < 2**53)  # false with NaN, too
    return array.dtype.kind in "biuf"


def _is_json_number(value: int | float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**64


def _has_json(value: Any) -> bool:
    try:
        safe_json_dump(value)
    except TypeError:
        return False
    return True
