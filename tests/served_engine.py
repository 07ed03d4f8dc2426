"""An engine that was started by hand: `live4d serve` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import forked


@dataclass(frozen=True)
class ServedEngine:
    """endpoint: where sessions connect. log: the lines of its log so far."""

    endpoint: str
    process: subprocess.Popen
    log: list[str]


@contextmanager
def served_engine(*options, endpoint="tcp://127.0.0.1:*", env=None) -> Iterator[ServedEngine]:
    """`live4d serve` with these options, on a free port if nothing else is said; a failed test shows its log."""
    command = [sys.executable, "-m", "live4d_ophyd", "serve", endpoint, *map(str, options)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    log: list[str] = []
    with forked.Popen(command, **pipes, text=True, env=env) as process:
        # A thread: an engine with a full pipe would wait for its reader.
        reader = threading.Thread(target=lambda: log.extend(process.stderr))
        reader.start()
        try:
            yield ServedEngine(json.loads(process.stdout.readline())["engine"], process, log)
        finally:
            process.terminate()
            reader.join()
            sys.stderr.writelines(log)
