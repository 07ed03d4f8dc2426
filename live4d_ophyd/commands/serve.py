"""`live4d serve`: the engine as a process started by hand, or by a session."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import click
import zmq

from live4d_ophyd.commands.parameters import BackendName
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.process.server import EngineServer
from live4d_ophyd.engine.process.sockets import check_free, is_for_this_machine, why_refused
from live4d_ophyd.engine.process.spawn import remove_folder_of
from live4d_ophyd.log_limits import NotTooOften, SafeFormatter


@click.command()
@click.argument("endpoint", default="tcp://127.0.0.1:31100")
@click.option(
    "--curve",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with server.key_secret and clients/*.key (`live4d keys`): encrypts, and admits only these; a "
    "key that is added later counts at once.",
)
@click.option(
    "--backend",
    type=BackendName(),
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
@click.option(
    "--record-in",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which sessions may record frames, and below; may be given several times. Without, nowhere.",
)
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="Serve other machines without --curve: whoever reaches ENDPOINT can operate the detector.",
)
@click.option("--owned", is_flag=True, hidden=True, help="End when standard input closes.")
@click.option("--log-level", default="INFO", show_default=True)
def serve(
    endpoint: str,
    curve: Path | None,
    backend: str,
    allow_methods: bool,
    record_in: tuple[Path, ...],
    is_open: bool,
    owned: bool,
    log_level: str,
) -> None:
    """Run the engine at ENDPOINT, near the detector, for a session elsewhere.

    The session connects with Live4D(..., server="tcp://this-host:31100", curve_keys=...). Other machines need keys:
    `live4d keys`.
    """
    if curve is None and not is_open and not is_for_this_machine(endpoint):
        raise click.ClickException(
            f"{endpoint} can be reached from other machines, and without keys nobody is asked who they are: make keys "
            "with `live4d keys DIR` and pass --curve DIR/engine; or pass --open on a network where everybody may "
            "operate the detector"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.addFilter(NotTooOften())
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request to the detector
    warm_up()
    try:
        check_free(endpoint)
        server = EngineServer(
            endpoint, backend=backend, curve_keys=curve, allow_modules=allow_methods or owned,
            record_in=None if owned else record_in,
        )  # fmt: skip
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
    if owned:
        # The session made this folder; if it was killed, nobody else removes it.
        remove_folder_of(endpoint)
        # Taking the interpreter down lasts 0.5 to 2 s, of nothing but freeing; a session that closes waits for it.
        logging.shutdown()
        os._exit(0)
