"""What the catalog's writer does with documents: dimensions, types, scan ids, left-out streams."""

from contextlib import suppress

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import event_model
import numpy as np
import pytest
from fake_device import FakeLive4D, ImageSignal, run_engine
from ophyd import Component as Cpt
from ophyd import Device, Signal, SoftPositioner

from live4d_ophyd.device.signals import Value
from live4d_ophyd.live import live_preview
from live4d_ophyd.storage import (
    Recorder,
    Unstorable,
    backup_directory,
    describe_run,
    record,
    restore_backup,
)
from live4d_ophyd.storage.scan_ids import ScanIds
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
        ({"a": array_key((4, 4), ("y", "x"), external="STREAM:")}, {"a": ("y", "x")}),
        (
            {
                "a": array_key((4, 6), ("y", "x")),
                "b": array_key((4, 5, 9), ("y", "x", "q"), external="STREAM:"),
            },
            {"a": ("y", "x"), "b": ("b_y", "b_x", "b_q")},
        ),
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


# Previews ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True])
def test_previews_are_emitted_and_stored_only_when_asked_for(RE, db, asked):
    device = FakeLive4D(name="stem", shape=(8, 8))  # the stream is stem_live
    emitted, backed_up, previews = [], set(), []

    def look(name, doc):
        if name == "descriptor":
            emitted.append(doc["name"])
        elif name == "event":
            if "stem_live_fraction" in doc["data"]:
                previews.append(doc["data"])
            for path in backup_directory(db).glob("*.jsonl"):
                backed_up.update(found for found in ("stem_live", "primary") if found in path.read_text())

    def two_rows_a_preview(msg):
        if msg.command == "wait" and device.status is not None:
            device.advance(2)

    RE.preprocessors.append(live_preview([device], max_rate=100))
    RE.msg_hook = two_rows_a_preview
    record(RE, db, previews=asked)
    RE.subscribe(look)
    (uid,) = RE(bp.count([device]))
    assert set(emitted) == {"primary", "stem_live"}
    assert set(db[uid]) == backed_up == ({"primary", "stem_live"} if asked else {"primary"})
    assert [preview["stem_live_fraction"] for preview in previews] == [0.25, 0.5, 0.75]
    if asked:
        stored = db[uid]["stem_live"].read()
        for key in ("stem_live_fraction", "stem_vbf"):
            np.testing.assert_array_equal(stored[key], [preview[key] for preview in previews])
    assert db[uid].metadata["stop"]["exit_status"] == "success"


def test_a_stream_of_results_is_stored_whatever_its_name(RE, db, live4d):
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([live4d], name="sample_live")

    record(RE, db)
    (uid,) = RE(plan())
    assert list(db[uid]) == ["sample_live"]


def test_a_stream_can_be_left_out(RE, db, live4d):
    record(RE, db, skip_streams=["primary"])
    (uid,) = RE(bp.count([live4d]))
    assert list(db[uid]) == []
    assert db[uid].metadata["stop"]["exit_status"] == "success"


# Types and shapes --------------------------------------------------------------------------------


def column(db, uid, key):
    return db[uid].primary.read([key])[key].to_numpy()


@pytest.mark.parametrize(
    "axis", [Signal(name="defocus", value=0), SoftPositioner(name="defocus", init_pos=0)]
)
def test_whole_numbers_and_then_fractions_are_float64(RE, db, live4d, axis):
    record(RE, db)
    (uid,) = RE(bp.list_scan([live4d], axis, [0, 12.5, 25]))
    stored = column(db, uid, "defocus")
    assert stored.dtype == np.float64
    assert stored.tolist() == [0, 12.5, 25]
    assert column(db, uid, "live4d_frames_received").tolist() == [64, 64, 64]
    assert column(db, uid, "live4d_vbf").shape == (3, 8, 8)
    assert db[uid].metadata["stop"]["exit_status"] == "success"
    assert not (backup_directory(db) / f"{uid}.jsonl").exists()


class Readings(Device):
    """A signal of each kind, as the test sets them."""

    number = Cpt(Value, value=0, kind="normal")
    text = Cpt(Signal, value="a", kind="normal")
    image = Cpt(ImageSignal, value=np.zeros((3, 4)), kind="normal")


@pytest.fixture
def readings():
    return Readings(name="d")


def reading_each(device, signal, values, **metadata):
    @bpp.run_decorator(md=metadata)
    def plan():
        for value in values:
            signal.put(value)
            yield from bps.trigger_and_read([device])

    return plan()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2**60 + 1, -3], np.int64),
        ([1, 2, 0.5, 7], np.float64),
        ([True, 2], np.int64),
        ([True, 2, 0.5], np.float64),
        ([2, np.nan, 3], np.float64),
    ],
)
def test_a_column_is_as_wide_as_its_values_need(RE, db, readings, values, dtype):
    record(RE, db)
    (uid,) = RE(reading_each(readings, readings.number, values))
    stored = column(db, uid, "d_number")
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, values)
    assert column(db, uid, "d_text").tolist() == ["a"] * len(values)
    assert column(db, uid, "d_image").shape == (len(values), 3, 4)
    assert db[uid].primary["seq_num"].read().tolist() == list(range(1, len(values) + 1))


def test_columns_of_a_stream_of_many_tables_get_wider(RE, db, readings, monkeypatch):
    monkeypatch.setattr("bluesky_tiled_plugins.writing.tiled_writer.MAX_TABLE_COLUMNS", 3)
    record(RE, db)
    (uid,) = RE(reading_each(readings, readings.number, [1, 2, 0.5, 7]))
    assert column(db, uid, "d_number").tolist() == [1, 2, 0.5, 7]
    assert column(db, uid, "d_text").tolist() == ["a"] * 4
    assert len(list(db[uid].primary.base)) == 1 + 3  # the image, and 7 columns in tables of at most 3


def test_a_text_that_is_not_there_stays_so_when_a_column_gets_wider(db):
    writer = Recorder(db)
    run = event_model.compose_run()
    writer("start", run.start_doc)
    keys = {
        key: {"source": "s", "dtype": kind, "shape": []} for key, kind in (("n", "integer"), ("t", "string"))
    }
    stream = run.compose_descriptor("primary", keys)
    writer("descriptor", stream.descriptor_doc)
    for n, t in ((1, None), (0.5, "a")):
        writer("event", stream.compose_event(data={"n": n, "t": t}, timestamps={"n": 1.0, "t": 1.0}))
    assert writer.wait()
    table = db[run.start_doc["uid"]].primary.base["internal"].read()
    assert table["n"].tolist() == [1, 0.5]
    assert table["t"].isna().tolist() == [True, False]


def configured_each(device, signal, values):
    @bpp.run_decorator()
    def plan():
        for value in values:
            yield from bps.configure(device, {})  # a descriptor each
            signal.put(value)
            yield from bps.trigger_and_read([device])

    return plan()


@pytest.mark.parametrize("plan", [reading_each, configured_each])
def test_an_image_of_another_shape_ends_the_run_which_is_whole_up_to_there(RE, db, readings, plan):
    record(RE, db)
    uids = []
    RE.subscribe(lambda name, doc: uids.append(doc["uid"]), "start")
    images = [np.full(shape, 7.0) for shape in ((3, 4), (3, 4), (6, 4), (3, 4))]
    with pytest.raises(Unstorable) as refused:
        RE(plan(readings, readings.image, images))
    for part in ("'primary'", "'d_image'", "(6, 4)", "(3, 4)", "use another stream or run"):
        assert part in str(refused.value)
    (uid,) = uids
    np.testing.assert_array_equal(column(db, uid, "d_image"), images[:2])
    assert db[uid].metadata["stop"]["exit_status"] == "fail"
    assert "(6, 4)" in db[uid].metadata["stop"]["reason"]
    assert not (backup_directory(db) / f"{uid}.jsonl").exists()


def test_the_catalog_is_read_while_its_thread_writes(db):
    """As by a session whose last run is still on its way."""
    recorder = Recorder(db)
    run = event_model.compose_run()
    recorder("start", run.start_doc)
    keys = {
        "image": array_key((8, 8), ("y", "x"), dtype_numpy="<f8"),
        "n": {"source": "s", "dtype": "number", "shape": []},
    }
    stream = run.compose_descriptor("primary", keys)
    recorder("descriptor", stream.descriptor_doc)
    uid = run.start_doc["uid"]
    while uid not in db:  # looks, too
        pass
    for number in range(15):
        data = {"image": np.full((8, 8), float(number)), "n": float(number)}
        recorder("event", stream.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0)))
        assert db[-1].metadata["start"]["uid"] == uid
        with suppress(KeyError):  # no stream yet
            assert set(db[uid].primary.metadata["data_keys"]) == set(keys)
    recorder("stop", run.compose_stop())
    assert recorder.wait()
    assert db[uid].primary["n"].read().tolist() == list(range(15))
    np.testing.assert_array_equal(db[uid].primary["image"].read()[:, 0, 0], np.arange(15))


# Metadata ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"phase": 1j}, "'phase' cannot be stored: 1j is of type complex"),
        ({"a": {1: 2}}, "key 1 of type int"),
    ],
)
def test_metadata_that_cannot_be_stored_are_named_before_a_run_begins(RE, db, live4d, metadata, told):
    record(RE, db)
    documents = []
    RE.subscribe(lambda name, doc: documents.append(name))
    with pytest.raises(Unstorable, match=told):
        RE(bp.count([live4d]), **metadata)
    assert documents == []
    with pytest.raises(ValueError, match="sample"):  # bluesky's own check
        RE(bp.count([live4d]), sample=3)


def test_large_numbers_in_metadata_are_not_cut_off(RE, db, readings):
    record(RE, db)
    given = {
        "time_ns": 1795902403910672999,
        "id": 2**64 - 1,
        "dose": 1e20,
        "rows": [2**53 + 1, -(2**63)],
        "table": np.array([2**60 + 1]),
    }
    readings.number.kind = "config"
    readings.number.put(2**53 + 1)
    (uid,) = RE(bp.count([readings]), **given)
    run = db[uid]
    given["table"] = given["table"].tolist()
    assert {key: run.metadata["start"][key] for key in given} == given
    configuration = run.primary.metadata["configuration"]["d"]["data"]
    assert configuration["d_number"] == 2**53 + 1


def test_documents_that_no_run_engine_has_checked_are_refused_too(db):
    writer = Recorder(db)
    with pytest.raises(Unstorable, match="'phase'"):
        writer("start", {"uid": "0123456789", "time": 1.0, "phase": 1j})
    writer("stop", {"uid": "s", "run_start": "0123456789", "time": 2.0, "exit_status": "fail"})
    assert "0123456789" not in db


# Scan ids, failures, descriptions ----------------------------------------------------------------


def test_scan_ids_go_on_from_those_of_the_session_if_they_are_larger(RE, db, live4d):
    RE.md["scan_id"] = 7000
    record(RE, db)
    (uid,) = RE(bp.count([live4d]))
    assert db[7001].metadata["start"]["uid"] == uid
    RE.md["scan_id"] = 3
    (uid,) = RE(bp.count([live4d]))
    assert db[7002].metadata["start"]["uid"] == uid


def test_two_sessions_give_no_scan_id_twice(db, live4d):
    """Neither knows of the other's runs; each has begun with what the catalog had."""
    with run_engine() as first, run_engine() as second:
        record(first, db)
        record(second, db)
        uids = [RE(bp.count([live4d]))[0] for RE in (first, second, second, first)]
    ids = [db[uid].metadata["start"]["scan_id"] for uid in uids]
    assert ids == list(range(ids[0], ids[0] + 4))
    assert [db[number].metadata["start"]["uid"] for number in ids] == uids


def test_scan_ids_of_a_server_go_on_from_its_newest_run_or_backup_not_from_one_restored_late(
    RE, db, live4d, catalog_failing_at
):
    RE.md["scan_id"] = first = ScanIds(db, backup_directory(db)).largest()
    token = record(RE, db)
    RE.scan_id_source._file = None  # of a server no directory is known
    with catalog_failing_at("start"):
        (late,) = RE(bp.count([live4d]))
    RE.unsubscribe(token)
    with run_engine() as other:
        record(other, db)
        other.scan_id_source._file = None
        assert other.md["scan_id"] == first + 1
        other.md["scan_id"] = 0
        (uid,) = other(bp.count([live4d]))
        assert db[uid].metadata["start"]["scan_id"] == first + 2
    restore_backup(db, backup_directory(db) / f"{late}.jsonl")
    assert db[-1].metadata["start"]["uid"] == late
    assert ScanIds(db, backup_directory(db)).largest() == first + 2


def test_a_run_begins_although_no_scan_id_can_be_asked_for(RE, db, live4d, tmp_path, monkeypatch, caplog):
    record(RE, db)
    monkeypatch.setattr(RE.scan_id_source, "_file", tmp_path / "no directory" / "scan_id")
    RE.md["scan_id"] = 20_000
    RE(bp.count([live4d]))
    assert "scan id 20001 may be another run's, too" in caplog.text
    assert "FileNotFoundError" in caplog.text


def test_without_a_backup_directory_a_failure_ends_the_plan(RE, db, live4d, catalog_failing_at, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.storage.recorder.backup_directory", lambda db: None)
    record(RE, db)
    with (
        catalog_failing_at("descriptor"),
        pytest.raises(RuntimeError, match="catalog: OSError: disk full"),
    ):
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


def test_it_is_described_alike_through_a_client_of_databroker_2(RE, db, live4d):
    record(RE, db)
    (uid,) = RE(bp.count([live4d]))
    described = describe_run(db, uid)
    try:
        assert describe_run(db.v2, uid) == described
    finally:
        # bluesky-tiled-plugins gives all later runs of the process the form that was asked for last.
        assert describe_run(db.v3, uid) == described


def test_a_run_that_is_not_there_cannot_be_described(db):
    with pytest.raises(KeyError):
        describe_run(db, "0000-no-such-run")
