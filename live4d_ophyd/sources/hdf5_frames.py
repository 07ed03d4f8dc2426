"""Frames in HDF5 files: where each lies, compressed as it is, and what the file says of them.

A dataset with one frame a chunk, compressed by bitshuffle with LZ4 or Zstandard, by LZ4 or not at all, needs no HDF5
once the places of its chunks are known: it is mapped into memory, and the decoder reads it there. Any other dataset
that h5py can read is read by it. DECTRIS' master files name their data files by external links; these are followed.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from live4d_ophyd.frames.batch import SLACK
from live4d_ophyd.frames.codecs import BY_NAME, CODECS, RAW
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.chunk_table import chunk_table

#: registered numbers of filters
_BITSHUFFLE, _LZ4 = BY_NAME["bslz4"].hdf5_filter, BY_NAME["lz4"].hdf5_filter
_BY_BITSHUFFLE = {codec.bitshuffle: codec for codec in CODECS if codec.bitshuffle is not None}
#: where a file may say something of its frames, under the groups of `_ENTRIES`; the first that is there is taken
_ENTRIES = ("entry", "")
_DETECTOR = "instrument/detector"
#: datasets of channels besides that of the images, in files that an engine recorded
_FURTHER = re.compile(r"/entry/(data|stack|flyback)_(\w+)/")
_PLACES = {
    "pixel_mask": ("instrument/detector/pixel_mask", "instrument/detector/detectorSpecific/pixel_mask"),
    "saturation": (
        "instrument/detector/saturation_value",
        "instrument/detector/detectorSpecific/saturation_value",
    ),
    "energy": ("instrument/beam/incident_energy", "instrument/beam/energy"),
    "count_time": ("instrument/detector/count_time",),
    "frame_time": ("instrument/detector/frame_time",),
    "description": ("instrument/detector/description",),
    "threshold": ("instrument/detector/threshold_energy",),
    "channel": ("recording/channel",),
    "unique_id": ("recording/series_unique_id",),
}


@dataclass(frozen=True, eq=False)
class Part:
    """One dataset: frames ``first`` to ``first + count``."""

    first: int
    count: int
    shape: tuple[int, int]
    dtype: np.dtype
    dataset: h5py.Dataset
    #: the file in memory, (bytes,) uint8, or None where h5py must read
    content: np.ndarray | None = None
    #: of each frame in the file: its first byte, -1 where there is none; its bytes; its codec. (count,) int64
    at: np.ndarray | None = None
    nbytes: np.ndarray | None = None
    codec: np.ndarray | None = None
    elem_size: int = 0


class Hdf5Frames:
    """The frames of one file. Raises ValueError for a file without any; FileNotFoundError, OSError from h5py.

    Without ``places``, for what the file says only: where its frames lie is not looked up.
    """

    def __init__(self, path: str, dataset: str = "", *, places: bool = True) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
        self.path = path
        self._places = places
        self._file = _opened(path)
        self._maps: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()  # of h5py, which reads for one thread at a time
        self.parts: list[Part] = []
        #: of a dataset over a scan, or of a file that knows its scan
        self.scan_shape: tuple[int, int] | None = None
        try:
            for found in self._datasets(dataset):
                self._add(found)
            self.scan_shape = self.scan_shape or self._recorded_scan()
        except BaseException:
            self.close()
            raise

    def scan(self) -> ScanGrid | None:
        """Of a dataset over a scan, or of a file that knows its scan: positions, and their step; None for others."""
        if self.scan_shape is None:
            return None
        steps, units = [1.0, 1.0], ["px", "px"]
        for axis, name in enumerate(("scan_y", "scan_x")):
            positions = _at(self._file, f"entry/scan/{name}")
            if not isinstance(positions, h5py.Dataset) or len(positions) != self.scan_shape[axis]:
                continue
            step = number_in(
                positions.attrs.get("step")
            )  # of a single row or column, positions do not tell it
            if step is None and len(positions) > 1:
                step = float(positions[1] - positions[0])
            if step is not None:
                steps[axis], units[axis] = step, text_in(positions.attrs.get("units"))
        if min(steps) <= 0 or units[0] != units[1]:
            return ScanGrid(*self.scan_shape)
        return ScanGrid(*self.scan_shape, step=(steps[0], steps[1]), unit=units[0])

    def notes(self) -> Mapping[str, Any]:
        """What an engine that recorded the file noted: {} where there is nothing."""
        try:
            found = json.loads(text_in(self.value("entry/recording/notes")) or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _recorded_scan(self) -> tuple[int, int] | None:
        """(rows, columns) of a file that an engine recorded."""
        sides = [self.value(f"entry/recording/scan_{name}") for name in ("rows", "cols")]
        if not all(isinstance(side, np.integer) for side in sides):
            return None
        rows, cols = map(int, sides)
        return (rows, cols) if rows * cols == self.count else None

    def _datasets(self, name: str) -> list[h5py.Dataset]:
        if name:
            found = _at(self._file, name)
            if not isinstance(found, h5py.Dataset) or found.ndim not in (3, 4):
                raise ValueError(
                    f"{self.path} has no dataset {name!r} of frames; it has {_listed(self._file)}"
                )
            return [found]
        numbered = [found for entry in _ENTRIES for found in _data_files(self._file, entry)]
        if numbered:
            return numbered
        every = _frame_datasets(self._file)
        if not every:
            raise ValueError(f"{self.path} has no dataset of frames: of three or four dimensions, of numbers")
        if len(every) > 1 and len({found.shape for found in every}) > 1:
            every = [max(every, key=lambda found: found.size)]
        return every[:1]

    def _add(self, dataset: h5py.Dataset) -> None:
        *lead, rows, cols = dataset.shape
        count = int(np.prod(lead))
        if self.parts and (self.shape, self.dtype) != ((rows, cols), dataset.dtype):
            raise ValueError(
                f"{dataset.file.filename} has frames {rows} x {cols} of {dataset.dtype}, the files before have "
                f"{self.shape[0]} x {self.shape[1]} of {self.dtype}"
            )
        if len(lead) == 2:
            self.scan_shape = (int(lead[0]), int(lead[1]))
        first = self.count
        self.parts.append(
            self._mapped(dataset, first, count) or Part(first, count, (rows, cols), dataset.dtype, dataset)
        )

    def _mapped(self, dataset: h5py.Dataset, first: int, count: int) -> Part | None:
        """The dataset as it lies in its file; None where that is of no use."""
        *lead, rows, cols = dataset.shape
        if not self._places or dataset.is_virtual or dataset.chunks != (*[1] * len(lead), rows, cols):
            return None
        codec = _codec(dataset)
        if codec is None or not dataset.dtype.isnative:
            return None
        number, elem_size = codec
        at, nbytes, masks = chunk_table(dataset)
        # Stored as it is: the filter could not make it smaller.
        raw = np.where(nbytes == rows * cols * dataset.dtype.itemsize, RAW, -1)
        codecs = np.where(masks == 0, number, raw)
        if (codecs < 0).any():
            return None
        content = self._content(dataset.file.filename)
        return Part(
            first, count, (rows, cols), dataset.dtype, dataset, content, at, nbytes, codecs, elem_size
        )

    def _content(self, path: str) -> np.ndarray:
        if path not in self._maps:
            with open(path, "rb") as file:
                # Private and writable: kernels are compiled for arrays that are. Nothing writes.
                mapped = mmap.mmap(file.fileno(), os.path.getsize(path), access=mmap.ACCESS_COPY)
            self._maps[path] = np.frombuffer(mapped, np.uint8)
        return self._maps[path]

    @property
    def count(self) -> int:
        """Frames in all."""
        return sum(part.count for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    def read(self, part: Part, begin: int, end: int) -> np.ndarray:
        """Frames of a part that only h5py can read, (n, q_y, q_x), little-endian."""
        with self._lock:
            if part.dataset.ndim == 3:
                frames = part.dataset[begin:end]
            else:
                cols = part.dataset.shape[1]
                first, last = begin // cols, -(-end // cols)
                rows = part.dataset[first:last].reshape(-1, *part.shape)
                frames = rows[begin - first * cols : end - first * cols]
        return np.ascontiguousarray(frames, part.dtype.newbyteorder("<"))

    def said(self) -> dict[str, Any]:
        """What the file says of its frames: ``pixel_mask`` as an array, numbers, and the detector's ``description``."""
        found: dict[str, Any] = {}
        own = self._detector()
        for name, places in _PLACES.items():
            if own != _DETECTOR:
                places = tuple(place.replace(f"{_DETECTOR}/", f"{own}/") for place in places)
            for place in (f"{entry}/{place}".strip("/") for entry in _ENTRIES for place in places):
                with suppress(OSError):
                    if (value := self.value(place)) is not None:
                        found.setdefault(name, value)
        if (channel := self._further_channel()) is not None:
            found["channel"] = channel
        return found

    def _further_channel(self) -> str | None:
        """The channel of the frames, where it is not that of the images, in a file that an engine recorded."""
        further = _FURTHER.match(self.parts[0].dataset.name if self.parts else "")
        for states in self._states() if further else ():
            if further and states.attrs["frames"].startswith(f"/entry/data_{further[2]}/"):
                return str(states.attrs["channel"])
        return None

    def _detector(self) -> str:
        """The group with what is known of the frames' channel, in a file that an engine recorded."""
        name = self.parts[0].dataset.name if self.parts else ""
        further = _FURTHER.match(name)
        own = f"{_DETECTOR}_{further[2]}" if further else _DETECTOR
        return own if f"/entry/{own}" in self._file else _DETECTOR

    def value(self, place: str) -> Any:
        """What a dataset holds; None where there is none."""
        found = _at(self._file, place)
        return found[()] if isinstance(found, h5py.Dataset) else None

    def states(self) -> dict[str, np.ndarray]:
        """What a file that an engine recorded says of its frames, (n,), by their datasets; empty for others."""
        return {states.attrs["frames"]: states[()] for states in self._states()}

    def other_channels(self) -> dict[str, str]:
        """Datasets of the channels besides that of the images, in a file that an engine recorded."""
        first = {part.dataset.name for part in self.parts}
        every = {states.attrs["channel"]: states.attrs["frames"] for states in self._states()}
        return {channel: dataset for channel, dataset in every.items() if dataset not in first}

    def _states(self) -> list[h5py.Dataset]:
        group = _at(self._file, "entry/recording")
        if not isinstance(group, h5py.Group):
            return []
        return [group[name] for name in group if "frames" in group[name].attrs]

    def close(self) -> None:
        self._file.close()


def number_in(value: object) -> float | None:
    """A positive number of the file; None where it has none."""
    array = np.asarray(value).reshape(-1) if value is not None else np.empty(0)
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array[0]) or array[0] <= 0:
        return None
    return float(array[0])


def text_in(value: object) -> str:
    """The text of the file; "" where it has none."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def room_behind(part: Part, last: int) -> bool:
    """Whether kernels may read on behind the byte ``last`` of the file."""
    assert part.content is not None
    return last + SLACK <= len(part.content)


def _opened(path: str) -> h5py.File:
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401  registers filters, for what h5py must read
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file that can be read: {error}") from error


def _at(file: h5py.File, place: str) -> Any:
    """What lies there; None where nothing does.

    Asked for first: h5py takes the text of an error from memory that HDF5 frees as soon as the garbage collector closes
    an object in between, and what should be a KeyError becomes a UnicodeDecodeError.
    """
    if place in file:
        with suppress(KeyError, OSError):  # a link to what is gone
            return file[place]
    return None


def _codec(dataset: h5py.Dataset) -> tuple[int, int] | None:
    """Number and element size of the one filter that made the chunks; None for others, or several."""
    plist = dataset.id.get_create_plist()
    if plist.get_nfilters() == 0:
        return RAW, 0
    if plist.get_nfilters() > 1:
        return None
    number, _, options, _ = plist.get_filter(0)
    if number == _LZ4:
        return BY_NAME["lz4"].number, dataset.dtype.itemsize
    if number == _BITSHUFFLE and len(options) >= 5 and options[4] in _BY_BITSHUFFLE:
        return _BY_BITSHUFFLE[options[4]].number, int(options[2])
    return None


def _data_files(file: h5py.File, entry: str) -> Iterator[h5py.Dataset]:
    """``entry/data/data_000001`` and those behind it, as DECTRIS writes them. Raises ValueError where one is gone."""
    group = _at(file, f"{entry}/data".strip("/"))
    if not isinstance(group, h5py.Group):
        return
    for name in sorted(key for key in group if key.startswith("data_") and key[5:].isdigit()):
        try:
            yield group[name]
        except (KeyError, OSError) as error:
            link = group.get(name, getlink=True)
            where = getattr(link, "filename", name)
            raise ValueError(
                f"{file.filename} names the data file {where}, which cannot be read: {error}"
            ) from error


def _frame_datasets(file: h5py.File) -> list[h5py.Dataset]:
    found = []

    def collect(name: str, thing: Any) -> None:
        if (
            isinstance(thing, h5py.Dataset)
            and thing.ndim in (3, 4)
            and thing.dtype.kind in "uif"
            and thing.size
        ):
            found.append(thing)

    file.visititems(collect)
    return found


def _listed(file: h5py.File) -> str:
    names = [f"{found.name} {found.shape}" for found in _frame_datasets(file)]
    return ", ".join(names[:5]) or "none"
