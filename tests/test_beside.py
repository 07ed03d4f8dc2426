"""A process that answers calls, whatever becomes of it or of who asks."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from live4d_ophyd.beside import NICE, Beside, Failed


def service(word):
    """In the process: answers with what it was called with."""

    def answer(what, *arguments):
        match what if isinstance(what, str) else "":
            case "raise":
                raise KeyError(word)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "nice":
                return os.nice(0)
        return word, what, *arguments

    return answer


def late(path):
    """Takes its time to be there: a file says that it begins, another lets it go on."""
    Path(path, "began").touch()
    while not Path(path, "go on").exists():
        time.sleep(0.005)
    Path(path, "ready").touch()
    return lambda: "answer"


def not_at_first(path):
    if not Path(path, "ready").exists():
        first = not Path(path, "began").exists()
        Path(path, "began").touch()
        raise OSError("not yet" if first else "nor again")
    return lambda: "answer"


def broken(*arguments):
    raise ImportError("no such library")


@pytest.fixture
def beside():
    process = Beside("test_beside:service", "a word")
    yield process
    process.close()


@pytest.fixture(autouse=True)
def path_of_children(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.path.dirname(__file__), *sys.path])))


def test_calls_are_answered_by_another_process_that_is_less_urgent(beside):
    assert beside.pid is None
    word, array = beside.call(np.arange(3))
    assert word == "a word"
    assert array.tolist() == [0, 1, 2]
    assert beside.pid not in (None, os.getpid())
    assert beside.call("nice") == os.nice(0) + NICE


def test_what_a_call_raises_is_its_reason_and_the_process_goes_on(beside):
    with pytest.raises(Failed, match=r"^KeyError: 'a word'$"):
        beside.call("raise")
    pid = beside.pid
    assert beside.call("again") == ("a word", "again")
    assert beside.pid == pid


@pytest.mark.parametrize(("end", "words"), [("die", "signal 9"), ("exit", "exit status 3")])
def test_a_process_that_has_gone_is_said_and_started_again(beside, end, words):
    with pytest.raises(Failed, match=f"its process has gone: {words}"):
        beside.call(end)
    assert beside.call("again") == ("a word", "again")


def test_a_service_that_cannot_be_had_is_said_at_each_call():
    beside = Beside("test_beside:broken")
    for _ in range(2):
        with pytest.raises(Failed, match="ImportError: no such library"):
            beside.call("anything")
    beside.close()


def until(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


def test_it_makes_its_service_ready_before_anybody_calls(tmp_path):
    with closing(Beside("test_beside:late", str(tmp_path))) as beside:
        (tmp_path / "go on").touch()
        beside.start()
        until(tmp_path / "ready")
        assert beside.call() == "answer"


def test_nobody_waits_for_one_that_was_never_called(tmp_path):
    beside = Beside("test_beside:late", str(tmp_path))
    beside.start()
    until(tmp_path / "began")  # and it never goes on
    pid = beside.pid
    beside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_service_that_could_not_be_had_may_be_had_later(tmp_path):
    with closing(Beside("test_beside:not_at_first", str(tmp_path))) as beside:
        beside.start()
        until(tmp_path / "began")
        for words in ("not yet", "nor again"):  # the first reason is said first
            with pytest.raises(Failed, match=f"OSError: {words}"):
                beside.call()
        (tmp_path / "ready").touch()
        assert beside.call() == "answer"


def test_each_of_several_threads_gets_its_own_answers(beside):
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: beside.call(n)[1], range(400)))
    assert answers == list(range(400))


class OnlyHere:
    """Of this process: the other one does not know ``test_beside_elsewhere``."""

    __module__ = "test_beside_elsewhere"


def test_an_argument_of_a_class_that_is_not_known_there_fails_that_call_only(beside, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_beside_elsewhere", sys.modules[__name__])
    beside.call("first")
    pid = beside.pid
    with pytest.raises(Failed, match="ModuleNotFoundError"):
        beside.call(OnlyHere())
    assert beside.call("again") == ("a word", "again")
    assert beside.pid == pid


def test_closing_ends_it_and_the_next_call_starts_it(beside):
    beside.call("first")
    pid = beside.pid
    beside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert beside.call("again") == ("a word", "again")


def gone(pid):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.02)
    return not os.path.exists(f"/proc/{pid}")


def sleeps(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_it_ends_without_a_word_with_a_session_that_is_killed_in_mid_call(tmp_path):
    script = (
        "from live4d_ophyd.beside import Beside; import sys\n"
        "process = Beside('test_beside:late', sys.argv[1]); process.start(); print(process.pid, flush=True)\n"
        "words = bytes(10_000_000); print('calls', flush=True); process.call(words)"  # more than a socket takes
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as session:
        pid = int(session.stdout.readline())
        until(tmp_path / "began")
        assert session.stdout.readline() == "calls\n"
        while not sleeps(session.pid):  # in the middle of what it sends: there is nothing else to wait for
            time.sleep(0.005)
        session.kill()
        (tmp_path / "go on").touch()
        assert session.stderr.read() == ""  # which the process has, too
    assert gone(pid)


def test_it_ends_with_a_session_that_is_killed():
    script = (
        "from live4d_ophyd.beside import Beside; import sys\n"
        "process = Beside('test_beside:service', 'w'); process.call(1); print(process.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        pid = int(session.stdout.readline())
        session.kill()
    assert gone(pid)
