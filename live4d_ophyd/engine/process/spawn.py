"""EngineProcess: an engine on this machine, started by its session, and how it ended.

In: what decodes. Out: the endpoint to connect to. No thread; it belongs to the EngineClient that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from live4d_ophyd.engine.process.sockets import MAX_IPC_PATH_BYTES

log = logging.getLogger(__name__)

#: how long closing waits for an engine that may be arming or disarming, s
END_TIMEOUT_S = 10.0
_LOG_LINES_SHOWN = 8
_PREFIX, _LOG = "live4d-engine-", "engine.log"

#: processes that had not ended when they were closed
_left_behind: list[subprocess.Popen] = []


def _import_path() -> str:
    """Where this process finds modules: the engine imports a user's methods by name."""
    return os.pathsep.join(dict.fromkeys(path for path in sys.path if os.path.isdir(path)))


class EngineProcess:
    """An engine that ends with this process; ``backend``: "auto", "cpu" or "gpu"."""

    def __init__(self, backend: str) -> None:
        _left_behind[:] = [process for process in _left_behind if process.poll() is None]
        self._directory = _directory_for_socket()
        self._log_file = self._directory / _LOG
        self.endpoint = f"ipc://{self._directory}/engine"
        command = [sys.executable, "-m", "live4d_ophyd", "serve"]
        with open(self._log_file, "wb") as output:
            self._process = subprocess.Popen(
                [*command, self.endpoint, "--owned", "--backend", backend],
                env={**os.environ, "PYTHONPATH": _import_path()},
                stdin=subprocess.PIPE,  # closes when this process ends, whatever ends it
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C here is not for the engine
            )

    def end_code(self, wait: float = 0.0) -> int | None:
        """Its exit code, negative after a signal; None while it runs, for up to ``wait`` s."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(wait)
        return None

    def last_words(self) -> str:
        """The end of its log, to be put behind an error's text."""
        if not self._log_file.exists():
            return ""
        lines = self._log_file.read_text(errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
        return "; its last words:\n  " + "\n  ".join(lines) if lines else ""

    def how_it_ended(self, code: int) -> str:
        if code == -signal.SIGKILL:
            # It could not log why: its last lines are about something else.
            return "was killed by SIGKILL (is the memory full?)"
        if code >= 0:
            return f"ended with exit code {code}{self.last_words()}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}{self.last_words()}"

    def end(self) -> None:
        """Let it end: it drops its connections to the stream at once, and leaves the detector idle."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self.end_code(END_TIMEOUT_S) is None:
            # It ends as soon as the detector has answered, and the next engine waits for that. Killed, it would leave
            # the detector armed.
            log.warning(
                "the engine (process %d) still waits for the detector; it ends by itself", self._process.pid
            )
            _left_behind.append(self._process)
            return
        remove_folder_of(self.endpoint)


def remove_folder_of(endpoint: str) -> None:
    """Remove the folder that an `EngineProcess` made for this endpoint, if it is one and holds nothing else.

    The socket and the log are all that is ever deleted: the address may have been given by hand.
    """
    socket = Path(endpoint.removeprefix("ipc://"))
    if not endpoint.startswith("ipc://") or not socket.parent.name.startswith(_PREFIX):
        return
    if socket.is_socket():
        socket.unlink(missing_ok=True)
    (socket.parent / _LOG).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        socket.parent.rmdir()


def _directory_for_socket() -> Path:
    """A new folder for socket and log, in the user's place for such things if its path is not too long for a socket."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(directory / "engine")) <= MAX_IPC_PATH_BYTES:
        return directory
    directory.rmdir()
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    except OSError as error:
        raise OSError(
            error.errno,
            f"no place for the engine's socket: the folder for temporary files ({tempfile.gettempdir()}) has a path of "
            f"more than the {MAX_IPC_PATH_BYTES} bytes of a socket's, and /tmp cannot be used ({error.strerror}): set "
            "TMPDIR to a shorter one",
        ) from error
