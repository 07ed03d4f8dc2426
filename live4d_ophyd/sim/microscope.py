"""The simulated microscope as an ophyd device: what plans move and the baseline reads.

In: ``set`` and ``read`` of plans (RunEngine thread). Out: GET and PUT to ``/microscope/...`` of the
simulated DCU. No thread of its own.
"""

from __future__ import annotations

import cmath
import math
from types import SimpleNamespace
from typing import Any

import httpx
from ophyd import Component, Device, Kind, Signal
from ophyd.status import Status
from ophyd.utils import LimitError

#: s
REQUEST_TIMEOUT = 5.0


class SimSignal(Signal):
    """One value of the simulator; settable, with a unit and limits that the simulator names."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._path = path
        self._facts: dict[str, Any] = {}

    @property
    def _client(self) -> httpx.Client:
        assert self.parent is not None, "it is a component of a device with a client"
        return self.parent.client

    def _request(self, method: str, **arguments: Any) -> dict[str, Any]:
        url = f"{self._client.base_url}{self._path}"
        try:
            response = self._client.request(method, self._path, **arguments)
        except httpx.HTTPError as error:
            raise ConnectionError(
                f"{self.name}: no answer from {url} ({error}); is `live4d sim` running?"
            ) from None
        if response.is_error:
            raise ValueError(f"{self.name}: {response.text}")
        self._facts = response.json()
        return self._facts

    def _known_facts(self) -> dict[str, Any]:
        return self._facts or self._request("GET")

    def get(self, **kwargs: Any) -> float:
        """The value in the microscope now. Raises ConnectionError when it does not answer."""
        value = self._request("GET")["value"]
        if value != self._readback:
            super().put(value, force=True)
        return value

    def put(self, value: float, *, force: bool = False, **kwargs: Any) -> None:
        """Set the value. Raises LimitError outside the limits, ConnectionError when nobody answers."""
        if not force:
            self.check_value(value)
        super().put(self._request("PUT", json={"value": self._plain(value)})["value"], force=True, **kwargs)

    def _plain(self, value: Any) -> Any:
        """As JSON has it: ``float``, unless the microscope says it is an int or a bool."""
        kinds = {"uint": int, "bool": bool}
        kind = kinds.get(self._known_facts()["value_type"], float)
        plain = kind(value)
        return plain if plain == value else value  # 2.5 rows: the microscope says what is wrong

    def set(self, value: float, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        """Set the value; the simulated lens and stage are there at once."""
        status = Status(self, timeout=timeout, settle_time=settle_time or 0)
        self.put(value)
        status.set_finished()
        return status

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value; (0, 0) where there are none, as ophyd has it."""
        facts = self._known_facts()
        return facts.get("min", 0), facts.get("max", 0)

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Raises LimitError that names the limits."""
        low, high = self.limits
        if low < high and not low <= value <= high:
            raise LimitError(f"{self.name} = {value} {self.egu}: allowed from {low} to {high} {self.egu}")

    @property
    def egu(self) -> str:
        """Unit of the value."""
        return self._known_facts().get("unit", "")

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self.get(), "timestamp": self.timestamp}}

    def describe(self) -> dict[str, Any]:
        kinds = {"uint": ("integer", "<i8"), "bool": ("boolean", "|b1")}
        dtype, numpy = kinds.get(self._known_facts()["value_type"], ("number", "<f8"))
        low, high = self.limits
        key: dict[str, Any] = {
            "source": f"SIM:{self._client.base_url}{self._path}",
            "dtype": dtype,
            "dtype_numpy": numpy,
            "shape": [],
        }
        if low < high:
            key |= {"lower_ctrl_limit": low, "upper_ctrl_limit": high}
        if self.egu:
            key["units"] = self.egu
        if dtype == "number":
            key["precision"] = 3
        return {self.name: key}


class Axis(Signal):
    """What plans ask of a motor, of a signal."""

    @property
    def position(self) -> float:
        """The value, as bps.rd and relative plans ask motors for it."""
        return self.get()

    @property
    def hints(self) -> dict[str, Any]:
        return {"fields": [self.name]}


class MicroscopeSignal(SimSignal, Axis):
    """One value of the microscope.

    Usable as a motor in plans (``bp.scan([det], microscope.defocus, -200, 200, 9)``): its own axis hint is
    given whatever its kind, so that live plots have the right abscissa while the baseline shows no extra
    columns.
    """

    @property
    def user_offset(self) -> SimpleNamespace:
        """None; ``%wa`` has a column for it."""
        return SimpleNamespace(get=lambda: 0.0)


class StigmatorSignal(Axis):
    """One of two stigmators: astigmatism C12 along an axis of the detector, as a part of a vector, nm.

    ``turn`` is half the angle of the part: C12 cos 2 (angle - turn).
    """

    def __init__(self, *, turn: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turn = turn

    def _vector(self) -> complex:
        """C12 as this part and the other one."""
        size, angle = self.parent.astigmatism.get(), self.parent.astigmatism_angle.get()
        return cmath.rect(size, math.radians(2 * (angle - self._turn)))

    def get(self, **kwargs: Any) -> float:
        return self._vector().real

    def put(self, value: float, **kwargs: Any) -> None:
        """Raises LimitError if the two stigmators together exceed what the astigmatism may be."""
        vector = complex(value, self._vector().imag)
        size, angle = abs(vector), math.degrees(cmath.phase(vector)) / 2 + self._turn
        self.parent.astigmatism.put(size)
        self.parent.astigmatism_angle.put((angle + 90) % 180 - 90)
        super().put(value, force=True)

    def set(self, value: float, **kwargs: Any) -> Status:
        status = Status(self)
        self.put(value)
        status.set_finished()
        return status

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self.get(), "timestamp": self.timestamp}}

    def describe(self) -> dict[str, Any]:
        return {
            self.name: {
                "source": f"SIM:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": "nm",
                "precision": 3,
            }
        }  # fmt: skip


def _component(name: str) -> Component:
    return Component(MicroscopeSignal, path=f"/microscope/{name}", kind=Kind.normal)


class SimDevice(Device):
    """Part of ``live4d sim`` at ``url``, its ``rest_url``: signals over one connection."""

    def __init__(self, url: str, *, name: str, **kwargs: Any) -> None:
        self.client = httpx.Client(base_url=url.rstrip("/"), timeout=REQUEST_TIMEOUT, trust_env=False)
        super().__init__(prefix=url, name=name, **kwargs)

    def destroy(self) -> None:
        """Close the connection."""
        self.client.close()
        super().destroy()

    @property
    def hints(self) -> dict[str, Any]:
        """Nothing to plot when the device as a whole is read along."""
        return {"fields": []}


class SimMicroscope(SimDevice):
    """Column and stage of ``live4d sim``; ``url`` is its ``rest_url``."""

    #: nm, underfocus positive
    defocus = _component("defocus")
    #: nm
    astigmatism = _component("astigmatism")
    #: degrees from the detector's row axis towards its columns
    astigmatism_angle = _component("astigmatism_angle")
    #: the same as a vector, C12 cos and sin of twice the angle, nm
    stigmator_a = Component(StigmatorSignal, turn=0.0, kind=Kind.omitted)
    stigmator_b = Component(StigmatorSignal, turn=45.0, kind=Kind.omitted)
    #: nm, positive towards larger columns of the specimen
    stage_x = _component("stage_x")
    #: nm, positive towards larger rows of the specimen
    stage_y = _component("stage_y")
    #: nm that the specimen moves, towards larger columns and rows, while one raster is scanned; not between rasters
    drift_x = _component("drift_x")
    drift_y = _component("drift_y")
    #: pA
    beam_current = _component("beam_current")
    #: 1: the beam is spread evenly over the detector, for a flat field; 0: it is a probe
    flood = _component("flood")

    def __init__(self, url: str, *, name: str = "microscope", **kwargs: Any) -> None:
        super().__init__(url, name=name, **kwargs)

    @property
    def truth(self) -> dict[str, Any]:
        """What a perfect measurement would find: bf_center (row, col) and bf_radius in px, and more.

        ``drifted_nm`` is how far the specimen has drifted, (row, col), by the end of the last series.
        """
        return self.client.get("/microscope/truth").raise_for_status().json()

    @property
    def progress(self) -> str:
        """What the simulator is doing: "simulator: computing, 1280 of 65536 frames"."""
        return self.client.get("/microscope/progress").raise_for_status().json()["text"]

    def set_scan(self, rows: int, cols: int, step_nm: float | None = None) -> None:
        """Raster that the microscope scans from the next series on."""
        scan = {"rows": rows, "cols": cols} | ({} if step_nm is None else {"step_nm": step_nm})
        response = self.client.put("/microscope/scan", json=scan)
        if response.is_error:
            raise ValueError(f"{self.name} scan: {response.text}")
