"""`live4d restore`: runs that the catalog does not have completely, from their backups. One thread."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from live4d_ophyd.commands.catalog import of_catalog, opened
from live4d_ophyd.urls import one_line

if TYPE_CHECKING:
    from live4d_ophyd.storage import Backup


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@of_catalog
@click.option("--list", "only_list", is_flag=True, help="Only say what there is.")
@click.pass_context
def restore(context: click.Context, files: tuple[Path, ...], catalog: str | None, only_list: bool) -> None:
    """Bring runs into the catalog that it does not have completely, from their backups.

    Such a run was cut short (the session died; it has no stop document, and gets none), or the catalog failed
    meanwhile (disk full, Tiled server gone). Events are counted over all streams.
    Without FILES: all in the catalog's backup directory. What the catalog has of a run is replaced. A run
    that is being written is skipped. Documents that cannot be read or stored are left out and said, and the file is
    kept as *.damaged. The exit code is 1 if a run could not be restored: its file stays.
    """
    # Not at the top: every `live4d --help` would pay for the import of Tiled.
    from live4d_ophyd.storage import BackupInUse, backup_directory, read_backup

    failed = False
    with opened(catalog) as db:
        directory = backup_directory(db)
        backups = []
        for path in files or _backups_in(directory):
            try:
                backups.append(read_backup(path))
            except FileNotFoundError:
                continue  # its run has ended well meanwhile
            except (ValueError, OSError) as error:
                failed |= _complain(error)
        for backup in sorted(backups, key=lambda backup: backup.start["time"]):
            click.echo(_describe(backup))
            if backup.in_use or only_list:
                continue
            try:
                _restore(db, backup)
            except BackupInUse as error:
                click.echo(f"  skipped: {one_line(error)}")
            except Exception as error:
                failed |= _complain(error, "  not restored, its file stays: ")
            else:
                click.echo("  restored")
        if not backups and not failed:
            click.echo(f"nothing to restore in {directory or 'this catalog: it has no backup directory'}")
    context.exit(int(failed))


def _backups_in(directory: Path | None) -> list[Path]:
    if directory is None:
        return []
    return [path for path in directory.glob("*.jsonl") if _has_content(path)]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False  # its run has ended well meanwhile


def _restore(db: Any, backup: Backup) -> None:
    from live4d_ophyd.storage import restore_backup

    with tqdm(total=backup.events, unit="Events", delay=1, leave=False, disable=None) as bar:
        restore_backup(db, backup.path, progress=lambda events: bar.update(events - bar.n))


def _describe(backup: Backup) -> str:
    state = "complete" if backup.complete else "torn: its session died, and it has no stop document"
    if backup.in_use:
        state = "being written or restored, skipped"
    if backup.damaged:
        state += f", {backup.damaged} documents cannot be read"
    if backup.unstorable:
        state += f", {backup.unstorable} cannot be stored"
    start = backup.start
    return (
        f"{start['uid']}  {datetime.fromtimestamp(start['time']):%Y-%m-%d %H:%M:%S}  "
        f"{start.get('plan_name', '?')}  {backup.events} Events  {state}"
    )


def _complain(error: Exception, prefix: str = "") -> bool:
    click.echo(prefix + one_line(error), err=True)
    return True
