"""A REST interface in trouble: SIMPLON answers that come late, with status 500, or from something else than a DCU.

In: HTTP requests to an ASGI application, before it sees them. Out: the application's answers, or others, as
:class:`~.faults.Faults` says. Runs on the server's event loop.
"""

from __future__ import annotations

import asyncio

from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from live4d_ophyd.sim.dcu import Dcu

#: first parts of the paths that belong to SIMPLON
SIMPLON_MODULES = ("detector", "stream", "filewriter")

_WEB_PAGE = "<!DOCTYPE html><html><head><title>It works!</title></head><body><h1>It works!</h1></body></html>"


class RestFaults:
    """ASGI middleware; what is not SIMPLON's (/microscope, /faults) passes."""

    def __init__(self, app: ASGIApp, dcu: Dcu) -> None:
        self.app, self.dcu = app, dcu

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].split("/")[1] not in SIMPLON_MODULES:
            await self.app(scope, receive, send)
            return
        faults = self.dcu.faults
        arming = scope["path"].endswith("/command/arm")
        latency = faults.rest_latency + (faults.arm_latency if arming else 0.0)

        async def send_late(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(latency)
            await send(message)

        answer = self.app
        if self.dcu.use_up("rest_errors"):
            answer = PlainTextResponse("internal server error (fault rest_errors)", 500)
        elif self.dcu.use_up("rest_garbage"):
            answer = HTMLResponse(_WEB_PAGE)
        await answer(scope, receive, send_late)
