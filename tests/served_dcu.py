"""A simulated DCU in this process, with its REST interface: a test sees both what a client sees and what is inside."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace

import uvicorn

from live4d_ophyd.sim.rest import create_app
from live4d_ophyd.sim.server import build_dcu, warm_up


@contextmanager
def served_dcu(**options) -> Iterator[SimpleNamespace]:
    """A DCU of `build_dcu`; has the attributes of a SimulatorProcess, and ``dcu``."""
    with closing(build_dcu(**options)) as dcu, socket.create_server(("127.0.0.1", 0)) as listener:
        warm_up(dcu)
        config = uvicorn.Config(
            create_app(dcu), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            timeout_graceful_shutdown=2,  # as the simulator's own process: who does not hang up is not waited for
        )  # fmt: skip
        server = uvicorn.Server(config)

        async def serve():
            await server.serve([listener])
            # uvicorn leaves connections open that come while it shuts down: a later test would be warned of the socket.
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)  # the loop closes them in its next turn

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            yield SimpleNamespace(
                dcu=dcu,
                rest_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
                stream_endpoint=dcu.sender.endpoint,
                bf_center=dcu.detector.bf_center,
                bf_radius=dcu.detector.bf_radius,
            )
        finally:
            server.should_exit = True
            thread.join()
