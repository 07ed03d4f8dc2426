"""A simulated DCU in a process of its own, for tests, demos and benchmarks.

In: the options of ``live4d sim``. Out: where it serves. The child ends when this object is closed or its
process dies: it watches its stdin.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
from typing import Any
from urllib.parse import urlsplit

import httpx

#: s, generous: the first start on a machine compiles
START_TIMEOUT = 120.0


def command_line(**options: Any) -> list[str]:
    """``rate=1e3, frozen_noise=True, shape=(96, 96)`` as arguments of ``live4d sim``; no None, no False.

    ``without=["mask_to_zero", "humidity"]``: the option is repeated.
    """
    arguments = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif name == "without":
            for key in value:
                arguments += [flag, key]
        elif value is not None and value is not False:
            if isinstance(value, (tuple, list)):
                value = ("," if name == "bf_center" else "x").join(map(str, value))
            arguments += [flag, str(value)]
    return arguments


class SimulatorProcess:
    """``with SimulatorProcess(rows=64, cols=64, rate=30e3) as sim: Live4D(sim.stream_endpoint, ...)``

    Options are those of ``live4d sim`` with underscores; ports are free ones unless given. Raises
    RuntimeError with the child's own words when it does not come up.
    """

    rest_url: str
    stream_endpoint: str
    #: raster of the simulated microscope
    rows: int
    cols: int
    step_nm: float
    #: true bright-field disk: (row, col) and radius, px
    bf_center: tuple[float, float]
    bf_radius: float

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._start()

    def _start(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "live4d_ophyd",
            "sim",
            "--exit-on-eof",
            *command_line(**self._options),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C in the session's terminal is for the session
        )
        try:
            ready = json.loads(self._first_line())
        except BaseException:
            self.close()
            raise
        self.rest_url, self.stream_endpoint = ready["rest_url"], ready["stream_endpoint"]
        self.rows, self.cols, self.step_nm = ready["rows"], ready["cols"], ready["step_nm"]
        self.bf_center, self.bf_radius = tuple(ready["bf_center"]), ready["bf_radius"]

    def restart(self) -> None:
        """End the child, or take leave of one that died, and start it again at the same addresses.

        It has the options it was started with, the seed among them, and scans what it scanned last; lenses, stage and
        settings of the detector are as at the start. Whoever is connected goes on.
        """
        try:
            answer = httpx.get(f"{self.rest_url}/microscope/scan", timeout=5.0, trust_env=False)
            scan = answer.raise_for_status().json()
        except httpx.HTTPError:
            scan = None  # it is gone; as it was started
        self.close()
        self._options |= {
            "rest_port": urlsplit(self.rest_url).port,
            "stream_port": urlsplit(self.stream_endpoint).port,
        }
        self._start()
        if scan is not None:
            url = f"{self.rest_url}/microscope/scan"
            httpx.put(url, json=scan, timeout=5.0, trust_env=False).raise_for_status()

    def _first_line(self) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(START_TIMEOUT):
                raise RuntimeError(
                    f"the simulator was not ready within {START_TIMEOUT:.0f} s: {self.errors()}"
                )
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"the simulator ended with code {code} before it was ready: {self.errors()}")
        return line

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def set_faults(self, **faults: Any) -> None:
        """What goes wrong from now on, by the names of :class:`~.faults.Faults`; nothing else does.

        ``set_faults(drop="every:100", rest_errors=2)``; ``set_faults()``: nothing. Raises ValueError.
        """
        answer = httpx.put(f"{self.rest_url}/faults", json=faults, timeout=60.0, trust_env=False)
        if answer.is_error:
            raise ValueError(answer.text)

    def errors(self) -> str:
        """What the child has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()

    def close(self) -> None:
        """End the child and wait for it; harmless when it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> SimulatorProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
