"""Recorded messages back onto the wire.

In: files of one stream v2 message each. Out: the same bytes through a PUSH socket, paced, on the calling
thread.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2
import zmq

from live4d_ophyd.sim.encode import (
    MULTI_DIM_ARRAY,
    TICKS_PER_S,
    TYPED_ARRAY_TAGS,
    Header,
    Series,
    start_message,
)
from live4d_ophyd.sim.sender import bound_address
from live4d_ophyd.sources.dectris.messages import StreamError, read_message
from live4d_ophyd.sources.dectris.recorded import recorded_message

_DTYPES = {tag: dtype for dtype, tag in TYPED_ARRAY_TAGS.items()}


@dataclass(frozen=True)
class Recording:
    """Messages in sending order and what each is."""

    messages: tuple[bytes, ...]
    types: tuple[str, ...]  #: of each message: start, image or end

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Recording:
        """Files in the order given, a directory's ``*.cbor`` as a detector sends them.

        Raises ValueError where there are none, and for the first that is no message: a client would get it as one.
        """
        files: list[Path] = []
        for path in map(Path, paths):
            files += sorted(path.glob("*.cbor"), key=_sending_order) if path.is_dir() else [path]
        if not files:
            raise ValueError("nothing to replay: no *.cbor files in the directories given")
        messages, types = zip(*map(_read, files))
        return cls(messages, types)

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        return iter(zip(self.messages, self.types))

    @property
    def start_missing(self) -> bool:
        return "start" not in self.types

    def with_start(self) -> Recording:
        """The same with a start message before everything, made from the first frame. Raises ValueError."""
        if "image" not in self.types:
            raise ValueError("cannot make a start message: there is no frame among the files")
        raw = self.messages[self.types.index("image")]
        try:
            read_message(raw)
        except StreamError as error:
            raise ValueError(f"cannot make a start message from the first frame: {error}") from None
        first = cbor2.loads(raw)
        start = start_from_image(first, self.types.count("image"))
        return replace(self, messages=(start, *self.messages), types=("start", *self.types))


def _read(file: Path) -> tuple[bytes, str]:
    """The message in a file and its type. Fields are not looked at: a client is to get odd ones as well."""
    try:
        raw = recorded_message(file)
        stream = io.BytesIO(raw)
        try:
            kind = cbor2.CBORDecoder(stream).decode()["type"]
        except Exception:  # cbor2 raises what it likes
            kind = None
        if kind is None or stream.tell() < len(raw):
            read_message(raw)  # has the reason
        if kind not in ("start", "image", "end"):
            raise StreamError(f"its type is {kind!r}; expected start, image or end")
    except StreamError as error:
        raise ValueError(f"{file} cannot be replayed: {error}") from None
    return raw, kind


def start_from_image(image: Any, number_of_images: int) -> bytes:
    """A start message that fits a decoded image message. Raises ValueError where its arrays are not understood."""
    channels = tuple(image["data"])
    array = image["data"][channels[0]]
    if not isinstance(array, cbor2.CBORTag) or array.tag != MULTI_DIM_ARRAY:
        raise ValueError(f"cannot make a start message: channel {channels[0]} is no tag-40 array")
    (rows, cols), typed = array.value
    if typed.tag not in _DTYPES:
        raise ValueError(
            f"cannot make a start message: typed-array tag {typed.tag} is none of {sorted(_DTYPES)}"
        )
    count_time = image["real_time"][0] / image["real_time"][1] if "real_time" in image else 1 / TICKS_PER_S
    header = Header(
        rows=rows,
        cols=cols,
        dtype=_DTYPES[typed.tag],
        channels=channels,
        number_of_images=number_of_images,
        count_time=count_time,
        frame_time=count_time,
        description="replayed; start message made from the first frame",
    )
    date = image["series_date"].isoformat(timespec="milliseconds") if "series_date" in image else None
    series = Series(image["series_id"], image["series_unique_id"])
    return start_message(replace(series, date=date) if date else series, header)


def stream_recording(
    recording: Iterable[tuple[bytes, str]],
    endpoint: str = "tcp://127.0.0.1:0",
    rate: float = 100.0,
    *,
    repeat: int = 1,
    linger_s: float = 30.0,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Bind, tell ``ready`` the address, wait for a client, send at ``rate`` frames a second (0: no pause).

    ``recording``: messages and what each is, start, image or end.

    Returns when a client has everything, or after ``linger_s``. Raises OSError when the address is taken.
    """
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = int(linger_s * 1000)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise OSError(
                error.errno, f"cannot stream at {endpoint}: {os.strerror(error.errno or 0)}"
            ) from None
        ready(bound_address(socket))
        due = None
        for _ in range(repeat):
            for message, kind in recording:
                if kind == "image" and rate > 0 and due is not None:
                    due = max(due + 1 / rate, time.monotonic() - 1)
                    time.sleep(max(0.0, due - time.monotonic()))
                socket.send(message)
                due = time.monotonic() if due is None else due


def _sending_order(file: Path) -> tuple[int, int, int, str]:
    """Sort key: by series, and in it `start`, images by number, `end`; what cannot be read comes last, by name."""
    try:
        message = cbor2.loads(file.read_bytes())
        place = ("start", "image", "end").index(message["type"])
        return int(message["series_id"]), place, int(message.get("image_id", 0)), file.name
    except Exception:  # any file may be in a directory, and cbor2 raises what it likes
        return 1 << 62, 0, 0, file.name
