"""EngineLink: the engine of a device, started or found when it is needed first, and again when it was lost.

In: which backend is wanted, and where. Out: its client, and signals that say what decodes there. Runs in the thread
that stages or triggers.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd.decode import devices_of
from live4d_ophyd.device.signals import SETTING, Value
from live4d_ophyd.engine.process.client import EngineClient

log = logging.getLogger(__name__)


class BackendSignals(Device):
    """What decoded, for the record."""

    backend = Cpt(Value, value="", kind=SETTING)
    backend_detail = Cpt(Value, value="", kind=SETTING)
    versions = Cpt(Value, value="", kind="config")  #: of the software that decodes


class EngineLink(BackendSignals):
    """A device with an engine."""

    def __init__(
        self,
        *args: Any,
        wanted_backend: str,
        server: str | None,
        curve_keys: str | Path | None,
        **kwargs: Any,
    ) -> None:
        devices_of(wanted_backend)  # refuses what is none
        self._wanted_backend = wanted_backend
        self._server = server
        self._curve_keys = Path(curve_keys).expanduser() if curve_keys else None
        self._client: EngineClient | None = None
        super().__init__(*args, **kwargs)

    def _engine(self, timeout: float | None = None) -> EngineClient:
        """The client of an engine that is ready. Raises as `EngineClient.wait_ready`."""
        if self._client is None or not self._client.alive:
            if self._client is not None:
                self._client.close()
            if self._server is None:
                self._client = EngineClient.spawn(self._wanted_backend)
            else:
                self._client = EngineClient(
                    self._server, backend=self._wanted_backend, curve_keys=self._curve_keys
                )
        client = self._client
        try:
            client.wait_ready(timeout)  # returns at once when it is
        except BaseException:  # Ctrl-C too: the next stage starts anew
            self._client = None
            client.close()
            raise
        if (client.backend, client.backend_detail) != (self.backend.get(), self.backend_detail.get()):
            log.info(
                "%s: frames are decoded on the %s (%s)", self.name, client.backend, client.backend_detail
            )
            self.backend.put(client.backend)
            self.backend_detail.put(client.backend_detail)
        self.versions.put(client.versions)
        return client

    def request_preview(self) -> None:
        """Ask for the images of the raster that runs; they come to ``preview``."""
        if self._client is not None and self._client.alive:
            self._client.request_preview()

    def close_engine(self) -> None:
        """End the engine process; the next stage starts a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None
