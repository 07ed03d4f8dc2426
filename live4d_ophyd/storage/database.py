"""The database of a new catalog, as `tiled catalog init` makes it, without the seconds of a process of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any


def make_database(path: Path) -> None:
    """Make the catalog's database unless it is there. Raises OSError that names it where it cannot be made."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        if database.execute("select * from alembic_version").fetchone():
            return
    try:
        # Of what cannot be opened, aiosqlite's thread may find the loop closed, and print that instead of the reason.
        path.open("ab").close()
    except OSError as error:
        raise OSError(
            f"the catalog's database {path} cannot be made:\nunable to open it: {error.strerror}"
        ) from error
    from sqlalchemy.exc import SQLAlchemyError
    from tiled.alembic_utils import DatabaseUpgradeNeeded, UnrecognizedDatabase

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop that runs: IPython's
        try:
            thread.submit(asyncio.run, _make(path)).result()
        except (SQLAlchemyError, DatabaseUpgradeNeeded, UnrecognizedDatabase) as error:
            why = getattr(error, "orig", None) or error
            raise OSError(f"the catalog's database {path} cannot be made:\n{why}") from error


async def _make(path: Path) -> None:
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import UninitializedDatabase, check_database
    from tiled.catalog.alembic_constants import ALEMBIC_DIR
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    def stamp(connection: Any) -> None:
        # Not by alembic's command: that wants files of settings, and a loop of its own.
        MigrationContext.configure(connection).stamp(ScriptDirectory(ALEMBIC_DIR), REQUIRED_REVISION)

    engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(path)))
    try:
        try:
            # One that could not be looked at a moment ago may be there, and of another version of Tiled.
            await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
        except UninitializedDatabase:
            await initialize_database(engine)
            async with engine.begin() as connection:
                await connection.run_sync(stamp)
    finally:
        await engine.dispose()
