"""Backed up runs into the catalog, whatever has happened to either."""

import json
import logging

import bluesky.plans as bp
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from tiled.utils import safe_json_dump

from live4d_ophyd.commands.restore import restore
from live4d_ophyd.storage import (
    BackupInUse,
    backup_directory,
    describe_run,
    existing_catalog,
    read_backup,
    record,
    restore_backup,
)
from live4d_ophyd.storage.catalog import directory_of

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def documents(RE, live4d):
    """Those of a run of three Events, in no catalog."""
    live4d.complete[0][2, 3] = np.nan
    taken = []
    token = RE.subscribe(lambda name, doc: taken.append((name, doc)))
    RE(bp.count([live4d], num=3))
    RE.unsubscribe(token)
    return taken


@pytest.fixture
def uid(documents):
    return documents[0][1]["uid"]


@pytest.fixture
def backup(documents, uid, tmp_path):
    return write_lines(tmp_path / f"{uid}.jsonl", lines_of(documents))


def lines_of(documents):
    return [safe_json_dump({"name": name, "doc": doc}) + b"\n" for name, doc in documents]


def write_lines(path, lines):
    path.write_bytes(b"".join(lines))
    return path


def images(db, uid):
    return db[uid].primary.read(["live4d_vbf"])["live4d_vbf"]


@pytest.mark.parametrize(("name", "number"), [("start", 1), ("descriptor", 1), ("event", 2), ("stop", 1)])
def test_when_the_catalog_fails_the_plan_goes_on_and_the_run_can_be_restored(
    RE, db, live4d, catalog_failing_at, name, number, caplog
):
    record(RE, db)
    live4d.complete[0][2, 3] = np.nan
    with catalog_failing_at(name, number), caplog.at_level(logging.ERROR):
        (uid,) = RE(bp.count([live4d], num=3))
    (message,) = [
        entry.getMessage() for entry in caplog.records if entry.name == "live4d_ophyd.storage.recorder"
    ]
    path = backup_directory(db) / f"{uid}.jsonl"
    assert "OSError: disk full" in message
    assert str(path) in message
    assert "live4d restore" in message
    if name == "start":
        assert uid not in db
    else:
        assert "not finished" in describe_run(db, uid)
    assert read_backup(path).complete

    assert restore_backup(db, path) == uid
    restored = images(db, uid)
    assert restored.dims == ("time", "scan_y", "scan_x")
    np.testing.assert_array_equal(restored, [live4d.complete[0]] * 3)
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    assert not path.exists()


def test_a_run_that_is_being_written_is_not_restored(RE, db, live4d):
    record(RE, db)
    refusals = []
    RE.subscribe(lambda name, doc: refusals.append(doc["uid"]), "start")

    def try_to_restore(name, doc):
        path = backup_directory(db) / f"{refusals[0]}.jsonl"
        assert read_backup(path).in_use
        with pytest.raises(BackupInUse, match="still being written"):
            restore_backup(db, path)
        result = CliRunner().invoke(restore)
        assert result.exit_code == 0
        assert "being written or restored, skipped" in result.output
        refusals.append(path)

    RE.subscribe(try_to_restore, "event")
    (uid,) = RE(bp.count([live4d]))
    assert len(refusals) == 2
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_the_torn_last_line_of_a_killed_session_is_dropped(db, documents, uid, backup):
    write_lines(
        backup, [*lines_of(documents[:3]), b'{"name": "event", "doc": {"data": {"live4d_vbf": [[1.0, 2']
    )
    restore_backup(db, backup)
    assert images(db, uid).shape == (1, 8, 8)
    assert "stop" not in db[uid].metadata
    assert not backup.exists()


@pytest.mark.parametrize("garbage", [b'{"name": "event", "doc": {"da\n', b"\0" * 100 + b"\n", b"[1]\n"])
def test_a_torn_line_in_the_middle_does_not_hide_the_rest(db, documents, uid, backup, garbage, caplog):
    lines = lines_of(documents)
    write_lines(backup, [*lines[:2], garbage, *lines[3:]])
    found = read_backup(backup)
    assert (found.events, found.complete, found.damaged) == (2, True, 1)
    restore_backup(db, backup)
    assert images(db, uid).shape == (2, 8, 8)
    assert db[uid].primary["seq_num"].read().tolist() == [2, 3]
    assert "1 documents cannot be read" in caplog.text
    # What can still be seen in it by eye is not thrown away.
    assert not backup.exists()
    assert backup.with_suffix(".damaged").exists()


@pytest.mark.parametrize("whose", ["this machine", "a server"])
def test_an_array_that_a_killed_process_made_and_did_not_note_is_in_nobodys_way(
    db, documents, uid, backup, whose, monkeypatch
):
    place = directory_of(db) / "images" / uid / "primary" / "live4d_vbf"
    zarr.create_array(place, shape=(1, 8, 8), dtype="float64")
    if whose == "a server":
        monkeypatch.setattr("live4d_ophyd.storage.restore.directory_of", lambda db: None)
    restore_backup(db, backup)
    assert images(db, uid).shape == (3, 8, 8)


def test_events_of_a_descriptor_that_cannot_be_read_are_left_out(db, documents, uid, backup):
    lines = lines_of(documents)
    write_lines(backup, [lines[0], b"{\n", *lines[2:]])
    assert read_backup(backup).damaged == 4
    restore_backup(db, backup)
    assert list(db[uid]) == []
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_numbers_that_begin_with_nan_stay_numbers(RE, db, live4d, documents, uid, backup):
    for mean, (_, doc) in zip((np.nan, 2.5, np.nan), documents[2:5]):
        doc["data"]["live4d_vbf_mean"] = mean
    write_lines(backup, lines_of(documents))
    restore_backup(db, backup)
    means = db[uid].primary.read()["live4d_vbf_mean"].to_numpy()
    np.testing.assert_array_equal(means, [np.nan, 2.5, np.nan])


def test_a_run_of_whole_numbers_and_then_fractions_is_brought_in(db, documents, uid, backup):
    """Older versions could not write it into the catalog, nor restore it."""
    for received, (_, doc) in zip((0, 12.5, 25), documents[2:5]):
        doc["data"]["live4d_frames_received"] = received
    write_lines(backup, lines_of(documents))
    assert read_backup(backup).unstorable == 0
    restore_backup(db, backup)
    received = db[uid].primary.read()["live4d_frames_received"].to_numpy()
    assert received.dtype == np.float64
    assert received.tolist() == [0, 12.5, 25]
    assert images(db, uid).shape == (3, 8, 8)
    assert not backup.exists()


def test_of_a_run_whose_images_change_their_shape_the_rest_is_brought_in_and_said(
    db, documents, uid, backup, live4d, caplog
):
    """Older versions took the Event, and padded it with zeros."""
    documents[3][1]["data"]["live4d_vbf"] = np.ones((16, 8))
    write_lines(backup, lines_of(documents))
    found = read_backup(backup)
    assert (found.events, found.complete, found.damaged, found.unstorable) == (2, True, 0, 1)
    restore_backup(db, backup)
    np.testing.assert_array_equal(images(db, uid), [live4d.complete[0]] * 2)
    assert db[uid].primary["seq_num"].read().tolist() == [1, 3]
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    (message,) = caplog.messages
    for part in (str(backup), "1 cannot be stored", "'live4d_vbf'", "(16, 8)", "(8, 8)", f"{uid}.damaged"):
        assert part in message
    assert not backup.exists()
    assert backup.with_suffix(".damaged").exists()


def test_events_of_a_stream_that_cannot_be_stored_are_left_out_with_it(db, documents, uid, backup):
    documents[1][1]["data_keys"]["motor(1)"] = documents[1][1]["data_keys"]["live4d_vbf_mean"]
    write_lines(backup, lines_of(documents))
    assert read_backup(backup).unstorable == 4
    restore_backup(db, backup)
    assert list(db[uid]) == []
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_an_interrupted_restoration_keeps_the_file_and_can_be_repeated(db, uid, backup, live4d):
    def interrupt(events):
        if events == 2:
            raise KeyboardInterrupt

    before = backup.read_bytes()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            restore_backup(db, backup, progress=interrupt)
        assert backup.read_bytes() == before
        assert len(images(db, uid)) == 2
    restore_backup(db, backup)
    np.testing.assert_array_equal(images(db, uid), [live4d.complete[0]] * 3)
    assert not backup.exists()


@pytest.mark.parametrize(("name", "number"), [("start", 1), ("descriptor", 1), ("event", 2), ("stop", 1)])
def test_a_catalog_that_fails_again_leaves_the_file(
    db, uid, backup, live4d, catalog_failing_at, name, number
):
    before = backup.read_bytes()
    with catalog_failing_at(name, number), pytest.raises(OSError, match="disk full"):
        restore_backup(db, backup)
    assert backup.read_bytes() == before
    restore_backup(db, backup)
    np.testing.assert_array_equal(images(db, uid), [live4d.complete[0]] * 3)


def test_a_complete_backup_replaces_a_complete_run(db, documents, uid, backup):
    restore_backup(db, backup)
    for _, doc in documents[2:5]:
        doc["data"]["live4d_vbf_mean"] = 7.5
    write_lines(backup, lines_of(documents))
    assert restore_backup(db, backup) == uid
    means = db[uid].primary.read(["live4d_vbf_mean"])["live4d_vbf_mean"].to_numpy()
    assert means.tolist() == [7.5] * 3
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    assert not backup.exists()


def test_a_damaged_backup_does_not_replace_a_complete_run(db, documents, uid, backup):
    """Not even if its stop document is there: the catalog may have what it lacks."""
    restore_backup(db, backup)
    lines = lines_of(documents)
    write_lines(backup, [*lines[:3], b'{"name": "event", "doc": {"da\n', *lines[4:]])
    with pytest.raises(ValueError, match=r"lines that cannot be read.*the catalog has the run completely"):
        restore_backup(db, backup)
    assert len(images(db, uid)) == 3
    assert backup.exists()


def test_a_backup_that_ends_early_does_not_replace_a_complete_run(db, documents, uid, backup, tmp_path):
    early = write_lines(tmp_path / "early.jsonl", lines_of(documents[:4]))
    restore_backup(db, backup)
    with pytest.raises(ValueError, match="ends before its run does"):
        restore_backup(db, early)
    assert early.exists()
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_a_file_that_is_no_backup_is_refused(db, tmp_path):
    path = tmp_path / "other.jsonl"
    elsewhere = {"name": "start", "doc": {"uid": "../elsewhere", "time": 1.0}}
    for content in ("", json.dumps({"name": "event", "doc": {}}) + "\n", json.dumps(elsewhere) + "\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match="no backup of a run"):
            restore_backup(db, path)
        assert path.exists()


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def two(db, documents, uid, backup):
    """The catalog's backup directory with a whole run and a file that is none."""
    directory = backup_directory(db)
    directory.mkdir(parents=True, exist_ok=True)
    whole = backup.rename(directory / backup.name)
    bad = directory / "bad.jsonl"
    bad.write_text("noise\n")
    yield whole, bad
    for path in (whole, bad):
        path.unlink(missing_ok=True)


def test_list_only_shows(db, uid, two):
    whole, bad = two
    result = CliRunner().invoke(restore, ["--list"])
    assert result.exit_code == 1
    assert f"{bad} is no backup of a run" in result.output
    (line,) = [line for line in result.output.splitlines() if uid in line and "no backup" not in line]
    assert line.endswith("count  3 Events  complete")
    assert whole.exists()
    assert uid not in db


def test_one_bad_file_does_not_keep_the_others(db, uid, two):
    whole, bad = two
    result = CliRunner().invoke(restore)
    assert result.exit_code == 1
    assert not whole.exists()
    assert bad.exists()
    assert len(images(db, uid)) == 3


def test_named_files_are_restored_into_a_named_catalog(db, uid, two):
    whole, bad = two
    result = CliRunner().invoke(restore, [str(whole), "--catalog", "test"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "  restored")
    assert len(images(db, uid)) == 3
    assert bad.exists()


def test_a_run_that_cannot_be_restored_stays_and_is_said(uid, two, monkeypatch):
    whole, bad = two
    bad.unlink()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("live4d_ophyd.storage.restore_backup", fail)
    result = CliRunner().invoke(restore)
    assert result.exit_code == 1
    assert "not restored, its file stays: disk full" in result.output
    assert whole.exists()


def test_what_cannot_be_stored_is_listed_and_said(documents, uid, two):
    whole, bad = two
    bad.unlink()
    documents[3][1]["data"]["live4d_vbf"] = np.ones((16, 8))
    write_lines(whole, lines_of(documents))
    result = CliRunner().invoke(restore, ["--list"])
    assert result.output.endswith("2 Events  complete, 1 cannot be stored\n")
    result = CliRunner().invoke(restore)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "  restored")
    kept = whole.with_suffix(".damaged")
    assert kept.exists()
    kept.unlink()


def test_nothing_to_restore_is_no_error(db):
    result = CliRunner().invoke(restore)
    assert result.exit_code == 0
    assert result.output == f"nothing to restore in {backup_directory(db)}\n"


def test_a_catalog_that_is_not_there_is_not_made(tmp_path):
    result = CliRunner().invoke(restore, ["--catalog", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "catalog.db does not exist" in result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("by", ["environment", "path"])
def test_a_catalog_is_found_by_its_directory_with_its_backups(db, by, monkeypatch):
    from live4d_ophyd.storage import catalog_directory

    directory = str(catalog_directory("test"))
    if by == "environment":
        monkeypatch.setenv("LIVE4D_CATALOG", directory)
    found = existing_catalog(None if by == "environment" else directory)
    found.context.close()
    assert backup_directory(found) == backup_directory(db)
