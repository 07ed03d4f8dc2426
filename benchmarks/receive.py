"""What receiving costs, with libzmq and without: CPU time of the receiving process a frame, and the rate.

`python -m benchmarks.receive [ROUNDS]` prints a table as JSON. Both receivers in turns, with a plain TCP sender, which
costs next to nothing and so shows the receiver's own limit, and with libzmq's. Every image must have come, and decoded
ones must have the right sums.
`python -m benchmarks.receive send SIZE` is the plain sender, with the interface of `benchmarks.source`.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import resource
import socket
import subprocess
import sys
import time
from contextlib import closing
from statistics import median

import cbor2
import numpy as np

from benchmarks.report import machine
from benchmarks.source import DISTINCT, SIZES, Source, messages
from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream, warm_up
from live4d_ophyd.frames.batch import IMAGE, FrameBatch
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris import stream
from live4d_ophyd.sources.dectris.source import DectrisSource

HEAD = {"series_id": 1, "series_unique_id": "01GRXWT80JSDY2FNW8SGCCDZD9"}
GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
#: a paced sender sends what is due so often, s
TICK_S = 0.001

#: sender, size, images, rate in Hz (0: flat out), what is done with them: "stall 0.1" holds the GIL for so many s
CASES = (
    ("plain", "192", 128 * DISTINCT, 0, "receive"),
    ("plain", "96", 512 * DISTINCT, 0, "receive"),
    ("plain", "96", 256 * DISTINCT, 0, "decode"),
    ("plain", "192", 120 * DISTINCT, 30_000, "decode"),
    ("plain", "96", 256 * DISTINCT, 120_000, "decode"),
    ("plain", "96", 256 * DISTINCT, 120_000, "stall 0"),
    ("plain", "96", 256 * DISTINCT, 120_000, "stall 0.1"),
    ("plain", "96", 512 * DISTINCT, 120_000, "stall 1"),
    ("libzmq", "192", 64 * DISTINCT, 0, "receive"),
    ("libzmq", "96", 128 * DISTINCT, 0, "receive"),
)


# The plain sender, a process ----------------------------------------------------------------------------------------


def _frame(body: bytes) -> bytes:
    return b"\2" + len(body).to_bytes(8, "big") + body


def _exactly(peer: socket.socket, count: int) -> bytes:
    came = b""
    while len(came) < count:
        part = peer.recv(count - len(came))
        if not part:
            raise ConnectionError("the receiver hung up")
        came += part
    return came


def _accept(listening: socket.socket) -> socket.socket:
    peer, _ = listening.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(GREETING)
    _exactly(peer, 64)
    peer.sendall(READY)
    _exactly(peer, _exactly(peer, 2)[1])
    return peer


def _send_images(
    peer: socket.socket, data: np.ndarray, offsets: np.ndarray, places: np.ndarray, count: int, rate: float
) -> float:
    """Returns how late an image was at most, s."""
    whole = memoryview(data)
    began = time.monotonic()
    sent, late = 0, 0.0
    while sent < count:
        first = sent % DISTINCT
        due = count if not rate else int((time.monotonic() - began) * rate)
        few = min(due - sent, DISTINCT - first, count - sent)
        if few > 0:
            numbers = np.arange(sent, sent + few, dtype=">u4").view(np.uint8).reshape(few, 4)
            data[places[first : first + few, None] + np.arange(4)] = numbers
            peer.sendall(whole[offsets[first] : offsets[first + few]])
            sent += few
            if rate:
                late = max(late, time.monotonic() - began - sent / rate)
        else:
            time.sleep(TICK_S)
    return late


def send(key: str) -> None:
    """Obey lines as `benchmarks.source` does; one connection."""
    size = SIZES[key]
    data, offsets, places = messages(size)
    lengths = np.diff(offsets)
    wire = np.frombuffer(
        b"".join(_frame(data[a:b].tobytes()) for a, b in itertools.pairwise(offsets)), np.uint8
    ).copy()
    heads = 9 * np.arange(len(offsets))
    places = places + offsets[:-1] + heads[1:]
    listening = socket.create_server(("127.0.0.1", 0))
    print(
        json.dumps(
            {"endpoint": f"tcp://127.0.0.1:{listening.getsockname()[1]}", "bytes": float(lengths.mean())}
        )
    )
    sys.stdout.flush()
    peer = None
    for line in sys.stdin:
        count, rate = int(line.split()[0]), float(line.split()[1])
        if peer is not None:  # not earlier: the last receiver would have connected again
            peer.close()
        peer = _accept(listening)
        size_of = {"image_size_x": size.side, "image_size_y": size.side, "image_dtype": size.dtype}
        peer.sendall(_frame(cbor2.dumps({"type": "start", **HEAD, "number_of_images": count, **size_of})))
        wall, cpu = time.perf_counter(), time.process_time()
        late = _send_images(peer, wire, offsets + heads, places, count, rate)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peer.sendall(_frame(cbor2.dumps({"type": "end", **HEAD})))
        print(json.dumps({"sent": count, "seconds": wall, "cpu_seconds": cpu, "late_s": late}), flush=True)


class PlainSource(Source):
    """The plain sender from the other side."""

    def __init__(self, size: str) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.receive", "send", size],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        ]  # fmt: skip
        (ready,) = self._read()
        self.endpoint, self.message_bytes = ready["endpoint"], ready["bytes"]


# Receiving ----------------------------------------------------------------------------------------------------------


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def receive(
    source: Source, key: str, count: int, rate: float, stall: float | None = None
) -> tuple[float, float, float]:
    """Take all images and do nothing with them, but hold the GIL for ``stall`` s when half of them are there.

    Returns seconds of CPU and of the clock, from the first to the last, and how late the sender was, s.
    """
    batches = [FrameBatch.allocate() for _ in range(3)]
    seen = np.zeros(count, bool)
    with closing(stream.receiver_of(source.endpoint)) as receiver:
        source.start(count, rate)
        taken, turn, cpu, wall = 0, 0, 0.0, 0.0
        while taken < count:
            batch = receiver.receive(batches[turn % 3], wait=10.0)
            if not batch.count:
                raise RuntimeError(f"{taken} of {count} images came")
            if turn == 0:
                cpu, wall = _cpu(), time.perf_counter()
            ids = batch.image_id[batch.status == IMAGE]
            seen[ids] = True
            taken += len(ids)
            turn += 1
            if stall and taken > count // 2:
                ctypes.PyDLL(None).usleep(int(1e6 * stall))
                stall = None
        cpu, wall = _cpu() - cpu, time.perf_counter() - wall
        (report,) = source._read()
    if not seen.all():
        raise RuntimeError("images are missing")
    return cpu, wall, report.get("late_s", 0.0)


def decode(source: Source, key: str, count: int, rate: float) -> tuple[float, float, float]:
    """The engine's acquisition of one bright-field image on the CPU."""
    size = SIZES[key]
    detector = DectrisSource(source.endpoint)
    request = AcquisitionRequest(detector, ScanGrid(count // DISTINCT, DISTINCT), (size.disk,), timeout=20.0)
    with closing(OpenStream(detector)) as opened:
        source.start(count, rate)
        cpu, wall = _cpu(), time.perf_counter()
        (raster,) = Acquisition(request, opened, CpuBackend()).run()
        cpu, wall = _cpu() - cpu, time.perf_counter() - wall
        (report,) = source._read()
    np.testing.assert_array_equal(raster.outputs["vbf"].reshape(-1), size.image(count))
    return cpu, wall, report.get("late_s", 0.0)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    stream.RECEIVER = "zmtp"  # so that both are warmed up
    warm_up()
    rows = []
    for sender, key, count, rate, what in CASES:
        results: dict[str, list[tuple[float, float, float]]] = {"libzmq": [], "zmtp": []}
        with closing(PlainSource(key) if sender == "plain" else Source(key)) as source:
            for _ in range(rounds):
                for name, taken in results.items():
                    stream.RECEIVER = name
                    if what == "decode":
                        taken.append(decode(source, key, count, rate))
                    else:
                        taken.append(receive(source, key, count, rate, float(what.partition(" ")[2] or 0)))
            about = {"bytes": source.message_bytes, "rate": rate, "what": what}
            row = {"sender": sender, "size": SIZES[key].name, **about}
        for name, taken in results.items():
            row[f"{name}_us"] = round(1e6 * median(cpu for cpu, _, _ in taken) / count, 2)
            row[f"{name}_khz"] = round(count / median(wall for _, wall, _ in taken) / 1e3, 1)
            row[f"{name}_late_ms"] = round(1e3 * median(late for _, _, late in taken), 1)
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    print(json.dumps({"machine": machine(), "rounds": rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(sys.argv[2])
    else:
        main()
