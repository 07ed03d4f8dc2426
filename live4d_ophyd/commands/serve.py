"""`live4d serve`: the engine as a process started by hand, or by a session."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import click
import zmq

from live4d_ophyd.commands.parameters import Engine
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.process.server import EngineServer
from live4d_ophyd.engine.process.sockets import why_refused


@click.command()
@click.argument("endpoint", default="tcp://127.0.0.1:31100")
@click.option(
    "--curve",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with server.key_secret and clients/*.key (zmq.auth certificates): encrypts, and admits only these.",
)
@click.option(
    "--engine",
    type=Engine(),
    default="auto",
    show_default=True,
    help="Where frames are decoded: cpu, gpu, gpu:0,1 (connections go to these GPUs in turn); auto takes a GPU if one "
    "works.",
)
@click.option(
    "--allow-methods",
    is_flag=True,
    help="Import imaging methods that a session names as module:Class, not only those that are installed here.",
)
@click.option("--owned", is_flag=True, hidden=True, help="End when standard input closes.")
@click.option("--log-level", default="INFO", show_default=True)
def serve(
    endpoint: str, curve: Path | None, engine: str, allow_methods: bool, owned: bool, log_level: str
) -> None:
    """Run the engine at ENDPOINT, near the detector, for a session elsewhere.

    The session connects with Live4D(..., server="tcp://this-host:31100"). Without --curve nothing is
    authenticated: keep to loopback or a private network.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request to the detector
    warm_up()
    try:
        server = EngineServer(endpoint, engine=engine, curve_keys=curve, allow_modules=allow_methods or owned)
    except zmq.ZMQError as error:
        raise click.ClickException(f"cannot serve at {endpoint}: {why_refused(endpoint, error)}") from error
    except (OSError, ValueError) as error:  # of key files
        raise click.ClickException(f"cannot serve at {endpoint}: {error}") from error
    if owned:
        # Ctrl-C in the session's terminal is for the session.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.end_with_owner()
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.end())
    click.echo(json.dumps({"engine": server.endpoint}))
    server.run()
    if owned and endpoint.startswith("ipc://"):
        # The session made this folder; if it was killed, nobody else removes it.
        shutil.rmtree(Path(endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
    if owned:
        # Taking the interpreter down lasts 0.5 to 2 s, of nothing but freeing; a session that closes waits for it.
        logging.shutdown()
        os._exit(0)
