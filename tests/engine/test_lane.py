"""A connection's thread receives while batches before are decoded, and leaves none under way."""

from types import SimpleNamespace

import pytest

from live4d_ophyd.engine.lane import Lane

BACKEND = SimpleNamespace(in_flight=2, memory=SimpleNamespace(batch=object))


def test_when_receiving_fails_what_is_under_way_is_finished_though_a_step_fails():
    """A device may still read its memory."""
    finished = []

    def step(name, error=None):
        def finish():
            finished.append(name)
            if error:
                raise error

        return SimpleNamespace(ready=False, finish=finish)

    given = [[step("first", MemoryError("full")), step("second")], [step("third")]]

    def accept(items, backend):
        if not given:
            raise ConnectionError("the stream broke")
        return given.pop(0)

    connection = SimpleNamespace(receive=lambda batch, timeout: [])
    with pytest.raises(ConnectionError, match="the stream broke"):
        Lane(connection, SimpleNamespace(accept=accept), BACKEND).run(lambda: False)
    assert finished == ["first", "second", "third"]
