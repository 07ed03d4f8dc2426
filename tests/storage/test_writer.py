"""What the catalog's writer does with documents: dimensions, scan ids, left-out streams."""

import bluesky.plans as bp
import pytest

from live4d_ophyd.live import live_preview
from live4d_ophyd.storage import CatalogWriter, backup_directory, describe_run, record, restore_backup
from live4d_ophyd.storage.writer import array_dims

pytestmark = pytest.mark.timeout(200)


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


def test_scan_ids_go_on_from_a_run_that_only_the_backup_has_and_not_from_one_restored_late(
    RE, db, live4d, catalog_failing_at
):
    RE.md["scan_id"] = 100
    token = record(RE, db)
    with catalog_failing_at("start"):
        (late,) = RE(bp.count([live4d]))
    RE.unsubscribe(token)
    del RE.md["scan_id"]
    token = record(RE, db)
    assert RE.md["scan_id"] == 101

    RE(bp.count([live4d]))
    RE.unsubscribe(token)
    restore_backup(db, backup_directory(db) / f"{late}.jsonl")
    assert db[-1].metadata["start"]["uid"] == late
    del RE.md["scan_id"]
    record(RE, db)
    assert RE.md["scan_id"] == 102


def test_without_a_backup_directory_a_failure_ends_the_plan(RE, db, live4d, catalog_failing_at):
    RE.subscribe(CatalogWriter(db))
    with catalog_failing_at("descriptor"), pytest.raises(OSError, match="disk full"):
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
