"""The REST interface of the simulated DCU (SIMPLON) and of the microscope in front of it.

In: HTTP requests. Out: calls to a :class:`~.dcu.Dcu`. Requests that wait (commands) run on Starlette's worker
threads. What the paths are stands beside the routes in :func:`create_app`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from live4d_ophyd.checks import from_json, shown
from live4d_ophyd.sim.dcu import CommandError, Dcu
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.frames import binned_position
from live4d_ophyd.sim.rest_faults import SIMPLON_MODULES, RestFaults
from live4d_ophyd.sim.settings import Parameter, Settings
from live4d_ophyd.sim.specimen import Scan, truth
from live4d_ophyd.sim.status import statuses

#: name in the REST interface -> field of Microscope, unit, lowest and highest value
MICROSCOPE = {
    "defocus": ("defocus_nm", "nm", -250.0, 250.0),
    "astigmatism": ("astigmatism_nm", "nm", -100.0, 100.0),
    "astigmatism_angle": ("astigmatism_angle_deg", "deg", -180.0, 180.0),
    "stage_x": ("stage_x_nm", "nm", -1000.0, 1000.0),
    "stage_y": ("stage_y_nm", "nm", -1000.0, 1000.0),
    "drift_x": ("drift_x_nm", "nm", -10.0, 10.0),
    "drift_y": ("drift_y_nm", "nm", -10.0, 10.0),
    "beam_current": ("beam_current_pA", "pA", 0.0, 1000.0),
    "flood": ("flood", "", 0.0, 1.0),
}

#: a request is shorter: the longest has a header_appendix
MAX_BODY_BYTES = 1 << 20
#: scan positions; a table of them is kept
MAX_POSITIONS = 1 << 20


def _count(lowest: int) -> Parameter:
    return Parameter(lowest, "uint", minimum=lowest, maximum=MAX_POSITIONS)


def _step() -> Parameter:
    return Parameter(0.25, "float", "nm", minimum=1e-3, maximum=100.0)


#: name in the REST interface -> what it may be
SCAN = {
    "rows": _count(1),
    "cols": _count(1),
    "step_y": _step(),
    "step_x": _step(),
    "flyback": _count(0),
    "lead_in": _count(0),
    "serpentine": Parameter(False, "bool"),
    "last_flyback": Parameter(True, "bool"),
    "rotation": Parameter(0.0, "float", "deg", minimum=-180.0, maximum=180.0),
}


def create_app(dcu: Dcu) -> Starlette:
    """The ASGI application for one DCU."""
    rest = _Rest(dcu)
    version = f"/{{module}}/api/{dcu.api}"
    routes = [
        # as on a real DCU; the module is detector, stream or filewriter
        Route("/{module}/api/version", rest.version),
        Route(f"{version}/config", rest.config_keys),
        Route(f"{version}/config/{{name:path}}", rest.config, methods=["GET", "PUT"]),
        Route(f"{version}/status/{{name:path}}", rest.status),
        Route(f"{version}/command/{{name}}", rest.command, methods=["PUT"]),
        Route("/microscope", rest.microscope_all),
        # the scan generator: the fields of Scan; the microscope scans by itself
        Route("/microscope/scan", rest.scan, methods=["GET", "PUT"]),
        # the same, and rasters: the next series waits for start
        Route("/microscope/scan/prepare", rest.prepare_scan, methods=["PUT"]),
        Route("/microscope/scan/start", rest.start_scan, methods=["PUT"]),
        Route("/microscope/scan/stop", rest.stop_scan, methods=["PUT"]),
        # a name of SCAN
        Route("/microscope/scan/{name}", rest.scan_value, methods=["GET", "PUT"]),
        # what a perfect measurement would find
        Route("/microscope/truth", rest.truth),
        # what it is doing, for somebody who waits: text, computed, frames, sent
        Route("/microscope/progress", rest.progress),
        # a name of MICROSCOPE
        Route("/microscope/{name}", rest.microscope, methods=["GET", "PUT"]),
        # fields of Faults: a PUT sets all, those it does not name to their defaults; a GET says what is left
        Route("/faults", rest.faults, methods=["GET", "PUT"]),
    ]

    def other_path(request: Request, error: Exception) -> Response:
        detail = error.detail if isinstance(error, HTTPException) else str(error)
        if detail == "Not Found":
            path = request.url.path
            modules = "|".join(SIMPLON_MODULES)
            detail = f"no such path: {path} ({modules} speak API {dcu.api}; also /microscope, /faults)"
        return PlainTextResponse(detail, getattr(error, "status_code", 500))

    def refused(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    return Starlette(
        routes=routes,
        middleware=[Middleware(RestFaults, dcu=dcu)],
        exception_handlers={HTTPException: other_path, ValueError: refused},
    )


class _Rest:
    def __init__(self, dcu: Dcu) -> None:
        self.dcu = dcu

    def _settings(self, request: Request) -> Settings:
        settings = {
            "detector": self.dcu.config,
            "stream": self.dcu.stream_config,
            "filewriter": self.dcu.filewriter_config,
        }
        return _found(settings, request.path_params["module"], "module")

    async def version(self, request: Request) -> Response:
        self._settings(request)
        return JSONResponse({"value": self.dcu.api, "value_type": "string"})

    async def config_keys(self, request: Request) -> Response:
        return JSONResponse(self._settings(request).keys())

    async def config(self, request: Request) -> Response:
        settings, name = self._settings(request), request.path_params["name"]
        if name not in settings:
            raise HTTPException(404, f"no config parameter {name!r}; there are: {', '.join(settings.keys())}")
        if request.method == "PUT":
            return JSONResponse(settings.put(name, await _value(request)))
        return JSONResponse(settings.parameter(name).as_json())

    async def status(self, request: Request) -> Response:
        self._settings(request)
        keys = statuses(self.dcu)[request.path_params["module"]]
        return JSONResponse(_found(keys, request.path_params["name"], "status").as_json())

    async def command(self, request: Request) -> Response:
        module = request.path_params["module"]
        dcu = self.dcu
        commands = {
            "initialize": dcu.initialize,
            "arm": dcu.arm,
            "trigger": dcu.trigger,
            "disarm": dcu.disarm,
            "cancel": dcu.cancel,
            "abort": dcu.abort,
            "hv_enabled": dcu.hv_enabled,
        }
        known = (
            commands if module == "detector" else {"initialize": lambda: None} if module == "stream" else {}
        )
        sequence = await run_in_threadpool(_found(known, request.path_params["name"], "command"))
        answered = BackgroundTask(dcu.empty_buffers)
        if sequence is None:
            return Response(background=answered)
        return JSONResponse({"sequence id": sequence}, background=answered)

    async def microscope_all(self, request: Request) -> Response:
        return JSONResponse({name: self._microscope_value(name) for name in MICROSCOPE})

    async def microscope(self, request: Request) -> Response:
        name = request.path_params["name"]
        attribute, unit, low, high = _found(MICROSCOPE, name, "microscope value")
        if request.method == "PUT":
            value = Parameter(0.0, "float", unit, minimum=low, maximum=high).checked(
                name, await _value(request)
            )
            self.dcu.microscope = dataclasses.replace(self.dcu.microscope, **{attribute: value})
        return JSONResponse(self._microscope_value(name))

    def _microscope_value(self, name: str) -> dict[str, Any]:
        attribute, unit, low, high = MICROSCOPE[name]
        value = getattr(self.dcu.microscope, attribute)
        return Parameter(value, "float", unit, minimum=low, maximum=high).as_json()

    async def scan(self, request: Request) -> Response:
        if request.method == "PUT":
            self.dcu.scan = checked_scan(self.dcu.scan, await _json(request))
        return JSONResponse(dataclasses.asdict(self.dcu.scan))

    async def prepare_scan(self, request: Request) -> Response:
        changes = await _json(request)
        rasters = Parameter(1, "uint", minimum=1).checked("rasters", changes.pop("rasters", 1))
        self.dcu.prepare_scan(checked_scan(self.dcu.scan, changes), rasters)
        return JSONResponse(dataclasses.asdict(self.dcu.scan))

    async def start_scan(self, request: Request) -> Response:
        self.dcu.start_scan()
        return Response()

    async def stop_scan(self, request: Request) -> Response:
        await run_in_threadpool(self.dcu.stop_scan)
        return Response()

    async def scan_value(self, request: Request) -> Response:
        name = request.path_params["name"]
        parameter = _found(SCAN, name, "value of the scan generator")
        if request.method == "PUT":
            value = parameter.checked(f"scan {name}", await _value(request))
            self.dcu.scan = checked_scan(self.dcu.scan, _scan_change(self.dcu.scan, name, value))
        values = dataclasses.asdict(self.dcu.scan)
        values["step_y"], values["step_x"] = self.dcu.scan.steps_nm
        values["rotation"] = values["rotation_deg"]
        return JSONResponse(dataclasses.replace(parameter, value=values[name]).as_json())

    async def truth(self, request: Request) -> Response:
        dcu = self.dcu
        binning = dcu.binning
        dead = dcu.source.dead_mask(dcu.detector, binning).nonzero()
        answer = dataclasses.asdict(truth(dcu.microscope, dcu.detector))
        answer["bf_center"] = [binned_position(position, binning) for position in answer["bf_center"]]
        answer["bf_radius"] /= binning
        answer["mrad_per_px"] *= binning
        answer["drifted_nm"] = list(dcu.drifted_nm)
        electrons = dcu.microscope.electrons(dcu.config["count_time"])
        return JSONResponse(
            answer
            | {"electrons_per_frame": electrons, "dead_pixels": [[int(r), int(c)] for r, c in zip(*dead)]}
        )

    async def progress(self, request: Request) -> Response:
        return JSONResponse(self.dcu.progress)

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            self.dcu.faults = Faults.parse(**await _json(request))
        return JSONResponse(self.dcu.faults.as_dict())


def checked_scan(scan: Scan, changes: dict[str, Any]) -> Scan:
    """``scan`` with some fields changed. Raises ValueError with the field's name and what is allowed."""
    known = {f.name for f in dataclasses.fields(Scan)}
    changes = dict(changes)
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"a scan has no {name!r}; it has {', '.join(sorted(known))}")
        if name == "step_nm":
            steps = value if isinstance(value, list | tuple) else [value]
            if len(steps) > 2 or not all(_is_number(step) and step > 0 for step in steps):
                raise ValueError(
                    f"scan step_nm = {value!r}: expected a positive float, or two for scan_y and scan_x"
                )
            changes[name] = tuple(steps) if len(steps) == 2 else steps[0]
        elif name == "rotation_deg":
            if not _is_number(value):
                raise ValueError(f"scan rotation_deg = {value!r}: expected a float")
        else:
            changes[name] = SCAN[name].checked(f"scan {name}", value)
    scan = dataclasses.replace(scan, **changes)
    if scan.frames > MAX_POSITIONS:
        raise ValueError(f"scan of {scan.rows}x{scan.cols}: more than {MAX_POSITIONS} positions")
    return scan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scan_change(scan: Scan, name: str, value: Any) -> dict[str, Any]:
    """One value of SCAN as a change of fields."""
    step_y, step_x = scan.steps_nm
    own = {"step_y": {"step_nm": (value, step_x)}, "step_x": {"step_nm": (step_y, value)}}
    return own.get(name) or {"rotation_deg" if name == "rotation" else name: value}


def _found(things: dict[str, Any], name: str, kind: str) -> Any:
    if name not in things:
        raise HTTPException(404, f"no {kind} {name!r}; there are: {', '.join(sorted(things))}")
    return things[name]


async def _body(request: Request) -> bytes:
    """What was sent, as far as it can be meant: memory is made for no more."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)


async def _json(request: Request) -> dict[str, Any]:
    try:
        content = from_json(await _body(request))
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, f"the body is {shown(content)}; expected a JSON object")
    return content


async def _value(request: Request) -> Any:
    content = await _json(request)
    if "value" not in content:
        raise HTTPException(400, 'the body has no "value"; expected {"value": ...}')
    return content["value"]


__all__ = ["MICROSCOPE", "CommandError", "checked_scan", "create_app"]
