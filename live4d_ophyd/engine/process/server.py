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
from pathlib import Path

import zmq
from zmq.auth import load_certificate
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.decode import Backend, CpuBackend, EngineUnavailable, choose_backend
from live4d_ophyd.engine.errors import EngineInUse
from live4d_ophyd.engine.process import protocol as wire
from live4d_ophyd.engine.process.sockets import prepare
from live4d_ophyd.engine.process.worker import ANY_SESSION, END, EVENTS, Worker
from live4d_ophyd.engine.versions import software

log = logging.getLogger(__name__)

_POLL_MS = 500


class EngineServer:
    """Serves one session at a time at ``endpoint`` (``ipc://...`` or ``tcp://host:port``).

    ``engine`` says where frames are decoded ("auto", "cpu", "gpu"); a session that asks for what is not there is
    refused with the reason. ``allow_modules``: imaging methods may be named as ``module:Class``, which the engine then
    imports. Without CURVE keys, bind to loopback only: the protocol itself carries no authentication.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        engine: str = "cpu",
        curve_keys: Path | None = None,
        allow_modules: bool = False,
    ) -> None:
        self._allow_modules = allow_modules
        self._backends: dict[str, Backend] = {"cpu": CpuBackend()}
        self._no_gpu = "this engine was started for the CPU: live4d serve --engine auto"
        try:
            chosen = choose_backend(engine)
            self._backends["auto"] = self._backends[chosen.name] = self._backends[engine] = chosen
            if chosen.name == "gpu":
                self._no_gpu = f"this engine was started with --engine {engine}"
            if chosen.name == "cpu":
                self._no_gpu = chosen.detail if engine == "auto" else self._no_gpu
        except EngineUnavailable as error:
            self._no_gpu = str(error)
            log.warning("no GPU engine: %s", error)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        prepare(self._socket, endpoint)
        self._socket.router_mandatory = True
        self._authenticator: ThreadAuthenticator | None = None
        if curve_keys:
            self._use_curve(curve_keys)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.bind(endpoint)
        self.endpoint = str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._events = self._context.socket(zmq.PULL)
        self._events.bind(EVENTS)
        self._session: bytes | None = None
        self._worker = Worker(self._context, b"", self._backends["cpu"])

    def _use_curve(self, keys: Path) -> None:
        """Only clients whose keys lie in ``keys/clients`` may connect; the server's is keys/server.key_secret."""
        # Before the thread starts: it would keep a process alive that found no key.
        self._socket.curve_publickey, self._socket.curve_secretkey = load_certificate(
            keys / "server.key_secret"
        )
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(keys / "clients"))
        self._socket.curve_server = True

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
                    recv_monitor_message(self._monitor)
                    self._check_session()
                if self._events in ready:
                    session, event = self._events.recv_multipart()
                    if event == END:
                        return
                    if session in (self._session, ANY_SESSION):
                        self._send(event)
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
            events.send_multipart([ANY_SESSION, END])

    def _obey(self, identity: bytes, raw: bytes) -> None:
        try:
            message = wire.from_session(raw, allow_modules=self._allow_modules)
            if isinstance(message, wire.Hello):
                self._welcome(identity, message.backend)
                return
            if identity != self._session:
                error = EngineInUse("say hello first: another session may have taken this engine")
                self._refuse(identity, error, hello_first=True)
                return
            match message:
                case wire.Acquire():
                    self._worker.acquire(message.generation, message.request)
                case wire.Preview():
                    self._worker.preview_wanted.set()
                case wire.Cancel():
                    self._worker.cancel(message.generation)
                case wire.Release():
                    self._worker.release()
        except Exception as error:  # whatever came over the wire must not end the engine
            log.warning("refused a message: %r", error)
            self._refuse(identity, error, wire.generation_of(raw))

    def _welcome(self, identity: bytes, wanted: str) -> None:
        backend = self._backends.get(wanted)
        if backend is None:
            self._refuse(identity, EngineUnavailable(f"engine {wanted!r} cannot run here: {self._no_gpu}"))
            return
        if self._session != identity and self._alive():
            error = EngineInUse(
                "this engine serves another session", remedy="end that one, or start a second engine"
            )
            self._refuse(identity, error)
            return
        if self._session != identity:
            # Its own worker, so that nothing of the last session's acquisitions is taken for its own.
            self._worker = Worker(self._context, identity, backend, self._worker)
        self._session = identity
        self._send(wire.encode(wire.Ready(os.getpid(), backend.name, backend.detail, software())))

    def _refuse(
        self, identity: bytes, error: Exception, generation: int | None = None, hello_first: bool = False
    ) -> None:
        message = wire.Refused(wire.Failure.of(error), generation, hello_first)
        try:
            self._socket.send_multipart([identity, wire.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.warning("could not answer %r: %s", identity, error)

    def _alive(self) -> bool:
        """Whether the session is still connected: ROUTER_MANDATORY refuses to send to who is not."""
        if self._session is None:
            return False
        try:
            self._socket.send_multipart([self._session, wire.encode(wire.Alive())], zmq.DONTWAIT)
            return True
        except zmq.Again:
            return True  # connected, only slow
        except zmq.ZMQError:
            return False

    def _check_session(self) -> None:
        if self._session is not None and not self._alive():
            self._drop_session("the session is gone")

    def _drop_session(self, reason: str) -> None:
        log.warning("%s: stopping what runs, releasing the detector", reason)
        self._session = None
        self._worker.release()

    def _send(self, message: bytes) -> None:
        if self._session is None:
            return
        try:
            self._socket.send_multipart([self._session, message], zmq.DONTWAIT)
        except zmq.Again:
            # A thousand messages wait for it: it does not read, and would miss its images.
            self._drop_session("the session does not read")
        except zmq.ZMQError:
            self._check_session()


class _LogForwarder(logging.Handler):
    """Sends warnings to the session, whose user does not see this process' log."""

    def __init__(self, context: zmq.Context) -> None:
        super().__init__(logging.WARNING)
        self._events = context.socket(zmq.PUSH)  # used under the handler's lock only
        self._events.linger = 0
        self._events.connect(EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        message = wire.encode(wire.LogLine(record.levelno, record.getMessage()[:1000]))
        with contextlib.suppress(zmq.ZMQError):  # full or closing: the record is in this process' log as well
            self._events.send_multipart([ANY_SESSION, message], zmq.DONTWAIT)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._events.close()
        super().close()
