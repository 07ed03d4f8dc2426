"""The documents of a RunEngine to other processes, in the form of Bluesky's 0MQ ``Publisher``, without ever waiting.

Comes in: every document, in the RunEngine's thread, which keeps a reference and goes on. Goes out: bytes of `wire`, by
the thread ``live4d-publish``. Nothing is encoded while nobody subscribes. A reader that subscribes in the middle of a
run gets it from its start document on, with the newest Event of each stream; behind a proxy the first of them does.
Previews for which a slow reader has no time are left out; other documents are dropped, and counted, beyond
`MOST_WAITING` of them or 256 MiB on their way.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import stat
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from live4d_ophyd.folders import FOLDERS, make_private
from live4d_ophyd.image_streams import previewed_device
from live4d_ophyd.live import wire

log = logging.getLogger(__name__)

#: names the address that a session publishes to; "off": none
VARIABLE = "LIVE4D_PUBLISH"
#: documents that may wait for a reader
MOST_WAITING = 1000
#: previews that may be on their way: images are large
_PREVIEWS_UNDER_WAY = 2
#: how long the end of a session waits for a reader, ms
_LINGER_MS = 500
#: of every message, before the document's name
_PREFIX = b" "
#: how often a reader that is not there is looked for, ms
_RECONNECT_MS = 250
#: how often a reader has to say that it lives, ms: one that hangs for three times that has gone
_HEARTBEAT_MS = 2000
#: bytes of documents that may be on their way
_MOST_UNDER_WAY = 1 << 28


def session_address() -> str:
    """Where sessions of this user publish unless told otherwise: a socket that only this user can open, ``ipc://...``.

    Raises OSError where its folder is not this user's alone.
    """
    with warnings.catch_warnings():
        # Not set under sudo or in tmux. What platformdirs takes instead is looked at here.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        folder = Path(FOLDERS.user_runtime_path)
    make_private(folder)
    for place in (folder, folder.parent):
        found = place.stat()
        sticky = place is not folder and found.st_mode & stat.S_ISVTX
        if found.st_uid not in (os.getuid(), 0) or (found.st_mode & 0o022 and not sticky):
            raise OSError(
                f"{place} belongs to others, or others may write to it: set XDG_RUNTIME_DIR, or {VARIABLE}"
            )
    return f"ipc://{folder / 'documents'}"


def checked_address(text: str) -> str:
    """``tcp://HOST:PORT`` of ``HOST:PORT``; addresses with tcp:// and ipc:// stay. Raises ValueError."""
    address = text if "://" in text else f"tcp://{text}"
    if not re.fullmatch(r"tcp://(\[[0-9a-fA-F:.]+\]|[\w.-]+):[0-9]{1,5}|ipc:///.{1,100}", address):
        raise ValueError(f"the address of documents is {text!r}; expected HOST:PORT, as in 127.0.0.1:5577")
    return address


def publish(RE: Any, address: str | None = None) -> Publisher | None:
    """Publish all documents of ``RE``; where to: ``address``, else $LIVE4D_PUBLISH, else `session_address`.

    Returns None if that is "off". Raises ValueError, OSError.
    """
    address = address or os.environ.get(VARIABLE) or session_address()
    if address == "off":
        return None
    publisher = Publisher(address)
    RE.subscribe(publisher)
    return publisher


class Publisher:
    """A callback: ``RE.subscribe(Publisher("127.0.0.1:5577"))``; what reads is `live4d view`, or a 0MQ proxy.

    Bluesky's ``RemoteDispatcher(address, deserializer=live4d_ophyd.live.wire.loads)`` reads it behind a proxy.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        self._lock = threading.Lock()
        self._run = RunSoFar()
        self._waiting: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._is_watched = self._is_closed = False
        self._topics: set[bytes] = set()  # that are subscribed to
        self._dropped = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._publish, name="live4d-publish", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        with self._lock:
            if name == "start":
                self._run = RunSoFar()
            self._run.take(name, doc)
            if not self._is_watched or self._is_closed:
                return
            if self._run.is_preview(name, doc):
                self._forget_waiting_preview(doc["descriptor"])
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((name, doc))
            os.eventfd_write(self._wake, 1)  # with the lock: `close` must not close it before

    @property
    def is_watched(self) -> bool:
        """Whether anybody reads."""
        return self._is_watched

    @property
    def dropped(self) -> int:
        """Documents that nobody was quick enough for, without previews."""
        return self._dropped

    def close(self) -> None:
        """End it, when what waits is sent, or after half a second."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        atexit.unregister(self.close)

    def _forget_waiting_preview(self, descriptor: str) -> None:
        newest = next(
            (n for n, (name, doc) in enumerate(self._waiting) if _is_of(name, doc, descriptor)), None
        )
        if newest is not None:
            del self._waiting[newest]

    # In the thread live4d-publish ---------------------------------------------------------------------

    def _publish(self) -> None:
        context = zmq.Context()
        link = context.socket(zmq.XPUB)
        try:
            link.set(zmq.LINGER, _LINGER_MS)
            link.set(zmq.SNDHWM, MOST_WAITING)
            link.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
            link.set(zmq.IMMEDIATE, 1)  # a reader that has gone is one less, not a queue that grows
            link.set(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
            link.set(zmq.HEARTBEAT_TIMEOUT, 3 * _HEARTBEAT_MS)
            link.connect(self.address)
            poller = zmq.Poller()
            poller.register(link, zmq.POLLIN)
            poller.register(self._wake, zmq.POLLIN)
            under_way: list[_Sent] = []
            while True:
                ready = dict(poller.poll())
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                if link in ready:
                    self._note_readers(link)
                if not self._send_waiting(link, under_way):
                    return
        finally:
            link.close()
            context.term()

    def _note_readers(self, link: zmq.Socket) -> None:
        """A reader comes or goes; one that comes gets the run so far."""
        heard = link.recv()
        comes, topic = heard[:1] == b"\x01", heard[1:]
        if not (topic.startswith(_PREFIX) or _PREFIX.startswith(topic)):
            return  # a reader of others, at the same proxy
        with self._lock:
            (self._topics.add if comes else self._topics.discard)(topic)
            self._is_watched = bool(self._topics)
            self._waiting.clear()
            if comes:
                self._waiting.extend(self._run.documents())

    def _send_waiting(self, link: zmq.Socket, under_way: list[_Sent]) -> bool:
        """Send what waits; False when that was the last."""
        while True:
            with self._lock:
                if not self._waiting:
                    return not self._is_closed
                name, doc = self._waiting.popleft()
                preview = self._run.is_preview(name, doc)
            under_way[:] = [sent for sent in under_way if not sent.tracker.done]
            if preview and sum(sent.is_preview for sent in under_way) >= _PREVIEWS_UNDER_WAY:
                continue
            try:
                message = _PREFIX + b" ".join((name.encode(), wire.dumps(doc)))
                if len(message) + sum(sent.size for sent in under_way) > _MOST_UNDER_WAY:
                    with self._lock:
                        self._dropped += 1
                    continue
                tracker = link.send(message, zmq.NOBLOCK, copy=False, track=True)
            except Exception as error:  # what one document holds must not end those after it
                log.error("a document %s could not be published: %s: %s", name, type(error).__name__, error)
                continue
            under_way.append(_Sent(tracker, len(message), preview))


@dataclass(frozen=True)
class _Sent:
    """A message that may still be on its way."""

    tracker: Any
    size: int
    is_preview: bool


def _is_of(name: str, doc: Mapping[str, Any], descriptor: str) -> bool:
    return name == "event" and doc["descriptor"] == descriptor


class RunSoFar:
    """What tells a run to a reader that comes late: its start, streams, the newest Event of each, its end."""

    def __init__(self) -> None:
        self._start: Mapping[str, Any] | None = None
        self._stop: Mapping[str, Any] | None = None
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._events: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._previews: set[str] = set()

    def take(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take the next document."""
        if name == "start":
            self._start = doc
        elif name == "descriptor":
            self._descriptors[doc["uid"]] = doc
            if previewed_device(doc):
                self._previews.add(doc["uid"])
        elif name in ("event", "event_page"):
            if doc["descriptor"] in self._descriptors:
                self._events.pop(doc["descriptor"], None)  # the newest last
                self._events[doc["descriptor"]] = name, doc
        elif name == "stop" and self._start is not None and doc["run_start"] == self._start["uid"]:
            self._stop = doc

    def is_preview(self, name: str, doc: Mapping[str, Any]) -> bool:
        """Whether it is an Event that the next one of its stream replaces."""
        return name == "event" and doc["descriptor"] in self._previews

    def documents(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The run in the order of its documents; nothing before the first."""
        if self._start is None:
            return []
        found = [("start", self._start), *(("descriptor", doc) for doc in self._descriptors.values())]
        found += self._events.values()
        return found + ([] if self._stop is None else [("stop", self._stop)])
