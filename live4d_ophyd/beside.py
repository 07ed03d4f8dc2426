"""A process beside the session's, for work that must not take the interpreter from the RunEngine's loop.

A thread would: the loop waits 5 ms for the interpreter each time it wants it back, longer while others do, and as long
as a single call into a library takes. `Beside` calls a function there, one call at a time, and waits for the answer
without the interpreter. The process is less urgent than the session where both want one core.
"""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any
from weakref import WeakValueDictionary

from live4d_ophyd.garbage import no_search

#: how much less urgent than the session
NICE = 5


class Failed(Exception):
    """What was called has raised, or its process has gone; the text is the reason, with the type of the error."""


class Beside:
    """A process that answers calls.

    It starts with `start`, or the first call, and again when it has gone, and makes its service ready at once. It ends
    when this session does, or forgets it, after the call that it is busy with. One that has not been called yet is
    killed by `close`; where the session just goes, it makes itself ready first, and sees it then.

    Parameters
    ----------
    service : ``"module:function"``; what that returns there answers the calls
    *arguments : texts for that function
    """

    def __init__(self, service: str, *arguments: str) -> None:
        self._command = (service, *arguments)
        self._lock = threading.Lock()  # of starting and closing
        self._one_at_a_time = threading.Lock()  # of calls: an answer is to the call before it
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._called = False  # this process, since it started

    def start(self) -> None:
        """Start it unless it runs; returns at once."""
        with self._lock:
            self._start_unless_it_runs()

    def _start_unless_it_runs(self) -> tuple[Connection, subprocess.Popen]:
        if self._process is None or self._process.poll() is not None:
            self._close()
            self._start()
        assert self._connection is not None
        assert self._process is not None
        return self._connection, self._process

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *self._command],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the session's
            )
        self._connection = Connection(ours.detach())
        self._called = False

    def call(self, *arguments: Any) -> Any:
        """What the service answers. Raises `Failed`."""
        with self._one_at_a_time:
            with self._lock:
                connection, process = self._start_unless_it_runs()
                self._called = True
            try:
                connection.send(arguments)
                answer, reason = connection.recv()
            except (EOFError, OSError) as error:
                raise Failed(f"its process has gone: {_end_of(process)}") from error
        if reason:
            raise Failed(reason)
        return answer

    @property
    def pid(self) -> int | None:
        """Of the process; None before it has started."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End it, and wait until it has."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            if not self._called:
                process.kill()  # it has nothing to end, and may be making itself ready for seconds
            process.wait()

    def __del__(self) -> None:
        self.close()


_of_session: WeakValueDictionary[str, Beside] = WeakValueDictionary()


def of_session(service: str) -> Beside:
    """The one with this service in this session, as long as somebody has it."""
    process = _of_session.get(service)
    if process is None:
        process = _of_session[service] = Beside(service)
    return process


def _end_of(process: subprocess.Popen) -> str:
    try:
        code = process.wait(5.0)
    except subprocess.TimeoutExpired:
        return "it does not answer"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def main(descriptor: int, service: str, *arguments: str) -> None:
    """Answer until nobody is there any more."""
    os.nice(NICE)
    connection = Connection(descriptor)
    answer, reason = _made(service, arguments)
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):  # the latter if the session went in the middle of a call
            return
        try:
            request = pickle.loads(message)  # the session's own; of a class that is not known here it raises
            if answer is None and not reason:  # it may be had now
                answer, reason = _made(service, arguments)
            result = (None, reason) if answer is None else (answer(*request), "")
            reason = ""  # it was said: the first reason, as a second import often fails otherwise
        except Exception as error:
            result = None, _words(error)
        try:
            connection.send(result)
        except OSError:
            return


def _made(service: str, arguments: tuple[str, ...]) -> tuple[Callable[..., Any] | None, str]:
    """What answers, or None and why there is none."""
    module, _, function = service.partition(":")
    try:
        with no_search():
            answer = getattr(import_module(module), function)(*arguments)
            gc.freeze()  # nor is it searched later: all of that stays
    except Exception as error:
        return None, _words(error)
    return answer, ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
    os._exit(0)  # nothing is left to do, and threads of libraries take their time
