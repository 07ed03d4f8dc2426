"""Which run is meant: a client of it, its uid or the first characters of that, its scan id, or -1 for the newest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from live4d_ophyd.storage import existing_catalog


class NoSuchRun(LookupError):
    """The catalog has no run of that name, or several."""


def find_run(db: Any, which: Any) -> Any:
    """The client of the run that ``which`` means in the catalog ``db``.

    Parameters
    ----------
    which
        A uid, its first characters (at least 5), a scan id, or -1 for the newest run, -2 for the one before, as number
        or text.

    Raises
    ------
    NoSuchRun
        There is none, or there are several.
    """
    text = str(which).strip()
    if re.fullmatch(r"-[0-9]+", text):
        try:
            return db[int(text)]
        except IndexError:
            raise NoSuchRun(f"no run {text}: the catalog has {len(list(db))}") from None
    if not re.fullmatch(r"[\w.-]+", text):
        raise NoSuchRun(
            f"no run {text!r}: expected a uid, its first characters, a scan id, or -1 for the newest"
        )
    if re.fullmatch(r"[0-9]+", text) and (run := _by_scan_id(db, int(text))) is not None:
        return run
    if len(text) < 5:
        raise NoSuchRun(f"no run {text!r}: no such scan id, and the first characters of a uid are 5 or more")
    try:
        return db[text]
    except KeyError:
        raise NoSuchRun(
            f"no run {text!r} in this catalog: no such uid or scan id (`live4d runs` lists them)"
        ) from None
    except ValueError:
        raise NoSuchRun(f"several runs begin with {text!r}: give more characters") from None


@contextmanager
def opened(run: Any, catalog: str | None = None) -> Iterator[Any]:
    """The client of a run: ``run`` itself, or, by what `find_run` takes, that of a catalog opened for the time."""
    if hasattr(run, "metadata"):
        yield as_stored(run)
        return
    db = existing_catalog(catalog)
    with closing(db.context):
        yield as_stored(find_run(db, run))


def as_stored(run: Any) -> Any:
    """The run with its streams as they are stored.

    One use of ``run.v2``, ``db.v1`` or ``Broker`` makes bluesky-tiled-plugins 2.0.12 give all later runs of the
    process another form; to ask for this one undoes that.
    """
    try:
        return run.v3
    except (AttributeError, NotImplementedError):  # of a catalog of another making
        return run


def _by_scan_id(db: Any, scan_id: int) -> Any:
    from tiled.queries import Key

    found = list(db.search(Key("scan_id") == scan_id).values())
    if len(found) > 1:
        starts = [run.metadata["start"] for run in found]
        each = ", ".join(
            f"{s['uid'][:8]} ({datetime.fromtimestamp(s['time']):%Y-%m-%d %H:%M})" for s in starts
        )
        raise NoSuchRun(
            f"{len(found)} runs have the scan id {scan_id}: {each}. Give the uid's first characters"
        )
    return found[0] if found else None
