"""A run's journal and the thread that writes the catalog: what reaches which of the two when one of them fails."""

import errno
import json
import os
import resource
import sqlite3
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from live4d_ophyd.storage import read_backup
from live4d_ophyd.storage.recorder import CatalogThread, RecordedRun, Recorder

START = ("start", {"uid": "12345", "time": 1.0e9, "plan_name": "count"})
KEYS = {"x": {"dtype": "number", "shape": [], "source": "s" * 400}}
DESCRIPTOR = (
    "descriptor",
    {"uid": "d", "run_start": "12345", "time": 1.0e9, "name": "primary", "data_keys": KEYS},
)
EVENTS = [
    (
        "event",
        {
            "uid": "e" * 400,
            "descriptor": "d",
            "time": 1.0e9,
            "seq_num": number,
            "data": {"x": number},
            "timestamps": {"x": 1.0e9},
        },
    )
    for number in (1, 2, 3)
]
STOP = ("stop", {"uid": "s", "run_start": "12345", "time": 1.0e9, "exit_status": "success"})
RUN = [START, DESCRIPTOR, *EVENTS, STOP]


class Writer(list):
    """Keeps what it gets; fails at documents of the names in ``refused``."""

    refused = ()
    error = OSError("no such catalog")

    def __call__(self, name, doc):
        if name in self.refused:
            raise self.error
        self.append((name, doc))


@pytest.fixture
def writer():
    return Writer()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backup" / "12345.jsonl"


class Recorded:
    """A run whose caller waits, after each document, until the thread is done with it."""

    def __init__(self, writer, path):
        self.thread = CatalogThread()
        self.run = RecordedRun(lambda: writer, path, self.thread)

    def __call__(self, *document):
        self.run(*document)
        assert self.thread.wait(60)
        self.run.raise_if_lost()


@contextmanager
def files_of_at_most(size):
    """The kernel writes files up to this size: first a part of what is asked for, then it refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def documents_in(path):
    return [(entry["name"], entry["doc"]) for entry in map(json.loads, path.read_text().splitlines())]


def test_a_run_is_in_both_until_its_end(writer, path):
    recorded = Recorded(writer, path)
    for number, (name, doc) in enumerate(RUN[:-1], 1):
        recorded(name, doc)
        assert documents_in(path) == RUN[:number] == writer
    recorded(*STOP)
    assert writer == RUN
    assert not path.exists()


@pytest.mark.parametrize("name", ["start", "descriptor", "event", "stop"])
def test_what_the_catalog_refuses_is_whole_in_the_file(writer, path, name, caplog):
    writer.refused = {name}
    recorded = Recorded(writer, path)
    for number, document in enumerate(RUN):
        recorded(*document)
        if document[0] == name:
            writer.refused = ()  # a catalog that comes back gets no run with a hole
        assert documents_in(path) == RUN[: number + 1]
    assert "stop" not in [name for name, _ in writer]
    (message,) = caplog.messages
    assert "OSError: no such catalog" in message
    assert str(path) in message
    assert "live4d restore" in message
    assert read_backup(path).complete


def test_what_only_the_file_has_is_on_the_disk_and_not_on_its_way_there(writer, path, monkeypatch):
    """A catalog that has the document makes it durable itself: then nobody waits for the disk a second time."""
    reached = []

    def fsync(descriptor):
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        reached.append(len(documents_in(path)))

    monkeypatch.setattr(os, "fsync", fsync)
    writer.refused = {"event"}
    recorded = Recorded(writer, path)
    for document in RUN:
        recorded(*document)
    assert reached == [3, 4, 5, 6]  # start and descriptor are in the catalog


@pytest.mark.parametrize(("code", "advice"), [(errno.EIO, ""), (errno.ENOSPC, ". Make room")])
def test_a_file_that_does_not_reach_the_disk_has_not_taken_the_document(
    writer, path, monkeypatch, caplog, code, advice
):
    """As on a network's disk, which says only then that it is full."""

    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    writer.refused = {"event"}
    recorded = Recorded(writer, path)
    for document in RUN[:2]:
        recorded(*document)
    with pytest.raises(RuntimeError) as failure:
        recorded(*RUN[2])
    assert "neither the catalog nor the backup" in str(failure.value)
    assert f"backup: OSError: [Errno {code}]" in str(failure.value)
    assert str(failure.value).endswith(f"`live4d restore` brings it into the catalog{advice}")
    with pytest.raises(RuntimeError, match="neither"):
        recorded(*RUN[3])
    assert documents_in(path)[:2] == RUN[:2]
    assert not read_backup(path).in_use


def test_a_full_disk_of_the_backup_does_not_end_the_run(writer, path, caplog):
    recorded = Recorded(writer, path)
    for document in RUN[:3]:
        recorded(*document)
    with files_of_at_most(path.stat().st_size + 100):
        recorded(*RUN[3])
    (message,) = caplog.messages
    assert f"The backup {path} could not be written" in message
    assert "File too large" in message
    # It holds less than the catalog now, and must not be restored over it.
    assert not path.exists()
    for document in RUN[4:]:
        recorded(*document)
    assert writer == RUN
    assert not path.exists()


@pytest.mark.parametrize("room", [0, 1, 100])
def test_when_both_fail_the_plan_fails_and_the_file_ends_with_a_whole_line(writer, path, room):
    recorded = Recorded(writer, path)
    for document in RUN[:4]:
        recorded(*document)
    writer.refused = {"event"}
    with files_of_at_most(path.stat().st_size + room), pytest.raises(RuntimeError) as failure:
        recorded(*RUN[4])
    assert "neither the catalog nor the backup" in str(failure.value)
    assert str(path) in str(failure.value)
    assert "catalog: OSError: no such catalog" in str(failure.value)
    assert "backup: OSError: [Errno 27] File too large" in str(failure.value)
    assert "Make room" not in str(failure.value)
    with pytest.raises(RuntimeError, match="neither"):
        recorded(*STOP)  # nor does a later document close the hole
    assert documents_in(path) == RUN[:4]
    found = read_backup(path)
    assert (found.events, found.complete, found.damaged, found.in_use) == (2, False, 0, False)


def test_a_backup_that_fails_after_the_catalog_ends_the_plan(writer, path, caplog):
    writer.refused = {"descriptor"}
    recorded = Recorded(writer, path)
    for document in RUN[:3]:
        recorded(*document)
    with (
        files_of_at_most(path.stat().st_size),
        pytest.raises(RuntimeError, match="in the backup: `live4d restore`"),
    ):
        recorded(*RUN[3])
    assert documents_in(path) == RUN[:3]


def test_a_catalog_that_fails_after_the_backup_ends_the_plan(writer, path):
    recorded = Recorded(writer, path)
    for document in RUN[:2]:
        recorded(*document)
    with files_of_at_most(path.stat().st_size):
        recorded(*RUN[2])
    writer.refused = {"stop"}
    with pytest.raises(RuntimeError, match=r"in the catalog$"):
        recorded(*STOP)


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_room_is_asked_for_where_there_is_none(writer, path, full):
    writer.error = full
    writer.refused = {"event"}
    recorded = Recorded(writer, path)
    for document in RUN[:2]:
        recorded(*document)
    with files_of_at_most(path.stat().st_size), pytest.raises(RuntimeError, match=r"Make room$"):
        recorded(*RUN[2])


def test_a_full_device_is_said_at_the_first_document(writer, path, caplog):
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    recorded = Recorded(writer, path)
    for document in RUN:
        recorded(*document)
    assert writer == RUN
    assert "No space left on device" in caplog.text
    assert "Make room" in caplog.text
    assert not path.is_symlink()


def test_without_a_place_for_the_backup_the_run_goes_into_the_catalog(writer, path, caplog):
    path.parent.write_text("no directory")
    recorded = Recorded(writer, path)
    for document in RUN:
        recorded(*document)
    assert writer == RUN
    (message,) = caplog.messages
    assert "FileExistsError" in message
    assert "Make room" not in message


def test_without_a_place_a_failing_catalog_ends_the_plan(writer, path):
    path.parent.write_text("no directory")
    recorded = Recorded(writer, path)
    writer.refused = {"start"}
    with pytest.raises(RuntimeError, match="neither"):
        recorded(*START)


def test_the_file_of_another_writer_of_the_run_is_left_to_it(writer, path, caplog):
    first, second = Recorded(writer, path), Recorded(Writer(), path)
    assert "BlockingIOError" in caplog.text
    for document in RUN[:-1]:
        first(*document)
        second(*document)
    second(*STOP)
    assert documents_in(path) == RUN[:-1]
    first(*STOP)
    assert not path.exists()


def test_a_document_that_is_no_json_goes_into_the_catalog_alone(writer, path, caplog):
    recorded = Recorded(writer, path)
    odd = ("event", {**EVENTS[0][1], "data": {"x": {1, 2}}})
    for document in (*RUN[:2], odd, STOP):
        recorded(*document)
    assert writer[2] == odd
    assert "could not be written (TypeError" in caplog.text
    assert not path.exists()


def test_a_server_that_fails_is_logged_without_its_password(tmp_path, caplog):
    def fail(name, doc):
        raise OSError("500 for url 'http://user:s3cr3t@tiled/api/v1/?api_key=s3cr3t'")

    recorded = Recorded(fail, tmp_path / "run.jsonl")
    recorded("start", {"uid": "1", "time": 0})
    recorded("stop", {"uid": "2"})
    assert "OSError: 500 for url 'http://tiled/api/v1/'" in caplog.text
    assert "s3cr3t" not in caplog.text


# Beside the RunEngine ----------------------------------------------------------------------------


class SlowWriter(Writer):
    """Takes a document when it is allowed to."""

    def __init__(self):
        self.go_on = threading.Semaphore(0)
        self.threads = set()

    def __call__(self, name, doc):
        assert self.go_on.acquire(timeout=60)
        self.threads.add(threading.current_thread().name)
        super().__call__(name, doc)


@pytest.fixture
def slow(path):
    """A writer that waits, and a run with all of its documents on the way to it."""
    writer, thread = SlowWriter(), CatalogThread()
    run = RecordedRun(lambda: writer, path, thread)
    yield SimpleNamespace(writer=writer, thread=thread, run=run)
    writer.go_on.release(1000)


def test_nobody_waits_for_the_catalog_and_all_is_in_the_file_at_once(slow, path):
    for document in RUN:
        slow.run(*document)  # returns although the writer takes nothing
    assert documents_in(path) == RUN
    assert not slow.thread.wait(0.01)
    assert slow.thread.waiting == len(RUN)
    slow.writer.go_on.release(len(RUN))
    assert slow.thread.wait(60)
    assert slow.writer == RUN  # in order
    assert slow.writer.threads == {"live4d-catalog_0"}
    assert not path.exists()
    assert (slow.thread.waiting, slow.run._waiting_bytes) == (0, 0)


def test_a_catalog_too_far_behind_gets_nothing_more_and_the_file_has_all(slow, path, caplog, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.storage.recorder.MOST_WAITING_BYTES", 10_000)
    for document in RUN:
        slow.run(*document)
    slow.writer.go_on.release(1000)
    assert slow.thread.wait(60)
    assert slow.writer in ([], [START])  # where it was; the rest is of no use: the run would have a hole
    (message,) = caplog.messages
    assert "it is 3 documents behind, 0.0 GB: more than is held in memory" in message
    assert "live4d restore" in message
    assert documents_in(path) == RUN
    found = read_backup(path)
    assert (found.complete, found.in_use) == (True, False)


def test_what_the_file_had_before_it_failed_is_not_lost_when_the_catalog_fails_behind_it(slow, path):
    """The catalog lags: it fails at a document that the file, which failed later, still has."""
    slow.writer.refused = {"descriptor"}
    for document in RUN[:3]:
        slow.run(*document)
    with files_of_at_most(path.stat().st_size):
        slow.run(*RUN[3])  # on its way to the catalog only
    slow.writer.go_on.release(1000)
    assert slow.thread.wait(60)
    with pytest.raises(RuntimeError, match=r"this event document unsaved.*in the backup"):
        slow.run(*RUN[4])
    assert documents_in(path) == RUN[:3]


def test_a_loss_behind_the_end_of_the_plan_is_raised_by_who_waits(path, monkeypatch):
    writer = SlowWriter()
    writer.refused = {"stop"}
    monkeypatch.setattr("live4d_ophyd.storage.writer.run_writer", lambda db: writer)
    recorder = Recorder(SimpleNamespace(metadata={}))
    for document in RUN:
        recorder(*document)
    assert not recorder.wait(0.01)
    writer.go_on.release(1000)
    with pytest.raises(RuntimeError, match="catalog: OSError: no such catalog"):
        recorder.wait(60)
    assert recorder.wait(60)  # said once


def test_a_plan_waits_for_the_catalog_as_long_as_that_takes_something(slow, caplog, capsys, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.storage.recorder.PATIENCE_S", 0.01)
    monkeypatch.setattr("live4d_ophyd.storage.recorder.SILENT_S", 0.3)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    recorder = Recorder(SimpleNamespace(metadata={}))
    recorder._thread = slow.thread
    for document in RUN:
        slow.run(*document)
    slow.writer.go_on.release(2)
    with recorder.written_at_the_end(None):
        pass
    assert "into the catalog (Ctrl-C: go on):" in capsys.readouterr().err
    (message,) = caplog.messages
    assert "The catalog is still 4 documents behind" in message
    caplog.clear()
    slow.writer.go_on.release(1000)
    monkeypatch.setattr("live4d_ophyd.storage.recorder.PATIENCE_S", 60.0)
    with pytest.raises(KeyError), recorder.written_at_the_end(None):
        raise KeyError("the plan's own failure")
    assert caplog.messages == []
    assert slow.writer == RUN


def test_an_array_that_its_device_uses_again_is_written_as_it_was(path):
    writer, thread = SlowWriter(), CatalogThread()
    run = RecordedRun(lambda: writer, path, thread)
    buffer = np.zeros(3)
    for document in RUN[:2]:
        run(*document)
    for number in (1, 2):
        buffer[:] = number
        run("event", {**EVENTS[0][1], "data": {"x": buffer}})
    run(*STOP)
    writer.go_on.release(1000)
    assert thread.wait(60)
    assert [doc["data"]["x"].tolist() for name, doc in writer if name == "event"] == [[1.0] * 3, [2.0] * 3]


def test_without_a_journal_a_catalog_too_far_behind_ends_the_plan(monkeypatch):
    monkeypatch.setattr("live4d_ophyd.storage.recorder.MOST_WAITING_BYTES", 10_000)
    writer, thread = SlowWriter(), CatalogThread()
    run = RecordedRun(lambda: writer, None, thread)
    for document in RUN[:3]:
        run(*document)
    with pytest.raises(RuntimeError, match=r"neither.*3 documents behind"):
        run(*RUN[3])
    writer.go_on.release(1000)
    assert thread.wait(60)


def test_ctrl_c_while_a_plan_waits_leaves_the_rest_to_the_thread(slow, caplog, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.storage.recorder.PATIENCE_S", 0.0)
    recorder = Recorder(SimpleNamespace(metadata={}))
    recorder._thread = slow.thread
    slow.run(*RUN[0])

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "_wait_while_it_moves", interrupted)
    with recorder.written_at_the_end(None):
        pass
    assert "1 documents behind" in caplog.text
    for document in RUN[1:]:
        slow.run(*document)
    slow.writer.go_on.release(1000)
    assert slow.thread.wait(60)
