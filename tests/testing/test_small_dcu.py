"""The small detector of the tests: who came and who left is heard, whatever libzmq makes of it."""

from contextlib import closing

import zmq

from live4d_ophyd.testing.small_dcu import SmallDcu


def test_a_leaving_is_heard_where_libzmq_takes_no_notice_of_an_unbind(monkeypatch):
    """It happens once in 100,000 times, and here the second time."""
    unbind, asked = zmq.Socket.unbind, []

    def sometimes(socket, listener):
        asked.append(listener)
        if len(asked) != 2:
            unbind(socket, listener)

    monkeypatch.setattr(zmq.Socket, "unbind", sometimes)
    monkeypatch.setattr("live4d_ophyd.testing.small_dcu.LISTENER_PATIENCE_S", 0.1)
    with closing(SmallDcu()) as dcu, zmq.Context() as context:
        with context.socket(zmq.PULL) as client:
            client.connect(dcu.endpoint)
            dcu.wait_for_clients(1)
        dcu.wait_for_leaving(1)
    assert len(asked) > 6
