"""What `live4d doctor --server` asks an engine elsewhere: whether it answers, what it decodes on, and its link.

In: its address, the session's keys. Out: status, what was found, and what to do about it. Takes some seconds; the
engine must be free.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from live4d_ophyd.decode import BackendUnavailable
from live4d_ophyd.engine.errors import AcquisitionError, EngineInUse, NoEngine
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.delivery import PART_BYTES, WINDOW
from live4d_ophyd.engine.process.sockets import is_for_this_machine
from live4d_ophyd.engine.request import MAX_OUTPUTS_BYTES
from live4d_ophyd.urls import one_line

#: how long an engine may take to answer, s
_ANSWER_S = 5.0
#: how long the link is measured, s, and by how many bytes
_MEASURED_S, _MEASURED_BYTES = 1.0, 64 << 20
#: first and largest piece that is sent at a time, bytes; one that takes longer than this, s, is the last of its size
_SMALLEST, _LARGEST, _PIECE_S = 16 << 10, 1 << 20, 0.1
#: an image that takes longer than this to come is said to be large for the link, s
_IMAGE_S = 1.0


def check_server(address: str, keys: Path | None) -> tuple[str, str, str]:
    """(status, found, advice)"""
    try:
        client = EngineClient(address, curve_keys=keys)
    except (ValueError, OSError) as error:
        return "failed", one_line(error), "see docs/how-to/engine-on-another-host"
    with closing(client):
        try:
            client.wait_ready(_ANSWER_S)
        except EngineInUse as error:
            return "warn", f"{address} answers: {one_line(error)}", "end that session to measure the link"
        except NoEngine as error:
            return (
                "failed", one_line(error),
                "does `live4d serve` run there, is this its address and port, and does no firewall stand between?",
            )  # fmt: skip
        except (AcquisitionError, BackendUnavailable) as error:
            return "failed", one_line(error), error.remedy
        try:
            delay, rate = measure(client.probe)
        except AcquisitionError as error:
            return "failed", f"{address} answered, then: {one_line(error)}", error.remedy
    # Results have only so much under way at a time: on a long link it is that, not the bandwidth, that limits.
    rate = min(rate, WINDOW * PART_BYTES / max(delay, 1e-6))
    side = min(math.isqrt(int(rate * _IMAGE_S / 8)), math.isqrt(MAX_OUTPUTS_BYTES // 8))
    return (
        "ok",
        f"{address} decodes on the {client.backend} ({client.backend_detail}), {client.versions}, "
        f"{'with keys' if keys else 'without keys'}; answers in {1e3 * delay:.3g} ms, sends {rate / 1e6:.3g} MB/s: an "
        f"image of {side} x {side} positions takes {_IMAGE_S:g} s, several as many times longer",
        "" if keys or is_for_this_machine(address) else "make keys: `live4d keys`, and live4d serve --curve",
    )


def measure(probe: Callable[[int], float]) -> tuple[float, float]:
    """(s, bytes/s): delay and rate of a link; ``probe`` says how long a piece of so many bytes takes to come."""
    delay = min(probe(0) for _ in range(5))
    size, sent, begin = _SMALLEST, 0, time.monotonic()
    quickest: dict[int, float] = {}
    while sent < _MEASURED_BYTES and (sent == 0 or time.monotonic() - begin < _MEASURED_S):
        took = probe(size)
        sent += size
        quickest[size] = min(took, quickest.get(size, took))
        if took < _PIECE_S:
            size = min(2 * size, _LARGEST)
    largest = max(quickest)
    took = quickest[largest]
    # On a quick link the delay varies by more than a piece takes: it is taken off only where it cannot mislead.
    return delay, largest / (took - delay if delay < took / 2 else took)
