"""`live4d view`: the run that goes on, old runs and recorded frames in a browser. One process, until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import click

from live4d_ophyd.urls import one_line

#: how much less urgent than a session and its engine on the same machine
_NICE = 10


@click.command()
@click.option(
    "--from", "source", metavar="HOST:PORT",
    help="A 0MQ proxy that sessions publish to. Default: the sessions of this user on this machine.",
)  # fmt: skip
@click.option(
    "--catalog", metavar="NAME|DIRECTORY|URL",
    help="Old runs of this Tiled profile, directory or Tiled server; default: the catalog that a session opens. "
    '"none": no old runs.',
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen at; 0.0.0.0: all of this machine. Default: only this machine itself.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=5006, show_default=True, help="0: a free one.")
@click.option(
    "--token/--no-token", default=None, help="Ask for a token. Default: unless only this machine gets in."
)
@click.option(
    "--origin", "origins", multiple=True, metavar="HOST:PORT",
    help="By which name browsers come, where it is none of this machine's: behind a web server. Repeatable.",
)  # fmt: skip
def view(
    source: str | None,
    catalog: str | None,
    host: str,
    port: int,
    token: bool | None,
    origins: tuple[str, ...],
) -> None:
    """Show the running scan and old runs in a browser, to be looked at and not to be changed.

    The images of sessions of this user on this machine come by themselves. Sessions elsewhere publish to a 0MQ proxy,
    by LIVE4D_PUBLISH=HOST:PORT, and the viewer reads that one, --from HOST:PORT.

    Opened to a network, it wants a token, which the printed address has: new at each start, unless $LIVE4D_VIEW_TOKEN
    holds one of 16 or more letters and digits. There is no encryption: beyond this machine put it behind an SSH tunnel
    or a web server with TLS.

    \b
    live4d view                                # ssh -L 5006:localhost:5006 HOST, then localhost
    live4d view --host 0.0.0.0                 # to colleagues, with a token
    live4d view --from microscope:5578
    """
    try:
        from live4d_ophyd.view.server import is_loopback, make_server
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed: pip install 'live4d-ophyd[view]'"
        ) from None
    from live4d_ophyd.live.publish import checked_address, session_address
    from live4d_ophyd.view.background import Background
    from live4d_ophyd.view.documents import AddressInUse, Documents
    from live4d_ophyd.view.live_page import LivePage
    from live4d_ophyd.view.live_run import LiveRuns
    from live4d_ophyd.view.runs_page import RunsPage

    key = _token() if (token if token is not None else not is_loopback(host)) else None
    if key is None and not is_loopback(host):
        click.echo("Whoever reaches this port sees everything: there is no token.", err=True)
    db = _catalog(catalog)
    runs, background = LiveRuns(), Background()
    pages: dict[str, Any] = {"/": lambda document: LivePage(document, runs, has_catalog=db is not None)}
    if db is not None:
        pages["/runs"] = lambda document: RunsPage(document, db, background)
    try:
        address = checked_address(source) if source else session_address()
        documents = Documents(runs.take, address, bind=source is None)
    except (ValueError, AddressInUse, OSError) as error:
        raise click.ClickException(str(error)) from None
    try:
        server = make_server(pages, host, port, key, origins)
    except OSError as error:
        documents.close()
        raise click.ClickException(
            f"cannot listen at {host}, port {port}: {error}. Give another --port"
        ) from error
    name = socket.gethostname() if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    click.echo(f"images at http://{name}:{server.port}/{f'?token={key}' if key else ''} until Ctrl-C")
    click.echo(
        f"documents from {address}; old runs {'of the catalog' if db is not None else 'are not shown'}"
    )
    if key is None and is_loopback(host):
        click.echo(
            "Other users of this machine can open it, too; with --token only those who have the address."
        )
    if not is_loopback(host):
        click.echo("Whoever listens in on the network sees all of it: there is no encryption.", err=True)
    os.nice(_NICE)
    try:
        server.run_until_shutdown()
    finally:
        background.close()
        documents.close()


def _token() -> str:
    key = os.environ.get("LIVE4D_VIEW_TOKEN") or secrets.token_hex(16)
    if len(key) < 16 or not (key.isalnum() and key.isascii()):
        raise click.UsageError("$LIVE4D_VIEW_TOKEN has to be 16 or more letters and digits")
    return key


def _catalog(which: str | None) -> Any:
    """The catalog of old runs; None where there is none, and none was asked for."""
    if which == "none":
        return None
    from live4d_ophyd.storage import existing_catalog

    try:
        return existing_catalog(which)
    except Exception as error:  # Tiled, its server and SQLite raise much
        if which is None:
            click.echo(f"no old runs: {one_line(error)}", err=True)
            return None
        raise click.ClickException(f"the catalog cannot be opened: {one_line(error)}") from error
