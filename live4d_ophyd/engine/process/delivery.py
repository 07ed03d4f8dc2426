"""Delivery: messages of the engine in parts, of which only some are under way at a time. Both ends; no sockets.

A large message in one piece would keep progress, and libzmq's heartbeat, waiting until a slow link has carried it: the
connection would count as broken. So what must arrive, in its order, is cut into parts. The session acknowledges
each, and only `WINDOW` parts are under way. They are kept until they are acknowledged, and sent again after the
connection was cut. Previews have parts of their own, which go only while nothing else waits, one preview at a time; how
large the next may be follows from how long the last one took.
Small messages that may come late or never, such as progress, go past all this in one piece.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from live4d_ophyd.checks import shown
from live4d_ophyd.engine.errors import ProtocolError
from live4d_ophyd.engine.process.sockets import MAX_MESSAGE_BYTES

#: bytes of a part, and parts under way: half a second of a link of 1 MB/s
PART_BYTES, WINDOW = 128 << 10, 4
#: parts of a preview under way
PREVIEW_WINDOW = 2
#: how long a preview should take to arrive, s, and the bytes of the first one
PREVIEW_S, FIRST_PREVIEW_BYTES = 1.0, 4 << 20
#: bytes that wait for a session at most; what is more is not kept
MOST_BYTES = 1 << 30

_HEAD = struct.Struct("<cBQ")  # lane, whether it is a message's first and last part, number
_EVENTS, _PREVIEWS = b"E", b"P"
_FIRST, _LAST, _GIVEN_UP = 1, 2, 4


@dataclass(frozen=True, eq=False)
class _Part:
    flags: int
    content: bytes
    generation: int | None  #: of the acquisition that it is about


class _Lane:
    """Parts that wait, in order, of which the first ``sent`` are under way."""

    def __init__(self, name: bytes, window: int) -> None:
        self._name, self._window = name, window
        self._parts: deque[_Part] = deque()
        self.first = 0  #: number of the first part that waits
        self._sent = 0
        self.bytes = 0

    def put(self, message: bytes, generation: int | None = None) -> None:
        count = max(1, -(-len(message) // PART_BYTES))
        for n in range(count):
            content = message[n * PART_BYTES : (n + 1) * PART_BYTES]
            flags = _FIRST * (n == 0) | _LAST * (n == count - 1)
            self._parts.append(_Part(flags, content, generation))
            self.bytes += len(content)

    def ready(self) -> Iterator[list[bytes]]:
        """Parts that may be sent now; each counts as sent."""
        while self._sent < min(self._window, len(self._parts)):
            part, number = self._parts[self._sent], self.first + self._sent
            self._sent += 1
            yield [_HEAD.pack(self._name, part.flags, number), part.content]

    def unsent(self) -> None:
        """The newest part that `ready` gave was not sent after all."""
        self._sent -= 1

    def acknowledge(self, count: int) -> None:
        """``count`` parts of all have arrived. Raises ValueError where so many were not sent."""
        if not self.first <= count <= self.first + self._sent:
            raise ValueError(f"{count} parts; between {self.first} and {self.first + self._sent} were sent")
        while self.first < count:
            self.bytes -= len(self._parts.popleft().content)
            self.first += 1
            self._sent -= 1

    def again(self, count: int) -> None:
        """Send what is behind the first ``count`` parts of all once more. Raises ValueError as `acknowledge`."""
        self.acknowledge(count)
        self._sent = 0

    def drop_all(self) -> None:
        """Drop what waits. A message that is under way stays cut off."""
        self.first += len(self._parts)
        self._parts.clear()
        self._sent = self.bytes = 0

    def drop(self, generation: int) -> None:
        """Drop what waits of acquisitions up to this one; a message that is under way is given up."""
        parts = list(self._parts)
        sent, waiting = parts[: self._sent], parts[self._sent :]
        obsolete = [p.generation is not None and p.generation <= generation for p in waiting]
        kept = [part for part, old in zip(waiting, obsolete) if not old]
        if waiting and obsolete[0] and not waiting[0].flags & _FIRST:  # its beginning is on its way, or was
            kept.insert(0, _Part(_GIVEN_UP, b"", None))
        self._parts = deque(sent + kept)
        self.bytes = sum(len(part.content) for part in self._parts)

    @property
    def empty(self) -> bool:
        return not self._parts


class Outbox:
    """What one session has not got yet."""

    def __init__(self) -> None:
        self._events, self._previews = _Lane(_EVENTS, WINDOW), _Lane(_PREVIEWS, PREVIEW_WINDOW)
        self._cancelled = -1
        #: bytes that a preview should have at most
        self.preview_room = float(FIRST_PREVIEW_BYTES)
        self._preview_size, self._preview_since = 0, 0.0

    def put(self, message: bytes, generation: int | None = None) -> bool:
        """A message that must arrive, behind those before it; ``generation``: of the acquisition that it is about.

        False where too much waits already: it is not kept.
        """
        if generation is not None and generation <= self._cancelled:
            return True  # nobody waits for it any more
        if self._events.bytes + len(message) > MOST_BYTES and not self._events.empty:
            return False
        self._events.put(message, generation)
        return True

    def cancel(self, generation: int) -> None:
        """Nobody waits any more for what there is of this acquisition and those before it."""
        self._cancelled = max(self._cancelled, generation)
        self._events.drop(self._cancelled)

    def put_preview(self, message: bytes) -> None:
        """A preview, if no other is under way; else it is dropped."""
        if self._previews.empty:
            self._previews.put(message)
            self._preview_size, self._preview_since = len(message), time.monotonic()

    @property
    def preview_free(self) -> bool:
        """Whether the preview before has arrived."""
        return self._previews.empty

    @property
    def waits(self) -> bool:
        """Whether something that must arrive has not."""
        return not self._events.empty

    def ready(self) -> Iterator[list[bytes]]:
        """Parts to be sent now: those of previews only while nothing else waits."""
        yield from self._events.ready()
        if self._events.empty:
            yield from self._previews.ready()

    def unsent(self, part: Sequence[bytes]) -> None:
        """The part that `ready` gave last could not be sent."""
        (self._events if part[0][:1] == _EVENTS else self._previews).unsent()

    def received(self, parts: int, previews: int) -> None:
        """So many parts of each kind have arrived in all. Raises ValueError for a number that cannot be."""
        self._events.acknowledge(parts)
        if previews >= self._previews.first:  # else of one that was dropped
            self._previews.acknowledge(previews)
            if self._previews.empty and self._preview_size:
                self._measure(time.monotonic() - self._preview_since)

    def _measure(self, took: float) -> None:
        """A preview has arrived after ``took`` s."""
        if took > PREVIEW_S:
            self.preview_room = max(PART_BYTES, self._preview_size * PREVIEW_S / took)
        elif took < PREVIEW_S / 2 and self._preview_size * 2 > self.preview_room:
            self.preview_room = min(2.0 * self.preview_room, MOST_BYTES)
        self._preview_size = 0

    def resume(self, parts: int) -> None:
        """The session is back, and has got so many parts: send the others again. Previews are not."""
        self._events.again(parts)
        self._previews.drop_all()
        self._preview_size = 0


class Inbox:
    """The session's end: parts to messages."""

    def __init__(self) -> None:
        self.parts = self.previews = 0  #: received of all, to be acknowledged
        self._event: list[bytes] = []
        self._preview: list[bytes] | None = None  #: None: its beginning was not received

    def accept(self, frames: Sequence[bytes]) -> bytes | None:
        """The message that is whole with this part; None before. Raises ProtocolError for what is no part."""
        if len(frames) != 2 or len(frames[0]) != _HEAD.size:
            raise ProtocolError(f"a part has {len(frames)} frames of {[len(f) for f in frames[:3]]} bytes")
        lane, flags, number = _HEAD.unpack(frames[0])
        if lane not in (_EVENTS, _PREVIEWS) or flags > _GIVEN_UP:
            raise ProtocolError(f"a part is of the kind {shown(lane)} with the flags {flags}")
        if len(frames[1]) > PART_BYTES:
            raise ProtocolError(f"a part has {len(frames[1])} bytes; expected at most {PART_BYTES}")
        if lane == _PREVIEWS:
            return self._accept_preview(flags, number, frames[1])
        if number < self.parts:
            return None  # sent again after a cut, and here already
        if number > self.parts or bool(self._event) == bool(flags & _FIRST):
            raise ProtocolError(f"part {number} came where part {self.parts} was expected")
        self.parts += 1
        if flags & _GIVEN_UP:
            self._event.clear()
            return None
        return self._whole(self._event, flags, frames[1])

    def _accept_preview(self, flags: int, number: int, part: bytes) -> bytes | None:
        if flags & _FIRST:
            self._preview = []
        elif self._preview is None or number != self.previews:
            self._preview = None  # of one that was cut off
        self.previews = number + 1
        return None if self._preview is None else self._whole(self._preview, flags, part)

    def _whole(self, pieces: list[bytes], flags: int, part: bytes) -> bytes | None:
        pieces.append(part)
        if len(pieces) * PART_BYTES > MAX_MESSAGE_BYTES + PART_BYTES:
            raise ProtocolError(f"a message has more than {MAX_MESSAGE_BYTES >> 20} MiB")
        if not flags & _LAST:
            return None
        whole = b"".join(pieces)
        pieces.clear()
        return whole
