"""Rig: a simulated detector, a Live4D that arms it, and a RunEngine, as every survival test has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import httpx
import numpy as np
from bluesky import RunEngine

from live4d_ophyd import Disk, Live4D, ScanGrid
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sources.dectris.control import Simplon

#: how long anything may take on a busy machine, s
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Taken:
    """One Event: the image, and where its frames are."""

    image: np.ndarray
    expected: int
    received: int
    lost: int
    bad: int
    series_id: int

    @classmethod
    def from_event(cls, data: dict[str, Any]) -> Taken:
        counts = (data[f"live4d_frames_{name}"] for name in ("expected", "received", "lost", "bad"))
        return cls(np.asarray(data["live4d_vbf"]), *counts, data["live4d_series_id"])

    @property
    def missing(self) -> list[int]:
        """Frame ids without a value (no flyback, not serpentine: the position is the id)."""
        return np.flatnonzero(np.isnan(self.image)).tolist()

    def check(self, truth: np.ndarray) -> None:
        """Every frame is accounted for once, and every position has the right value or none."""
        assert self.received + self.lost + self.bad == self.expected
        assert len(self.missing) == self.lost + self.bad
        here = np.isfinite(self.image)
        np.testing.assert_array_equal(self.image[here], truth[here])


class Rig:
    """``live4d`` scans ``grid`` on ``simulator`` under ``RE``; ``endpoint`` is the stream's, unless something is
    between.

    The simulator repeats its counts in every series, so that images can be compared.
    """

    def __init__(
        self, simulator: SimulatorProcess, grid: ScanGrid, endpoint: str = "", timeout: float = 10.0
    ) -> None:
        self.simulator = simulator
        self.RE = RunEngine({}, call_returns_result=False)
        self.live4d = Live4D(
            endpoint or simulator.stream_endpoint,
            name="live4d",
            scan=grid,
            methods=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)],
            control=Simplon(simulator.rest_url),
            backend="cpu",
            timeout=timeout,
        )
        self._http = httpx.Client(base_url=simulator.rest_url, timeout=PATIENCE_S, trust_env=False)
        #: reason of the last run's stop document
        self.reason = ""

    def close(self) -> None:
        self.live4d.close()
        self._http.close()

    @property
    def engine_pid(self) -> int:
        self.live4d.wait_for_connection()
        assert self.live4d._client is not None
        pid = self.live4d._client.pid
        assert pid is not None
        return pid

    def fault(self, **faults: Any) -> None:
        """From now on these faults, and no others."""
        self.simulator.set_faults(**faults)

    def state(self) -> str:
        """Of the detector: idle, ready (armed), acquire."""
        return self._http.get("/detector/api/1.8.0/status/state").raise_for_status().json()["value"]

    def beam_current(self, picoamperes: float) -> None:
        """Of the microscope: frames that are taken with another one have other sums."""
        self._http.put("/microscope/beam_current", json={"value": picoamperes}).raise_for_status()

    def slow_down(self, rate: float) -> None:
        """Frames come at ``rate`` Hz; exposures, and so the counts, stay as they are."""
        path = "/detector/api/1.8.0/config/frame_time"
        self._http.put(path, json={"value": 1 / rate}).raise_for_status()

    def count(
        self, num: int = 1, *, before_next: Callable[[], Any] = lambda: None, into: list[Taken] | None = None
    ) -> list[Taken]:
        """``bp.count`` in one run; ``before_next`` is called between one raster and the next.

        Events are appended to ``into`` as they come, also when the run ends otherwise than by returning.
        """
        shots = 0
        taken: list[Taken] = [] if into is None else into

        def note(name: str, doc: dict[str, Any]) -> None:
            if name == "event":
                taken.append(Taken.from_event(doc["data"]))
            elif name == "stop":
                self.reason = doc.get("reason", "")

        def one_shot(detectors):
            nonlocal shots
            if shots:
                before_next()
            shots += 1
            yield from bps.one_shot(detectors)

        self.RE(bp.count([self.live4d], num, per_shot=one_shot), note)
        return taken

    @contextmanager
    def in_mid_series(self, frames: int, action: Callable[[], Any]) -> Iterator[threading.Thread]:
        """Within, ``action`` runs once, in a thread, as soon as a raster has ``frames`` of its frames.

        Yields the thread. At the end it is joined; what ``action`` raised is raised again, or that it never ran.
        """
        reached, over = threading.Event(), threading.Event()
        failures: list[BaseException] = []

        def act() -> None:
            try:
                reached.wait(PATIENCE_S)
                assert not over.is_set(), f"the run was over before {frames} frames had come"
                action()
            except BaseException as error:
                failures.append(error)

        def watch(statuses: Any) -> None:
            for status in statuses or ():
                status.watch(lambda current=0, **_: reached.set() if current >= frames else None)

        thread = threading.Thread(target=act, name="in-mid-series")
        thread.start()
        self.RE.waiting_hook = watch
        try:
            yield thread
        finally:
            self.RE.waiting_hook = None
            if not reached.is_set():
                over.set()
                reached.set()
            thread.join()
        if failures:
            raise failures[0]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when ``condition()`` holds; fails, naming ``what``, when it does not in PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(0.02)
