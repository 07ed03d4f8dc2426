"""What a client of the simulated detector does, for its tests: fetch a series, decode it, ask over REST."""

import contextlib
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
import zmq

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    ImageMessage,
    StartMessage,
    StreamError,
    read_message,
)

#: how long something may take on a busy machine, s
PATIENCE_S = 60.0


@dataclass
class Received:
    """One series as it came."""

    start: StartMessage | None = None
    images: list[ImageMessage] = field(default_factory=list)
    end: EndMessage | None = None
    #: errors of messages that could not be read
    bad: list[str] = field(default_factory=list)

    @property
    def ids(self):
        return [image.image_id for image in self.images]

    def frames(self, channel="threshold_1"):
        """Frames by their ids."""
        return {image.image_id: decode_array(image.channels[channel]) for image in self.images}


class Client:
    """A PULL socket and the REST interface of one simulated DCU."""

    def __init__(self, endpoint, rest_url=None, api="1.8.0"):
        self.api = f"api/{api}"
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PULL)
        self.socket.rcvhwm = 100_000
        self.socket.connect(endpoint)
        self.http = httpx.Client(base_url=rest_url, timeout=PATIENCE_S, trust_env=False) if rest_url else None

    def close(self):
        self.socket.close(0)
        self._context.term()
        if self.http:
            self.http.close()

    def message(self, timeout=PATIENCE_S):
        """The next message as it is on the wire."""
        if not self.socket.poll(int(timeout * 1000)):
            raise TimeoutError(f"no message within {timeout} s")
        return self.socket.recv()

    def series(self, timeout=PATIENCE_S, images=0):
        """Everything up to `end`, or until nothing came for ``timeout`` s after as many ``images`` as must come."""
        received = Received()
        with contextlib.suppress(TimeoutError):
            while received.end is None:
                raw = self.message(timeout if len(received.images) >= images else PATIENCE_S)
                try:
                    message = read_message(raw)
                except StreamError as error:
                    received.bad.append(str(error))
                    continue
                if isinstance(message, StartMessage):
                    received.start = message
                elif isinstance(message, ImageMessage):
                    received.images.append(message)
                elif isinstance(message, EndMessage):
                    received.end = message
        return received

    def get(self, key, module="detector", kind="config"):
        return self.http.get(f"/{module}/{self.api}/{kind}/{key}").raise_for_status().json()["value"]

    def put(self, key, value, module="detector"):
        return self.http.put(f"/{module}/{self.api}/config/{key}", json={"value": value})

    def command(self, name):
        return self.http.put(f"/detector/{self.api}/command/{name}")


def disk(shape, center, radius):
    """Pixels of a disk, bool."""
    row, col = np.indices(shape)
    return np.hypot(row - center[0], col - center[1]) <= radius


def wait_for(condition, timeout=PATIENCE_S):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


def configure(dcu, **values):
    """Settings of a DCU in this process, ``__`` for ``/``."""
    for name, value in values.items():
        dcu.config.put(name.replace("__", "/"), value)
