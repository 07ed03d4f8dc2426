"""Rogue peers, and what an engine process that meets them costs."""

from __future__ import annotations

import os
import threading
from contextlib import closing, contextmanager

import cbor2

from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import FINAL

PATIENCE_S = 200.0
MIB = 1 << 20


class Events:
    """An acquisition's events; `last` waits for the last one."""

    def __init__(self):
        self.all = []
        self._over = threading.Event()

    def __call__(self, event):
        self.all.append(event)
        if isinstance(event, FINAL):
            self._over.set()

    def last(self, timeout=PATIENCE_S):
        assert self._over.wait(timeout), self.all[-3:]
        return self.all[-1]


class Cost:
    """What a process has used since this was made: processor time in s, and memory at its most and now, bytes."""

    def __init__(self, pid):
        self._pid = pid
        with open(f"/proc/{pid}/clear_refs", "w") as peak:
            peak.write("5")  # the peak is counted from here
        self._before = self._memory("VmRSS")
        self._cpu_before = self._cpu()

    @property
    def cpu(self):
        return self._cpu() - self._cpu_before

    @property
    def peak(self):
        return self._memory("VmHWM") - self._before

    @property
    def kept(self):
        return self._memory("VmRSS") - self._before

    def _cpu(self):
        with open(f"/proc/{self._pid}/stat") as stat:
            user, system = stat.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _memory(self, name):
        with open(f"/proc/{self._pid}/status") as status:
            line = next(line for line in status if line.startswith(name))
        return int(line.split()[1]) << 10


@contextmanager
def engine():
    with closing(EngineClient.spawn("cpu")) as client:
        client.wait_ready()
        yield client


def claimed(rows, cols, content=b"", algorithm="bslz4", itemsize=2):
    """An array that claims to be (rows, cols), with a header that agrees and ``content`` behind it."""
    header = (rows * cols * itemsize).to_bytes(8, "big") + (8192).to_bytes(4, "big")
    kind = {1: 64, 2: 69, 4: 70}[itemsize]
    data = cbor2.CBORTag(56500, [algorithm, itemsize, header + content])
    return cbor2.CBORTag(40, [[rows, cols], cbor2.CBORTag(kind, data)])


def message(kind, **values):
    return cbor2.dumps(
        cbor2.CBORTag(
            55799, {"type": kind, "series_id": 1, "series_unique_id": "01GRXWT80JSDY2FNW8SGCCDZD9"} | values
        )
    )
