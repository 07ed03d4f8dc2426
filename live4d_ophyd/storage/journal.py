"""A run's documents on disk, from the moment they come until the catalog has them all.

``UID.jsonl`` has one document a line, as JSON. Arrays of Events are not in there but, as they are in memory, in
``UID.arrays``: to write a large image as text would take longer than a RunEngine may be held up, and would make of NaN
and infinity the same. Files of before have their arrays in the lines.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from event_model import DocumentNames, schema_validators
from jsonschema import ValidationError
from tiled.utils import safe_json_dump

from live4d_ophyd.folders import make_private
from live4d_ophyd.storage.names import PLAIN, is_plain_name

_ARRAY = "__array__"  #: key of what stands for an array: its first byte in the other file
#: types of arrays that are what they are in memory
_PLAIN_KINDS = "biufcU"


class Journal:
    """The two files of one run, locked while it goes on. ``path`` is ``DIRECTORY/UID.jsonl``.

    Everything may raise OSError. Whoever writes is one thread; `sync`, `remove` and `close` may be called by another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            make_private(path.parent)
            self._lines = path.open("ab", buffering=0)
        except FileNotFoundError:  # the end of another run has just removed the directory
            make_private(path.parent)
            self._lines = path.open("ab", buffering=0)
        self._arrays: FileIO | None = None
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lines.close()
            raise

    def append(self, name: str, doc: Mapping[str, Any]) -> None:
        """Write one document. After an error, TypeError for what is no JSON included, the files end before it."""
        ends = [(file, _size(file)) for file in (self._arrays, self._lines) if file is not None]
        try:
            if name == "event":
                doc = {**doc, "data": {key: self._written(value) for key, value in doc["data"].items()}}
            _write(self._lines, safe_json_dump({"name": name, "doc": doc}) + b"\n")
        except BaseException:
            for file, end in ends:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), end)
            raise

    def _written(self, value: Any) -> Any:
        """What stands for ``value`` in the line."""
        if not isinstance(value, np.ndarray) or value.dtype.kind not in _PLAIN_KINDS:
            return value
        if self._arrays is None:
            self._arrays = arrays_of(self.path).open("ab", buffering=0)
        array = np.ascontiguousarray(value)
        place = {_ARRAY: _size(self._arrays), "dtype": array.dtype.str, "shape": value.shape}
        _write(self._arrays, array.view(np.uint8).data if array.size else b"")
        return place

    def sync(self) -> None:
        """Return when all that was written is on the disk and not on its way there."""
        for file in (self._arrays, self._lines):
            if file is not None:
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the files, and their directory unless it holds others: a demo leaves nothing behind."""
        self.path.unlink()  # first: without its arrays it would be a run with holes
        arrays_of(self.path).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    def close(self) -> None:
        for file in (self._arrays, self._lines):
            if file is not None:
                with suppress(OSError):  # of a network's file, where `sync` has said the same before
                    file.close()


def _write(file: FileIO, content: Any) -> None:
    rest = memoryview(content).cast("B") if content else memoryview(b"")
    while rest:  # a disk that is nearly full takes a part
        rest = rest[file.write(rest) :]


def _size(file: FileIO) -> int:
    # Where the next byte goes; ``tell`` is elsewhere after a file was cut.
    return os.fstat(file.fileno()).st_size


def arrays_of(path: Path) -> Path:
    """Where the arrays of the run in the file ``path`` are."""
    return path.with_suffix(".arrays")


def lock(lines: BinaryIO) -> bool:
    """Lock the file until it is closed; False if someone else has."""
    try:
        fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_document(path: Path, lines: BinaryIO) -> dict[str, Any]:
    """The run's start document. Raises ``ValueError`` if the file does not begin with one."""
    # Before any lock: an empty file may be one that a Journal has just made and is about to lock.
    lines.seek(0)
    first = next(documents(path, lines), None)
    if first is None or first[0] != "start" or "uid" not in first[1]:
        raise ValueError(f"{path} is no backup of a run: its first line is not a start document")
    if not is_plain_name(uid := first[1]["uid"]):  # what the catalog has under it is replaced
        raise ValueError(f"{path} is no backup of a run: its uid is {uid!r}; expected {PLAIN}")
    return first[1]


def read_start(path: str | os.PathLike) -> dict[str, Any]:
    """The start document of the run in the file ``path``; raises ``ValueError`` if it does not begin with one."""
    path = Path(path)
    with path.open("rb") as lines:
        return start_document(path, lines)


def documents(path: Path, lines: BinaryIO) -> Iterator[tuple[str, dict] | None]:
    """Name and content of each document; None for one that cannot be read or whose descriptor could not.

    The last line may be incomplete, as a dying process leaves it: it is left out. ``lines`` is ``path``, open.
    """
    descriptors: set[str] = set()
    for line in lines:
        if not line.endswith(b"\n"):
            return
        try:
            entry = json.loads(line)
            name, doc = entry["name"], entry["doc"]
            if name == "event":
                doc["data"] = {key: _read(arrays_of(path), value) for key, value in doc["data"].items()}
            schema_validators[DocumentNames[name]].validate(doc)
            if name == "descriptor":
                descriptors.add(doc["uid"])
            elif "descriptor" in doc and doc["descriptor"] not in descriptors:
                raise KeyError(doc["descriptor"])
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, ValidationError):
            yield None
        else:
            yield name, doc


def _read(arrays: Path, value: Any) -> Any:
    """The value of an Event's key: an array where its place stands for it. Raises ValueError where that is damaged."""
    if not isinstance(value, dict) or _ARRAY not in value:
        return value
    begin, dtype, shape = value[_ARRAY], np.dtype(value["dtype"]), tuple(map(int, value["shape"]))
    if dtype.kind not in _PLAIN_KINDS or begin < 0 or min(shape, default=0) < 0:
        raise ValueError(f"{value} is no place of an array")
    count = math.prod(shape)
    if begin + count * dtype.itemsize > arrays.stat().st_size:
        raise ValueError(f"{arrays} ends before the array at {begin}")
    return np.fromfile(arrays, dtype, count, offset=begin).reshape(shape)
