"""Documents that a viewer receives: what is none is counted, and costs no other; one viewer an address."""

import time

import pytest
import zmq

pytest.importorskip("bokeh")

from live4d_ophyd.live import wire
from live4d_ophyd.view.documents import AddressInUse, Documents


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path / 'd'}"


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def test_what_is_no_document_is_counted_and_costs_no_other(address, caplog):
    taken = []

    def take(name, doc):
        taken.append((name, doc["uid"]))

    documents = Documents(take, address, bind=True)
    messages = [
        b"",
        b"one two",
        b" start \x80\x04pickle",
        b" start " + wire.dumps({"no": "uid"}),  # what takes it raises
        b" \xff\xfe " + wire.dumps({"uid": "a"}),
        b" resource " + wire.dumps({"uid": "a"}),  # a document that is not for viewers
        b" start " + wire.dumps({"uid": "good"}),
    ]
    with zmq.Context() as context, context.socket(zmq.PUB) as link:
        link.connect(address)
        until(lambda: (link.send(messages[-1]), taken)[1])
        taken.clear()
        for message in messages:
            link.send(message)
        until(lambda: documents.refused == 5 and taken)
    documents.close()
    assert set(taken) == {("start", "good")}
    assert "were no documents of live4d" in caplog.text


def test_one_viewer_an_address_and_the_next_when_it_is_closed(address):
    first = Documents(print, address, bind=True)
    with pytest.raises(AddressInUse, match="another `live4d view`"):
        Documents(print, address, bind=True)
    first.close()
    Documents(print, address, bind=True).close()


def test_an_address_that_cannot_be_bound_is_left_as_it_was(tmp_path):
    address = f"ipc://{tmp_path / 'd'}"
    (tmp_path / "d").mkdir()
    for _ in range(2):  # the second one finds no lock of the first
        with pytest.raises(AddressInUse, match="documents cannot be received"):
            Documents(print, address, bind=True)
