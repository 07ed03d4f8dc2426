"""What the catalog's writer does with documents: dimensions, backups, left-out streams."""

import json
import logging
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import pytest
from fake_device import FakeLive4D
from tiled.utils import safe_json_dump

from live4d_ophyd.live import live_preview
from live4d_ophyd.storage import CatalogWriter, describe_run, open_catalog, record, restore_backup
from live4d_ophyd.storage.writer import array_dims

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """A catalog of this process, under a profile that nobody else sees."""
    directory = tmp_path_factory.mktemp("catalog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiled.profiles.paths", [directory / "profiles"])
        client = open_catalog(directory / "catalog", name="test")
        yield client
        client.context.close()


@pytest.fixture
def live4d():
    return FakeLive4D(name="live4d", shape=(8, 8), rows_per_s=200)


def array_key(shape, dims=None, **others):
    key = {"source": "SIM", "dtype": "array", "shape": list(shape), **others}
    return key if dims is None else {**key, "dims": list(dims)}


@pytest.mark.parametrize(
    ("data_keys", "named"),
    [
        ({"a": array_key((4, 4), ("scan_y", "scan_x"))}, {"a": ("scan_y", "scan_x")}),
        ({"a": array_key((4, 4))}, {"a": ("a_dim_1", "a_dim_2")}),
        ({"a": array_key((4, 4), ("scan_y",))}, {"a": ("a_dim_1", "a_dim_2")}),
        ({"a": array_key((4, 4), ("y", "y"))}, {"a": ("a_dim_1", "a_dim_2")}),
        ({"a": array_key((4, 4), ("y", "x"), external="STREAM:")}, {}),
        ({"a": array_key((None, 4), ("y", "x"))}, {}),
        ({"a": {"source": "SIM", "dtype": "number", "shape": []}}, {}),
        (
            {"a": array_key((4, 6), ("y", "x")), "b": array_key((4, 6), ("y", "x"))},
            {"a": ("y", "x"), "b": ("y", "x")},
        ),
        (
            {"a": array_key((4, 6), ("y", "x")), "b": array_key((4, 5), ("y", "x"))},
            {"a": ("y", "x"), "b": ("b_y", "b_x")},
        ),
        (
            {"a": array_key((4, 4), ("scan_y", "scan_x")), "p": array_key((4, 4), ("q_y", "q_x"))},
            {"a": ("scan_y", "scan_x"), "p": ("q_y", "q_x")},
        ),
    ],
)
def test_dimension_names(data_keys, named):
    assert array_dims(data_keys) == named


def test_a_stream_can_be_left_out(RE, db, live4d):
    RE.preprocessors.append(live_preview([live4d], max_rate=100))
    record(RE, db, skip_streams=["live4d_live"])
    (uid,) = RE(bp.count([live4d]))
    assert list(db[uid]) == ["primary"]
    assert live4d.preview.reads
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_scan_ids_continue_unless_the_session_has_its_own(RE, db, live4d):
    RE.unsubscribe(record(RE, db))
    assert RE.md["scan_id"] == db[-1].metadata["start"]["scan_id"]
    RE.md["scan_id"] = 7000
    record(RE, db)
    (uid,) = RE(bp.count([live4d]))
    assert db[7001].metadata["start"]["uid"] == uid


def break_the_catalog(monkeypatch, db):
    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(db.context.http_client, "send", full)


def test_when_the_catalog_fails_the_plan_goes_on_and_the_run_can_be_restored(
    RE, db, live4d, monkeypatch, caplog
):
    record(RE, db)
    with monkeypatch.context() as patch:

        def fail_from_the_second_event_on(name, doc):
            if doc["seq_num"] == 1:
                break_the_catalog(patch, db)

        RE.subscribe(fail_from_the_second_event_on, "event")
        live4d.complete[0][2, 3] = np.nan
        with caplog.at_level(logging.ERROR):
            (uid,) = RE(bp.count([live4d], num=3))
    (message,) = [
        entry.getMessage() for entry in caplog.records if entry.name == "live4d_ophyd.storage.backup"
    ]
    assert "OSError: disk full" in message
    assert "stop" not in db[uid].metadata
    assert "not finished" in describe_run(db, uid)
    path = f"{db.metadata['backup_directory']}/{uid}.jsonl"
    assert path in message

    assert restore_backup(db, path) == uid
    images = db[uid].primary.read(["live4d_vbf"])["live4d_vbf"]
    assert images.dims == ("time", "scan_y", "scan_x")
    np.testing.assert_array_equal(images, [live4d.complete[0]] * 3)
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    assert not list(path_of_backups(db).glob(f"{uid}*"))


def path_of_backups(db):
    return Path(db.metadata["backup_directory"])


def test_a_run_that_is_being_written_is_not_restored(RE, db, live4d):
    record(RE, db)
    refusals = []

    def try_to_restore(name, doc):
        (path,) = path_of_backups(db).glob(f"{run_of[0]}.jsonl")
        with pytest.raises(ValueError, match="still being written"):
            restore_backup(db, path)
        refusals.append(path)

    run_of = []
    RE.subscribe(lambda name, doc: run_of.append(doc["uid"]), "start")
    RE.subscribe(try_to_restore, "event")
    (uid,) = RE(bp.count([live4d]))
    assert refusals
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_the_torn_last_line_of_a_killed_session_is_dropped(RE, db, live4d, tmp_path):
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    (uid,) = RE(bp.count([live4d], num=2))
    lines = [safe_json_dump({"name": name, "doc": doc}) for name, doc in documents[:3]]
    path = tmp_path / f"{uid}.jsonl"
    path.write_bytes(b"\n".join(lines) + b'\n{"name": "event", "doc": {"data": {"live4d_vbf": [[1.0, 2')
    restore_backup(db, path)
    assert db[uid].primary["live4d_vbf"].shape == (1, 8, 8)
    assert not path.exists()


def test_a_file_that_is_no_backup_is_refused(db, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"name": "event", "doc": {}}) + "\n")
    with pytest.raises(ValueError, match="no backup of a run"):
        restore_backup(db, path)
    assert path.exists()


def test_without_a_backup_directory_a_failure_ends_the_plan(RE, db, live4d, monkeypatch):
    RE.subscribe(lambda name, doc: break_the_catalog(monkeypatch, db), "descriptor")
    RE.subscribe(CatalogWriter(db))
    with pytest.raises(OSError, match="disk full"):
        RE(bp.count([live4d]))


def test_a_run_is_described(RE, db, live4d):
    record(RE, db)
    (uid,) = RE(bp.count([live4d], num=2))
    text = describe_run(db, uid[:8], profile="test")
    assert f"run {uid}" in text
    assert "count): success" in text
    assert "primary: live4d_vbf (8, 8), 2 Events" in text
    assert f'catalog["test"]["{uid[:8]}"]' in text
    assert 'run.primary.read(["live4d_vbf"])' in text


def test_a_run_that_is_not_there_cannot_be_described(db):
    with pytest.raises(KeyError):
        describe_run(db, "0000-no-such-run")
