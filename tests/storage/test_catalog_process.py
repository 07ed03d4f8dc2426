"""The catalog is written by a process of its own: the same runs, and no more than a run's rest is lost with it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import bluesky.plans as bp
import numpy as np
import pytest

from live4d_ophyd.storage import backup_directory, open_catalog, read_backup, record, restore_backup
from live4d_ophyd.storage.catalog_process import process_of

pytestmark = [pytest.mark.beside, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def process(db):
    process = process_of(db)
    yield process
    process.close()


def images(db, uid):
    return db[uid].primary.read(["live4d_vbf"])["live4d_vbf"]


def test_a_process_that_does_not_write_does_not_import_what_does():
    code = "import sys; from live4d_ophyd import open_catalog, record; print('bluesky_tiled_plugins' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=100) == "False\n"


READY = """
import gc, os, sys
from live4d_ophyd.storage import catalog_process
assert "tiled.server.app" not in sys.modules
catalog_process.service()
print("tiled.server.app" in sys.modules)
process = catalog_process.catalog_process()
process.start()
pid, same = process.pid, catalog_process.catalog_process() is process
del process
gc.collect()
print(same, os.path.exists(f"/proc/{pid}"))
"""


def test_it_is_ready_with_tiled_imported_and_goes_with_the_last_who_has_it():
    answer = subprocess.check_output([sys.executable, "-c", READY], text=True, timeout=100)
    assert answer == "True\nTrue False\n"


def test_a_run_is_whole_when_the_plan_returns_and_nothing_of_it_was_written_here(
    RE, db, process, live4d, monkeypatch
):
    monkeypatch.setattr("live4d_ophyd.storage.writer.run_writer", None)
    record(RE, db)
    assert process_of(db) is process
    live4d.complete[0][2, 3] = np.nan
    (uid,) = RE(bp.count([live4d], num=3))
    assert process.pid != os.getpid()
    found = images(db, uid)
    assert found.dims == ("time", "scan_y", "scan_x")
    np.testing.assert_array_equal(found, [live4d.complete[0]] * 3)
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    assert not (backup_directory(db) / f"{uid}.jsonl").exists()


def test_a_process_that_is_killed_in_mid_run_costs_the_catalog_the_rest_of_that_run(
    RE, db, process, live4d, caplog
):
    record(RE, db)

    def kill(name, doc):
        if doc["seq_num"] == 2:
            os.kill(process.pid, signal.SIGKILL)

    token = RE.subscribe(kill, "event")
    (uid,) = RE(bp.count([live4d], num=4))
    RE.unsubscribe(token)
    assert "The catalog could not be written (its process has gone: signal 9)" in caplog.text
    path = backup_directory(db) / f"{uid}.jsonl"
    assert read_backup(path).complete
    (after,) = RE(bp.count([live4d]))  # of another process
    np.testing.assert_array_equal(images(db, after), [live4d.complete[0]])
    restore_backup(db, path)
    np.testing.assert_array_equal(images(db, uid), [live4d.complete[0]] * 4)


def test_catalogs_of_a_session_are_written_by_one_process_each_run_into_its_own(
    RE, db, process, live4d, tmp_path
):
    (tmp_path / "other").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
        other = open_catalog(tmp_path / "other", name="other")
    with closing(other.context):
        assert process_of(other) is process
        tokens = [record(RE, db), record(RE, other)]
        (in_both,) = RE(bp.count([live4d]))
        RE.unsubscribe(tokens[0])
        (in_other,) = RE(bp.count([live4d]))
        assert in_both in db
        assert in_other not in db
        for uid in (in_both, in_other):
            np.testing.assert_array_equal(images(other, uid), [live4d.complete[0]])


def test_a_run_for_a_catalog_that_was_removed_and_made_again_is_in_its_journal(
    RE, process, live4d, tmp_path, caplog
):
    """The process still has the file that was removed, and with such a journal SQLite would write there, unseen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
        for again in (False, True):
            anew = open_catalog(tmp_path / "anew", name="anew")
            with closing(sqlite3.connect(tmp_path / "anew" / "catalog.db")) as database:
                assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
            with closing(anew.context):
                token = record(RE, anew)
                (uid,) = RE(bp.count([live4d]))
                RE.unsubscribe(token)
                assert (
                    "anew was removed and made again: a new session can write there" in caplog.text
                ) == again
                if again:
                    assert list(anew) == []
                    restore_backup(anew, backup_directory(anew) / f"{uid}.jsonl")
                np.testing.assert_array_equal(images(anew, uid), [live4d.complete[0]])
            shutil.rmtree(tmp_path / "anew")
