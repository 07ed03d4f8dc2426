"""What a session publishes: to late readers, to slow ones, to none."""

import time
import warnings
import weakref

import numpy as np
import pytest
import zmq

from live4d_ophyd.live import publish as published
from live4d_ophyd.live import wire
from live4d_ophyd.live.publish import MOST_WAITING, Publisher, checked_address, publish, session_address

PREVIEW = {"name": "live4d_live", "uid": "p", "run_start": "a", "data_keys": {"live4d_live_fraction": {}}}
RESULT = {"name": "primary", "uid": "r", "run_start": "a", "data_keys": {}}


def preview(number, size=4):
    return "event", {"descriptor": "p", "seq_num": number, "data": {"image": np.full(size, float(number))}}


def begin(publisher):
    publisher("start", {"uid": "a"})
    publisher("descriptor", PREVIEW)
    publisher("descriptor", RESULT)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


class Reader:
    """Of the documents at an address."""

    def __init__(self, address, most=1000):
        self._context = zmq.Context()
        self._link = self._context.socket(zmq.SUB)
        self._link.set(zmq.RCVHWM, most)
        self._link.set(zmq.LINGER, 0)
        self._link.bind(address)
        self._link.subscribe(b"")

    def introduce(self, publisher):
        """Wait until the publisher knows it: a socket subscribes when its thread comes by."""
        until(lambda: self._link.poll(1) or publisher.is_watched)

    def read(self, timeout=20.0):
        """The next document."""
        assert self._link.poll(round(timeout * 1000)), "nothing comes"
        _, name, content = self._link.recv().split(b" ", 2)
        return name.decode(), wire.loads(content)

    def close(self):
        self._link.close()
        self._context.term()


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path / 'd'}"


@pytest.fixture
def publisher(address):
    found = Publisher(address)
    yield found
    found.close()


@pytest.fixture
def read(address, publisher):
    """A reader that is known to the publisher."""
    reader = Reader(address)
    reader.introduce(publisher)
    yield reader.read
    reader.close()


def test_documents_come_in_order(publisher, read):
    begin(publisher)
    publisher(*preview(1))
    publisher("event", {"descriptor": "r", "seq_num": 1, "data": {}})
    publisher("stop", {"run_start": "a"})
    assert [read()[0] for _ in range(6)] == ["start", "descriptor", "descriptor", "event", "event", "stop"]


def test_without_a_reader_nothing_is_encoded_and_only_the_newest_preview_is_kept(publisher, monkeypatch):
    monkeypatch.setattr(published.wire, "dumps", lambda doc: pytest.fail("encoded"))
    begin(publisher)
    arrays = []
    for number in range(500):
        name, doc = preview(number)
        arrays.append(weakref.ref(doc["data"]["image"]))
        publisher(name, doc)
    del doc
    assert sum(array() is not None for array in arrays) == 1


def test_a_reader_that_comes_late_gets_the_run_so_far(address, publisher):
    begin(publisher)
    for number in range(3):
        publisher(*preview(number))
    publisher("event", {"descriptor": "r", "seq_num": 1, "data": {}})
    reader = Reader(address)
    got = [reader.read() for _ in range(5)]
    assert [name for name, _ in got] == ["start", "descriptor", "descriptor", "event", "event"]
    assert [doc["seq_num"] for name, doc in got if name == "event"] == [2, 1]
    publisher(*preview(3))
    assert reader.read()[1]["seq_num"] == 3
    reader.close()
    until(lambda: not publisher.is_watched)
    publisher("stop", {"run_start": "a"})
    again = Reader(address)
    assert [again.read()[0] for _ in range(6)][-1] == "stop"
    again.close()


def test_a_reader_that_stops_reading_holds_nothing_up(address, publisher):
    """Previews of 8 MB are left out, not kept; what is no preview comes when it reads again."""
    reader = Reader(address, most=1)
    reader.introduce(publisher)
    begin(publisher)
    arrays, slowest = [], 0.0
    for number in range(60):
        name, doc = preview(number, size=1 << 20)
        arrays.append(weakref.ref(doc["data"]["image"]))
        before = time.perf_counter()
        publisher(name, doc)
        slowest = max(slowest, time.perf_counter() - before)
    del doc
    publisher("stop", {"run_start": "a"})
    until(lambda: sum(array() is not None for array in arrays) <= 2)
    assert slowest < 0.2, "the RunEngine waited"
    names = []
    while "stop" not in names:
        names.append(reader.read()[0])
    assert names[:3] == ["start", "descriptor", "descriptor"]
    assert names.count("event") < 60
    assert publisher.dropped == 0
    reader.close()


def test_a_reader_of_other_topics_at_the_same_proxy_changes_nothing(address, publisher):
    reader = Reader(address)
    try:
        reader.introduce(publisher)
        reader._link.subscribe(b"raw")
        reader._link.unsubscribe(b"raw")
        reader._link.subscribe(b" stop")
        until(lambda: b" stop" in publisher._topics)  # and so it has heard of the others
        reader._link.unsubscribe(b" stop")
        until(lambda: b" stop" not in publisher._topics)
        begin(publisher)
        publisher("stop", {"run_start": "a"})
        names = [reader.read()[0] for _ in range(4)]
        assert names == ["start", "descriptor", "descriptor", "stop"]
        assert publisher.is_watched
    finally:
        reader.close()


def test_a_document_that_cannot_be_encoded_costs_no_other(publisher, read, caplog):
    class Odd:
        def __str__(self):
            raise RuntimeError("it has no text")

    publisher("start", {"uid": "a", "odd": Odd()})
    publisher("stop", {"run_start": "a"})
    assert read()[0] == "stop"
    assert "could not be published" in caplog.text


def test_documents_that_wait_are_bounded(publisher, read, monkeypatch):
    """A publishing thread that does not come to it."""
    begin(publisher)
    assert [read()[0] for _ in range(3)]
    slow = wire.dumps
    monkeypatch.setattr(published.wire, "dumps", lambda doc: (time.sleep(0.5), slow(doc))[1])
    for number in range(MOST_WAITING + 50):
        publisher("event", {"descriptor": "r", "seq_num": number, "data": {}})
    assert publisher.dropped >= 40
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["", "host", "host:", "http://host:1", "tcp://a b:1", "ipc://relative"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        checked_address(text)


def test_addresses():
    assert checked_address("127.0.0.1:5577") == "tcp://127.0.0.1:5577"
    assert checked_address("tcp://dcu-1.local:80") == "tcp://dcu-1.local:80"
    assert checked_address("ipc:///run/x") == "ipc:///run/x"


def test_a_session_publishes_to_a_socket_of_its_user(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDERS", type("F", (), {"user_runtime_path": tmp_path / "mine"}))
    assert session_address() == f"ipc://{tmp_path / 'mine' / 'documents'}"
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(OSError, match="others may write"):
        session_address()


def test_a_session_without_a_folder_of_its_own_for_sockets_hears_no_warning(tmp_path, monkeypatch):
    class Folders:  # as platformdirs, which warns once a process
        @property
        def user_runtime_path(self):
            warnings.warn(
                f"XDG_RUNTIME_DIR is not set, falling back to {tmp_path}", RuntimeWarning, stacklevel=1
            )
            return tmp_path / "mine"

    monkeypatch.setattr(published, "FOLDERS", Folders())
    assert session_address() == f"ipc://{tmp_path / 'mine' / 'documents'}"  # a warning is an error here


def test_off_publishes_nothing(RE, monkeypatch):
    monkeypatch.setenv("LIVE4D_PUBLISH", "off")
    assert publish(RE) is None
