"""The stream of `benchmarks.source` from a plain TCP socket: it costs next to nothing, the receiver is what limits.

`python -m benchmarks.plain_source SIZE` has the interface of `benchmarks.source`. It speaks just enough ZMTP to be
taken for a PUSH socket.
"""

from __future__ import annotations

import itertools
import json
import math
import socket
import sys
import time

import cbor2
import numpy as np

from benchmarks.source import ENERGY_EV, SIZES, Source

HEAD = {"series_id": 1, "series_unique_id": "01GRXWT80JSDY2FNW8SGCCDZD9"}
GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
#: a paced sender sends what is due so often, s
TICK_S = 0.001


class PlainSource(Source):
    """The senders' processes, from the other side."""

    module = "benchmarks.plain_source"


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


class _Wire:
    """Frames ``first``, ``first + step``, ... as bytes, frame after frame; as many as repeat."""

    def __init__(self, framed: list[bytes], places: np.ndarray, first: int, step: int) -> None:
        self.step = step
        self.first = first
        self.period = len(framed) // math.gcd(len(framed), step)
        order = (first + step * np.arange(self.period)) % len(framed)
        self.data = np.frombuffer(b"".join(framed[n] for n in order), np.uint8).copy()
        self.offsets = np.cumsum([0, *(len(framed[n]) for n in order)])
        self.places = places[order] + self.offsets[:-1]

    def send(self, peer: socket.socket, count: int, rate: float) -> float:
        """``count`` frames of all; returns how late one was at most, s."""
        whole = memoryview(self.data)
        began = time.monotonic()
        sent, late = 0, 0.0
        while sent < count:
            at = sent % self.period
            due = count if not rate else int((time.monotonic() - began) * rate)
            few = min(due - sent, self.period - at, count - sent)
            if few > 0:
                ids = self.first + self.step * np.arange(sent, sent + few)
                self.data[self.places[at : at + few, None] + np.arange(4)] = (
                    ids.astype(">u4").view(np.uint8).reshape(few, 4)
                )
                peer.sendall(whole[self.offsets[at] : self.offsets[at + few]])
                sent += few
                if rate:
                    late = max(late, time.monotonic() - began - sent / rate)
            else:
                time.sleep(TICK_S)
        return late


def main() -> None:
    size = SIZES[sys.argv[1]]
    data, offsets, places = size.messages
    framed = [_frame(data[a:b].tobytes()) for a, b in itertools.pairwise(offsets)]
    places = places + (len(framed[0]) - int(offsets[1] - offsets[0]))
    listening = socket.create_server(("127.0.0.1", 0))
    ready = {
        "endpoint": f"tcp://127.0.0.1:{listening.getsockname()[1]}",
        "bytes": float(np.diff(offsets).mean()),
    }
    print(json.dumps(ready), flush=True)
    peer = wire = None
    for line in sys.stdin:
        count, first, step = (int(float(word)) for word in np.array(line.split())[[0, 2, 3]])
        rate = float(line.split()[1]) / step
        if wire is None or (wire.first, wire.step) != (first, step):
            wire = _Wire(framed, places, first, step)
        if peer is not None:  # not earlier: the last receiver would have connected again
            peer.close()
        peer = _accept(listening)
        if first == 0:
            start = {"type": "start", **HEAD, "number_of_images": count, "incident_energy": ENERGY_EV}
            start |= {"image_size_x": size.side, "image_size_y": size.side, "image_dtype": size.dtype}
            peer.sendall(_frame(cbor2.dumps(start)))
        mine = len(range(first, count, step))
        wall, cpu = time.perf_counter(), time.process_time()
        late = wire.send(peer, mine, rate)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if first == (count - 1) % step:
            peer.sendall(_frame(cbor2.dumps({"type": "end", **HEAD})))
        print(json.dumps({"sent": mine, "seconds": wall, "cpu_seconds": cpu, "late_s": late}), flush=True)


if __name__ == "__main__":
    main()
