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

import zmq
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.engine import wire
from live4d_ophyd.engine.acquisition import Acquisition, Cancelled, OpenStream
from live4d_ophyd.engine.spec import AcquisitionSpec

log = logging.getLogger(__name__)

#: how often progress and a preview go to the session, s
PROGRESS_PERIOD_S = 0.1
#: previews are sent less often when they are large, bytes/s
PREVIEW_BANDWIDTH = 50e6
_EVENTS = "inproc://events"
_END = b""


class EngineServer:
    """Serves one session at a time at ``endpoint`` (``ipc://...`` or ``tcp://host:port``).

    Without CURVE keys, bind to loopback only: the protocol itself carries no authentication.
    """

    def __init__(self, endpoint: str, *, curve_keys: Path | None = None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        wire.prepare(self._socket)
        self._socket.router_mandatory = True
        if curve_keys:
            self._use_curve(curve_keys)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.bind(endpoint)
        self.endpoint = str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._events = self._context.socket(zmq.PULL)
        self._events.bind(_EVENTS)
        self._session: bytes | None = None
        self._worker = _Worker(self._context)

    def _use_curve(self, keys: Path) -> None:
        """Only clients whose keys lie in ``keys/clients`` may connect; the server's is keys/server.key_secret."""
        from zmq.auth import load_certificate
        from zmq.auth.thread import ThreadAuthenticator

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(keys / "clients"))
        self._socket.curve_publickey, self._socket.curve_secretkey = load_certificate(
            keys / "server.key_secret"
        )
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
                ready = dict(poller.poll())
                if self._monitor in ready:
                    recv_monitor_message(self._monitor)
                    self._check_session()
                if self._events in ready:
                    event = self._events.recv()
                    if event == _END:
                        return
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

    def end_with_owner(self) -> None:
        """End `run` when standard input closes: the session that spawned this process is gone, however it went."""

        def watch() -> None:
            sys.stdin.buffer.read()
            self.end()

        threading.Thread(target=watch, name="live4d-owner", daemon=True).start()

    def end(self) -> None:
        """End `run`, from any thread."""
        events = self._context.socket(zmq.PUSH)
        events.connect(_EVENTS)
        events.send(_END)
        events.close()

    def _obey(self, identity: bytes, raw: bytes) -> None:
        try:
            message = wire.decode(raw)
            kind = message["kind"]
            if kind == "hello":
                self._welcome(identity)
            elif identity != self._session:
                self._refuse(identity, "say hello first: another session may have taken this engine")
            elif kind == "acquire":
                self._worker.acquire(message["generation"], AcquisitionSpec.from_dict(message["spec"]))
            elif kind == "cancel":
                self._worker.cancel(message["generation"])
            elif kind == "release":
                self._worker.release()
            else:
                raise wire.WireError(f"unknown message kind {kind!r}")
        except (wire.WireError, KeyError, TypeError, ValueError) as error:
            log.warning("refused a message: %s", error)
            self._refuse(identity, f"{type(error).__name__}: {error}")

    def _welcome(self, identity: bytes) -> None:
        if self._session != identity and self._alive():
            self._refuse(
                identity, "this engine serves another session; end that one, or start a second engine"
            )
            return
        self._session = identity
        self._send(wire.encode("ready", pid=os.getpid(), engine="cpu"))

    def _refuse(self, identity: bytes, reason: str) -> None:
        try:
            self._socket.send_multipart([identity, wire.encode("refused", reason=reason)])
        except zmq.ZMQError as error:
            log.warning("could not answer %r: %s", identity, error)

    def _alive(self) -> bool:
        """Whether the session is still connected: ROUTER_MANDATORY refuses to send to who is not."""
        if self._session is None:
            return False
        try:
            self._socket.send_multipart([self._session, wire.encode("alive")])
            return True
        except zmq.ZMQError:
            return False

    def _check_session(self) -> None:
        if self._session is not None and not self._alive():
            log.warning("the session is gone: stopping what runs, releasing the detector")
            self._session = None
            self._worker.release()

    def _send(self, message: bytes) -> None:
        if self._session is None:
            return
        try:
            self._socket.send_multipart([self._session, message], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.warning("could not reach the session: %s", error)
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
            self._events.send(message, zmq.DONTWAIT)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._events.close()
        super().close()


class _Worker:
    """Runs acquisitions one after the other in its thread; keeps the stream open between them."""

    def __init__(self, context: zmq.Context) -> None:
        self._context = context
        self._jobs: queue.Queue[tuple[int, AcquisitionSpec] | str | None] = queue.Queue()
        self._current: Acquisition | None = None
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
            if self._current is not None:
                self._current.cancel()

    def release(self) -> None:
        """Cancel everything and close the stream."""
        self.cancel(self._generation)
        self._jobs.put("release")

    def end(self) -> None:
        self.cancel(self._generation)
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(_EVENTS)
        try:
            while (job := self._jobs.get()) is not None:
                if job == "release":
                    self._close_stream()
                    events.send(wire.encode("released"))
                else:
                    assert not isinstance(job, str)
                    self._run(events, *job)
        finally:
            self._close_stream()
            events.close()

    def _open_stream(self, spec: AcquisitionSpec) -> OpenStream:
        stream = self._stream
        if stream and (stream.endpoint, len(stream.receivers)) != (spec.endpoint, spec.connections):
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
            acquisition = Acquisition(spec, self._open_stream(spec))
            with self._lock:
                if generation <= self._cancelled_up_to:
                    return
                self._current = acquisition
            over = threading.Event()
            reporter = threading.Thread(
                target=self._report, args=(acquisition, generation, over), name="live4d-progress", daemon=True
            )
            reporter.start()
            try:
                for raster in acquisition.run():
                    events.send(wire.encode("raster", generation=generation, raster=raster.to_dict()))
            finally:
                over.set()
                reporter.join()
                with self._lock:
                    self._current = None
            events.send(wire.encode("done", generation=generation))
        except Cancelled:
            events.send(wire.encode("failed", generation=generation, error="Cancelled", reason="cancelled"))
        except Exception as error:
            log.info("acquisition %d failed", generation, exc_info=True)
            events.send(
                wire.encode("failed", generation=generation, error=type(error).__name__, reason=str(error))
            )

    def _report(self, acquisition: Acquisition, generation: int, over: threading.Event) -> None:
        events = self._context.socket(zmq.PUSH)
        events.linger = 0
        events.connect(_EVENTS)
        try:
            period = PROGRESS_PERIOD_S
            while not over.wait(period):
                images = acquisition.preview()
                progress = asdict(acquisition.progress())
                events.send(wire.encode("progress", generation=generation, progress=progress, images=images))
                size = 0 if images is None else images.nbytes
                period = max(PROGRESS_PERIOD_S, size / PREVIEW_BANDWIDTH)
        finally:
            events.close()
