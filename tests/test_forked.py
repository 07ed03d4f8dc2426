"""A copy of the tests' server does what a new process does."""

import os
import signal
import socket
import subprocess
import sys
import threading

import forked
import pytest

pytestmark = pytest.mark.skipif(not forked.POSSIBLE, reason="processes are copied on Linux only")


@pytest.fixture(scope="module", autouse=True)
def server():
    if os.environ.get(forked.ADDRESS):
        yield
    else:
        with forked.fork_server():
            yield


SHOW = """
import json, os, sys
print(json.dumps([__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["WORD"], sys.stdin.read()]))
"""


@pytest.fixture(params=["-c", "file", "-m"])
def command(request, tmp_path):
    (tmp_path / "shown.py").write_text(SHOW)
    program = {"-c": ["-c", SHOW], "file": [str(tmp_path / "shown.py")], "-m": ["-m", "shown"]}[request.param]
    return [sys.executable, *program, "an", "argument"]


def test_it_has_what_it_was_given(command, tmp_path):
    options = {"env": os.environ | {"WORD": "spoken"}, "cwd": tmp_path, "text": True}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    told = []
    for start in (forked.Popen, subprocess.Popen):
        with start(command, **options, **pipes) as process:
            told.append(process.communicate("read")[0])
        assert process.returncode == 0
    assert told[0] == told[1]
    assert "spoken" in told[0]


@pytest.mark.parametrize(
    "code", ["pass", "raise SystemExit(3)", "raise SystemExit('why')", "1 / 0", "import os; os.kill(os.getpid(), 9)",
             "raise KeyboardInterrupt", "import atexit; atexit.register(print, 'at the end')",
             "import threading; threading.Timer(0.1, print, ['a thread']).start()",
             "import atexit; atexit.register(print, 'at the end'); print('before'); raise KeyboardInterrupt",
             "import warnings; warnings.warn('said')", "import subprocess, sys; print(sys.flags.dont_write_bytecode)"]
)  # fmt: skip
def test_it_ends_as_a_new_process_does(code):
    options = {"capture_output": True, "text": True, "cwd": "/"}
    copy = forked.run([sys.executable, "-c", code], **options)
    assert _of(copy) == _of(subprocess.run([sys.executable, "-c", code], **options))


def test_what_modules_read_when_they_are_imported_is_in_its_environment():
    code = "import tiled.client.utils as u; print(u.TILED_RETRY_ATTEMPTS)"
    environment = os.environ | {"TILED_RETRY_ATTEMPTS": "3"}
    assert forked.run([sys.executable, "-c", code], env=environment, capture_output=True).stdout == b"3\n"


def test_where_the_server_ends_a_process_is_started(monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(1)
        monkeypatch.setenv(forked.ADDRESS, str(tmp_path / "socket"))

        def end():
            listener.accept()[0].close()

        server = threading.Thread(target=end)
        server.start()
        assert forked.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout == b"1\n"
        server.join()


def _of(process):
    return process.returncode, process.stdout, process.stderr.splitlines()[-1:]


def test_it_is_a_copy_and_another_command_is_not(tmp_path):
    code = "import sys; print('tiled.server.app' in sys.modules)"
    copy = forked.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    new = forked.run([sys.executable, "-s", "-c", code], capture_output=True)
    assert (copy.stdout, new.stdout) == (b"True\n", b"False\n")


def test_it_has_the_files_that_are_passed_and_no_others(tmp_path):
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    options = {"capture_output": True, "text": True}
    with open(tmp_path / "passed", "w") as passed:
        options |= {"pass_fds": [passed.fileno()]}
        with forked.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as another:
            copy = forked.run([sys.executable, "-c", code], **options)
            new = subprocess.run([sys.executable, "-c", code], **options)
            another.communicate(b"\n")
    assert copy.stdout == new.stdout


def test_its_end_is_heard_in_every_way():
    with forked.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert os.getsid(process.pid) == process.pid
        process.terminate()
        assert process.wait(30) == process.poll() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
