"""Python processes that start with the slow imports done: forks of a process that has them.

Tiled's import takes seconds. A test that says something about a new process, and nothing about its start, may take one
from here: its modules are imported, its environment, folder, memory and open files are its own. What runs in it starts
its Python processes here, too.

`Nursery` starts the process that is forked; ``nursery.Popen`` has as much of `subprocess.Popen` as the tests use.
Run as a program it is that process: it has one thread, and forks for each request at its socket.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib import import_module, reload
from pathlib import Path

#: what takes long, and asks the environment nothing that differs between tests
IMPORTS = (
    "tiled.server.app",
    "tiled.client",
    "tiled.catalog.__main__",
    "tiled.commandline.main",
    "tiled.profiles",
    "databroker",
    "bluesky_tiled_plugins",
    "bluesky.plans",
    "ophyd.sim",
    "live4d_ophyd",
    "live4d_ophyd.storage.catalog",
    "live4d_ophyd.storage.writer",
)
#: how long the imports may take on a busy machine, s
START_S = 120.0
ADDRESS = "LIVE4D_TEST_NURSERY"
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # kinds of namespaces, of Linux


class Nursery:
    """The process that is forked; ends with `close`, and with this process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="live4d-nursery-")
        self.address = str(Path(self._folder.name) / "socket")
        environment = {**os.environ, "MPLBACKEND": "agg", "TILED_RETRY_ATTEMPTS": "2"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def Popen(self, command, **options) -> Fork:
        return Fork(self.address, command, **options)

    def output_of(self, *command, **options) -> str:
        """What Python prints that is called with these arguments. Raises AssertionError where it fails."""
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, **options)
        out, error = process.communicate(timeout=START_S)
        assert process.returncode == 0, out + error
        return out

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)
        self._folder.cleanup()

    def wait(self) -> None:
        """Return when it can be forked."""
        assert self._process.stdout.readline() == b"ready\n"


class Fork:
    """A Python process, as `subprocess.Popen` has it; ``mounts``: a process whose file systems it sees."""

    def __init__(
        self, address, command, *, stdin=None, stdout=None, stderr=None, env=None, cwd=None, text=False,
        pass_fds=(), start_new_session=False, mounts=None,
    ) -> None:  # fmt: skip
        assert command[0] == sys.executable, command
        self.args, self.returncode, self._heard = command, None, b""
        request = {
            "command": [str(part) for part in command[1:]],
            "env": dict(os.environ if env is None else env) | {ADDRESS: address},
            "cwd": str(cwd or os.getcwd()),
            "pass_fds": list(pass_fds),
            "session": start_new_session,
            "mounts": mounts,
        }
        with ExitStack() as theirs:
            ours, files = [], []
            for number, what in enumerate((stdin, stdout, stderr)):
                near, far = None, number if what is None else what
                if what == subprocess.PIPE:
                    read, write = os.pipe()
                    near, far = (read, write) if number else (write, read)
                    mode = ("r" if number else "w") + ("" if text else "b")
                    near = open(near, mode, 0 if mode == "wb" else -1 if number else 1)  # noqa: SIM115  ours to keep
                    theirs.callback(os.close, far)
                elif what == subprocess.DEVNULL:
                    far = os.open(os.devnull, os.O_RDWR)
                    theirs.callback(os.close, far)
                ours.append(near)
                files.append(far if isinstance(far, int) else far.fileno())
            self.stdin, self.stdout, self.stderr = ours
            self._line = socket.socket(socket.AF_UNIX)
            self._line.connect(address)
            message = json.dumps(request).encode()
            socket.send_fds(self._line, [len(message).to_bytes(4, "big")], [*files, *pass_fds])
            self._line.sendall(message)
        self.pid = self._next(None)

    def _next(self, timeout):
        """The next number that its keeper says."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._heard:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._line], [], [], left)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            more = self._line.recv(64)
            assert more, "the nursery has gone"
            self._heard += more
        number, _, self._heard = self._heard.partition(b"\n")
        return int(number)

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = self._next(timeout)
            self._line.close()
        return self.returncode

    def poll(self):
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, input=None, timeout=None):
        with ThreadPoolExecutor(2) as readers:
            said = [
                file and not file.closed and readers.submit(file.read) for file in (self.stdout, self.stderr)
            ]
            if self.stdin is not None and not self.stdin.closed:
                with suppress(BrokenPipeError):
                    if input:
                        self.stdin.write(input)
                    self.stdin.close()
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, error = (text and text.result() for text in said)
        for file in filter(None, (self.stdout, self.stderr)):
            file.close()
        return out, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in filter(None, (self.stdin, self.stdout, self.stderr)):
            file.close()
        self.wait()


# The process that is forked -----------------------------------------------------------------------


def main(address: str) -> None:
    for module in IMPORTS:
        import_module(module)
    gc.freeze()  # so that nobody copies it by counting
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(32)
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([sys.stdin, listener], [], [])[0]):
            assert listener in ready
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # keepers that have ended
                    pass
            line, _ = listener.accept()
            with line:
                if os.fork() == 0:
                    listener.close()
                    keep(line)


def keep(line: socket.socket) -> None:
    """Fork as asked for, and say how that ended."""
    length, files, _, _ = socket.recv_fds(line, 4, 64)
    request = json.loads(line.makefile("rb").read(int.from_bytes(length, "big")))
    pid = os.fork()
    if pid == 0:
        line.close()
        become(request, files)
    for file in files:
        os.close(file)
    with suppress(OSError):  # who asked has gone
        line.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(request: dict, files: list[int]) -> None:
    """Run the command in this process, and end it."""
    code = 1
    try:
        for number, file in zip([0, 1, 2, *request["pass_fds"]], high(files)):
            os.dup2(file, number)
            os.close(file)
        os.setsid() if request["session"] else os.setpgid(0, 0)
        if request["mounts"] is not None:
            see_mounts_of(request["mounts"])
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.path[:] = [sys.path[0], *request["env"].get("PYTHONPATH", "").split(os.pathsep), *sys.path[1:]]
        reload(sys.modules["tiled.profiles"])  # which has read the environment
        start_python_here(request["env"][ADDRESS], request["mounts"])
        code = run(request["command"])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            import threading

            threading._shutdown()  # as an interpreter does: it waits for threads that are no daemons
            import atexit

            atexit._run_exitfuncs()
        for file in (sys.stdout, sys.stderr):
            with suppress(Exception):
                file.flush()
        os._exit(code)


def high(files: list[int]) -> list[int]:
    """The same files under numbers that no other one is to get."""
    import fcntl

    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in files]
    for file in files:
        os.close(file)
    return moved


def see_mounts_of(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name, kind in (("user", NEW_USER), ("mnt", NEW_MOUNTS)):
        with open(f"/proc/{pid}/ns/{name}") as namespace:
            if libc.setns(namespace.fileno(), kind):
                raise OSError(ctypes.get_errno(), f"setns {name}")


def start_python_here(address: str, mounts: int | None) -> None:
    """What this process starts of Python comes from the nursery."""
    popen = subprocess.Popen

    class Popen(popen):
        def __new__(cls, command, **options):
            if command[0] == sys.executable:
                return Fork(address, command, mounts=mounts, **options)
            return super().__new__(cls)

    subprocess.Popen = Popen


def run(command: list[str]) -> int:
    """As ``python`` with these arguments; its exit code."""
    warnings.resetwarnings()
    while command[0] == "-W":
        warnings.simplefilter(command[1])
        command = command[2:]
    try:
        if command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
        elif command[0] == "-m":
            sys.argv = command[1:]
            sys.modules.pop(command[1], None)
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
