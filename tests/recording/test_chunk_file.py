"""Chunks appended to a file that is valid HDF5 at any moment, as libhdf5 says."""

import mmap
import os
import signal
import subprocess
import sys

import forked
import h5py
import hdf5plugin
import numpy as np
import pytest

from live4d_ophyd.frames.codecs import BY_NAME
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.recording import chunk_file
from live4d_ophyd.recording.chunk_file import ChunkFile
from live4d_ophyd.recording.chunk_index import NotAsExpected, checksum, write_at
from live4d_ophyd.recording.frame_sets import FRAMES, SCAN, STATES
from live4d_ophyd.recording.template import COMPLETE, Recorded, write_template
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.compress import compress

FORMAT = FrameFormat(6, 8, np.dtype("<u2"))
IN_PLACE = (STATES, COMPLETE)


def template(path, rows, cols, codec="bslz4", frame=FORMAT):
    write_template(path, Recorded(ScanGrid(rows, cols), frame, BY_NAME[codec]))
    return path


def packed(frames, codec="bslz4"):
    """(aligned memory, starts, sizes)"""
    blobs = [compress(frame, codec or "none") for frame in frames]
    sizes = np.array([len(blob) for blob in blobs], np.uint64)
    data = b"".join(blobs)
    memory = mmap.mmap(-1, -(-len(data) // 4096) * 4096)
    memory[: len(data)] = data
    return memoryview(memory), np.cumsum(sizes) - sizes, sizes


def append(file, frames, numbers, codec="bslz4"):
    numbers = np.asarray(numbers)
    skipped = np.full(len(numbers), codec == "", np.uint32)
    return file.append(*packed(frames, codec), numbers, skipped)


def frames_of(n, frame=FORMAT, seed=0):
    return np.random.default_rng(seed).poisson(9, (n, *frame.shape)).astype(frame.dtype)


def test_the_checksum_is_that_of_libhdf5(tmp_path):
    """Of the superblock of any file that it wrote."""
    content = template(tmp_path / "a.h5", 2, 3).read_bytes()
    assert checksum(content[:44]) == content[44:48]


# Without pages, one page exactly, several, the last one not full.
@pytest.mark.parametrize(("rows", "cols"), [(1, 2), (30, 34), (32, 32), (5, 205), (70, 60)])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "cached"])
def test_every_chunk_is_where_readers_look_for_it(tmp_path, rows, cols, direct):
    path = template(tmp_path / "a.h5", rows, cols)
    n = rows * cols
    frames = frames_of(n)
    file = ChunkFile(path, (FRAMES,), IN_PLACE, direct=direct)
    order = np.random.default_rng(1).permutation(n)
    for part in np.array_split(order, min(5, n)):
        append(file, frames[part], part)
        file.checkpoint()
        with h5py.File(path) as read:  # while it is written
            np.testing.assert_array_equal(read[FRAMES][int(part[-1])], frames[part[-1]])
    file.close()
    with h5py.File(path) as read:
        np.testing.assert_array_equal(read[FRAMES], frames)
        np.testing.assert_array_equal(read[SCAN], frames.reshape(rows, cols, *FORMAT.shape))


@pytest.mark.parametrize("codec", ["bslz4", "lz4", ""])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_frames_of_any_codec_and_number_are_read(tmp_path, codec, dtype):
    frame = FrameFormat(24, 32, np.dtype(dtype))
    frames = frames_of(6, frame)
    file = ChunkFile(template(tmp_path / "a.h5", 2, 3, codec, frame), (FRAMES,))
    append(file, frames, range(6), codec)
    file.close()
    with h5py.File(tmp_path / "a.h5") as read:
        np.testing.assert_array_equal(read[FRAMES], frames)


def test_what_was_not_written_reads_as_zeros_and_has_no_chunk(tmp_path):
    frames = frames_of(6)
    file = ChunkFile(template(tmp_path / "a.h5", 2, 3), (FRAMES,))
    append(file, frames[[4, 1]], [4, 1])
    append(file, frames[[2]], [-1])  # in the file, and in no dataset
    file.close()
    with h5py.File(tmp_path / "a.h5") as read:
        assert read[FRAMES].id.get_num_chunks() == 2
        np.testing.assert_array_equal(
            read[FRAMES], np.where(np.isin(np.arange(6), [1, 4])[:, None, None], frames, 0)
        )


@pytest.mark.parametrize("dataset", [FRAMES, SCAN])
def test_what_was_not_written_is_zeros_in_memory_that_a_reader_uses_again(tmp_path, dataset):
    """As LiberTEM reads: into an array that still has other frames."""
    file = ChunkFile(template(tmp_path / "a.h5", 2, 3), (FRAMES,))
    append(file, frames_of(1), [4])
    file.close()
    with h5py.File(tmp_path / "a.h5") as read:
        used = np.full(read[dataset].shape, 7, np.uint16)
        read[dataset].read_direct(used)
    assert not used.reshape(6, *FORMAT.shape)[[0, 1, 2, 3, 5]].any()


def test_what_is_put_in_place_is_there_behind_the_checkpoint(tmp_path):
    path = template(tmp_path / "a.h5", 2, 3)
    file = ChunkFile(path, (FRAMES,), IN_PLACE)
    file.put(STATES, 2, np.array([1, 2]))
    with h5py.File(path) as read:
        assert not read[STATES][()].any()
    file.checkpoint()
    with h5py.File(path) as read:
        assert read[STATES][()].tolist() == [0, 0, 1, 2, 0, 0]
    file.close()


def test_a_file_system_that_refuses_to_go_past_its_cache_gets_it_all_the_same(tmp_path, monkeypatch):
    write = os.pwrite

    def refuse(fd, data, at):
        if os.get_blocking(fd) and _is_direct(fd):
            raise OSError(22, "Invalid argument")
        return write(fd, data, at)

    path = template(tmp_path / "a.h5", 2, 3)
    file = ChunkFile(path, (FRAMES,))
    if not file.direct:
        pytest.skip("this file system does not go past its cache")
    monkeypatch.setattr(os, "pwrite", refuse)
    frames = frames_of(6)
    append(file, frames, range(6))
    assert not file.direct
    file.close()
    with h5py.File(path) as read:
        np.testing.assert_array_equal(read[FRAMES], frames)


def _is_direct(fd):
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = template(tmp_path / "a.h5", 2, 3)
    frames = frames_of(6)
    file = ChunkFile(path, (FRAMES,))
    append(file, frames[:2], [0, 1])
    monkeypatch.setattr(chunk_file, "write_at", no_space_for_frames)
    with pytest.raises(OSError, match="No space"):
        append(file, frames[2:], [2, 3, 4, 5])
    file.close()
    with h5py.File(path) as read:
        assert read[FRAMES].id.get_num_chunks() == 2
        np.testing.assert_array_equal(read[FRAMES][:2], frames[:2])


def no_space_for_frames(fd, data, at):
    """What is written in place has its space already."""
    if isinstance(data, memoryview):
        raise OSError(28, "No space left on device")
    write_at(fd, data, at)


@pytest.mark.parametrize("rows_cols", [(2, 3), (70, 60)], ids=["one-page", "pages"])
def test_a_kill_at_any_write_of_a_checkpoint_leaves_a_file_that_opens(tmp_path, monkeypatch, rows_cols):
    """Each write of a second checkpoint, and each half of it, is the last that gets done."""
    rows, cols = rows_cols
    n = rows * cols
    frames = frames_of(n)
    first, second = np.arange(n // 2), np.arange(n // 2, n)

    def made(name):
        file = ChunkFile(template(tmp_path / name, rows, cols), (FRAMES,), IN_PLACE, direct=False)
        append(file, frames[first], first)
        file.put(STATES, 0, np.ones(len(first)))
        file.checkpoint()
        append(file, frames[second], second)
        file.put(STATES, n // 2, np.ones(len(second)))
        return file

    class Killed(Exception):
        pass

    write = os.pwrite
    for killed_at in range(100):
        for half in (False, True):
            file = made(f"{killed_at}-{half}.h5")
            sizes = []

            def until(fd, data, at, killed_at=killed_at, half=half, sizes=sizes):
                sizes.append(len(data))
                if len(sizes) > killed_at:
                    if half:
                        write(fd, data[: len(data) // 2], at)
                    raise Killed
                return write(fd, data, at)

            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", until)
                try:
                    file.checkpoint()
                except Killed:
                    pass
                else:
                    assert killed_at > 2
                    return
            if half and sizes[-1] < 64:
                continue  # superblock and header are 48 and 28 bytes of one page: the kernel does not stop within
            with h5py.File(tmp_path / f"{killed_at}-{half}.h5") as read:
                states = read[STATES][()].astype(bool)
                assert states[first].all()
                there = np.flatnonzero(states)
                np.testing.assert_array_equal(read[FRAMES][:][there], frames[there])
                np.testing.assert_array_equal(read[FRAMES][:][first], frames[first])
                assert read[COMPLETE][0] == 0
    raise AssertionError("a checkpoint has no end")


@pytest.mark.parametrize("ahead", [4096, 1 << 20])
def test_who_opens_the_file_while_it_grows_finds_it_whole(tmp_path, monkeypatch, ahead):
    """As libhdf5 does: it asks for the length first, and then reads what the file says of it."""
    monkeypatch.setattr(chunk_file, "_AHEAD_BYTES", ahead)
    path = template(tmp_path / "a.h5", 30, 40)
    frames = frames_of(1200)
    file = ChunkFile(path, (FRAMES,))
    lengths, said = [], []
    sync = os.fdatasync
    monkeypatch.setattr(
        os,
        "fdatasync",
        lambda fd: (sync(fd), lengths.append(path.stat().st_size), said.append(stored_end(path))),
    )
    for part in np.array_split(np.arange(1200), 40):
        append(file, frames[part], part)
        file.checkpoint()
    file.close()
    assert all(end <= length for length, end in zip(lengths, said[1:]))
    assert stored_end(path) == path.stat().st_size


def stored_end(path):
    return int.from_bytes(path.read_bytes()[28:36], "little")


def test_a_template_of_another_kind_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="v110") as file:
        file.create_dataset("x", (4, 6, 8), "u2", chunks=(2, 6, 8), compression=1)
    with pytest.raises(NotAsExpected, match="expected one along its first axis"):
        ChunkFile(tmp_path / "a.h5", ("x",))
    with h5py.File(tmp_path / "b.h5", "w", libver="v110") as file:
        made = file.create_dataset(
            "x", (4, 6, 8), "u2", chunks=(1, 6, 8), maxshape=(None, 6, 8), compression=1
        )
        made.id.write_direct_chunk((0, 0, 0), b"\0")
    with pytest.raises(NotAsExpected, match="no fixed array"):
        ChunkFile(tmp_path / "b.h5", ("x",))


def test_of_two_datasets_of_one_shape_each_has_its_own_index(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=chunk_file.LIBVER) as file:
        for name in ("x", "y", "z"):
            made = file.create_dataset(name, (1200, 6, 8), "<u2", chunks=(1, 6, 8), **hdf5plugin.Bitshuffle())
            chunk_file.make_index(made)
    frames = frames_of(1200)
    file = ChunkFile(path, ("y",))
    append(file, frames, np.arange(1200))
    file.close()
    with h5py.File(path) as read:
        np.testing.assert_array_equal(read["y"], frames)
        assert [read[name].id.get_num_chunks() for name in ("x", "z")] == [1, 1]


def test_several_datasets_are_written_to_at_once(tmp_path):
    """Numbered through; one index is of pages, the other is not."""
    path = tmp_path / "a.h5"
    counts = {"x": 1200, "y": 2, "z": 1500}
    with h5py.File(path, "w", libver=chunk_file.LIBVER) as file:
        for name, n in counts.items():
            made = file.create_dataset(name, (n, 6, 8), "<u2", chunks=(1, 6, 8), **hdf5plugin.Bitshuffle())
            chunk_file.make_index(made)
    frames = frames_of(2702)
    file = ChunkFile(path, tuple(counts))
    order = np.random.default_rng(0).permutation(2702)
    for part in np.array_split(order, 3):
        append(file, frames[part], part)
        file.checkpoint()
    file.close()
    with h5py.File(path) as read:
        for name, part in zip(counts, np.split(frames, [1200, 1202])):
            np.testing.assert_array_equal(read[name], part)


WRITES = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from recording.test_chunk_file import *
path = Path(sys.argv[1])
file = ChunkFile(template(path, 300, 100), (FRAMES,), IN_PLACE)
frames = frames_of(100)
memory, starts, sizes = packed(frames)
print("begun", flush=True)
for row in range(300):
    file.append(memory, starts, sizes, row * 100 + np.arange(100), np.zeros(100, np.uint32))
    file.put(STATES, 100 * row, np.ones(100))
    file.checkpoint()
    print(row, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("row", [0, 3, 17])
def test_a_killed_writer_leaves_all_that_it_said_was_there(tmp_path, row):
    """A real process, killed while it writes one checkpoint after the other."""
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = tmp_path / "a.h5"
    command = [sys.executable, "-c", WRITES, str(path), tests]
    with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() == str(row):
                break
        process.send_signal(signal.SIGKILL)
    frames = frames_of(100)
    with h5py.File(path) as read:
        states = read[STATES][()].astype(bool).reshape(300, 100)
        rows = np.flatnonzero(states.all(axis=1))
        assert (states.any(axis=1) == states.all(axis=1)).all()
        assert (rows == np.arange(len(rows))).all()
        assert len(rows) >= row + 1
        for there in rows:
            np.testing.assert_array_equal(read[FRAMES][there * 100 : there * 100 + 100], frames)
