"""A stream for benchmarks: a process that sends prepared frames as fast as asked, with known sums.

`python -m benchmarks.source SIZE` prints its endpoint, then obeys lines on standard input: ``COUNT RATE FIRST STEP``
sends frames FIRST, FIRST + STEP, ... of a series of COUNT at RATE Hz (0: flat out) and prints, as JSON, how long it
took and how much CPU. The sender of frame 0 also sends `start`, that of the last frame `end`.
Frames are those of design.md's measurements: about 2e4 electrons in a bright-field disk, six weak disks, a
faint background; bslz4 in 8192-byte blocks. 512 different ones are repeated.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property

import cbor2
import numpy as np
import zmq
from numba import int64, njit

from live4d_ophyd.frames.c_functions import monotonic_ns, nap
from live4d_ophyd.frames.memory import NOGIL, call_int, call_int_ptr_ptr_word_int, store_u8
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.sources.dectris import libzmq

DISTINCT = 512
ELECTRONS = 2e4


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

    @cached_property
    def frames(self) -> np.ndarray:
        """(DISTINCT, side, side) counts, the same in every process."""
        rng = np.random.default_rng(192)
        y, x = np.indices((self.side, self.side)) - (self.side - 1) / 2
        mean = np.full((self.side, self.side), 0.05 * (30 / self.radius) ** 2)
        mean[np.hypot(y, x) <= self.radius] = ELECTRONS / (np.pi * self.radius**2)
        for angle in np.arange(6) * np.pi / 3:
            away = 2.2 * self.radius
            weak = np.hypot(y - away * np.sin(angle), x - away * np.cos(angle)) <= self.radius
            mean[weak] += 0.05 * ELECTRONS / (np.pi * self.radius**2)
        thickness = rng.uniform(0.8, 1.2, DISTINCT)
        return np.stack([rng.poisson(mean * t) for t in thickness]).astype(self.dtype)

    def image(self, count: int) -> np.ndarray:
        """The sums a series of ``count`` frames must give, (count,) float64."""
        weights = self.disk.weights((self.side, self.side))
        sums = (self.frames.astype(np.int64) * weights).sum(axis=(1, 2)).astype(np.float64)
        return np.resize(sums, count)


SIZES = {
    "192": Size("192x192 u32", 192, "uint32", 30),
    "192u16": Size("192x192 u16", 192, "uint16", 30),
    "96": Size("96x96 u16", 96, "uint16", 15),
    "96u32": Size("96x96 u32", 96, "uint32", 15),
}


def messages(size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image message per distinct frame: bytes, offsets, and the place of the frame id's four bytes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import h5py
    import hdf5plugin

    marker = 0x12345678
    parts, places = [], []
    for frame in size.frames:
        with h5py.File("frame.h5", "w", driver="core", backing_store=False) as file:
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
    return np.frombuffer(b"".join(parts), np.uint8).copy(), offsets, np.array(places, np.int64)


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
    data, offsets, places = messages(size)
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
