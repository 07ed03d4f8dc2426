"""The engine process: commands in, progress and rasters out.

One session at a time. Main thread: a ROUTER socket to the session and an inproc PULL socket from the
acquisition. ``live4d-acquisition`` runs one acquisition after the other; ``live4d-progress`` reports on the one
that runs; ``live4d-owner`` ends the process when the session that spawned it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import load_certificate
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.decode import Backend, CpuBackend, EngineUnavailable, GpuLost, choose_backend
from live4d_ophyd.engine import wire
from live4d_ophyd.engine.acquisition import Acquisition, Cancelled, OpenStream
from live4d_ophyd.engine.spec import AcquisitionSpec

log = logging.getLogger(__name__)

#: how often progress goes to the session, with a preview if one is wanted, s
PROGRESS_PERIOD_S = 0.1
_POLL_MS = 500
_EVENTS = "inproc://events"
_END = b""
_ANY_SESSION = b""  # events are [session they are for, message]


class EngineServer:
    """Serves one session at a time at ``endpoint`` (``ipc://...`` or ``tcp://host:port``).

    ``engine`` says where frames are decoded ("auto", "cpu", "gpu"); a session that asks for what is not there is
    refused with the reason. Without CURVE keys, bind to loopback only: the protocol itself carries no
    authentication.
    """

    def __init__(self, endpoint: str, *, engine: str = "cpu", curve_keys: Path | None = None) -> None:
        self._backends: dict[str, Backend] = {"cpu": CpuBackend()}
        self._no_gpu = "this engine was started for the CPU: live4d serve --engine auto"
        try:
            chosen = choose_backend(engine)
            self._backends["auto"] = self._backends[chosen.name] = chosen
            if chosen.name == "cpu":
                self._no_gpu = chosen.detail if engine == "auto" else self._no_gpu
        except EngineUnavailable as error:
            self._no_gpu = str(error)
            log.warning("no GPU engine: %s", error)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        wire.prepare(self._socket, endpoint)
        self._socket.router_mandatory = True
        self._authenticator: ThreadAuthenticator | None = None
        if curve_keys:
            self._use_curve(curve_keys)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.bind(endpoint)
        self.endpoint = str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._events = self._context.socket(zmq.PULL)
        self._events.bind(_EVENTS)
        self._session: bytes | None = None
        self._worker = _Worker(self._context, b"", self._backends["cpu"])

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
                    if event == _END:
                        return
                    if session in (self._session, _ANY_SESSION):
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
            events.connect(_EVENTS)
            events.send_multipart([_ANY_SESSION, _END])

    def _obey(self, identity: bytes, raw: bytes) -> None:
        try:
            message = wire.decode(raw)
            kind = message["kind"]
            if kind == "hello":
                self._welcome(identity, message.get("engine", "auto"))
            elif identity != self._session:
                self._refuse(identity, "say hello first: another session may have taken this engine", True)
            elif kind == "acquire":
                self._worker.acquire(message["generation"], AcquisitionSpec.from_dict(message["spec"]))
            elif kind == "preview":
                self._worker.preview_wanted.set()
            elif kind == "cancel":
                self._worker.cancel(message["generation"])
            elif kind == "release":
                self._worker.release()
            else:
                raise wire.WireError(f"unknown message kind {kind!r}")
        except Exception as error:  # whatever came over the wire must not end the engine
            log.warning("refused a message: %r", error)
            self._refuse(identity, f"{type(error).__name__}: {error}")

    def _welcome(self, identity: bytes, engine: str) -> None:
        backend = self._backends.get(engine)
        if backend is None:
            self._refuse(identity, f"engine {engine!r} cannot run here: {self._no_gpu}")
            return
        if self._session != identity and self._alive():
            self._refuse(
                identity, "this engine serves another session; end that one, or start a second engine"
            )
            return
        if self._session != identity:
            # Its own worker, so that nothing of the last session's acquisitions is taken for its own.
            self._worker = _Worker(self._context, identity, backend, self._worker)
        self._session = identity
        self._send(wire.encode("ready", pid=os.getpid(), engine=backend.name, detail=backend.detail))

    def _refuse(self, identity: bytes, reason: str, hello_first: bool = False) -> None:
        message = wire.encode("refused", reason=reason, hello_first=hello_first)
        try:
            self._socket.send_multipart([identity, message], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.warning("could not answer %r: %s", identity, error)

    def _alive(self) -> bool:
        """Whether the session is still connected: ROUTER_MANDATORY refuses to send to who is not."""
        if self._session is None:
            return False
        try:
            self._socket.send_multipart([self._session, wire.encode("alive")], zmq.DONTWAIT)
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
        self._events.connect(_EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        message = wire.encode("log", level=record.levelno, text=record.getMessage()[:1000])
        with contextlib.suppress(zmq.ZMQError):  # full or closing: the record is in this process' log as well
            self._events.send_multipart([_ANY_SESSION, message], zmq.DONTWAIT)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._events.close()
        super().close()


class _Worker:
    """Runs one session's acquisitions one after the other in its thread; keeps the stream open between them.

    ``before`` is the worker of the session before, which is ended first.
    """

    def __init__(
        self, context: zmq.Context, session: bytes, backend: Backend, before: _Worker | None = None
    ) -> None:
        self._context = context
        self._backend = backend
        self._session = session
        self._before = before
        self._jobs: queue.Queue[tuple[int, AcquisitionSpec] | str | None] = queue.Queue()
        self._current: tuple[int, Acquisition] | None = None
        #: set when the session wants a preview: it is busy enough without those it does not look at
        self.preview_wanted = threading.Event()
        self._generation = 0
        self._cancelled_up_to = 0
        self._lock = threading.Lock()
        self._stream: OpenStream | None = None
        self._thread = threading.Thread(target=self._work, name="live4d-acquisition", daemon=True)
        self._thread.start()

    def acquire(self, generation: int, spec: AcquisitionSpec) -> None:
        with self._lock:
            self._generation = max(self._generation, generation)
        self._jobs.put((generation, spec))

    def cancel(self, generation: int) -> None:
        """Cancel this generation and all before it."""
        with self._lock:
            self._cancelled_up_to = max(self._cancelled_up_to, generation)
            if self._current is not None and self._current[0] <= generation:
                self._current[1].cancel()

    def release(self) -> None:
        """Cancel everything and close the stream."""
        self.cancel(self._generation)
        self._jobs.put("release")

    def end(self) -> None:
        self.cancel(self._generation)
        self._jobs.put(None)
        self._thread.join()

    def _tell(self, events: zmq.Socket, kind: str, **values: Any) -> None:
        events.send_multipart([self._session, wire.encode(kind, **values)])

    def _work(self) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(_EVENTS)
        try:
            if self._before is not None:
                self._before.end()
                self._before = None
            while (job := self._jobs.get()) is not None:
                if job == "release":
                    self._close_stream()
                    self._tell(events, "released")
                else:
                    assert not isinstance(job, str)
                    self._run(events, *job)
        finally:
            self._close_stream()
            events.close()

    def _open_stream(self, spec: AcquisitionSpec) -> OpenStream:
        stream = self._stream
        if stream and (stream.endpoint, stream.connections) != (spec.endpoint, spec.connections):
            self._close_stream()
        if self._stream is None:
            self._stream = OpenStream(spec.endpoint, spec.connections)
        return self._stream

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _run(self, events: zmq.Socket, generation: int, spec: AcquisitionSpec) -> None:
        try:
            acquisition = Acquisition(spec, self._open_stream(spec), self._backend)
            with self._lock:
                if generation <= self._cancelled_up_to:
                    raise Cancelled
                self._current = (generation, acquisition)
            acquisition.on_ready = lambda: self._tell(events, "armed", generation=generation)
            over = threading.Event()
            reporter = threading.Thread(
                target=self._report, args=(acquisition, generation, over), name="live4d-progress", daemon=True
            )
            reporter.start()
            try:
                for raster in acquisition.run():
                    self._tell(events, "raster", generation=generation, raster=raster.to_dict())
            finally:
                over.set()
                reporter.join()
                with self._lock:
                    self._current = None
            self._tell(events, "done", generation=generation)
        except Cancelled:
            self._tell(events, "failed", generation=generation, error="Cancelled", reason="cancelled")
        except GpuLost as error:
            log.error("%s", error)
            reason = f"{error}. This engine process ends"
            self._tell(events, "failed", generation=generation, error="GpuLost", reason=reason)
            events.send_multipart([_ANY_SESSION, _END])
        except Exception as error:
            log.info("acquisition %d failed", generation, exc_info=True)
            reason = str(error) or type(error).__name__
            self._tell(events, "failed", generation=generation, error=type(error).__name__, reason=reason)

    def _report(self, acquisition: Acquisition, generation: int, over: threading.Event) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(_EVENTS)
        try:
            while not over.wait(PROGRESS_PERIOD_S):
                progress = asdict(acquisition.progress())
                images = acquisition.preview() if self.preview_wanted.is_set() else None
                if images is not None:
                    self.preview_wanted.clear()
                self._tell(events, "progress", generation=generation, progress=progress, images=images)
        finally:
            events.close()
