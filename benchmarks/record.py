"""`live4d bench record`: compressed frames to a file, beside plain O_DIRECT writes and h5py's direct chunks.

Rounds are interleaved; each file is read back, and a wrong frame voids the measurement. Then the engine's rate over
such a file, from the page cache, and at the detector's pace, from a plain TCP sender, with recording and without. Files
are made where ``TMPDIR`` says.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import h5py
import hdf5plugin  # noqa: F401  the frames' filter
import numpy as np

from benchmarks.batches import batch_of
from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import DISTINCT, SIZES, Size
from live4d_ophyd.decode import Backend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.recorder import BUFFER_BYTES, FrameRecorder, RecordedFile, Recording
from live4d_ophyd.frames.batch import BLOB_LENGTH, BLOB_OFFSET, FrameBatch
from live4d_ophyd.frames.codecs import BY_NAME
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.offline import acquire_raster
from live4d_ophyd.recording.chunk_file import LIBVER
from live4d_ophyd.recording.frame_sets import FRAMES
from live4d_ophyd.recording.template import Recorded, write_template
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.file import FileSource

KEYS = ("192", "96")
#: frames of a file, and those that h5py writes
COUNTS, DIRECT_CHUNKS = (1 << 16, 1 << 20), 1 << 13
#: frames that come together
PART = 512
#: the detector's pace, Hz, and how long it lasts, s
PACES, PACED_S = {"192": 30_000, "96": 120_000}, 8
#: bytes that wait for the disk at most: frames come as fast as it takes them
WAITING_BYTES = 64 << 20


def run(rounds: int = 3) -> dict:
    results = {}
    backend = choose_backend("auto")
    warm_up()
    for key in KEYS:
        size, batch = SIZES[key], batch_of(SIZES[key])
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                results[f"{size.name}, {count} frames"] = measure(
                    Path(folder), size, batch, count, rounds, backend
                )
    paced = {
        f"{SIZES[key].name}, {rate / 1e3:g} kHz": at_pace(key, rate, rounds, backend)
        for key, rate in PACES.items()
    }
    return {
        "benchmark": "record",
        "command": f"live4d bench record --rounds {rounds}",
        "rounds": rounds,
        "machine": machine(),
        "folder": tempfile.gettempdir(),
        "backend": backend.name,
        "results": results,
        "paced": paced,
    }


def measure(folder: Path, size: Size, batch: FrameBatch, count: int, rounds: int, backend) -> dict:
    recorded, plain, chunks = [], [], []
    path = folder / "frames_00001.h5"
    for _ in range(rounds):
        path.unlink(missing_ok=True)
        recorded.append(record(folder, size, batch, count))
        plain.append(write_plainly(folder, path.stat().st_size))
        chunks.append(write_chunks(folder, size, batch))
    result = {
        "khz": median(count / r["seconds"] for r in recorded) / 1e3,
        "mb_s": median(r["bytes"] / r["seconds"] for r in recorded) / 1e6,
        "cpu_us": median(1e6 * r["cpu"] / count for r in recorded),
        "cpu_us_range": [f(1e6 * r["cpu"] / count for r in recorded) for f in (min, max)],
        "bytes_a_frame": float(batch.column(BLOB_LENGTH).mean()),
        "plain_mb_s": median(plain) / 1e6,
        "ratio": median(r["bytes"] / r["seconds"] / p for r, p in zip(recorded, plain)),
        "direct_chunk_cpu_us": median(chunks),
    }
    if count == COUNTS[0]:
        result |= live(folder, path, size, count, rounds, backend)
    return result


def record(folder: Path, size: Size, batch: FrameBatch, count: int) -> dict:
    """Seconds, CPU seconds and bytes of a file, its closing and reading back included."""
    scan, frame = ScanGrid(count // 256, 256), FrameFormat(size.side, size.side, np.dtype(size.dtype))
    what = Recorded(scan, frame, BY_NAME["bslz4"])
    frames = FrameRecorder(Recording(str(folder / "frames.h5")), scan, lambda codec: what)
    entries, status = np.arange(PART), np.zeros(PART, np.int64)
    began, cpu = time.perf_counter(), time.process_time()
    for first in range(0, count, PART):
        while frames._made >= WAITING_BYTES and not frames._free:
            time.sleep(0.001)  # for the disk
        within = first % batch.count
        frames.add(batch, within + entries, status, first + entries, status, frame)
    done = frames.finish(0, frame)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    frames.close()
    check(done, size, count)
    return {"seconds": seconds, "cpu": cpu, "bytes": os.path.getsize(done.path)}


def check(done: RecordedFile, size: Size, count: int) -> None:
    if done.frames != count:
        raise RuntimeError(f"{done.frames} of {count} frames are recorded: no number is reported")
    with h5py.File(done.path) as file:
        for n in np.random.default_rng(0).integers(0, count, 200).tolist():
            if (file[FRAMES][n] != size.frames[n % len(size.frames)]).any():
                raise RuntimeError(f"frame {n} is wrong: no number is reported")


def write_plainly(folder: Path, nbytes: int) -> float:
    """Bytes a second of O_DIRECT writes of the recorder's size, to the end on the disk."""
    block = mmap.mmap(-1, BUFFER_BYTES)
    block[:] = os.urandom(1 << 20) * (BUFFER_BYTES >> 20)
    path = folder / "plain"
    began = time.perf_counter()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        for at in range(0, nbytes, BUFFER_BYTES):
            os.pwrite(fd, block, at)
        os.fsync(fd)
    finally:
        os.close(fd)
    seconds = time.perf_counter() - began
    path.unlink()
    return nbytes / seconds


def write_chunks(folder: Path, size: Size, batch: FrameBatch) -> float:
    """CPU us a frame of h5py's write_direct_chunk."""
    frame = FrameFormat(size.side, size.side, np.dtype(size.dtype))
    path = folder / "chunks.h5"
    write_template(path, Recorded(ScanGrid(DIRECT_CHUNKS // 256, 256), frame, BY_NAME["bslz4"]))
    at, nbytes = (batch.column(column)[:DIRECT_CHUNKS].tolist() for column in (BLOB_OFFSET, BLOB_LENGTH))
    with h5py.File(path, "r+", libver=LIBVER) as file:
        dataset = file[FRAMES].id
        cpu = time.process_time()
        for n in range(DIRECT_CHUNKS):
            dataset.write_direct_chunk((n, 0, 0), batch.buffer[at[n] : at[n] + nbytes[n]])
        file.flush()
        cpu = time.process_time() - cpu
    path.unlink()
    return 1e6 * cpu / DIRECT_CHUNKS


def live(folder: Path, path: Path, size: Size, count: int, rounds: int, backend) -> dict:
    """The engine's rate over the file, from the page cache, with recording and without."""
    path.read_bytes()
    expected = size.image(count)

    def rate(record: Recording | None) -> float:
        cores = len(os.sched_getaffinity(0))
        source = FileSource((str(path),), connections=cores)
        request = AcquisitionRequest(
            source, ScanGrid(count // 256, 256), (size.disk,), timeout=600.0, record=record
        )
        began = time.perf_counter()
        raster = acquire_raster(request, backend, quiet=True)
        seconds = time.perf_counter() - began
        if (raster.outputs["vbf"].ravel() != expected).any():
            raise RuntimeError("sums are wrong: no number is reported")
        if raster.recorded is not None:
            if not raster.recorded.unrecorded:
                check(raster.recorded, size, count)
            unrecorded.append(raster.recorded.unrecorded)
            os.unlink(raster.recorded.path)
        return count / seconds

    unrecorded: list[int] = []
    rate(None)
    without, with_ = [], []
    for _ in range(rounds):
        without.append(rate(None))
        with_.append(rate(Recording(str(folder / "again.h5"))))
    return {
        "live_khz": median(without) / 1e3,
        "live_recorded_khz": median(with_) / 1e3,
        "live_ratio": median(a / b for a, b in zip(with_, without)),
        "live_unrecorded": max(unrecorded),
    }


def at_pace(key: str, rate: int, rounds: int, backend: Backend) -> dict:
    """The engine behind a sender of that rate, with recording and without: kHz, CPU a frame, frames not recorded."""
    size = SIZES[key]
    count = rate * PACED_S // DISTINCT * DISTINCT
    expected = size.image(count)
    taken: dict[bool, list[dict]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, closing(PlainSource(key)) as source:
        for _ in range(rounds):
            for recording, of in taken.items():
                record = Recording(str(Path(folder) / "paced.h5")) if recording else None
                detector = DectrisSource(source.endpoint)
                request = AcquisitionRequest(
                    detector, ScanGrid(count // DISTINCT, DISTINCT), (size.disk,), timeout=20.0, record=record
                )
                with closing(OpenStream(detector, backend.memory)) as opened:
                    source.start(count, rate)
                    began, cpu = time.perf_counter(), time.process_time()
                    (raster,) = Acquisition(request, opened, backend).run()
                    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                    (report,) = source.reports()
                if (raster.outputs["vbf"].ravel() != expected).any():
                    raise RuntimeError("sums are wrong: no number is reported")
                of.append(
                    {
                        "khz": count / seconds / 1e3,
                        "cpu_us": 1e6 * cpu / count,
                        "late_ms": 1e3 * report["late_s"],
                        "unrecorded": raster.recorded.unrecorded if raster.recorded else 0,
                    }
                )
                if raster.recorded is not None:
                    if not raster.recorded.unrecorded:
                        check(raster.recorded, size, count)
                    os.unlink(raster.recorded.path)
    return {
        name: {key: median(run[key] for run in taken[recording]) for key in taken[recording][0]}
        for name, recording in (("without", False), ("recorded", True))
    } | {"frames": count}


def table(report: dict) -> str:
    lines = [
        f"{'frames':34} {'kHz':>7} {'MB/s':>6} {'plain':>6} {'ratio':>6} {'CPU us':>7} {'h5py':>6} "
        f"{'engine kHz':>11} {'recording':>10}"
    ]
    for name, r in report["results"].items():
        engine = f"{r['live_khz']:11.1f} {r['live_recorded_khz']:10.1f}" if "live_khz" in r else ""
        lines.append(
            f"{name:34} {r['khz']:7.1f} {r['mb_s']:6.0f} {r['plain_mb_s']:6.0f} {r['ratio']:6.2f} {r['cpu_us']:7.2f} "
            f"{r['direct_chunk_cpu_us']:6.1f} {engine}"
        )
    for name, r in report["paced"].items():
        lines += [
            f"{name + ', ' + what:34} {r[what]['khz']:7.1f}  CPU us {r[what]['cpu_us']:.1f}, sender late by "
            f"{r[what]['late_ms']:.0f} ms, not recorded {r[what]['unrecorded']:.0f}"
            for what in ("without", "recorded")
        ]
    return "\n".join(lines)
