"""Documents on the wire: arrays as they are, and nothing that runs code."""

import pickle
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.live import wire


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8", "i8", "i2", "u1", ">u4", "u8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (5, 4), (2, 3, 4)])
def test_arrays_come_back_as_they_were(dtype, shape):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    back = wire.loads(wire.dumps({"data": {"image": array}}))["data"]["image"]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(back, array)


def test_nan_and_parts_of_arrays_come_back():
    whole = np.arange(48.0).reshape(6, 8)
    whole[2, 3] = np.nan
    part = whole[::2, 1::3]
    np.testing.assert_array_equal(wire.loads(wire.dumps({"a": part}))["a"], part)
    np.testing.assert_array_equal(wire.loads(wire.dumps({"a": whole.T}))["a"], whole.T)


def test_numbers_of_numpy_become_plain_and_other_objects_their_text():
    document = {
        "count": np.int64(7), "mean": np.float64(0.5), "good": np.bool_(True), "path": Path("/data/1.h5"),
        "flags": np.array([True, False]), "words": np.array(["a", "b"]), "shape": (2, 3), "complex": 1 + 2j,
        "when": datetime(2026, 11, 30, 12), "kinds": {"a"}, "large": 1 << 80,
    }  # fmt: skip
    assert wire.loads(wire.dumps(document)) == {
        "count": 7, "mean": 0.5, "good": True, "path": "/data/1.h5", "flags": [True, False], "words": ["a", "b"],
        "shape": [2, 3], "complex": "(1+2j)", "when": "2026-11-30 12:00:00", "kinds": ["a"], "large": 1 << 80,
    }  # fmt: skip


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize(
    "message",
    [
        pickle.dumps(_Bomb()),
        b"",
        wire.dumps({"a": np.ones(9)})[:-1],
        cbor2.dumps({"a": cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(86, bytes(24))])}),
        cbor2.dumps({"a": cbor2.CBORTag(40, [[-2, -2], cbor2.CBORTag(86, bytes(32))])}),
        cbor2.dumps({"a": cbor2.CBORTag(86, bytes(7))}),
        cbor2.dumps({"a": cbor2.CBORTag(35, "(a+)+$")}),
        cbor2.dumps({"a": cbor2.CBORTag(0, "2026-01-01T00:00:00Z")}),
        b"\x81" * 5000 + b"\x00",
    ],
    ids=["pickle", "nothing", "cut off", "too short", "negative", "odd", "pattern", "date", "deep"],
)
def test_what_is_no_document_is_refused(message):
    with pytest.raises(wire.NotADocument):
        wire.loads(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_are_refused(message):
    with suppress(wire.NotADocument):
        assert isinstance(wire.loads(message), dict)


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none()),
    st.lists(st.integers(0, 199), max_size=3),
    st.data(),
)
def test_a_document_with_other_bytes_in_it_is_a_document_or_is_refused(document, places, data):
    message = bytearray(wire.dumps(document | {"image": np.ones((3, 4))}))
    for place in places:
        message[place % len(message)] = data.draw(st.integers(0, 255))
    with suppress(wire.NotADocument):
        assert isinstance(wire.loads(bytes(message)), dict)


INTEROPERABLE = """
import os, threading
import numpy as np
from bluesky.callbacks.zmq import Proxy, RemoteDispatcher
from live4d_ophyd.live import wire
from live4d_ophyd.live.publish import Publisher

proxy = Proxy(("127.0.0.1", "*"), ("127.0.0.1", "*"))
threading.Thread(target=proxy.start, daemon=True).start()
publisher = Publisher(str(proxy.in_port))
dispatcher = RemoteDispatcher(str(proxy.out_port), deserializer=wire.loads, strict=True)
image = np.random.default_rng(2).normal(size=(40, 30))
names = []

def take(name, doc):
    names.append(name)
    if name == "start" and len(names) == 1:
        publisher("event", {"descriptor": "b", "data": {"image": image}})
        publisher("stop", {"uid": "c", "run_start": "a"})
    if name == "event":
        np.testing.assert_array_equal(doc["data"]["image"], image)
    if name == "stop":
        print(names, flush=True)
        os._exit(0)

dispatcher.subscribe(take)

def begin():  # until the dispatcher has subscribed, nothing comes
    publisher("start", {"uid": "a"})
    if not names:
        dispatcher.loop.call_later(0.1, begin)

dispatcher.loop.call_soon(begin)
dispatcher.start()
"""


def test_blueskys_own_proxy_and_dispatcher_bring_them():
    """In a process of its own: the two leave sockets behind."""
    done = subprocess.run([sys.executable, "-c", INTEROPERABLE], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "['start', 'event', 'stop']", done.stderr
