"""Engine processes that outlive their devices: a device that would start one takes one that another has left.

An engine takes seconds to start. A test that says something about a device, and nothing about the start of its engine,
may take one from here: a session of its own begins with it, as with an engine of ``live4d serve``.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.engine.process import client
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.spawn import EngineProcess

#: what an engine says that has not noticed yet that its last session is gone
BUSY = "serves another session"


@contextmanager
def kept_engines():
    """Within, closing a client leaves its engine to the next one that spawns the same."""
    free: dict[str, list[Kept]] = {}

    class Kept(EngineProcess):
        def __init__(self, backend):
            super().__init__(backend)
            self.backend = backend

        def end(self):
            if self.end_code() is None:
                free.setdefault(self.backend, []).append(self)
            else:
                super().end()

    def spawn(backend="auto"):
        while free.get(backend):
            process = free[backend].pop()
            if process.end_code() is None:
                return connected(process, backend)
        process = Kept(backend)
        return EngineClient(process.endpoint, backend=backend, process=process)

    def connected(process, backend):
        while True:
            taken = EngineClient(process.endpoint, backend=backend, process=process)
            try:
                taken.wait_ready()
                return taken
            except AcquisitionError as error:
                taken._process = None  # so that it stays when this one closes
                taken.close()
                if BUSY not in str(error):
                    raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.EngineClient, "spawn", spawn)
        try:
            yield
        finally:
            for process in [process for left in free.values() for process in left]:
                EngineProcess.end(process)
