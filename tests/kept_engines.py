"""Engine processes that outlive their devices: a device that would start one takes one that another has left.

An engine takes a second and a half to start. A test that says something about a device, and nothing about the start or
the end of its engine, takes one from here: a session of its own begins with it, as with an engine of ``live4d serve``.
In folders whose conftest asks for `with_kept_engines`, that is all tests but those that are marked ``own_engine``.
"""

from __future__ import annotations

import pytest

from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.spawn import EngineProcess

#: what an engine says that has not noticed yet that its last session is gone
BUSY = "serves another session"


class KeptEngines:
    """Engines by what decodes; closing a client leaves its engine to the next one that spawns the same."""

    def __init__(self) -> None:
        self._free: dict[str, list[_Kept]] = {}

    def spawn(self, backend: str = "auto") -> EngineClient:
        """Instead of `EngineClient.spawn`."""
        free = self._free.setdefault(backend, [])
        while free:
            process = free.pop()
            if process.end_code() is None:
                return _connected(process, backend)
        process = _Kept(backend, free)
        return EngineClient(process.endpoint, backend=backend, process=process)

    def end(self) -> None:
        for free in self._free.values():
            while free:
                EngineProcess.end(free.pop())


class _Kept(EngineProcess):
    def __init__(self, backend: str, free: list[_Kept]) -> None:
        super().__init__(backend)
        self._free = free

    def end(self) -> None:
        if self.end_code() is None:
            self._free.append(self)
        else:
            super().end()


def _connected(process: _Kept, backend: str) -> EngineClient:
    while True:
        taken = EngineClient(process.endpoint, backend=backend, process=process)
        try:
            taken.wait_ready()
            return taken
        except AcquisitionError as error:
            taken._process = None  # so that it stays when this one closes
            taken.close()
            if BUSY not in str(error):
                EngineProcess.end(process)
                raise


@pytest.fixture(scope="session")
def kept_engines():
    kept = KeptEngines()
    yield kept
    kept.end()


@pytest.fixture
def with_kept_engines(request, kept_engines, monkeypatch):
    if request.node.get_closest_marker("own_engine") is None:
        monkeypatch.setattr(EngineClient, "spawn", kept_engines.spawn)
