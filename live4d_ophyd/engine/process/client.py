"""EngineClient: the session's end of the engine. Spawns an engine process or connects to one elsewhere.

``live4d-engine-client`` is its only thread: it owns the socket, passes events to the callback of the running
acquisition and notices within a second when the engine is gone. What the engine says is checked against what it was
asked for (`Conversation`): a callback gets nothing but valid events, and Failed where the engine broke the rules.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.checks import printable
from live4d_ophyd.decode import EngineUnavailable
from live4d_ophyd.engine.errors import AcquisitionError, EngineLost, NoEngine, ProtocolError
from live4d_ophyd.engine.process import protocol as wire
from live4d_ophyd.engine.process.conversation import Conversation
from live4d_ophyd.engine.process.delivery import Inbox
from live4d_ophyd.engine.process.handshake import FAILURES, Handshake
from live4d_ophyd.engine.process.keys import use_as_session
from live4d_ophyd.engine.process.outage import Outage, SignsOfLife
from live4d_ophyd.engine.process.previews import Picture
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
#: orders that can be given again after a cut
_ORDERS_KEPT = 100
#: how long a connection may be cut while nothing runs, s
IDLE_OUTAGE_S = 5.0
#: how long a process whose connection broke may take to show its exit code, s
_EXIT_CODE_S = 0.2

Callback = Callable[[wire.Event], None]


@dataclass(frozen=True)
class _Job:
    conversation: Conversation
    on_event: Callback

    @property
    def generation(self) -> int:
        return self.conversation.generation


class EngineClient:
    """Connection to an engine.

    ``EngineClient.spawn()`` starts one on this machine that ends with this process;
    ``EngineClient(endpoint)`` connects to one started with ``live4d serve``.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        engine: str = "auto",
        curve_keys: Path | None = None,
        process: EngineProcess | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._wanted_engine = engine
        self.engine = ""  #: what decodes there, "cpu" or "gpu", and on what or why
        self.engine_detail = ""
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
        self._inbox, self._picture = Inbox(), Picture()
        self._orders: deque[bytes] = deque(maxlen=_ORDERS_KEPT)  # the newest that were given
        self._ordered = 0  # in all
        self._resuming = False  # until the engine has answered that it knows us
        self._outage: Outage | None = None  #: while the connection is cut
        self._heard = SignsOfLife()
        self._wake_name = f"inproc://wake-{id(self)}"
        self._woken = self._context.socket(zmq.PULL)
        self._woken.bind(self._wake_name)
        self._outbox: queue.SimpleQueue[tuple[bytes | None, bool]] = queue.SimpleQueue()
        self._job: _Job | None = None
        self._lock, self._wake_lock = threading.Lock(), threading.Lock()
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
    def spawn(cls, engine: str = "auto") -> EngineClient:
        """Start an engine process on this machine and connect to it; ``engine``: "auto", "cpu" or "gpu"."""
        process = EngineProcess(engine)
        return cls(process.endpoint, engine=engine, process=process)

    # What the device calls, from any thread -----------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._lost is None and self._thread.is_alive()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return when the engine has answered, within ``timeout`` s; by default as long as one may take.

        Raises EngineLost, NoEngine, EngineInUse, ProtocolError for another version, and EngineUnavailable where frames
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
        message = wire.encode(wire.Acquire(generation, request))
        self._heard.begin(request.timeout)
        with self._lock:
            if self._lost:
                raise self._lost
            self._job = _Job(Conversation(generation, request), on_event)
        self._picture = Picture()
        self._post(message, order=True)

    def request_preview(self) -> None:
        """Let one of the next ProgressMade have the images."""
        self._post(wire.encode(wire.Preview()))

    def cancel(self, generation: int) -> None:
        """Cancel this acquisition and all before it; no event of theirs is passed on afterwards."""
        with self._lock:
            if self._job and self._job.generation <= generation:
                self._job = None
        self._post(wire.encode(wire.Cancel(generation)), order=True)

    def release(self, timeout: float = 2.0) -> bool:
        """Let the engine drop its connections to the stream, at once, and leave the detector idle.

        Returns when that is done, or after ``timeout`` s: a control unit may take long to answer. Says whether it is.
        """
        self._released.clear()
        self._post(wire.encode(wire.Release()), order=True)
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
        self._post(wire.encode(wire.Probe(size)))
        if not self._probed.wait(timeout) or self._lost:
            raise self._lost or EngineLost(
                f"the engine at {self.endpoint} sent no {size} bytes within {timeout:g} s"
            )
        return time.monotonic() - begin

    def close(self) -> None:
        """End the connection, and the engine if this client spawned it."""
        if self._thread.is_alive():
            self._post(wire.encode(wire.Bye()))
            self._post(None)
            self._thread.join()
        _open_clients.discard(self)
        if self._process is not None:
            self._process.end()

    def _post(self, message: bytes | None, *, order: bool = False) -> None:
        """``order``: it must not be lost with the connection."""
        self._outbox.put((message, order))
        with self._wake_lock:
            if self._context.closed:
                return  # the thread is gone, and with it the need to wake it
            with contextlib.suppress(zmq.ZMQError), self._context.socket(zmq.PUSH) as waker:
                waker.linger = 0
                waker.connect(self._wake_name)
                waker.send(b"", zmq.DONTWAIT)

    # The client's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._socket, self._monitor, self._woken):
            poller.register(socket, zmq.POLLIN)
        self._socket.send(wire.encode(wire.Hello(self._wanted_engine)))
        try:
            while True:
                ready = dict(poller.poll(_POLL_MS))
                if self._woken in ready:
                    self._woken.recv()
                while not self._outbox.empty():
                    message, order = self._outbox.get()
                    if message is None:
                        return
                    if order:
                        self._orders.append(message)
                        self._ordered += 1
                    self._socket.send(message)
                if self._socket in ready:
                    self._receive(self._socket.recv_multipart())
                if self._monitor in ready:
                    change = recv_monitor_message(self._monitor)
                    while self._socket.poll(0):  # why it ended may have been said before it did
                        self._receive(self._socket.recv_multipart())
                    self._connection_changed(change)
                self._look_for_end()
                self._look_for_signs()
                if self._lost:
                    return
        except Exception as error:
            log.exception("the connection to the engine at %s failed", self.endpoint)
            self._give_up(f"the connection to the engine at {self.endpoint} failed: {error!r}")
        finally:
            self._close_sockets()

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        for socket in (self._monitor, self._woken, self._socket):
            socket.close()
        with self._wake_lock:  # libzmq aborts the process for a socket that is made while its context ends
            self._context.term()

    def _receive(self, frames: list[bytes]) -> None:
        try:
            message: bytes | None = frames[0]
            if len(frames) > 1:
                if self._resuming:
                    return  # it comes again
                before = self._inbox.parts
                message = self._inbox.take(frames)
                if self._inbox.parts > before:
                    self._heard.of_the_result()
                self._socket.send(wire.encode(wire.Received(self._inbox.parts, self._inbox.previews)))
            if message is not None:
                self._heed(wire.from_engine(message))
        except ProtocolError as error:
            self._distrust(error)

    def _heed(self, message: wire.FromEngine) -> None:
        match message:
            case wire.Ready():
                self._welcomed(message)
            case wire.LogLine():
                log.log(message.level, "engine: %s", printable(message.text))
            case wire.Released():
                self._released.set()
            case wire.Probed():
                self._probed.set()
            case wire.Refused():
                self._was_refused(message)
            case wire.Alive():
                pass
            case wire.PreviewMade():
                self._take_preview(message)
            case _:
                self._pass_on(message)

    def _take_preview(self, preview: wire.PreviewMade) -> None:
        try:
            outputs = self._picture.take(preview.number, preview.outputs)
        except ValueError as error:
            raise ProtocolError(f"PreviewMade: {error}") from error
        if outputs is None:  # one before was lost with the connection
            self._post(wire.encode(wire.Preview(whole=True)))
        else:
            self._pass_on(wire.ProgressMade(preview.generation, preview.progress, outputs))

    def _pass_on(
        self, message: wire.Armed | wire.ProgressMade | wire.RasterDone | wire.Done | wire.Failed
    ) -> None:
        with self._lock:
            job = self._job
        if job is not None and job.conversation.accept(message):
            self._heard.of(message)
            self._deliver(job, message)

    def _welcomed(self, ready: wire.Ready) -> None:
        if self._ready.is_set() and (ready.pid != self.pid or not ready.knows):
            self._give_up(f"the engine at {self.endpoint} is another one, or no longer knows this session")
            return
        if self._resuming:
            self._resuming = False
            self._repeat(ready.heard)
        self.pid, self.engine, self.engine_detail = (
            ready.pid,
            printable(ready.backend),
            printable(ready.detail),
        )
        self.versions = printable(ready.versions)
        if self._wanted_engine.partition(":")[0] not in ("auto", ready.backend):
            self._refused = EngineUnavailable(
                f"the engine at {self.endpoint} decodes on the {ready.backend}, asked for was {self._wanted_engine!r}"
            )
            return
        self._ready.set()

    def _repeat(self, heard: int) -> None:
        """Give the orders again that were lost with the connection."""
        lost = self._ordered - heard
        if not 0 <= lost <= len(self._orders):
            self._give_up(f"the engine at {self.endpoint} has missed {lost} orders, more than are known")
            return
        for message in list(self._orders)[len(self._orders) - lost :]:
            self._socket.send(message)

    def _was_refused(self, refused: wire.Refused) -> None:
        failure = refused.failure
        self._refused = replace(
            failure, reason=f"the engine at {self.endpoint} refused: {failure.reason}"
        ).error
        with self._lock:
            job = self._job
        if job is not None and refused.generation in (None, job.generation):
            self._deliver(job, wire.Failed(job.generation, failure))
        if refused.hello_first:
            self._give_up(f"the engine at {self.endpoint} no longer knows this session")

    def _distrust(self, error: ProtocolError) -> None:
        """The engine said what it must not say: it cannot be known any more what becomes of what it was asked for."""
        error = ProtocolError(
            f"the engine at {self.endpoint} sent what this session cannot use: {error.reason}",
            remedy=error.remedy,
        )
        log.error("%s", error)
        if not self._ready.is_set():
            self._refused = error
        with self._lock:
            job = self._job
        if job is not None:
            self._break_off(job, error)

    def _break_off(self, job: _Job, why: AcquisitionError) -> None:
        """Fail what runs, here and at the engine."""
        with self._lock:
            if self._job is not job:
                return
        self._post(wire.encode(wire.Cancel(job.generation)), order=True)
        reason = f"{why.reason}. The acquisition was cancelled; nothing of it was kept"
        self._deliver(job, wire.Failed(job.generation, replace(wire.Failure.of(why), reason=reason)))

    def _deliver(self, job: _Job, event: wire.Event) -> None:
        with self._lock:
            if self._job is not job:
                return  # cancelled meanwhile
            if isinstance(event, wire.FINAL):
                self._job = None
        try:
            job.on_event(event)
        except Exception as error:
            log.exception("the receiver of the engine's events failed")
            if isinstance(event, wire.Armed | wire.RasterDone):  # without these the rest is worth nothing
                name = type(event).__name__
                self._break_off(
                    job, AcquisitionError(f"the session failed at the engine's {name}: {error!r}")
                )

    def _connection_changed(self, change: Mapping[str, Any]) -> None:
        if reason := self._handshake.why_failed(change):
            self._give_up(reason)
        elif change["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if self._outage is not None:
                log.warning("connected with the engine at %s again", self.endpoint)
                self._outage, self._resuming = None, True
                self._socket.send(wire.encode(wire.Hello(self._wanted_engine, self._inbox.parts)))
                self._socket.send(wire.encode(wire.Preview(whole=True)))
        elif change["event"] == zmq.EVENT_DISCONNECTED and self._ready.is_set() and self._outage is None:
            self._look_for_end(_EXIT_CODE_S)
            if not self._lost and self._process is not None:
                self._give_up(f"the connection to the engine at {self.endpoint} broke: its process is gone")
            elif not self._lost:
                self._outage = Outage(self.endpoint)

    def _look_for_end(self, wait: float = 0.0) -> None:
        code = None if self._process is None else self._process.end_code(wait)
        if self._process is not None and code is not None:
            self._give_up(f"the engine process {self._process.how_it_ended(code)}")

    def _look_for_signs(self) -> None:
        """Give up an engine that cannot be reached any more, or says nothing that means something."""
        if self._lost:
            return
        with self._lock:
            job = self._job
        if self._outage is not None:
            patience = IDLE_OUTAGE_S if job is None else job.conversation.request.timeout
            if reason := self._outage.why_over(patience):
                self._give_up(f"the connection to the engine at {self.endpoint} broke: {reason}")
        elif job is not None and (silence := self._heard.too_silent()):
            error = AcquisitionError(
                f"the engine at {self.endpoint} {silence}",
                remedy="see its log; end it if it hangs",
            )
            self._break_off(job, error)

    def _give_up(self, reason: str) -> None:
        self._lost = EngineLost(reason)
        self._probed.set()
        with self._lock:
            job = self._job
        if job is not None:
            self._deliver(job, wire.Lost(job.generation, self._lost))


# Engines are ended in order at interpreter exit, before ZMQ's own clean-up.
_open_clients: weakref.WeakSet[EngineClient] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open_clients):
        client.close()
