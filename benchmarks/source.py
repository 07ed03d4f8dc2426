"""A stream for benchmarks: a process that sends prepared frames as fast as asked, with known sums.

`python -m benchmarks.source SIZE` prints its endpoint, then obeys lines on standard input: ``COUNT RATE FIRST STEP``
sends frames FIRST, FIRST + STEP, ... of a series of COUNT at RATE Hz (0: flat out) and prints, as JSON, how long it
took and how much CPU. The sender of frame 0 also sends `start`, that of the last frame `end`.
Frames are those of design.md's measurements: about 2e4 electrons in a bright-field disk, six weak disks, a
faint background; bslz4 in 8192-byte blocks. 512 different ones are repeated. Those of `ScannedSize` are a simulated
scan instead, for methods that look at the specimen.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import cbor2
import numpy as np
import zmq
from numba import int64, njit

from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.frames.c_functions import monotonic_ns, nap
from live4d_ophyd.frames.memory import NOGIL, call_int, call_int_ptr_ptr_word_int, store_u8
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim import patterns, specimen
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen
from live4d_ophyd.sources.dectris import libzmq

DISTINCT = 512
ELECTRONS = 2e4
#: what a kept scan depends on
MADE_BY = (sys.modules[__name__], patterns, specimen)
ENERGY_EV = 300e3


@dataclass(frozen=True)
class Size:
    """One of ARINA's formats, with the bright-field disk of the measurements."""

    name: str
    side: int
    dtype: str
    radius: float

    @property
    def disk(self) -> Disk:
        center = (self.side - 1) / 2
        return Disk("vbf", center=(center, center), radius=self.radius)

    @property
    def calibration(self) -> Calibration:
        return NOT_CALIBRATED

    def grid(self, count: int) -> ScanGrid:
        """A scan of so many frames: a row may have a million positions at most."""
        cols = math.gcd(count, 1 << 10 if count % 1000 else 1000)
        return ScanGrid(count // cols, cols)

    @property
    def background(self) -> float:
        """Counts a pixel."""
        return 0.05 * (30 / self.radius) ** 2

    @cached_property
    def frames(self) -> np.ndarray:
        """(DISTINCT, side, side) counts, the same in every process."""
        rng = np.random.default_rng(192)
        y, x = np.indices((self.side, self.side)) - (self.side - 1) / 2
        mean = np.full((self.side, self.side), self.background)
        mean[np.hypot(y, x) <= self.radius] = ELECTRONS / (np.pi * self.radius**2)
        for angle in np.arange(6) * np.pi / 3:
            away = 2.2 * self.radius
            weak = np.hypot(y - away * np.sin(angle), x - away * np.cos(angle)) <= self.radius
            mean[weak] += 0.05 * ELECTRONS / (np.pi * self.radius**2)
        thickness = rng.uniform(0.8, 1.2, DISTINCT)
        return np.stack([rng.poisson(mean * t) for t in thickness]).astype(self.dtype)

    def image(self, count: int) -> np.ndarray:
        """The sums a series of ``count`` frames must give, (count,) float64."""
        return np.resize(self.sums_of(self.frames), count)

    def sums_of(self, frames: np.ndarray) -> np.ndarray:
        weights = self.disk.weights((self.side, self.side))
        return (frames.astype(np.int64) * weights).sum(axis=(1, 2)).astype(np.float64)

    @property
    def messages(self) -> Messages:
        """One image message per distinct frame."""
        return encoded(self.frames)


class Messages(NamedTuple):
    data: np.ndarray  #: bytes of all
    offsets: np.ndarray  #: where each begins, and the end
    places: np.ndarray  #: of the frame id's four bytes, from the message's begin


@dataclass(frozen=True)
class ScannedSize(Size):
    """A scan of single weak atoms, 30 nm from focus with 6 nm of astigmatism: `EDGE` rows and columns, repeated.

    So many are what a fit looks at: it sees no repetition. The same in every process; simulated once a machine, and
    kept in the folder for temporary files.
    """

    EDGE: ClassVar[int] = 256
    STEP_NM: ClassVar[float] = 0.1
    SEMIANGLE_MRAD: ClassVar[float] = 20.0

    @property
    def calibration(self) -> Calibration:
        center = (self.side - 1) / 2
        return Calibration((center, center), self.radius, self.SEMIANGLE_MRAD / self.radius)

    def grid(self, count: int) -> ScanGrid:
        return ScanGrid(count // self.EDGE, self.EDGE, step=self.STEP_NM, unit="nm")

    def image(self, count: int) -> np.ndarray:
        return np.resize(self._kept[1], count)

    @property
    def messages(self) -> Messages:
        return self._kept[0]

    @cached_property
    def _kept(self) -> tuple[Messages, np.ndarray]:
        made_by = hashlib.sha256(
            b"".join(Path(module.__file__ or "").read_bytes() for module in MADE_BY)
        ).hexdigest()
        name = f"live4d-bench-{os.getuid()}-scan-{self.side}-{self.dtype}-{made_by[:12]}.npz"
        path = Path(tempfile.gettempdir()) / name
        if not path.exists():
            messages, sums = self._made()
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
                np.savez(file, *messages, sums)
            os.replace(file.name, path)
        with np.load(path) as kept:
            return Messages(*(kept[f"arr_{n}"] for n in range(3))), kept["arr_3"]

    def _made(self) -> tuple[Messages, np.ndarray]:
        microscope = Microscope(
            defocus_nm=30.0, astigmatism_nm=6.0, astigmatism_angle_deg=29.0,
            semiangle_mrad=self.SEMIANGLE_MRAD, energy_eV=ENERGY_EV,
        )  # fmt: skip
        atoms = Specimen(
            seed=11, size_nm=30.0, radius_nm=(0.09, 0.11), coverage=0.12, atoms_per_nm3=110.0,
            atom_phase_rad_nm2=0.004, film_atoms_per_nm2=1.0,
        )  # fmt: skip
        optics = Optics(atoms, microscope, Detector(self.side, self.side, bf_radius_px=self.radius))
        positions = Scan(self.EDGE, self.EDGE, self.STEP_NM, rotation_deg=-12.0).positions_nm()

        def row(n: int) -> tuple[Messages, np.ndarray]:
            kept = optics.quantised(positions[n * self.EDGE : (n + 1) * self.EDGE])
            rng = np.random.default_rng([192, n])
            means = kept.amplitudes.astype(float) ** 2 * (kept.units * ELECTRONS)[:, np.newaxis, np.newaxis]
            frames = rng.poisson(means + self.background).astype(self.dtype)
            return encoded(frames), self.sums_of(frames)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows, sums = zip(*pool.map(row, range(self.EDGE)))
        lengths = np.concatenate([np.diff(of.offsets) for of in rows])
        data, places = (np.concatenate([getattr(of, name) for of in rows]) for name in ("data", "places"))
        return Messages(data, np.cumsum([0, *lengths]), places), np.concatenate(sums)


SIZES = {
    "192": Size("192x192 u32", 192, "uint32", 30),
    "192u16": Size("192x192 u16", 192, "uint16", 30),
    "96": Size("96x96 u16", 96, "uint16", 15),
    "96u32": Size("96x96 u32", 96, "uint32", 15),
    "192scan": ScannedSize("192x192 u32, a scan", 192, "uint32", 30),
    "96scan": ScannedSize("96x96 u32, a scan", 96, "uint32", 15),
}


def encoded(frames: np.ndarray) -> Messages:
    """One image message a frame."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import h5py
    import hdf5plugin

    marker = 0x12345678
    parts, places = [], []
    for frame in frames:
        with h5py.File(io.BytesIO(), "w") as file:
            chunk = file.create_dataset("frame", data=frame, chunks=frame.shape, **hdf5plugin.Bitshuffle())
            blob = chunk.id.read_direct_chunk((0, 0))[1]
        tag = {2: 69, 4: 70}[frame.itemsize]
        array = cbor2.CBORTag(tag, cbor2.CBORTag(56500, ["bslz4", frame.itemsize, blob]))
        message = cbor2.dumps(
            cbor2.CBORTag(
                55799,
                {
                    "type": "image",
                    "series_id": 1,
                    "series_unique_id": "01GRXWT80JSDY2FNW8SGCCDZD9",
                    "image_id": marker,
                    "real_time": [1650, 50_000_000],
                    "series_date": cbor2.CBORTag(0, "2026-11-22T12:00:00.000+01:00"),
                    "start_time": [1_000_000, 50_000_000],
                    "stop_time": [1_001_650, 50_000_000],
                    "user_data": "",
                    "data": {"threshold_1": cbor2.CBORTag(40, [list(frame.shape), array])},
                },
            )
        )
        places.append(message.index(struct.pack(">BI", 0x1A, marker)) + 1)
        parts.append(message)
    offsets = np.cumsum([0, *map(len, parts)])
    return Messages(np.frombuffer(b"".join(parts), np.uint8).copy(), offsets, np.array(places, np.int64))


@njit(**NOGIL)
def _send(functions, socket, data, offsets, places, first, count, step, interval_ns, times):
    """Messages first, first + step, ... below count, each with its number, when it is due."""
    base = int64(data.ctypes.data)
    started = monotonic_ns(functions, times)
    for n in range(first, count, step):
        while interval_ns > 0:
            ahead = started + int64(n * interval_ns) - monotonic_ns(functions, times)
            if ahead <= 0:
                break
            nap(functions, max(ahead // 1000, 200))
        k = n % places.shape[0]
        address = base + offsets[k]
        for byte in range(4):
            store_u8(address + places[k] + byte, n >> (8 * (3 - byte)))
        while (
            call_int_ptr_ptr_word_int(functions[libzmq.SEND], socket, address, offsets[k + 1] - offsets[k], 0)
            < 0
        ):
            if call_int(functions[libzmq.ERRNO]) != libzmq.EINTR:
                return n
    return count


def _bind(socket: zmq.Socket, endpoint: str) -> None:
    """Bind; the socket before may still be closing."""
    for _ in range(200):
        try:
            socket.bind(endpoint)
            return
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            time.sleep(0.02)
    raise RuntimeError(f"{endpoint} did not become free")


def main() -> None:
    size = SIZES[sys.argv[1]]
    data, offsets, places = size.messages
    context = zmq.Context()
    functions, times = libzmq.addresses(), np.zeros(2, np.int64)
    with context.socket(zmq.PUSH) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        # Compiled before anything is timed.
        _send(functions, socket.underlying, data, offsets, places, 0, 0, 1, 0.0, times)
    print(
        json.dumps({"endpoint": f"tcp://127.0.0.1:{port}", "bytes": float(np.diff(offsets).mean())}),
        flush=True,
    )
    for line in sys.stdin:
        count, first, step = (int(line.split()[k]) for k in (0, 2, 3))
        rate = float(line.split()[1])
        head = {"series_id": 1, "series_unique_id": "01GRXWT80JSDY2FNW8SGCCDZD9"}
        # A socket of its own for each series: the last receiver may not be quite gone, and would get its start.
        socket = context.socket(zmq.PUSH)
        socket.sndhwm = 20_000
        _bind(socket, f"tcp://127.0.0.1:{port}")
        start = {"type": "start", **head, "number_of_images": count, "image_size_x": size.side}
        start["incident_energy"] = ENERGY_EV
        if first == 0:
            socket.send(cbor2.dumps({**start, "image_size_y": size.side, "image_dtype": size.dtype}))
        wall, cpu = time.perf_counter(), time.process_time()
        interval = 1e9 / rate if rate else 0.0
        sent = _send(functions, socket.underlying, data, offsets, places, first, count, step, interval, times)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if first == (count - 1) % step:
            socket.send(cbor2.dumps({"type": "end", **head}))
        socket.close(linger=10_000)
        print(json.dumps({"sent": sent, "seconds": wall, "cpu_seconds": cpu}), flush=True)


class Source:
    """The senders' processes, from the other side: each has an endpoint of its own and sends every n-th frame."""

    #: what runs in them
    module = "benchmarks.source"

    def __init__(self, size: str, senders: int = 1) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", self.module, size],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(senders)
        ]  # fmt: skip
        ready = self.reports()
        self.endpoint: str = ",".join(r["endpoint"] for r in ready)
        self.message_bytes: float = ready[0]["bytes"]

    def reports(self) -> list[dict]:
        """The next line of each."""
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout]

    def start(self, count: int, rate: float = 0.0) -> None:
        """Begin a series; it waits for a client."""
        for first, process in enumerate(self._processes):
            assert process.stdin is not None
            process.stdin.write(f"{count} {rate} {first} {len(self._processes)}\n")
            process.stdin.flush()

    def finish(self) -> dict:
        """Wait for the series' end; seconds of the slowest sender, CPU seconds of all, how late a frame was at most."""
        reports = self.reports()
        return {
            "seconds": max(r["seconds"] for r in reports),
            "cpu_seconds": sum(r["cpu_seconds"] for r in reports),
            "late_s": max(r.get("late_s", 0.0) for r in reports),
        }

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:  # it sends to nobody: the measurement failed
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


if __name__ == "__main__":
    main()
