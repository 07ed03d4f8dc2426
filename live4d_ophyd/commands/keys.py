"""`live4d keys`: keys for an engine on another host and for the sessions that it admits."""

from __future__ import annotations

import re
from pathlib import Path

import click

from live4d_ophyd.engine.process.keys import ENGINE, BadKeys, add_session, make_keys


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--add",
    "name",
    metavar="NAME",
    help="Make keys for one more session, in FOLDER/NAME; an engine that runs admits it at once.",
)
def keys(folder: Path, name: str | None) -> None:
    """Make keys in FOLDER: FOLDER/engine for `live4d serve --curve`, FOLDER/session for the session.

    Nobody else can read them. Move each folder to the host that it is for.
    """
    if name is not None and (not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,60}", name) or name == ENGINE):
        raise click.ClickException(
            f"--add {name!r}: expected a name of letters, digits, _ . -, and not {ENGINE!r}"
        )
    try:
        if name is not None:
            click.echo(f"session: {add_session(folder, name)}")
            return
        engine, session = make_keys(folder)
    except (BadKeys, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"engine:  {engine}  (live4d serve tcp://0.0.0.0:31100 --curve {engine})")
    click.echo(f"session: {session}  (Live4D(..., server=..., curve_keys={str(session)!r}))")
