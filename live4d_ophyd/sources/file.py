"""FileSource: recorded frames as a source. Each file is a series; each connection brings a part of its frames."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.frames import batch as columns
from live4d_ophyd.frames.batch import BatchMemory, FrameBatch
from live4d_ophyd.frames.codecs import RAW, name_of
from live4d_ophyd.frames.encoded_array import EncodedArray, array_tag
from live4d_ophyd.frames.gather import gather
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames, Part, number_in, room_behind, text_in
from live4d_ophyd.sources.source import Ended, Frames, Item, SeriesHeader, SeriesKey, SeriesRequest, Started

#: bytes between two frames in a file from which on they are not of one batch
_GAP_BYTES = 1 << 20
#: bytes of a batch
_BATCH_BYTES = 8 << 20
#: connections at most
MAX_CONNECTIONS = 64
_MOST_FRAMES = 1 << 40


@dataclass(frozen=True)
class FileSource:
    """Frames in HDF5 files: DECTRIS' master files, and any with a dataset of three or four dimensions.

    Parameters
    ----------
    paths : files, each a series
    dataset : where in them the frames are; "" looks for them
    connections : that share the frames of a file; each is a thread that decodes
    begin, end : frames of each file that are brought, from ``begin`` to before ``end``; None: to the last
    """

    paths: tuple[str, ...]
    dataset: str = ""
    connections: int = 1
    begin: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not self.paths:
            raise ValueError(f"paths is {checks.shown(self.paths)}; expected a tuple of at least one file")
        object.__setattr__(self, "paths", tuple(checks.text("paths", path) for path in self.paths))
        checks.text("dataset", self.dataset)
        number = checks.whole("connections", self.connections, 1, MAX_CONNECTIONS)
        object.__setattr__(self, "connections", number)
        object.__setattr__(self, "begin", checks.whole("begin", self.begin, 0, _MOST_FRAMES))
        if self.end is not None:
            object.__setattr__(self, "end", checks.whole("end", self.end, self.begin, _MOST_FRAMES))

    @property
    def name(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"

    @property
    def address(self) -> tuple[tuple[str, ...], str]:
        return self.paths, self.dataset

    @property
    def armed_here(self) -> bool:
        return False

    def check(self, series: SeriesRequest) -> None:
        """Any series can be asked for: frames that the file does not have count as lost."""

    def open(self, memory: BatchMemory) -> OpenFiles:
        """Look into the first file. Raises ValueError, FileNotFoundError."""
        return OpenFiles(self.paths, self.dataset)

    def next_series(self, opened: OpenFiles) -> FileSeries:
        """The next file."""
        return FileSeries(opened, self.connections, self.begin, self.end)

    def control(self) -> None:
        return None


class OpenFiles:
    """The files, of which one is open at a time."""

    def __init__(self, paths: tuple[str, ...], dataset: str) -> None:
        self.paths, self._dataset = paths, dataset
        self.taken = 0
        self.frames: Hdf5Frames | None = Hdf5Frames(paths[0], dataset)
        self._others: dict[str, Hdf5Frames] = {}
        self._lock = threading.Lock()  # of the others

    def of_channel(self, channel: str) -> Hdf5Frames | None:
        """The frames of another channel in the file that is open; None where it has none."""
        assert self.frames is not None
        with self._lock:
            if channel not in self._others:
                dataset = self.frames.other_channels().get(channel)
                if dataset is None:
                    return None
                self._others[channel] = Hdf5Frames(self.frames.path, dataset)
            return self._others[channel]

    def next(self) -> Hdf5Frames | None:
        """The frames of the next file; None behind the last."""
        if self.taken:
            self.close()
            if self.taken < len(self.paths):
                self.frames = Hdf5Frames(self.paths[self.taken], self._dataset)
        self.taken += 1
        return self.frames

    def connected(self, wait: float = 0.0) -> bool:
        return True

    def reconnect(self) -> None:
        """Files stay where they are."""

    def close(self) -> None:
        frames, self.frames = self.frames, None
        with self._lock:
            others, self._others = self._others, {}
        for open_ in (frames, *others.values()):
            if open_ is not None:
                open_.close()


class FileSeries:
    """Frames ``begin`` to ``end`` of one file, shared out over ``connections``: each has a stretch of them."""

    def __init__(self, opened: OpenFiles, connections: int, begin: int = 0, end: int | None = None) -> None:
        self._opened = opened
        self._frames = opened.next()
        self._number = opened.taken
        self._stopped = False
        self._left = connections
        self._lock = threading.Lock()  # of how many are left
        count = 0 if self._frames is None else self._frames.count
        last = count if end is None else min(end, count)
        edges = np.linspace(min(begin, last), last, connections + 1).astype(int).tolist()
        self.connections = [
            FileConnection(self, n, *stretch) for n, stretch in enumerate(itertools.pairwise(edges))
        ]
        self.header = None if self._frames is None else _header(self._frames, self._number)

    @property
    def key(self) -> SeriesKey | None:
        return None if self.header is None else self.header.key

    @property
    def name(self) -> str:
        return str(self._number)

    @property
    def channel(self) -> str:
        return "" if self.header is None else self.header.channel

    @property
    def frames(self) -> Hdf5Frames:
        assert self._frames is not None
        return self._frames

    def expect(self, key: SeriesKey) -> None:
        raise ValueError("a file is not armed")

    def done(self) -> bool:
        """A connection has brought all of its frames; whether it was the last."""
        with self._lock:
            self._left -= 1
            return self._left == 0

    @property
    def stopped(self) -> bool:
        return self._stopped or self._frames is None

    def all_came(self, last_missing: int) -> bool:
        return self._left == 0

    def header_of(self, channel: str) -> SeriesHeader | None:
        if channel == self.channel:
            return self.header
        frames = None if self._frames is None else self._opened.of_channel(channel)
        return None if frames is None else _header(frames, self._number)

    def other_channels(self, batch: FrameBatch, entry: int) -> dict[str, SeriesHeader | None]:
        return {channel: self.header_of(channel) for channel in self.frames.other_channels()}

    def of_channel(self, batch: FrameBatch, entries: np.ndarray, channel: str) -> FrameBatch:
        """In memory of its own: the file has each channel in another place."""
        if channel == self.channel:
            return FrameBatch(batch.buffer, batch.index[entries], len(entries), batch.channel)
        frames = self._opened.of_channel(channel)
        assert frames is not None
        other = _gathered(frames, batch.image_id[entries])
        same = [columns.SERIES_ID, columns.UNIQUE_ID, columns.IMAGE_ID, columns.RECEIVED_NS]
        other.index[:, same] = batch.index[entries][:, same]
        other.connection = batch.connection
        return other

    def algorithm_of(self, batch: FrameBatch, entry: int) -> str | None:
        return name_of(int(batch.index[entry, columns.ALGORITHM]))

    def why_unusable(self, batch: FrameBatch, entry: int) -> str:
        return "the file has no such frame"

    def why_nothing_came(self, waited: str, ended: bool) -> str:
        if self._frames is None:
            return "all files were taken before"
        return f"{self._frames.path} has no frame that can be read"

    def why_frames_miss(self, came: np.ndarray, dropped: int | None) -> str:
        return ""

    def interrupt(self) -> None:
        self._stopped = True

    def finish(self) -> None:
        """The file is over for us."""


class FileConnection:
    """Frames ``begin`` to ``end`` of a series."""

    def __init__(self, series: FileSeries, number: int, begin: int, end: int) -> None:
        self._series, self._number = series, number
        self._begins, self._next, self._end = begin, begin, end
        self._over = False

    def receive(self, batch: FrameBatch, wait: float) -> Iterator[Item]:
        """The next frames, as many as fit; the file's own bytes where they can be used as they are."""
        batch.count, batch.connection = 0, self._number
        series = self._series
        if series.stopped or self._over:
            time.sleep(min(wait, 0.01))
            return
        if self._number == 0 and self._next == self._begins:
            assert series.header is not None
            yield Started(series.header)
        if self._next < self._end:
            part = next(p for p in series.frames.parts if self._next < p.first + p.count)
            end = min(self._end, part.first + part.count)
            if part.content is None:
                self._next = self._read(part, batch, self._next, end)
            else:
                self._next = self._map(part, batch, self._next, end)
            if batch.count:
                yield Frames(batch, np.arange(batch.count))
        if self._next >= self._end and not self._over:
            self._over = True
            if series.done():
                yield Ended()

    def _read(self, part: Part, batch: FrameBatch, begin: int, end: int) -> int:
        """Frames that h5py reads, uncompressed; the first one that is not in the batch."""
        rows, cols = part.shape
        size = rows * cols * part.dtype.itemsize
        in_file = any(batch.buffer is p.content for p in self._series.frames.parts)
        if in_file or size > batch.capacity:
            batch.buffer = np.zeros(max(size, _BATCH_BYTES) + columns.SLACK, np.uint8)
        n = max(1, min(end - begin, batch.capacity // size, len(batch.index)))
        frames = self._series.frames.read(part, begin - part.first, begin - part.first + n)
        batch.buffer[: n * size] = frames.reshape(-1).view(np.uint8)
        self._index(part, batch, np.arange(begin, begin + n), np.arange(n) * size, np.full(n, size), RAW, 0)
        return begin + n

    def _map(self, part: Part, batch: FrameBatch, begin: int, end: int) -> int:
        """Frames where they lie in the file: in its order, close to each other, and there at all."""
        assert part.content is not None
        assert part.at is not None
        assert part.nbytes is not None
        assert part.codec is not None
        stretch = slice(begin - part.first, min(end, begin + len(batch.index)) - part.first)
        at, nbytes = part.at[stretch], part.nbytes[stretch]
        ids = np.arange(begin, begin + len(at))
        there = at >= 0
        if not there.any():
            return begin + len(at)
        at, nbytes, ids, codec = (a[there] for a in (at, nbytes, ids, part.codec[stretch]))
        last = at + nbytes
        apart = (at[1:] < last[:-1]) | (at[1:] > last[:-1] + _GAP_BYTES) | (last[1:] - at[0] > _BATCH_BYTES)
        n = int(np.argmax(apart)) + 1 if apart.any() else len(at)
        batch.buffer = part.content
        self._index(part, batch, ids[:n], at[:n], nbytes[:n], codec[:n], part.elem_size)
        if not room_behind(part, int(last[n - 1])):
            copied = batch.copy(0, n)
            batch.buffer = copied.buffer
            batch.index[:n] = copied.index
        return int(ids[n - 1]) + 1

    def _index(
        self, part: Part, batch: FrameBatch, ids: np.ndarray, at: np.ndarray, nbytes: np.ndarray,
        codec: int | np.ndarray, elem_size: int,
    ) -> None:  # fmt: skip
        batch.count = len(ids)
        index = batch.index[: batch.count]
        header = self._series.header
        assert header is not None
        index[:, [columns.OFFSET, columns.BLOB_OFFSET]] = at[:, None]
        index[:, [columns.LENGTH, columns.BLOB_LENGTH]] = nbytes[:, None]
        index[:, columns.STATUS] = columns.IMAGE
        index[:, columns.SERIES_ID], index[:, columns.UNIQUE_ID] = header.key
        index[:, columns.IMAGE_ID] = ids
        index[:, columns.ROWS], index[:, columns.COLS] = part.shape
        index[:, columns.ARRAY_TAG] = array_tag(part.dtype.newbyteorder("<"))
        index[:, columns.ALGORITHM] = codec
        index[:, columns.ELEM_SIZE] = elem_size
        index[:, columns.RECEIVED_NS] = time.monotonic_ns()


def _gathered(frames: Hdf5Frames, ids: np.ndarray) -> FrameBatch:
    """Frames by their rising numbers, (n,), close together; those that the file lacks are NO_CHANNEL."""
    index = np.zeros((len(ids), columns.COLUMNS), np.int64)
    index[:, columns.STATUS] = columns.NO_CHANNEL
    pieces: list[np.ndarray] = []
    end = 0
    for part in frames.parts:
        here = np.flatnonzero((ids >= part.first) & (ids < part.first + part.count))
        if not len(here):
            continue
        numbers = ids[here] - part.first
        size = np.full(len(here), part.shape[0] * part.shape[1] * part.dtype.itemsize)
        codec: np.ndarray | int = RAW
        if part.content is None:
            first = int(numbers[0])
            read = frames.read(part, first, int(numbers[-1]) + 1)[numbers - first]
            piece = np.ascontiguousarray(read).reshape(-1).view(np.uint8)
        else:
            assert part.at is not None
            assert part.nbytes is not None
            assert part.codec is not None
            there = part.at[numbers] >= 0
            here, numbers = here[there], numbers[there]
            size, codec = part.nbytes[numbers], part.codec[numbers]
            piece = np.zeros(int(size.sum()), np.uint8)
            gather(part.content, part.at[numbers], size, 0, piece, 0)
        begins = end + np.cumsum(size) - size
        index[here, columns.OFFSET] = index[here, columns.BLOB_OFFSET] = begins
        index[here, columns.LENGTH] = index[here, columns.BLOB_LENGTH] = size
        index[here, columns.STATUS] = columns.IMAGE
        index[here, columns.ROWS], index[here, columns.COLS] = part.shape
        index[here, columns.ARRAY_TAG] = array_tag(part.dtype.newbyteorder("<"))
        index[here, columns.ALGORITHM] = codec
        index[here, columns.ELEM_SIZE] = part.elem_size if part.content is not None else 0
        pieces.append(piece)
        end += len(piece)
    return FrameBatch(np.concatenate([*pieces, np.zeros(columns.SLACK, np.uint8)]), index, len(ids))


def _header(frames: Hdf5Frames, number: int) -> SeriesHeader:
    said = frames.said()
    mask = said.get("pixel_mask")
    if mask is not None and (np.shape(mask) != frames.shape or mask.dtype.kind not in "biu"):
        mask = None
    if mask is not None:
        mask = np.ascontiguousarray(mask, "<u4")
    path = hashlib.sha256(frames.path.encode()).digest()
    return SeriesHeader(
        key=(number, int.from_bytes(path[:7], "big") | 1),
        channel=text_in(said.get("channel")),
        rows=frames.shape[0],
        cols=frames.shape[1],
        dtype=frames.dtype.newbyteorder("="),
        frames=frames.count,
        pixel_mask=None if mask is None else EncodedArray(mask.shape, mask.dtype, "", 0, mask.tobytes()),
        saturation=None if (limit := number_in(said.get("saturation"))) is None else int(limit),
        unique_id=text_in(said.get("unique_id")),
        detector=text_in(said.get("description")),
        energy=number_in(said.get("energy")),
        threshold=number_in(said.get("threshold")),
        count_time=number_in(said.get("count_time")),
        frame_time=number_in(said.get("frame_time")),
    )
