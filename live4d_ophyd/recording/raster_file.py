"""RasterFile: the file of one recorded raster, from its making to its verification.

In: buffers of frames. Out: a file that every reader of HDF5 opens. Belongs to one thread.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np

from live4d_ophyd.recording.chunk_file import ALIGNMENT, ChunkFile
from live4d_ophyd.recording.template import (
    COMPLETE,
    END_TIME,
    GOOD,
    LOST,
    MOST_CORRUPT,
    UNRECORDED,
    Recorded,
    now_as_text,
    write_template,
)

#: when the file is closed, the bytes of every so manieth frame are compared, and of as many as this at least
_PAGE, _SAMPLED = 1024, 32


class Wrong(ValueError):
    """A file does not say what was written."""


class RasterFile:
    """Made under another name: a file of this name is whole, or is not there. Raises FileExistsError, OSError."""

    def __init__(self, path: Path, what: Recorded) -> None:
        if path.exists():  # before all the work
            raise FileExistsError(f"{path} is there already")
        draft = path.with_name(f".{path.name}.{uuid4().hex}.draft")
        self._sets = what.sets
        try:
            write_template(draft, what)
            self._file = ChunkFile(draft, [s.frames for s in self._sets], what.in_place)
            try:
                _move(draft, path)
            except BaseException:
                self._file.abandon()
                raise
        finally:
            draft.unlink(missing_ok=True)
        self.path = path
        self.safe = 0  #: frames of the images' channel that the disk has
        self.safe_in_all = 0  #: and of all channels
        self.corrupt = 0  #: frames of the images' channel that cannot be decoded
        self._corrupt = [0 for _ in self._sets]
        count = self._sets[-1].end
        self._appended = np.zeros(len(self._sets), np.int64)
        self._broken = False
        self._states = np.full(count, LOST, np.uint8)
        self._touched = self._untouched = (count, 0)  # states unlike the file's: first, behind last
        self._crcs: dict[int, int] = {}
        self._step = max(1, min(_PAGE, what.scan.size // _SAMPLED))

    def append(self, memory: np.ndarray, used: int, parts: Sequence[tuple[np.ndarray, ...]]) -> None:
        """Write the first ``used`` bytes of ``memory``, (n,) uint8, aligned as the disk wants it.

        ``parts``: (numbers, starts, sizes, whether the filter was skipped, states) of its frames, (n,) each; the
        numbers are those of `FrameSet`.
        """
        numbers, starts, sizes, skipped, states = (np.concatenate(columns) for columns in zip(*parts))
        good = states == GOOD
        length = -(-used // ALIGNMENT) * ALIGNMENT
        at = self._file.append(
            memory.data[:length], starts.astype(np.uint64), sizes.astype(np.uint64),
            np.where(good, numbers, -1), skipped.astype(np.uint32),
        )  # fmt: skip
        self._states[numbers] = states
        self._touch(numbers)
        which = np.searchsorted([s.end for s in self._sets], numbers, side="right")
        local = numbers - np.array([s.first for s in self._sets])[which]
        for bad in np.flatnonzero(~good).tolist():
            number = int(which[bad])
            if (nth := self._corrupt[number]) < MOST_CORRUPT:
                entry = np.array([local[bad], at + starts[bad], sizes[bad]])
                self._file.put(self._sets[number].corrupt, 3 * nth, entry)
            self._corrupt[number] += 1
        self.corrupt = self._corrupt[0]
        self._appended += np.bincount(which[good], minlength=len(self._sets))
        for n in np.flatnonzero(good & (local % self._step == 0)).tolist():
            self._crcs[int(numbers[n])] = zlib.crc32(memory[starts[n] : starts[n] + sizes[n]].data)

    def checkpoint(self) -> None:
        """What was appended is in the file from now on, whatever becomes of process or machine.

        Raises OSError. Then nothing that came behind the last checkpoint counts, and none is tried again: a system may
        say once that it could not write, drop what it had, and succeed the next time.
        """
        try:
            for s in self._sets:
                first, last = max(self._touched[0], s.first), min(self._touched[1], s.end)
                if first < last:
                    self._file.put(s.states, first - s.first, self._states[first:last])
            self._touched = self._untouched
            self._file.checkpoint()
        except BaseException:
            self._broken = True
            raise
        self.safe, self.safe_in_all = int(self._appended[0]), int(self._appended.sum())

    def close(self, *, complete: bool, came: np.ndarray | None = None) -> None:
        """The last checkpoint; libhdf5 reads a sample back; then the file says that it is complete.

        ``came``: (n,) bool of the first n frames; of those that came and were not appended the file says so.
        Raises OSError, and Wrong: then none of its frames is `safe`.
        """
        try:
            if not self._broken:
                if came is not None:
                    self._note_unrecorded(came)
                self.checkpoint()
            try:
                self._verify()
            except BaseException:
                self.safe = self.safe_in_all = 0
                raise
            if not self._broken:
                self._file.put(COMPLETE, 0, np.array([complete]))
                self._file.put(END_TIME, 0, now_as_text())
                self._file.close()
        finally:
            self._file.abandon()

    def _note_unrecorded(self, came: np.ndarray) -> None:
        count = min(len(came), len(self._states))
        unrecorded = np.flatnonzero(came[:count] & (self._states[:count] == LOST))
        if len(unrecorded):
            self._states[unrecorded] = UNRECORDED
            self._touch(unrecorded)

    def _touch(self, numbers: np.ndarray) -> None:
        first, last = self._touched
        self._touched = min(first, int(numbers.min())), max(last, int(numbers.max()) + 1)

    def _verify(self) -> None:
        """A sample of frames by libhdf5: one of every page of the index, whose entries share a checksum."""
        there = self._file.named
        try:
            with h5py.File(self.path, "r") as file:
                for s in self._sets:
                    frames = file[s.frames].id
                    for number, crc in self._crcs.items():
                        if not (s.first <= number < s.end and there[number]):
                            continue
                        if zlib.crc32(frames.read_direct_chunk((number - s.first, 0, 0))[1]) != crc:
                            raise Wrong(
                                f"its frame {number - s.first} of {s.frames} has other bytes than were written"
                            )
        except Wrong:
            raise
        except Exception as error:  # h5py raises what libhdf5 says
            raise Wrong(f"it cannot be read back: {error}") from error


def _move(draft: Path, path: Path) -> None:
    """Give the file its name, and never that of another. Raises FileExistsError, OSError."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without a second name for a file
        path.touch(exist_ok=False)
        try:
            draft.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    with suppress(OSError):  # so that its name is on the disk, too; some file systems cannot be told
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
