"""EngineClient: the session's end of the engine. Spawns an engine process or connects to one elsewhere.

In: requests from any thread (`Outgoing`). Out: events of the acquisition that runs, to its callback (`Running`), and an
engine that is gone, within a second. ``live4d-engine-client`` is its only thread: it owns the socket.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.checks import printable
from live4d_ophyd.decode import BackendUnavailable
from live4d_ophyd.engine.errors import AcquisitionError, EngineLost, NoEngine, ProtocolError
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.delivery import Inbox
from live4d_ophyd.engine.process.handshake import FAILURES, Handshake
from live4d_ophyd.engine.process.keys import use_as_session
from live4d_ophyd.engine.process.outage import Outage
from live4d_ophyd.engine.process.outgoing import Outgoing
from live4d_ophyd.engine.process.running import Callback, Running
from live4d_ophyd.engine.process.sockets import prepare, why_refused
from live4d_ophyd.engine.process.spawn import EngineProcess
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.log_limits import NotTooOften

log = logging.getLogger(__name__)
log.addFilter(NotTooOften())  # an engine elsewhere may be broken, or none

#: how long an engine may take to answer: one elsewhere, and one that starts here, s
READY_TIMEOUT_S, START_TIMEOUT_S = 60.0, 300.0
#: one that starts cold compiles its kernels first: after so long that is said, s
SLOW_START_S = 8.0
_POLL_MS = 100
#: what the monitor tells of a failed handshake is on its way before messages are refused, ms
_REASON_MS = 1000
#: how long a connection may be cut while nothing runs, s
IDLE_OUTAGE_S = 5.0
#: how long a process whose connection broke may take to show its exit code, s
_EXIT_CODE_S = 0.2


class EngineClient:
    """Connection to an engine.

    ``EngineClient.spawn()`` starts one on this machine that ends with this process;
    ``EngineClient(endpoint)`` connects to one started with ``live4d serve``.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        backend: str = "auto",
        curve_keys: Path | None = None,
        process: EngineProcess | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._wanted_backend = backend
        self.backend = ""  #: what decodes there, "cpu" or "gpu", and on what or why
        self.backend_detail = ""
        self.versions = ""  #: of the software there
        self._process = process
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        prepare(self._socket, endpoint)
        # By which the engine knows it again after a cut. It must not begin with a zero byte.
        self._socket.identity = b"s" + uuid.uuid4().bytes
        if curve_keys:
            try:
                use_as_session(self._socket, curve_keys)
            except Exception:
                self._socket.close()
                self._context.term()
                raise
        self._handshake = Handshake(endpoint, keys=bool(curve_keys))
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | FAILURES
        )
        self._inbox, self._outgoing = Inbox(), Outgoing(self._context)
        self._running = Running(self._outgoing)
        self._resuming = False  # until the engine has answered that it knows us
        self._outage: Outage | None = None  #: while the connection is cut
        self._ready = threading.Event()
        self._released, self._probed = threading.Event(), threading.Event()
        self._lost: EngineLost | None = None
        self._refused: Exception | None = None
        self.pid: int | None = None
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._close_sockets()
            raise ValueError(
                f"cannot connect to an engine at {endpoint!r}: {why_refused(endpoint, error)}"
            ) from error
        self._thread = threading.Thread(target=self._run, name="live4d-engine-client", daemon=True)
        self._thread.start()
        _open_clients.add(self)

    @classmethod
    def spawn(cls, backend: str = "auto") -> EngineClient:
        """Start an engine process on this machine and connect to it; ``backend``: "auto", "cpu" or "gpu"."""
        process = EngineProcess(backend)
        return cls(process.endpoint, backend=backend, process=process)

    # What the device calls, from any thread -----------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._lost is None and self._thread.is_alive()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return when the engine has answered, within ``timeout`` s; by default as long as one may take.

        Raises EngineLost, NoEngine, EngineInUse, ProtocolError for another version, and BackendUnavailable where frames
        cannot be decoded as wanted.
        """
        if timeout is None:
            timeout = READY_TIMEOUT_S if self._process is None else START_TIMEOUT_S
        began, told = time.monotonic(), False
        while not self._ready.wait(0.02):
            waited = time.monotonic() - began
            if self._process is not None and waited > SLOW_START_S and not told:
                told = True
                log.warning(
                    "the engine is still starting: on a new machine it first compiles its kernels, for about a minute"
                )
            if self._lost:
                raise self._lost
            if self._refused:
                raise self._refused
            if waited > timeout:
                words = "" if self._process is None else self._process.last_words()
                raise NoEngine(f"no engine answered at {self.endpoint} within {timeout:g} s{words}")

    def acquire(self, generation: int, request: AcquisitionRequest, on_event: Callback) -> None:
        """Start an acquisition; its events (`protocol.Event`) go to ``on_event`` in the client's thread.

        The last is Done, Failed or Lost. Done comes only behind all rasters of ``request``, each of them as ``request``
        wants it.
        """
        self._running.begin(generation, request, on_event)

    def request_preview(self) -> None:
        """Let one of the next ProgressMade have the images."""
        self._running.ask_for_preview()

    def cancel(self, generation: int) -> None:
        """Cancel this acquisition and all before it; no event of theirs is passed on afterwards."""
        self._running.cancel(generation)

    def release(self, timeout: float = 2.0) -> bool:
        """Let the engine drop its connections to the stream, at once, and leave the detector idle.

        Returns when that is done, or after ``timeout`` s: a control unit may take long to answer. Says whether it is.
        """
        self._released.clear()
        self._post(protocol.encode(protocol.Release()), order=True)
        deadline = time.monotonic() + timeout
        while self.alive and not self._released.wait(0.1):
            if time.monotonic() > deadline:
                log.warning(
                    "the engine has left the stream, but still waits for the detector after %g s", timeout
                )
                return False
        return True

    def probe(self, size: int, timeout: float = 30.0) -> float:
        """How long ``size`` bytes take to come from the engine, and the request to get there, s. Raises EngineLost."""
        self._probed.clear()
        begin = time.monotonic()
        self._post(protocol.encode(protocol.Probe(size)))
        if not self._probed.wait(timeout) or self._lost:
            raise self._lost or EngineLost(
                f"the engine at {self.endpoint} sent no {size} bytes within {timeout:g} s"
            )
        return time.monotonic() - begin

    def close(self) -> None:
        """End the connection, and the engine if this client spawned it."""
        if self._thread.is_alive():
            self._post(protocol.encode(protocol.Bye()))
            self._post(None)
            self._thread.join()
        _open_clients.discard(self)
        if self._process is not None:
            self._process.end()

    def _post(self, message: bytes | None, *, order: bool = False) -> None:
        self._outgoing.put(message, order=order)

    # The client's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._socket, self._monitor, self._outgoing.woken):
            poller.register(socket, zmq.POLLIN)
        self._send(protocol.encode(protocol.Hello(self._wanted_backend)))
        try:
            while True:
                ready = dict(poller.poll(_POLL_MS))
                if self._outgoing.woken in ready:
                    self._outgoing.woken.recv()
                for message in self._outgoing.pop_all():
                    if message is None:
                        return
                    self._send(message)
                if self._socket in ready:
                    self._receive(self._socket.recv_multipart())
                if self._monitor in ready:
                    change = recv_monitor_message(self._monitor)
                    while self._socket.poll(0):  # why it ended may have been said before it did
                        self._receive(self._socket.recv_multipart())
                    self._connection_changed(change)
                self._check_process()
                self._check_signs_of_life()
                if self._lost:
                    return
        except Exception as error:
            log.exception("the connection to the engine at %s failed", self.endpoint)
            self._give_up(f"the connection to the engine at {self.endpoint} failed: {error!r}")
        finally:
            self._close_sockets()

    def _send(self, message: bytes) -> None:
        """Without ever waiting: where a handshake failed, libzmq has nobody to send to, and would wait for ever.

        Why it failed comes from the monitor. What is lost with a cut is sent again after it.
        """
        try:
            self._socket.send(message, zmq.DONTWAIT)
        except zmq.Again:
            if not self._monitor.poll(_REASON_MS):
                self._give_up(f"the engine at {self.endpoint} takes no more messages")

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        for socket in (self._monitor, self._socket):
            socket.close()
        self._outgoing.close()

    def _receive(self, frames: list[bytes]) -> None:
        try:
            message: bytes | None = frames[0]
            if len(frames) > 1:
                if self._resuming:
                    return  # it comes again
                before = self._inbox.parts
                message = self._inbox.accept(frames)
                if self._inbox.parts > before:
                    self._running.part_came()
                self._send(protocol.encode(protocol.Received(self._inbox.parts, self._inbox.previews)))
            if message is not None:
                self._heed(protocol.from_engine(message))
        except ProtocolError as error:
            self._distrust(error)

    def _heed(self, message: protocol.FromEngine) -> None:
        match message:
            case protocol.Ready():
                self._welcomed(message)
            case protocol.LogLine():
                log.log(message.level, "engine: %s", printable(message.text))
            case protocol.Released():
                self._released.set()
            case protocol.Probed():
                self._probed.set()
            case protocol.Refused():
                self._was_refused(message)
            case protocol.Alive():
                pass
            case protocol.PreviewMade():
                self._running.accept_preview(message)
            case _:
                self._running.accept(message)

    def _welcomed(self, ready: protocol.Ready) -> None:
        if self._ready.is_set() and (ready.pid != self.pid or not ready.knows):
            self._give_up(f"the engine at {self.endpoint} is another one, or no longer knows this session")
            return
        if self._resuming:
            self._resuming = False
            try:
                for order in self._outgoing.missed(ready.heard):
                    self._send(order)
            except ValueError as error:
                self._give_up(f"the engine at {self.endpoint} {error}")
        self.pid, self.backend, self.backend_detail = (
            ready.pid,
            printable(ready.backend),
            printable(ready.detail),
        )
        self.versions = printable(ready.versions)
        if self._wanted_backend.partition(":")[0] not in ("auto", ready.backend):
            self._refused = BackendUnavailable(
                f"the engine at {self.endpoint} decodes on the {ready.backend}, asked for was {self._wanted_backend!r}"
            )
            return
        self._ready.set()

    def _was_refused(self, refused: protocol.Refused) -> None:
        failure = refused.failure
        self._refused = replace(
            failure, reason=f"the engine at {self.endpoint} refused: {failure.reason}"
        ).error
        self._running.refused(refused.generation, failure)
        if refused.hello_first:
            self._give_up(f"the engine at {self.endpoint} no longer knows this session")

    def _distrust(self, error: ProtocolError) -> None:
        """The engine said what it must not say: it cannot be known any more what becomes of what it was asked for."""
        error = ProtocolError(
            f"the engine at {self.endpoint} sent what this session cannot use: {error.reason}",
            remedy=error.remedy,
        )
        log.error("%s", error)
        if not self._ready.is_set() and self._refused is None:  # the first reason is the one that helps
            self._refused = error
        self._running.break_off(error)

    def _connection_changed(self, change: Mapping[str, Any]) -> None:
        if reason := self._handshake.why_failed(change):
            self._give_up(reason)
        elif change["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if self._outage is not None:
                log.warning("connected with the engine at %s again", self.endpoint)
                self._outage, self._resuming = None, True
                self._send(protocol.encode(protocol.Hello(self._wanted_backend, self._inbox.parts)))
                if self._running.awaits_preview:  # what was on its way is lost
                    self._send(protocol.encode(protocol.Preview(whole=True)))
        elif change["event"] == zmq.EVENT_DISCONNECTED and self._ready.is_set() and self._outage is None:
            self._check_process(_EXIT_CODE_S)
            if not self._lost and self._process is not None:
                self._give_up(f"the connection to the engine at {self.endpoint} broke: its process is gone")
            elif not self._lost:
                self._outage = Outage(self.endpoint)

    def _check_process(self, wait: float = 0.0) -> None:
        code = None if self._process is None else self._process.end_code(wait)
        if self._process is not None and code is not None:
            self._give_up(f"the engine process {self._process.how_it_ended(code)}")

    def _check_signs_of_life(self) -> None:
        """Give up an engine that cannot be reached any more, or says nothing that means something."""
        if self._lost:
            return
        if self._outage is not None:
            patience = self._running.timeout
            if reason := self._outage.why_over(IDLE_OUTAGE_S if patience is None else patience):
                self._give_up(f"the connection to the engine at {self.endpoint} broke: {reason}")
        elif silence := self._running.too_silent():
            error = AcquisitionError(
                f"the engine at {self.endpoint} {silence}",
                remedy="see its log; end it if it hangs",
            )
            self._running.break_off(error)

    def _give_up(self, reason: str) -> None:
        self._lost = EngineLost(reason)
        self._probed.set()
        self._running.lose(self._lost)


# Engines are ended in order at interpreter exit, before ZMQ's own clean-up.
_open_clients: weakref.WeakSet[EngineClient] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open_clients):
        client.close()
