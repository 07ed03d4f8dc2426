"""Processes of tests that begin as copies of one that has imported everything and compiled the kernels.

To import Bluesky, Tiled's server and numba takes a process one to four seconds of a core, and whole runs start two
hundred. `Popen` is ``subprocess.Popen``; with ``pytest -n`` it does not start Python anew but has a server fork. The
copy gets the command's arguments, environment, folder and files, and is like a new process in all but the modules that
are there already, and its parent and session, which are the server's. Without ``-n``, and for other commands than
``python [-u] [-W ignore] (-m module | -c code | file) ...``, nothing is copied.

The product's own processes begin so, too: engines, simulators, what works beside a session. What is started by
``subprocess`` (IPython, a queueserver, what is about the start itself), and what that starts, begins as a user's does.
The workers of ``pytest -n`` are copies of the server as it is before it compiles.

The server is ``python forked.py SOCKET SOCKET`` and ends with its standard input. A request is a connection with what
to run and its files; the answers are the process id and, later, how the process ended.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib.util
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

#: where the server listens; unset: there is none
ADDRESS = "LIVE4D_TESTS_FORK_SERVER"
#: and where before it compiles
WORKERS_ADDRESS = "LIVE4D_TESTS_FORK_SERVER_OF_WORKERS"
#: before the process whose file systems and user a command is to have, and the command
ENTER = ["nsenter", "--preserve-credentials", "-U", "-m", "-t"]
#: modules of the product that start processes
STARTERS = ("live4d_ophyd.engine.process.spawn", "live4d_ophyd.sim.process", "live4d_ophyd.beside")
#: what copies have; not matplotlib, databroker or IPython, which look at the environment when they are imported
MODULES = (
    "live4d_ophyd.commands.serve",
    "live4d_ophyd.commands.sim",
    "live4d_ophyd.device.live4d",
    "live4d_ophyd.plans",
    "live4d_ophyd.storage.writer",
    "bluesky.plans",
    "tiled.client",
    "dask.array",
)
#: of libraries that start some when they are imported: a copy would lack them
NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_MAX_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
#: what modules of copies read when they are imported: module, name there, variable, type
READ_AT_IMPORT = (
    ("tiled.client.utils", "TILED_RETRY_ATTEMPTS", "TILED_RETRY_ATTEMPTS", int),
    ("tiled.client.utils", "TILED_RETRY_TIMEOUT", "TILED_RETRY_TIMEOUT", float),
    ("live4d_ophyd.sources.dectris.stream", "RECEIVER", "LIVE4D_RECEIVER", str),
)
POSSIBLE = hasattr(os, "pidfd_open")  # on Linux
_within = ""  # process id: where this copy is, and all that it starts
PYTHON = sys.executable  # a test may say another


class Popen(subprocess.Popen):
    """A process that the server has forked, if there is one and it knows such commands."""

    _asked = ADDRESS
    _server: Connection | None = None

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ):  # fmt: skip
        ends = p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        one = isinstance(args, (str, bytes, os.PathLike))
        words, within = [] if one else [os.fspath(word) for word in args], _within
        if words[: len(ENTER)] == ENTER:
            within, *words = words[len(ENTER) :]
        known = not (preexec_fn or shell or executable) and _is_known(words)
        files = {number: number for number in pass_fds}
        files |= {n: n if end == -1 else end for n, end in enumerate((p2cread, c2pwrite, errwrite))}
        request = {
            "words": words[1:],
            "environment": dict(os.environ if env is None else env),
            "folder": os.getcwd() if cwd is None else os.fspath(cwd),
            "numbers": list(files),
            "new_session": rest[5],
            "within": within,
            "server": os.environ.get(ADDRESS, ""),
        }
        if known and self._was_forked(request, list(files.values())):
            self._close_pipe_fds(*ends)
            return
        super()._execute_child(
            args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            *ends, *rest,
        )  # fmt: skip

    def _was_forked(self, request: dict, files: list[int]) -> bool:
        """Not where there is no server, or it ends, having said why."""
        server = _connected(os.environ.get(self._asked, ""))
        if server is None:
            return False
        with suppress(EOFError, ConnectionError):
            socket.send_fds(server, [b"x"], files)
            self._server = Connection(server.detach())
            self._server.send(request)
            self.pid = self._server.recv()
            return True
        (self._server or server).close()
        self._server = None
        return False

    def _internal_poll(self, _deadstate=None, **_):
        if self._server is None:
            return super()._internal_poll(_deadstate)
        return super()._internal_poll(_deadstate, lambda pid, flags: self._try_wait(flags))

    def _try_wait(self, wait_flags):
        if self._server is None:
            return super()._try_wait(wait_flags)
        if not self._server.poll(0 if wait_flags & os.WNOHANG else None):
            return 0, 0
        with self._server as server:
            try:
                return self.pid, server.recv()
            except (EOFError, ConnectionError):  # the server has gone, and nobody knows how the process ended
                self._server = None
                return super()._try_wait(wait_flags)


class _Worker(Popen):
    _asked = WORKERS_ADDRESS


@contextmanager
def workers_are_copies():
    """Those that ``pytest -n`` starts."""
    from execnet.gateway_base import ThreadExecModel

    theirs = ThreadExecModel.subprocess
    ThreadExecModel.subprocess = types.SimpleNamespace(PIPE=subprocess.PIPE, Popen=_Worker)
    try:
        yield
    finally:
        ThreadExecModel.subprocess = theirs


def run(
    command, *, capture_output=False, check=False, timeout=None, **options
) -> subprocess.CompletedProcess:
    """``subprocess.run``."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            out, error = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, error)
    if check:
        done.check_returncode()
    return done


def start_product_so() -> None:
    """From now on the product's processes that this one starts are copies, too."""
    for name in STARTERS:
        with suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            module.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen})  # type: ignore[attr-defined]


@contextmanager
def fork_server():
    """Starts the server, for this process and those below it; returns at once."""
    with tempfile.TemporaryDirectory(prefix="live4d-forks-") as folder, ExitStack() as listeners:
        addresses = {name: os.path.join(folder, name) for name in (WORKERS_ADDRESS, ADDRESS)}
        files = []
        for address in addresses.values():
            listener = listeners.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen(64)  # requests wait until all is imported
            files.append(listener.fileno())
        server = subprocess.Popen(
            [sys.executable, __file__, *map(str, files)],
            env=os.environ | NO_THREADS,
            stdin=subprocess.PIPE, pass_fds=files, start_new_session=True,
        )  # fmt: skip
        listeners.close()
        with server:
            os.environ |= addresses
            try:
                yield
            finally:
                for name in addresses:
                    del os.environ[name]
                server.stdin.close()


def wait_until_ready() -> None:
    """Until the server has compiled and imported everything; returns at once where there is none."""
    server = _connected(os.environ.get(ADDRESS, ""))
    if server is not None:
        with server, suppress(ConnectionError):  # it could not, and has said so
            server.shutdown(socket.SHUT_WR)
            server.recv(1)


def _is_known(words: list[str]) -> bool:
    return words[:1] == [PYTHON] and _program(words[1:]) is not None


def _program(words: list[str]) -> tuple[set[str], str, str, list[str]] | None:
    """Options, how the program is given, the program, and its arguments; None for what is not known."""
    options = set()
    while words and words[0] in ("-u", "-W"):
        if words[0] == "-W" and words[1:2] != ["ignore"]:
            return None
        options.add(words[0])
        words = words[2 if words[0] == "-W" else 1 :]
    if len(words) > 1 and words[0] in ("-m", "-c"):
        return options, words[0], words[1], words[2:]
    if words and not words[0].startswith("-"):
        return options, "file", words[0], words[1:]
    return None


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def _connected(address: str) -> socket.socket | None:
    """A connection to the server, or None: there is none, or no more."""
    if not address:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None
    return connection


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        #: by pidfd: process id, and who wants to know its end
        self._copies: dict[int, tuple[int, Connection]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)
        self._path = [place for place in sys.path[1:] if place not in _python_path()]

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == 0:  # whoever started it has gone
                    return
                if key.fd == self._listener.fileno():
                    self._fork()
                else:
                    self._say_end(key.fd)

    def _fork(self) -> None:
        asked, _ = self._listener.accept()
        more, files, _, _ = socket.recv_fds(asked, 1, 64)
        connection = Connection(asked.detach())
        if not more:  # somebody asked whether it is ready
            connection.close()
            return
        try:
            request = connection.recv()
        except (EOFError, OSError):  # whoever asked has gone
            for file in files:
                os.close(file)
            connection.close()
            return
        pid = os.fork()
        if pid == 0:
            held = [connection.fileno(), self._listener.fileno(), self._selector.fileno(), *self._copies]
            held += [other.fileno() for _, other in self._copies.values()]
            _become(request, files, held, self._path)
        for file in files:
            os.close(file)
        with suppress(OSError):  # whoever asked has gone
            connection.send(pid)
        end = os.pidfd_open(pid)
        self._copies[end] = pid, connection
        self._selector.register(end, selectors.EVENT_READ)

    def _say_end(self, end: int) -> None:
        pid, connection = self._copies.pop(end)
        self._selector.unregister(end)
        os.close(end)
        _, status = os.waitpid(pid, 0)
        with connection, suppress(OSError):
            connection.send(status)


def _become(request: dict, files: list[int], held: list[int], path: list[str]) -> None:
    """Be the process that was asked for; never returns."""
    code = 1
    try:
        for file in held:
            os.close(file)
        _take_files(files, request["numbers"])
        if request["new_session"]:
            os.setsid()
        if request["within"]:
            _enter(request["within"])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ[ADDRESS] = request["server"]  # for what it starts, whatever its environment is to be
        code = _run(*_program(request["words"]), path)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _enter(process: str) -> None:
    """The namespaces of this process."""
    global _within
    _within = process
    namespaces = [os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt")]
    for namespace in namespaces:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
            raise OSError(ctypes.get_errno(), f"the namespaces of process {process} cannot be entered")
        os.close(namespace)


def _take_files(files: list[int], numbers: list[int]) -> None:
    """Each under its number."""
    above = max(*numbers, *files) + 1
    moved = [os.dup2(file, above + place, inheritable=False) for place, file in enumerate(files)]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(options: set[str], how: str, program: str, arguments: list[str], path: list[str]) -> int:
    at_once = 1 if "-u" in options or os.isatty(1) else -1
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", at_once, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if "-W" in options:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
    first = {"-m": os.getcwd(), "-c": "", "file": os.path.dirname(os.path.abspath(program))}[how]
    sys.path[:] = [first, *_python_path(), *path]
    if "tiled.profiles" in sys.modules:  # it looks at the environment when it is imported
        importlib.reload(sys.modules["tiled.profiles"])
    for name, what, variable, kind in READ_AT_IMPORT:
        if name in sys.modules and variable in os.environ:
            setattr(sys.modules[name], what, kind(os.environ[variable]))
    main = types.ModuleType("__main__")
    if how == "-m":
        package = importlib.util.find_spec(program)
        spec = (
            importlib.util.find_spec(f"{program}.__main__") if package.submodule_search_locations else package
        )
        main.__spec__, main.__file__, main.__package__ = spec, spec.origin, spec.parent
        code = spec.loader.get_code(spec.name)
        program = spec.origin
    elif how == "-c":
        code = compile(program, "<string>", "exec")
        program = "-c"
    else:
        main.__file__ = os.path.abspath(program)
        with open(program, "rb") as file:
            code = compile(file.read(), program, "exec")
    sys.modules["__main__"] = main
    sys.argv = [program, *arguments]
    start_product_so()
    status = _status_of(code, vars(main))
    threading._shutdown()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    if status is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status


def _status_of(code: types.CodeType, names: dict) -> int | None:
    """What it exits with; None: it was interrupted."""
    try:
        exec(code, names)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
        return None if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _name(thread: str) -> str:
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/self/task/{thread}/comm") as file:
        return file.read().strip()
    return "one that has ended"


def _open_a_catalog() -> None:
    """The first one takes twice as long as the next."""
    from tiled.profiles import load_profiles

    from live4d_ophyd.storage.catalog import existing_catalog
    from live4d_ophyd.storage.database import make_database

    with tempfile.TemporaryDirectory() as folder:
        make_database(Path(folder) / "catalog.db")
        with closing(existing_catalog(folder).context) as context:
            context.http_client.get("/api/v1/search/")
    load_profiles.cache_clear()  # copies have others


def _compile() -> None:
    """What engines and simulators do at their start: kernels, and the specimen that most tests look at."""
    import zmq

    from live4d_ophyd.engine.acquisition import warm_up
    from live4d_ophyd.sim.server import build_dcu
    from live4d_ophyd.sim.server import warm_up as warm_up_simulator

    warm_up()
    with closing(build_dcu()) as dcu:
        warm_up_simulator(dcu)
        dcu.source.optics(dcu.microscope, dcu.detector)
    zmq.Context.instance().term()  # it has threads


def _refuse_threads() -> None:
    until = time.monotonic() + 2.0  # the last ones may be at their end
    while len(threads := os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > until:
            names = ", ".join(map(_name, threads))
            sys.exit(f"Processes of tests are not copies, which would lack threads of this one: {names}")
        time.sleep(0.01)


def main(*files: int) -> None:
    """Import, fork workers until nobody is there any more, and compile and fork all others in a process of its own."""
    gc.disable()
    of_workers, of_others = (socket.socket(fileno=file) for file in files)
    with suppress(ModuleNotFoundError), warnings.catch_warnings():  # a host for GPU tests has no catalog
        warnings.simplefilter("error")  # as for what a worker imports itself
        for name in MODULES:
            importlib.import_module(name)
        _open_a_catalog()
    _refuse_threads()
    gc.collect()
    gc.freeze()
    others = os.fork()
    if others:
        of_others.close()
    else:
        of_workers.close()
        _compile()
        _refuse_threads()
        gc.collect()
        gc.freeze()
    gc.enable()
    _Server(of_workers if others else of_others).serve()
    if others:
        os.waitpid(others, 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
