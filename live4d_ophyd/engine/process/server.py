"""The engine process: commands in, progress and rasters out.

One session at a time. Main thread: a ROUTER socket to the session and an inproc PULL socket from its Worker, whose
threads acquire and report. ``live4d-owner`` ends the process when the session that spawned it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.decode import Backend, BackendUnavailable, CpuBackend, choose_backend
from live4d_ophyd.engine.errors import EngineInUse
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.delivery import MOST_BYTES, Outbox
from live4d_ophyd.engine.process.handshake import FAILURES, log_failure
from live4d_ophyd.engine.process.keys import use_as_engine
from live4d_ophyd.engine.process.sockets import prepare
from live4d_ophyd.engine.process.worker import ANY_SESSION, AS_PREVIEW, ASIDE, END, EVENTS, Worker
from live4d_ophyd.engine.versions import software
from live4d_ophyd.log_limits import NotTooOften, message_of

log = logging.getLogger(__name__)

_POLL_MS = 500
#: a session whose connection broke is waited for so long; and for so long another one waits with it, s
KEEP_S, OWN_S = 120.0, 3.0
#: how long a session that is connected may take to acknowledge a part, s
STUCK_S = 60.0


class EngineServer:
    """Serves one session at a time at ``endpoint`` (``ipc://...`` or ``tcp://host:port``).

    ``backend`` says where frames are decoded ("auto", "cpu", "gpu"); a session that asks for what is not there is
    refused with the reason. ``allow_modules``: imaging methods may be named as ``module:Class``, which the engine
    then imports. ``record_in``: folders in which sessions may record frames; None: any. Without CURVE keys, bind to
    loopback only: the protocol itself carries no authentication.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        backend: str = "cpu",
        curve_keys: Path | None = None,
        allow_modules: bool = False,
        record_in: Sequence[Path] | None = None,
    ) -> None:
        self._allow_modules, self._record_in = allow_modules, record_in
        self._backends: dict[str, Backend] = {"cpu": CpuBackend()}
        self._no_gpu = "this engine was started for the CPU: live4d serve --backend auto"
        try:
            chosen = choose_backend(backend)
            self._backends["auto"] = self._backends[chosen.name] = self._backends[backend] = chosen
            if chosen.name == "gpu":
                self._no_gpu = f"this engine was started with --backend {backend}"
            if chosen.name == "cpu":
                self._no_gpu = chosen.detail if backend == "auto" else self._no_gpu
        except BackendUnavailable as error:
            self._no_gpu = str(error)
            log.warning("no GPU: %s", error)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        prepare(self._socket, endpoint)
        self._socket.router_mandatory = True
        self._socket.router_handover = True  # a session that comes back has its old name
        self._authenticator: ThreadAuthenticator | None = None
        if curve_keys:
            self._use_curve(curve_keys)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | FAILURES)
        self._socket.bind(endpoint)
        self.endpoint = str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._events = self._context.socket(zmq.PULL)
        self._events.bind(EVENTS)
        #: how long a session that was cut off may take to come back, s; one of this machine is gone for good
        self._keep_s = 0.0 if endpoint.startswith("ipc:") else KEEP_S
        self._session: bytes | None = None
        self._outbox = Outbox()
        self._cut_off_at: float | None = None  #: when the connection to the session broke
        self._stuck_since = time.monotonic()
        self._next: tuple[bytes, protocol.Hello] | None = None  #: waits for a session that was cut off
        self._preview_asked = False
        self._heard = 0  #: orders of this session
        self._worker = Worker(self._context, b"", self._backends["cpu"])

    def _use_curve(self, keys: Path) -> None:
        """Only clients whose keys lie in ``keys/clients`` may connect; the server's is keys/server.key_secret."""
        # Before the thread starts: it would keep a process alive that found no key.
        admitted = use_as_engine(self._socket, keys)
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", credentials_provider=admitted)

    def run(self) -> None:
        """Serve until the process is told to end."""
        poller = zmq.Poller()
        for socket in (self._socket, self._events, self._monitor):
            poller.register(socket, zmq.POLLIN)
        forwarder = _LogForwarder(self._context)
        logging.getLogger("live4d_ophyd").addHandler(forwarder)
        try:
            while True:
                # A signal between Python's look for one and the poll would else wait for the next message.
                ready = dict(poller.poll(_POLL_MS))
                if self._monitor in ready:
                    change = recv_monitor_message(self._monitor)
                    log_failure(change, keys=self._authenticator is not None)
                    if change["event"] == zmq.EVENT_DISCONNECTED:
                        self._check_session()
                self._drop_lost_session()
                self._pump()
                if self._events in ready:
                    session, how, about, event = self._events.recv_multipart()
                    if event == END:
                        return
                    if session in (self._session, ANY_SESSION):
                        self._post(how, int(about) if about else None, event)
                if self._socket in ready:
                    identity, *parts = self._socket.recv_multipart()
                    self._obey(identity, parts[-1] if parts else b"")
        finally:
            self._worker.end()
            logging.getLogger("live4d_ophyd").removeHandler(forwarder)
            forwarder.close()
            self._socket.disable_monitor()
            for socket in (self._monitor, self._events, self._socket):
                socket.close()
            if self._authenticator is not None:
                self._authenticator.stop()
            self._context.term()

    def end_with_owner(self) -> None:
        """End `run` when standard input closes: the session that spawned this process is gone, however it went."""

        def watch() -> None:
            sys.stdin.buffer.read()
            self.end()

        threading.Thread(target=watch, name="live4d-owner", daemon=True).start()

    def end(self) -> None:
        """End `run`, from any thread."""
        with self._context.socket(zmq.PUSH) as events:
            events.connect(EVENTS)
            events.send_multipart([ANY_SESSION, ASIDE, b"", END])

    def _obey(self, identity: bytes, raw: bytes) -> None:
        try:
            message = protocol.from_session(raw, allow_modules=self._allow_modules)
            if isinstance(message, protocol.Hello):
                self._welcome(identity, message)
                return
            if identity != self._session:
                error = EngineInUse("say hello first: another session may have taken this engine")
                self._refuse(identity, error, hello_first=True)
                return
            self._heard += isinstance(message, protocol.ORDERS)
            match message:
                case protocol.Acquire():
                    self._worker.acquire(message.generation, message.request)
                case protocol.Preview():
                    self._preview_asked = True
                    if message.whole:
                        self._worker.preview_whole.set()
                    self._pump()
                case protocol.Received():
                    self._outbox.received(message.parts, message.previews)
                    self._stuck_since = time.monotonic()
                    self._pump()
                case protocol.Cancel():
                    self._worker.cancel(message.generation)
                    self._outbox.cancel(message.generation)
                case protocol.Release():
                    self._worker.release()
                case protocol.Probe():
                    self._send([protocol.encode(protocol.Probed(np.zeros(message.size, np.uint8)))])
                case protocol.Bye():
                    self._drop_session("the session said goodbye", logging.INFO)
        except Exception as error:  # whatever came over the wire must not end the engine
            log.warning("refused a message: %r", error)
            self._refuse(identity, error, protocol.generation_of(raw))

    def _welcome(self, identity: bytes, hello: protocol.Hello) -> None:
        backend = self._backends.get(hello.backend)
        if backend is None:
            reason = f"backend {hello.backend!r} cannot run here: {self._no_gpu}"
            self._refuse(identity, BackendUnavailable(reason))
            return
        match self._place_for(identity):
            case "free":
                self._let_in(identity, hello, backend)
            case "wait":
                self._refuse_next()
                self._next = identity, hello
            case "in use":
                self._refuse_in_use(identity)

    def _place_for(self, identity: bytes) -> Literal["free", "wait", "in use"]:
        """Whether the engine is free for this one; "wait" while a session that was cut off may come back."""
        if self._session in (None, identity):
            return "free"
        self._check_session()  # it may be over, or one that waited is let in
        if self._session in (None, identity) or self._overdue():
            return "free"
        return "in use" if self._cut_off_at is None else "wait"

    def _let_in(self, identity: bytes, hello: protocol.Hello, backend: Backend) -> None:
        """Begin a session, or go on with the one that was cut off; then there is no other that waits."""
        knows = False
        if self._session != identity:
            self._begin(identity, backend)
        elif hello.parts is not None:
            self._outbox.resume(hello.parts)  # raises ValueError for what cannot be
            self._worker.preview_whole.set()
            knows = True
        if self._next is not None and self._next[0] == identity:
            self._next = None
        self._refuse_next()
        self._cut_off_at = None
        self._stuck_since = time.monotonic()
        ready = protocol.Ready(os.getpid(), backend.name, backend.detail, software(), knows, self._heard)
        self._send([protocol.encode(ready)])
        self._pump()

    def _begin(self, identity: bytes, backend: Backend) -> None:
        if self._session is not None and self._outbox.waits:
            log.warning("the session before left without what it was still to be sent: that is lost")
        # Its own worker, so that nothing of the last session's acquisitions is taken for its own.
        self._worker = Worker(self._context, identity, backend, self._worker, self._record_in)
        self._session, self._outbox, self._preview_asked, self._heard = identity, Outbox(), False, 0

    def _refuse_next(self) -> None:
        """Tell who waits for a session that was cut off that it came back, or that another waits."""
        if self._next is not None:
            (identity, _), self._next = self._next, None
            self._refuse_in_use(identity)

    def _refuse_in_use(self, identity: bytes) -> None:
        error = EngineInUse(
            "this engine serves another session", remedy="end that one, or start a second engine"
        )
        self._refuse(identity, error)

    def _overdue(self) -> bool:
        """Whether a session that was cut off has had time to come back before others."""
        return self._cut_off_at is not None and time.monotonic() - self._cut_off_at >= min(
            OWN_S, self._keep_s
        )

    def _refuse(
        self, identity: bytes, error: Exception, generation: int | None = None, hello_first: bool = False
    ) -> None:
        message = protocol.Refused(protocol.Failure.of(error), generation, hello_first)
        try:
            self._socket.send_multipart([identity, protocol.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.warning("could not answer %r: %s", identity, error)

    def _alive(self) -> bool:
        """Whether the session is still connected: ROUTER_MANDATORY refuses to send to who is not."""
        if self._session is None:
            return False
        try:
            self._socket.send_multipart([self._session, protocol.encode(protocol.Alive())], zmq.DONTWAIT)
            return True
        except zmq.Again:
            return True  # connected, only slow
        except zmq.ZMQError:
            return False

    def _check_session(self) -> None:
        if self._session is None or self._alive():
            return
        if self._cut_off_at is None:
            self._cut_off_at = time.monotonic()
            if self._keep_s:
                log.warning("the connection to the session broke: what runs goes on for %g s", self._keep_s)
        self._drop_lost_session()

    def _drop_lost_session(self) -> None:
        """Give up a session that does not come back, or does not read."""
        now = time.monotonic()
        if self._next is not None and (self._session is None or self._overdue()):
            (identity, hello), self._next = self._next, None
            self._welcome(identity, hello)
        if self._session is None:
            return
        if self._cut_off_at is not None:
            if now - self._cut_off_at >= self._keep_s:
                lost = ", and what it was still to be sent is lost" if self._outbox.waits else ""
                self._drop_session(f"the session is gone{lost}")
        elif self._outbox.waits and now - self._stuck_since > STUCK_S:
            self._drop_session("the session does not read")

    def _drop_session(self, reason: str, level: int = logging.WARNING) -> None:
        log.log(level, "%s: stopping what runs, releasing the detector", reason)
        self._session = self._cut_off_at = None
        self._outbox = Outbox()
        self._worker.release()

    def _post(self, how: bytes, generation: int | None, message: bytes) -> None:
        """Deliver an event of the worker's, or a line of the log."""
        if self._session is None:
            return
        if how == ASIDE:
            self._send([message])
            return
        if how == AS_PREVIEW:
            self._outbox.put_preview(message)
        else:
            if not self._outbox.waits:
                self._stuck_since = time.monotonic()
            if not self._outbox.put(message, generation):
                self._drop_session(
                    f"more than {MOST_BYTES >> 20} MiB wait for the session, which does not take them"
                )
                return
        self._pump()

    def _pump(self) -> None:
        """Send what may go, and let a preview be made if that is wanted and the one before has arrived."""
        if self._session is None or self._cut_off_at is not None:
            return
        outbox = self._outbox
        for part in outbox.ready():
            if not self._send(part):
                outbox.unsent(part)
                break
        if self._preview_asked and self._outbox.preview_free:
            self._preview_asked = False
            self._worker.preview_room = self._outbox.preview_room
            self._worker.preview_wanted.set()

    def _send(self, frames: Sequence[bytes]) -> bool:
        """Whether it is on its way. What goes aside may be left out."""
        if self._session is None:
            return False
        try:
            self._socket.send_multipart([self._session, *frames], zmq.DONTWAIT)
            return True
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self._check_session()
            return False


class _LogForwarder(logging.Handler):
    """Sends warnings to the session, whose user does not see this process' log."""

    def __init__(self, context: zmq.Context) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(NotTooOften())
        self._events = context.socket(zmq.PUSH)  # used under the handler's lock only
        self._events.linger = 0
        self._events.connect(EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        message = protocol.encode(protocol.LogLine(record.levelno, message_of(record)))
        with contextlib.suppress(zmq.ZMQError):  # full or closing: the record is in this process' log as well
            self._events.send_multipart([ANY_SESSION, ASIDE, b"", message], zmq.DONTWAIT)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._events.close()
        super().close()
