"""What a session tells its engine: in order, waking the socket's thread, and orders again after a cut."""

from contextlib import closing

import pytest
import zmq

from live4d_ophyd.engine.process.outgoing import Outgoing


@pytest.fixture
def outgoing():
    with closing(Outgoing(zmq.Context())) as outgoing:
        yield outgoing


def test_messages_wake_the_thread_and_come_in_their_order(outgoing):
    assert not outgoing.woken.poll(0)
    outgoing.put(b"first")
    outgoing.put(b"second", order=True)
    assert outgoing.woken.poll(5000)
    assert list(outgoing.pop_all()) == [b"first", b"second"]
    assert list(outgoing.pop_all()) == []


def test_orders_that_were_not_heard_are_there_again_and_other_messages_are_not(outgoing):
    for n in range(5):
        outgoing.put(b"%d" % n, order=n % 2 == 0)
    list(outgoing.pop_all())
    assert outgoing.missed(1) == [b"2", b"4"]
    assert outgoing.missed(3) == []


@pytest.mark.parametrize("heard", [0, 151])
def test_orders_that_are_not_known_any_more_are_said(outgoing, heard):
    for _ in range(150):
        outgoing.put(b"", order=True)
    list(outgoing.pop_all())
    with pytest.raises(ValueError, match=f"has missed {150 - heard} orders, more than are known"):
        outgoing.missed(heard)


def test_a_message_after_the_end_harms_nothing():
    outgoing = Outgoing(zmq.Context())
    outgoing.close()
    outgoing.put(b"late")
