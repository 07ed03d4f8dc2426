"""`live4d share`: the catalog to colleagues, read only, by Tiled. One process, until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import socket

import click

from live4d_ophyd.listener import listen

#: what only this machine reaches
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option(
    "--catalog",
    metavar="NAME|DIRECTORY",
    help="Tiled profile or directory; default: the catalog that a session opens.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0: all of this machine. Default: only this machine itself.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
def share(catalog: str | None, host: str, port: int) -> None:
    """Serve the catalog to colleagues, to be read and not to be changed.

    Prints the key and the line that opens it. Sessions may write meanwhile; what they store is seen at once. The key is
    new at each start, unless $LIVE4D_SHARE_KEY holds one of 16 or more letters and digits. There is no encryption:
    beyond this machine put it behind an SSH tunnel or a web server with TLS.

    \b
    live4d share                                    # ssh -L 8000:localhost:8000 HOST, then localhost
    live4d share --host 0.0.0.0 --catalog live4d    # for the institute's network
    """
    key = os.environ.get("LIVE4D_SHARE_KEY") or secrets.token_hex(16)
    if len(key) < 16 or not (key.isalnum() and key.isascii()):
        raise click.UsageError("$LIVE4D_SHARE_KEY has to be 16 or more letters and digits")
    import uvicorn

    from live4d_ophyd.runs.share import shared_app
    from live4d_ophyd.storage import served_from

    try:
        listener = listen(host, port)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen at {host}, port {port}: {error}. Give another --port"
        ) from error
    with listener:
        try:
            app = shared_app(served_from(catalog), key)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        port = listener.getsockname()[1]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        click.echo(f"shared read only at http://{name}:{port}, until Ctrl-C. In Python:")
        click.echo('  # pip install "tiled[client]" bluesky-tiled-plugins')
        click.echo("  from tiled.client import from_uri")
        click.echo(f'  db = from_uri("http://{name}:{port}", api_key="{key}")')
        click.echo('  db[-1].primary.read(["live4d_vbf"])  # without names everything, recorded frames, too')
        if host not in _LOOPBACK:
            click.echo("Whoever listens in on the network sees the key: there is no encryption.", err=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        server.run(sockets=[listener])
