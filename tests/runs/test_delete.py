"""`live4d delete`: nothing of the run stays, and nothing of the others goes."""

import fcntl
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from live4d_ophyd.commands.main import live4d
from live4d_ophyd.runs.find import NoSuchRun, find_run
from live4d_ophyd.storage import backup_directory
from live4d_ophyd.storage.writer import run_writer


def delete(*arguments, **kwargs):
    return CliRunner().invoke(live4d, ["delete", *arguments], **kwargs)


def rows(catalog):
    """Of all tables that hold Events."""
    with closing(sqlite3.connect(catalog.directory / "tables.db")) as tables:
        names = [name for (name,) in tables.execute("select name from sqlite_master where type = 'table'")]
        return sum(tables.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names)


def pictures_of(catalog, uid):
    start = catalog.db[uid].metadata["start"]
    directory = catalog.directory / "pictures"
    directory.mkdir(exist_ok=True)
    path = directory / f"{start['scan_id']:05d}_{uid[:8]}_live4d.png"
    path.write_bytes(b"png")
    return path


def test_documents_images_rows_pictures_and_backup_are_gone_and_the_others_stay(catalog):
    rows_before = rows(catalog)
    uid = catalog.take()
    mine, other = pictures_of(catalog, uid), pictures_of(catalog, catalog.count)
    backup = backup_directory(catalog.db) / f"{uid}.damaged"
    backup.parent.mkdir(parents=True, exist_ok=True)
    backup.write_text("{}\n")
    assert rows(catalog) > rows_before
    assert (catalog.directory / "images" / uid).is_dir()

    result = delete(uid[:8], "--yes")
    assert result.exit_code == 0, result.output
    assert f"deleted run {uid}" in result.output
    assert str(mine) in result.output
    with pytest.raises(NoSuchRun):
        find_run(catalog.db, uid)
    assert rows(catalog) == rows_before
    assert not (catalog.directory / "images" / uid).exists()
    assert (mine.exists(), backup.exists(), other.exists()) == (False, False, True)
    assert catalog.db[catalog.count].primary.read(["live4d_vbf"]).live4d_vbf.shape[0] == 1
    other.unlink()


def test_it_asks_and_no_is_no(catalog):
    uid = catalog.take()
    result = delete(uid, input="n\n")
    assert result.exit_code == 1
    assert "delete it for good?" in result.output
    assert uid in result.output
    assert find_run(catalog.db, uid).metadata["start"]["uid"] == uid
    assert delete(uid, input="y\n").exit_code == 0
    with pytest.raises(NoSuchRun):
        find_run(catalog.db, uid)


def test_which_run_has_to_be_said(catalog):
    result = delete("--yes")
    assert result.exit_code == 2
    assert "Missing argument 'RUN'" in result.output


def test_a_run_that_is_being_written_is_refused(catalog):
    uid = catalog.take()
    backup = backup_directory(catalog.db) / f"{uid}.jsonl"
    backup.parent.mkdir(parents=True, exist_ok=True)
    start = {"name": "start", "doc": {"uid": uid, "time": 1.0}}
    with backup.open("w") as lines:
        lines.write(json.dumps(start) + "\n")
        lines.flush()
        fcntl.flock(lines, fcntl.LOCK_EX)
        result = delete(uid, "--yes")
    assert result.exit_code == 1
    assert "is being written" in result.output
    assert find_run(catalog.db, uid)
    assert delete(uid, "--yes").exit_code == 0
    assert not backup.exists()


def test_a_run_without_an_end_and_without_a_journal_goes_only_when_it_is_called_unfinished(catalog):
    uid = "0badcafe-0000-4000-8000-000000000000"
    run_writer(catalog.db)("start", {"uid": uid, "time": 1e9, "scan_id": 99, "plan_name": "count"})
    refused = delete(uid[:8], "--yes")
    assert refused.exit_code == 1
    assert "a session elsewhere may be writing it" in refused.output
    assert uid in catalog.db
    deleted = delete(uid[:8], "--yes", "--unfinished")
    assert deleted.exit_code == 0, deleted.output
    assert uid not in catalog.db
