"""``delete_run``: a run out of the catalog, with its arrays, table rows, pictures and backup. It cannot be undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiled.utils import path_from_uri

from live4d_ophyd.image_streams import run_stem
from live4d_ophyd.storage import backup_directory, read_backup


class RunInUse(ValueError):
    """The run is being written, or restored."""


def delete_run(
    db: Any, run: Any, served: Mapping[str, Any] | None = None, *, unfinished: bool = False
) -> list[Path]:
    """Delete ``run`` from the catalog ``db``; returns the other files that are gone, its pictures and backups.

    Parameters
    ----------
    served
        Of ``storage.served_from``, where the catalog is a directory: its pictures are in it, and empty folders of the
        run's arrays are removed.
    unfinished
        Delete also a run without a stop document and without a backup here, whose lock would say whether it goes on.

    Raises
    ------
    RunInUse
        A session is still writing it, or may be.
    """
    uid = run.metadata["start"]["uid"]
    backups = list(_backups(db, uid))
    if any(_in_use(path) for path in backups):
        raise RunInUse(f"run {uid[:8]} is being written: wait for its end, or stop it")
    if not (unfinished or backups or run.metadata.get("stop")):
        raise RunInUse(
            f"run {uid[:8]} has no stop document and no backup here: a session elsewhere may be writing it. If "
            "none is, delete it as unfinished (--unfinished)"
        )
    others = [*pictures(run, served), *backups]
    db.delete_contents(uid, recursive=True, external_only=False)
    for storage in _folders(served):
        _remove_empty(storage / uid)
    for path in others:
        path.unlink(missing_ok=True)
    return others


def pictures(run: Any, served: Mapping[str, Any] | None) -> list[Path]:
    """The PNG files that sessions have left of the run in the catalog's directory."""
    start = run.metadata["start"]
    name = f"{run_stem(start.get('scan_id', 0), start['uid'])}_*.png"
    return sorted(path for directory in _catalogs(served) for path in (directory / "pictures").glob(name))


def _backups(db: Any, uid: str) -> Iterator[Path]:
    directory = backup_directory(db)
    if directory is not None and directory.is_dir():
        yield from sorted(path for path in directory.iterdir() if path.name.split(".")[0] == uid)


def _in_use(path: Path) -> bool:
    try:
        return read_backup(path).in_use
    except PermissionError:
        return True  # another user's session
    except (ValueError, OSError):
        return False  # what cannot be read is nobody's any more


def _catalogs(served: Mapping[str, Any] | None) -> Iterator[Path]:
    for tree in (served or {}).get("trees", ()):
        scheme, _, database = str(tree.get("args", {}).get("uri", "")).partition(":///")
        if scheme == "sqlite":
            yield Path(database).parent


def _folders(served: Mapping[str, Any] | None) -> Iterator[Path]:
    """Where Tiled puts arrays: a folder a run."""
    for tree in (served or {}).get("trees", ()):
        for storage in tree.get("args", {}).get("writable_storage", ()):
            if str(storage).startswith("file://"):
                yield Path(path_from_uri(str(storage)))


def _remove_empty(directory: Path) -> None:
    """Remove the folder unless a file is somewhere in it."""
    if directory.is_dir() and not directory.is_symlink():
        for child in list(directory.iterdir()):
            _remove_empty(child)
        with suppress(OSError):
            directory.rmdir()
