"""The scan generator of the simulated microscope as an ophyd device: what `Live4D(scan_generator=...)` drives.

In: a ScanGrid before the detector is armed, then `start`, and `stop` (threads of ScanStarter). Out: requests to
``/microscope/scan/...`` of the simulated DCU. No thread of its own.
"""

from __future__ import annotations

from typing import Any

import httpx
from ophyd import Component, Kind

from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.microscope import MicroscopeSignal, SimDevice, SimSignal


def _axis(name: str) -> Component:
    return Component(MicroscopeSignal, path=f"/microscope/scan/{name}", kind=Kind.normal)


def _setting(name: str) -> Component:
    return Component(SimSignal, path=f"/microscope/scan/{name}", kind=Kind.normal)


class SimScanGenerator(SimDevice):
    """Scan generator of ``live4d sim``; ``url`` is its ``rest_url``.

    Its signals have what the probe does; a Live4D that drives it sets all but `rotation` from its grid. A grid in px is
    scanned with the generator's own step.
    """

    rows = _setting("rows")
    cols = _setting("cols")
    #: nm
    step_y = _axis("step_y")
    #: nm
    step_x = _axis("step_x")
    #: frames while the probe returns after each line
    flyback = _setting("flyback")
    #: also after the last line
    last_flyback = _setting("last_flyback")
    #: frames at the first position before the raster
    lead_in = _setting("lead_in")
    serpentine = _setting("serpentine")
    #: degrees from the specimen's columns to the fast axis, towards its rows
    rotation = _axis("rotation")

    def __init__(self, url: str, *, name: str = "scan_generator", **kwargs: Any) -> None:
        super().__init__(url, name=name, **kwargs)

    def prepare(self, grid: ScanGrid, rasters: int = 1) -> None:
        """Take the geometry; the probe, and the detector's pulses, wait for `start`.

        Raises ValueError for a unit that is neither nm nor px, and for what the simulator refuses.
        """
        if grid.unit not in ("nm", "px"):
            raise ValueError(
                f"{self.name}: the scan's step is in {grid.unit!r}; expected nm, or px for its own step"
            )
        scan: dict[str, Any] = {
            "rows": grid.rows,
            "cols": grid.cols,
            "serpentine": grid.serpentine,
            "flyback": grid.flyback,
            "last_flyback": grid.last_flyback,
            "lead_in": grid.lead_in,
        }
        if grid.unit == "nm":
            scan["step_nm"] = list(grid.steps)
        self._request("prepare", scan | {"rasters": rasters})

    def start(self) -> None:
        """Start the scan that was prepared."""
        self._request("start")

    def stop(self, *, success: bool = False) -> None:
        """End the scan now; harmless where there is none."""
        self._request("stop")
        super().stop(success=success)

    def _request(self, what: str, content: dict[str, Any] | None = None) -> None:
        path = f"/microscope/scan/{what}"
        try:
            response = self.client.put(path, json=content or {})
        except httpx.HTTPError as error:
            url = f"{self.client.base_url}{path}"
            raise ConnectionError(
                f"{self.name}: no answer from {url} ({error}); is `live4d sim` running?"
            ) from None
        if response.is_error:
            raise ValueError(f"{self.name}: {response.text}")
