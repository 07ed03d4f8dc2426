"""SmallDcu: a stream that a test puts together message by message, pushed by a thread over real TCP.

In: messages, built with cbor2 alone by the functions here. Out: a PUSH socket that a source connects to. Where the
order matters between sender and listener, `SmallDcu.wait_for_clients` says who listens.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import cbor2
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.sim.compress import compress

UNIQUE_ID = "01GRXWT80JSDY2FNW8SGCCDZD9"
#: how long a client may take to come or go on a busy machine, s
PATIENCE_S = 60.0
#: how long libzmq's thread may take to close a listener before another is tried, s
LISTENER_PATIENCE_S = 2.0

#: of libzmq's monitor, wherever it happened or at this endpoint
_Event = int | tuple[int, bytes]


def encoded(frame: np.ndarray) -> cbor2.CBORTag:
    """The frame as a bslz4 array of the stream."""
    kind = {1: 64, 2: 69, 4: 70}[frame.itemsize]
    content = cbor2.CBORTag(kind, cbor2.CBORTag(56500, ["bslz4", frame.itemsize, compress(frame, "bslz4")]))
    return cbor2.CBORTag(40, [list(frame.shape), content])


def _message(values: dict) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(55799, values))


def start(series_id: int = 1, unique_id: str = UNIQUE_ID, number_of_images: int = 1, **more: Any) -> bytes:
    return _message(
        {
            "type": "start",
            "series_id": series_id,
            "series_unique_id": unique_id,
            "number_of_images": number_of_images,
            **more,
        }
    )


def image(
    frame: np.ndarray,
    image_id: int,
    series_id: int = 1,
    unique_id: str = UNIQUE_ID,
    channels: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> bytes:
    """Image message of one channel with ``frame``, or of these ``channels`` in their order."""
    channels = {"threshold_1": frame} if channels is None else channels
    return _message(
        {
            "type": "image",
            "series_id": series_id,
            "series_unique_id": unique_id,
            "image_id": image_id,
            "real_time": [100, 50_000_000],
            "start_time": [0, 50_000_000],
            "stop_time": [100, 50_000_000],
            "user_data": None,
            "data": {name: encoded(pixels) for name, pixels in channels.items()},
            **more,
        }
    )


def damaged_image(frame: np.ndarray, image_id: int, series_id: int = 1) -> bytes:
    """An `image` that cannot be decoded: what its blob says of its size is not true."""
    message = image(frame, image_id, series_id)
    at = message.index(compress(frame, "bslz4"))
    return message[:at] + b"\xff" * 8 + message[at + 8 :]


def end(series_id: int = 1, unique_id: str = UNIQUE_ID) -> bytes:
    return _message({"type": "end", "series_id": series_id, "series_unique_id": unique_id})


def frames(count: int, shape: tuple[int, int] = (24, 32), dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Poisson counts, brighter with every frame, so that no two sums agree by chance."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.poisson(3 + n, shape) for n in range(count)]).astype(dtype)


def series(pixels: np.ndarray, series_id: int = 1, unique_id: str = UNIQUE_ID) -> list[bytes]:
    """start, images, end."""
    images = [image(frame, n, series_id, unique_id) for n, frame in enumerate(pixels)]
    return [start(series_id, unique_id, len(pixels)), *images, end(series_id, unique_id)]


class SmallDcu:
    """PUSH socket that sends messages in a thread, which waits while nobody is connected, as a DCU queues."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.linger = 0
        # libzmq's sockets are for one thread at a time. Two in one at once, a sender that has not come back yet from
        # its last message and who asks for a leaving, can lose a command to libzmq's own thread.
        self._one_at_a_time = threading.Lock()
        self._one_asks = threading.Lock()  # of the monitor's, which is a socket as well
        self._closing = threading.Event()
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )
        self._seen: Counter[_Event] = Counter()
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._threads: list[threading.Thread] = []

    def wait_for_clients(self, connections: int) -> None:
        """Return when this many more connections have their turn in what is sent."""
        self._wait_for(zmq.EVENT_HANDSHAKE_SUCCEEDED, connections)

    def wait_for_leaving(self, connections: int) -> None:
        """Return when this many more connections have ended, and have no turn any more in what is sent."""
        self._wait_for(zmq.EVENT_DISCONNECTED, connections)
        # The event comes before libzmq's thread has ended the session and its pipe, by commands to and fro, and until
        # then the socket deals it messages. Whatever the thread is asked next it does after these: six times are
        # enough, three were not on a busy machine.
        with self._one_at_a_time:
            for _ in range(6):
                while not self._thread_has_closed_a_listener():
                    pass
                self._socket.poll(0)

    def _thread_has_closed_a_listener(self) -> bool:
        """Have libzmq's thread open and close one; whether it did.

        One in 100,000 stays open on a busy machine: ``unbind`` takes no notice of a listener that the socket has not
        made its own yet, and it has not if a command that came before that is not signalled yet.
        """
        listener = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._socket.unbind(listener)
        return self._sees((zmq.EVENT_CLOSED, listener.encode()), 1, LISTENER_PATIENCE_S)

    def _wait_for(self, event: _Event, count: int) -> None:
        assert self._sees(event, count, PATIENCE_S), f"nothing happened within {PATIENCE_S:g} s"

    def _sees(self, event: _Event, count: int, patience: float) -> bool:
        """Whether so many come within ``patience`` s; they count once."""
        deadline = time.monotonic() + patience
        while not self._has_seen(event, count):
            assert not self._closing.is_set(), "closed, or stopped, while somebody waits"
            if time.monotonic() > deadline:
                return False
        return True

    def _has_seen(self, event: _Event, count: int) -> bool:
        """Whether so many have come by now, or within the next 50 ms; they count once."""
        with self._one_asks:
            if self._seen[event] < count and self._monitor.poll(50):
                came = recv_monitor_message(self._monitor)
                self._seen[came["event"]] += 1
                self._seen[came["event"], came["endpoint"]] += 1
            if self._seen[event] < count:
                return False
            self._seen[event] -= count
            return True

    def send(self, messages: Iterable[bytes | list[bytes]], clients: int = 0) -> None:
        """Send in the background, when this many more connections have come; a list is a multipart message."""

        def work() -> None:
            while clients and not self._has_seen(zmq.EVENT_HANDSHAKE_SUCCEEDED, clients):
                if self._closing.is_set():
                    return
            for message in messages:
                parts = message if isinstance(message, list) else [message]
                while not self._closing.is_set() and not self._sent(parts):  # nobody fetches yet
                    self._closing.wait(0.002)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _sent(self, parts: list[bytes]) -> bool:
        with self._one_at_a_time:
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:
                return False
        return True

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def stop_sending(self) -> None:
        """Whatever is still to be sent is not, nor what comes later."""
        self._closing.set()

    def close(self) -> None:
        if self._socket.closed:
            return
        self.stop_sending()
        self.wait()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()
