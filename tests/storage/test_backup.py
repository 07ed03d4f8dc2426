"""The file beside the catalog's writer: what reaches which of the two when one of them fails."""

import errno
import json
import os
import resource
import sqlite3
from contextlib import contextmanager

import pytest

from live4d_ophyd.storage import read_backup
from live4d_ophyd.storage.backup import BackedUp

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
    backed_up = BackedUp(writer, path)
    for number, (name, doc) in enumerate(RUN[:-1], 1):
        backed_up(name, doc)
        assert documents_in(path) == RUN[:number] == writer
    backed_up(*STOP)
    assert writer == RUN
    assert not path.exists()


@pytest.mark.parametrize("name", ["start", "descriptor", "event", "stop"])
def test_what_the_catalog_refuses_is_whole_in_the_file(writer, path, name, caplog):
    writer.refused = {name}
    backed_up = BackedUp(writer, path)
    for number, document in enumerate(RUN):
        backed_up(*document)
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
    backed_up = BackedUp(writer, path)
    for document in RUN:
        backed_up(*document)
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
    backed_up = BackedUp(writer, path)
    for document in RUN[:2]:
        backed_up(*document)
    with pytest.raises(RuntimeError) as failure:
        backed_up(*RUN[2])
    assert "neither the catalog nor the backup" in str(failure.value)
    assert f"backup: OSError: [Errno {code}]" in str(failure.value)
    assert str(failure.value).endswith(f"`live4d restore` brings it into the catalog{advice}")
    with pytest.raises(RuntimeError, match="neither"):
        backed_up(*RUN[3])
    assert documents_in(path)[:2] == RUN[:2]
    assert not read_backup(path).in_use


def test_a_full_disk_of_the_backup_does_not_end_the_run(writer, path, caplog):
    backed_up = BackedUp(writer, path)
    for document in RUN[:3]:
        backed_up(*document)
    with files_of_at_most(path.stat().st_size + 100):
        backed_up(*RUN[3])
    (message,) = caplog.messages
    assert f"The backup {path} could not be written" in message
    assert "File too large" in message
    # It holds less than the catalog now, and must not be restored over it.
    assert not path.exists()
    for document in RUN[4:]:
        backed_up(*document)
    assert writer == RUN
    assert not path.exists()


@pytest.mark.parametrize("room", [0, 1, 100])
def test_when_both_fail_the_plan_fails_and_the_file_ends_with_a_whole_line(writer, path, room):
    backed_up = BackedUp(writer, path)
    for document in RUN[:4]:
        backed_up(*document)
    writer.refused = {"event"}
    with files_of_at_most(path.stat().st_size + room), pytest.raises(RuntimeError) as failure:
        backed_up(*RUN[4])
    assert "neither the catalog nor the backup" in str(failure.value)
    assert str(path) in str(failure.value)
    assert "catalog: OSError: no such catalog" in str(failure.value)
    assert "backup: OSError: [Errno 27] File too large" in str(failure.value)
    assert "Make room" not in str(failure.value)
    with pytest.raises(RuntimeError, match="neither"):
        backed_up(*STOP)  # nor does a later document close the hole
    assert documents_in(path) == RUN[:4]
    found = read_backup(path)
    assert (found.events, found.complete, found.damaged, found.in_use) == (2, False, 0, False)


def test_a_backup_that_fails_after_the_catalog_ends_the_plan(writer, path, caplog):
    writer.refused = {"descriptor"}
    backed_up = BackedUp(writer, path)
    for document in RUN[:3]:
        backed_up(*document)
    with (
        files_of_at_most(path.stat().st_size),
        pytest.raises(RuntimeError, match="in the backup: `live4d restore`"),
    ):
        backed_up(*RUN[3])
    assert documents_in(path) == RUN[:3]


def test_a_catalog_that_fails_after_the_backup_ends_the_plan(writer, path):
    backed_up = BackedUp(writer, path)
    for document in RUN[:2]:
        backed_up(*document)
    with files_of_at_most(path.stat().st_size):
        backed_up(*RUN[2])
    writer.refused = {"stop"}
    with pytest.raises(RuntimeError, match=r"in the catalog$"):
        backed_up(*STOP)


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
    backed_up = BackedUp(writer, path)
    for document in RUN[:2]:
        backed_up(*document)
    with files_of_at_most(path.stat().st_size), pytest.raises(RuntimeError, match=r"Make room$"):
        backed_up(*RUN[2])


def test_a_full_device_is_said_at_the_first_document(writer, path, caplog):
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    backed_up = BackedUp(writer, path)
    for document in RUN:
        backed_up(*document)
    assert writer == RUN
    assert "No space left on device" in caplog.text
    assert "Make room" in caplog.text
    assert not path.is_symlink()


def test_without_a_place_for_the_backup_the_run_goes_into_the_catalog(writer, path, caplog):
    path.parent.write_text("no directory")
    backed_up = BackedUp(writer, path)
    for document in RUN:
        backed_up(*document)
    assert writer == RUN
    (message,) = caplog.messages
    assert "FileExistsError" in message
    assert "Make room" not in message


def test_without_a_place_a_failing_catalog_ends_the_plan(writer, path):
    path.parent.write_text("no directory")
    backed_up = BackedUp(writer, path)
    writer.refused = {"start"}
    with pytest.raises(RuntimeError, match="neither"):
        backed_up(*START)


def test_the_file_of_another_writer_of_the_run_is_left_to_it(writer, path, caplog):
    first, second = BackedUp(writer, path), BackedUp(Writer(), path)
    assert "BlockingIOError" in caplog.text
    for document in RUN[:-1]:
        first(*document)
        second(*document)
    second(*STOP)
    assert documents_in(path) == RUN[:-1]
    first(*STOP)
    assert not path.exists()


def test_a_document_that_is_no_json_goes_into_the_catalog_alone(writer, path, caplog):
    backed_up = BackedUp(writer, path)
    odd = ("event", {**EVENTS[0][1], "data": {"x": {1, 2}}})
    for document in (*RUN[:2], odd, STOP):
        backed_up(*document)
    assert writer[2] == odd
    assert "could not be written (TypeError" in caplog.text
    assert not path.exists()


def test_a_server_that_fails_is_logged_without_its_password(tmp_path, caplog):
    def fail(name, doc):
        raise OSError("500 for url 'http://user:s3cr3t@tiled/api/v1/?api_key=s3cr3t'")

    backed_up = BackedUp(fail, tmp_path / "run.jsonl")
    backed_up("start", {"uid": "1", "time": 0})
    backed_up._close()
    assert "OSError: 500 for url 'http://tiled/api/v1/'" in caplog.text
    assert "s3cr3t" not in caplog.text
