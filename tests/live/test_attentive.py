"""A Ctrl-C is heard while a plan runs, whichever thread the operating system gives it to."""

import os
import signal
import threading
from pathlib import Path

import matplotlib
import pytest

from live4d_ophyd.live.attentive import AttentiveDuringTask

pytestmark = pytest.mark.skipif(
    "qt" in matplotlib.get_backend().lower(), reason="with Qt it is Bluesky's own wait"
)


class Plan(threading.Event):
    """Ends when it is set; ``waited_for`` when somebody begins to wait."""

    def __init__(self):
        super().__init__()
        self.waited_for = threading.Event()

    def wait(self, timeout=None):
        self.waited_for.set()
        return super().wait(timeout)


def test_a_signal_that_another_thread_gets_is_heard_by_the_main_thread():
    plan, heard, in_time = Plan(), threading.Event(), []
    main = Path(f"/proc/self/task/{os.getpid()}/stat")
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())

    def interrupt():
        plan.waited_for.wait(20)
        while main.read_text().rpartition(")")[2].split()[0] != "S":
            pass  # until it sleeps
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        in_time.append(heard.wait(5))
        plan.set()

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        AttentiveDuringTask().block(plan)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert in_time == [True]
