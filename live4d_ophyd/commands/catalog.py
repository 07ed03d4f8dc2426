"""The catalog that a command works with: its option, and the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click

from live4d_ophyd.urls import one_line

#: passes ``catalog`` to a command
of_catalog = click.option(
    "--catalog",
    metavar="NAME|DIRECTORY|URL",
    help="Tiled profile, directory or Tiled server; default: the catalog that a session opens.",
)


@contextmanager
def opened(catalog: str | None) -> Iterator[Any]:
    """The client of this catalog. Raises ClickException if it cannot be opened."""
    # Not at the top: every `live4d --help` would pay for the import of Tiled.
    from live4d_ophyd.storage import existing_catalog

    try:
        db = existing_catalog(catalog)
    except Exception as error:  # Tiled, its server and SQLite raise much
        raise click.ClickException(f"the catalog cannot be opened: {one_line(error)}") from error
    with closing(db.context):
        yield db
