"""FrameRecorder: compressed frames of an acquisition to files as they came, one file a raster.

In: frames that were accepted, of every receive thread, with what the decoder said of them. Out: files, and how many
frames each has. Frames are copied into buffers of a few megabytes; one thread, ``live4d-record``, writes them, a call
each. Buffers have a bound: where the disk is slower than the stream for longer than they last, frames are not
recorded, and counted; the images go on. What is in a file is on the disk a second later, whatever becomes of this
process.
"""

from __future__ import annotations

import logging
import math
import mmap
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.engine.errors import Cancelled, RecordingFailed
from live4d_ophyd.engine.held_frames import HeldFrame, HeldFrames
from live4d_ophyd.frames import batch as columns
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.frames.codecs import CODECS, RAW
from live4d_ophyd.frames.encoded_array import MAX_PIXELS
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.frames.gather import gather
from live4d_ophyd.frames.status import OK
from live4d_ophyd.recording.raster_file import RasterFile
from live4d_ophyd.recording.template import CORRUPT, GOOD, Recorded, cannot_record
from live4d_ophyd.scan import ScanGrid

log = logging.getLogger(__name__)

#: of pixels
_DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")
#: channels besides that of the images that a file has at most
MOST_CHANNELS = 8
#: bytes of a buffer, and of all together
BUFFER_BYTES, ALL_BYTES = 8 << 20, 512 << 20
#: how long frames may wait in a buffer that is not full, and how far checkpoints are apart, s
_FLUSH_S, _CHECKPOINT_S = 0.2, 0.6
#: how long what waits is written before a checkpoint that is due, s; and how long a disk may take when the end has come
_CATCH_UP_S, _LEAVE_S = 0.2, 10.0


_NOTHING = object()


@dataclass(frozen=True)
class Recording:
    """Where the frames of an acquisition are recorded, and what else is known of them.

    path : of the files, absolute, at the engine's host; each gets a number behind the name, the first that is free:
        ``/data/12.h5`` becomes ``/data/12_00001.h5``
    notes : what the files say besides what the series says itself: microscope, plan, sample
    flyback : frames that belong to no position, of flyback and lead-in, are recorded, too, in a dataset of their own
    """

    path: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    flyback: bool = False

    def __post_init__(self) -> None:
        checks.text("path", self.path)
        object.__setattr__(self, "flyback", checks.switch("flyback", self.flyback))
        if not Path(self.path).is_absolute() or Path(self.path).suffix != ".h5":
            raise ValueError(
                f"the path of a recording is {self.path!r}; expected an absolute path that ends with .h5"
            )

    def check_within(self, folders: Sequence[Path]) -> None:
        """Raise RecordingFailed if the file would lie in none of these."""
        place = Path(self.path).resolve()
        if not any(place.is_relative_to(folder.resolve()) for folder in folders):
            raise RecordingFailed(
                f"this engine does not record at {place.parent}",
                remedy=f"it records in {', '.join(map(str, folders))}"
                if folders
                else "start it with live4d serve --record-in FOLDER",
            )


@dataclass(frozen=True)
class RecordedFile:
    """What was recorded of a raster.

    path : of the file at the engine's host
    frames : that can be decoded, and are in the file
    unrecorded : that can be decoded, and are not, of all channels: the disk was too slow, or full, or the codec changed
    corrupt : that cannot be decoded, and lie in the file apart
    shape : of the frames over the scan, (scan_y, scan_x, q_y, q_x). dtype : of a pixel, as "<u2"
    """

    path: str
    frames: int
    unrecorded: int
    corrupt: int
    shape: tuple[int, int, int, int]
    dtype: str

    def __post_init__(self) -> None:
        checks.text("path", self.path)
        for name in ("frames", "unrecorded", "corrupt"):
            checks.count(name, getattr(self, name))
        if min(self.shape) < 1 or math.prod(self.shape[2:]) > MAX_PIXELS:
            raise ValueError(
                f"shape is {self.shape}; expected lengths of at least 1, and {MAX_PIXELS} pixels at most"
            )
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is {checks.shown(self.dtype)}; expected one of {', '.join(_DTYPES)}")


class _Buffer:
    """Frames of one raster, close together, in memory that a disk can take them from."""

    def __init__(self, nbytes: int) -> None:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # aligned to pages
        with suppress(OSError):  # to be given a page costs as much as to copy what fits into it
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory = np.frombuffer(memory, np.uint8)
        self.empty_for(0)

    def empty_for(self, raster: int) -> None:
        self.raster, self.used = raster, 0
        self.begun = time.monotonic()
        #: (numbers, starts, sizes, skipped filters, states) of what was put in, a call each
        self.parts: list[tuple[np.ndarray, ...]] = []


@dataclass(frozen=True, eq=False)
class _End:
    """A raster is over; ``done`` will have its file, closed."""

    raster: int
    done: Future[RasterFile | None]


@dataclass
class _Lane:
    """What one receive thread fills; the recording thread may take it away."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    buffer: _Buffer | None = None


class FrameRecorder:
    """Of one acquisition: rasters of ``scan``. ``what`` says what a file is of, once frames tell their codec."""

    def __init__(self, recording: Recording, scan: ScanGrid, what: Callable[[int], Recorded]) -> None:
        self.recording, self._scan, self._what = recording, scan, what
        self._of_thread = threading.local()
        self._lanes: list[_Lane] = []
        self._free: list[_Buffer] = []
        self._made = 0  # bytes of buffers
        self._lock = threading.Lock()  # of the above, and of what is counted
        self._came: Counter[int] = Counter()  # frames that can be decoded, of all channels, by raster
        self._arrived: dict[int, np.ndarray] = {}  # whether each frame came, (n,) bool, by raster
        self._codec: int | None = None
        self._held = HeldFrames()
        self._records = True  # frames of this codec can lie in a file
        self._full: queue.SimpleQueue[_Buffer | _End | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._files: dict[int, RasterFile] = {}
        self._failed: set[int] = set()  # rasters of which nothing more is written
        self._logged: set[str] = set()
        self._over = -1  # rasters up to this one are closed
        self._number = 0  # of the newest file
        self._newest = -1  # raster that has one, or is over
        self._job: Any = _NOTHING  # the recording thread's next, if it is known
        self._leaving = False  # what still waits is not written

    def check(self) -> None:
        """Raise RecordingFailed if no file can be made there. The folder is made."""
        path = Path(self.recording.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".live4d-"):
                pass
        except OSError as error:
            raise RecordingFailed(
                f"no file can be made in {path.parent}, or not that folder: {error.strerror or error}. Nothing was "
                "armed",
                remedy="record elsewhere, or without",
            ) from error

    # Receive threads ------------------------------------------------------------------------------

    def add(
        self, batch: FrameBatch, entries: np.ndarray, rasters: np.ndarray, numbers: np.ndarray, status: np.ndarray,
        frame: FrameFormat,
    ) -> None:  # fmt: skip
        """Take frames of a batch. (n,) each: entries of it, rasters, numbers of `FrameSet`, what a decoder said."""
        for raster in np.unique(rasters).tolist():
            here = rasters == raster
            good = status[here] == OK
            with self._lock:
                self._came[raster] += int(good.sum())
                if self._records:
                    self._note_arrived(raster, numbers[here])
            try:
                self._add(raster, batch, entries[here], numbers[here], good, frame)
            except Exception as error:  # of memory, say; the images go on
                self._log_once(f"frames are not recorded: {error}")

    def _note_arrived(self, raster: int, numbers: np.ndarray) -> None:
        came, needed = self._arrived.get(raster), int(numbers.max()) + 1
        if came is None or len(came) < needed:
            before = np.zeros(0, bool) if came is None else came
            came = self._arrived[raster] = np.zeros(max(needed, 2 * len(before), self._scan.size), bool)
            came[: len(before)] = before
        came[numbers] = True

    def _add(
        self, raster: int, batch: FrameBatch, entries: np.ndarray, numbers: np.ndarray, good: np.ndarray,
        frame: FrameFormat,
    ) -> None:  # fmt: skip
        with self._lock:
            if self._codec is None:
                if good.any():
                    self._choose_codec(batch.column(columns.ALGORITHM)[entries[good]])
                elif not self._held.hold(raster, batch, entries, numbers):
                    self._log_once("more corrupt frames came before the first good one than are kept")
            if raster <= self._over or self._codec is None or not self._records:
                return
            held = self._begin()
        self._release(held)
        rows = batch.index[entries]
        raw = rows[:, columns.ALGORITHM] == RAW
        packed = (rows[:, columns.ALGORITHM] == self._codec) & (
            rows[:, columns.ELEM_SIZE] == frame.dtype.itemsize
        )
        fits = raw & (rows[:, columns.BLOB_LENGTH] == frame.nbytes) | ~raw & packed
        if (good & ~fits).any():
            self._log_once("frames are compressed in several ways; those unlike the first are not recorded")
        # What cannot be decoded is kept as it came.
        take = np.flatnonzero(fits | ~good)
        states = np.where(good, GOOD, CORRUPT).astype(np.uint8)
        self._copy(raster, batch.buffer, rows[take], numbers[take], raw[take], states[take])

    def _choose_codec(self, codecs: np.ndarray) -> None:
        """All frames of a file are of one codec, or not compressed. ``codecs``: numbers of some frames', (n,)."""
        packed = codecs[codecs != RAW]
        self._codec = int(packed[0]) if len(packed) else RAW
        if reason := cannot_record(CODECS[self._codec], self._scan):
            self._records = False
            self._log_once(reason)

    def _begin(self) -> list[HeldFrame]:
        """Start the thread, if that was not done; the frames that waited for it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="live4d-record", daemon=True)
            self._thread.start()
        return self._held.take()

    def _release(self, held: list[HeldFrame]) -> None:
        corrupt, packed = np.array([CORRUPT], np.uint8), np.zeros(1, bool)
        for frame in held:
            if frame.raster > self._over:
                self._copy(frame.raster, frame.blob, frame.row, np.array([frame.number]), packed, corrupt)

    def _begin_without_a_good_frame(self, raster: int) -> None:
        """A raster is over of which only frames came that cannot be decoded: they say themselves what they are."""
        with self._lock:
            codecs = self._held.codecs(raster)
            if self._codec is not None or not len(codecs):
                return
            self._choose_codec(codecs)
            if not self._records:
                return
            held = self._begin()
        self._release(held)

    def _copy(
        self, raster: int, source: np.ndarray, rows: np.ndarray, numbers: np.ndarray, raw: np.ndarray,
        states: np.ndarray,
    ) -> None:  # fmt: skip
        offsets, sizes = (
            np.ascontiguousarray(rows[:, c]) for c in (columns.BLOB_OFFSET, columns.BLOB_LENGTH)
        )
        lane = self._lane()
        first = 0
        with lane.lock:
            while first < len(numbers):
                buffer = lane.buffer
                if buffer is not None and buffer.raster != raster:
                    self._hand_over(lane)
                    buffer = None
                if buffer is None:
                    buffer = lane.buffer = self._empty_buffer(raster, int(sizes[first]))
                    if buffer is None:
                        self._log_once("the disk is slower than the stream: frames are not recorded")
                        return
                end, used = gather(source, offsets, sizes, first, buffer.memory, buffer.used)
                taken = slice(first, end)
                starts = buffer.used + np.cumsum(sizes[taken]) - sizes[taken]
                if end > first:
                    buffer.parts.append((numbers[taken], starts, sizes[taken], raw[taken], states[taken]))
                    buffer.used = used
                if end < len(numbers):
                    if end == first and not buffer.used:
                        if sizes[first] <= len(buffer.memory):
                            first += 1  # outside of the batch's memory: it cannot be there
                        else:
                            self._give_back(buffer)
                            lane.buffer = None
                        continue
                    self._hand_over(lane)
                first = end

    def _lane(self) -> _Lane:
        lane = getattr(self._of_thread, "lane", None)
        if lane is None:
            lane = self._of_thread.lane = _Lane()
            with self._lock:
                self._lanes.append(lane)
        return lane

    def _hand_over(self, lane: _Lane) -> None:
        if lane.buffer is not None:
            self._full.put(lane.buffer)
            lane.buffer = None

    def _empty_buffer(self, raster: int, least: int) -> _Buffer | None:
        """None where all are on their way to the disk."""
        with self._lock:
            usable = next((n for n, buffer in enumerate(self._free) if len(buffer.memory) >= least), None)
            if usable is not None:
                buffer = self._free.pop(usable)
                buffer.empty_for(raster)
                return buffer
            nbytes = max(BUFFER_BYTES, 1 << (least - 1).bit_length())
            while self._made + nbytes > ALL_BYTES and self._free:  # those are too small
                self._made -= len(self._free.pop().memory)
            if self._made + nbytes > ALL_BYTES:
                return None
            self._made += nbytes
        try:
            buffer = _Buffer(nbytes)
        except BaseException:
            with self._lock:
                self._made -= nbytes
            raise
        buffer.empty_for(raster)
        return buffer

    def _give_back(self, buffer: _Buffer) -> None:
        buffer.parts = []
        with self._lock:
            self._free.append(buffer)

    def _log_once(self, reason: str) -> None:
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("recording %s: %s", self.recording.path, reason)

    # The acquisition's thread ---------------------------------------------------------------------

    def finish(
        self, raster: int, frame: FrameFormat, cancelled: Callable[[], bool] = lambda: False
    ) -> RecordedFile:
        """Close the file of a raster whose frames have all been added; returns when it is on the disk.

        Raises Cancelled when ``cancelled`` says so meanwhile: a disk may hang.
        """
        done: Future[RasterFile | None] = Future()
        self._begin_without_a_good_frame(raster)
        with self._lock:
            self._over = max(self._over, raster)
            came, running = self._came[raster], self._thread is not None
            if not running:
                self._newest = max(self._newest, raster)
                self._arrived.pop(raster, None)  # else who closes the file does it
        if running:
            self._flush_lanes(raster)
            self._full.put(_End(raster, done))
            while not wait([done], _FLUSH_S).done:
                if cancelled():
                    raise Cancelled
            made = done.result()
        else:
            made = None
        shape = (*self._scan.shape, *frame.shape)
        dtype = frame.dtype.newbyteorder("<").str
        if made is None:
            return RecordedFile("", 0, came, 0, shape, dtype)
        left = came - made.safe_in_all
        return RecordedFile(str(made.path), made.safe, left, made.corrupt, shape, dtype)

    def close(self) -> None:
        """End: files that are open are closed, and say that they are not complete."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._flush_lanes()
            self._full.put(None)
            thread.join(_LEAVE_S)
            if thread.is_alive():
                self._leaving = True
                thread.join(_LEAVE_S)
            if thread.is_alive():
                log.error(
                    "recording %s: the disk does not answer; its files are left as they are",
                    self.recording.path,
                )
        with self._lock:
            self._free, self._made = [], 0

    def _flush_lanes(self, raster: int | None = None, older_than: float = 0.0) -> None:
        with self._lock:
            lanes = list(self._lanes)
        for lane in lanes:
            with lane.lock:
                buffer = lane.buffer
                if (
                    buffer is not None
                    and raster in (None, buffer.raster)
                    and time.monotonic() - buffer.begun >= older_than
                ):
                    self._hand_over(lane)

    # The recording thread -------------------------------------------------------------------------

    def _write(self) -> None:
        last = time.monotonic()
        while True:
            job = self._next_job(_FLUSH_S)
            if isinstance(job, _Buffer):
                self._append(job)
            elif job is not _NOTHING:
                if job is None:
                    break
                self._make_files(job.raster)  # of a raster that was lost, too: Event n is in file n
                job.done.set_result(self._close_file(job.raster, complete=True))
            if time.monotonic() - last >= _CHECKPOINT_S:
                self._flush_lanes(older_than=_FLUSH_S)
                self._catch_up()
                for raster, file in self._files.items():
                    if raster not in self._failed:
                        self._try(raster, file.checkpoint)
                last = time.monotonic()
        for raster in list(self._files):
            self._close_file(raster, complete=False)

    def _next_job(self, timeout: float) -> Any:
        """A buffer, the end of a raster, None at the end of all, or `_NOTHING` within ``timeout`` s."""
        if self._job is not _NOTHING:
            job, self._job = self._job, _NOTHING
            return job
        try:
            return self._full.get(timeout=timeout)
        except queue.Empty:
            self._flush_lanes(older_than=_FLUSH_S)
            return _NOTHING

    def _catch_up(self) -> None:
        """Write buffers that wait, so that the checkpoint has them."""
        until = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < until and not self._full.empty() and self._job is _NOTHING:
            job = self._full.get()
            if isinstance(job, _Buffer):
                self._append(job)
            else:
                self._job = job

    def _append(self, buffer: _Buffer) -> None:
        raster = buffer.raster
        if buffer.parts and not self._leaving:
            self._make_files(raster)
            if raster in self._files and raster not in self._failed:
                file = self._files[raster]
                self._try(raster, lambda: file.append(buffer.memory, buffer.used, buffer.parts))
        self._give_back(buffer)

    def _make_files(self, last: int) -> None:
        """Have a file for each raster up to this one, in their order, whichever frames are here first."""
        for raster in range(self._newest + 1, last + 1):
            self._newest = raster
            self._try(raster, lambda: self._make_file(raster))  # noqa: B023  called at once

    def _make_file(self, raster: int) -> None:
        assert self._codec is not None
        what = self._what(self._codec)
        path = Path(self.recording.path)
        while True:
            self._number += 1
            numbered = path.with_name(f"{path.stem}_{self._number:05d}{path.suffix}")
            with suppress(FileExistsError):
                self._files[raster] = RasterFile(numbered, what)
                return

    def _try(self, raster: int, step: Callable[[], object]) -> None:
        """Do it, or note that nothing more of the raster is written."""
        try:
            step()
        except Exception as error:
            self._failed.add(raster)
            log.error("recording of raster %d ends: %s", raster, error)

    def _close_file(self, raster: int, *, complete: bool) -> RasterFile | None:
        file = self._files.pop(raster, None)
        failed = raster in self._failed
        with self._lock:
            came = self._arrived.pop(raster, None)
        self._failed.add(raster)  # what comes late does not begin another file
        if file is None:
            return None
        try:
            file.close(complete=complete and not failed, came=came)
        except Exception as error:
            log.error("the recorded file %s: %s", file.path, error)
        if not complete:
            log.info("the file %s holds what was recorded of a raster that did not end", file.path)
        return file
