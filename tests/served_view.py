"""`live4d view` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import forked


@contextmanager
def served_view(*options, **environment):
    """Yields the address that it prints."""
    command = [sys.executable, "-u", "-m", "live4d_ophyd", "view", "--port", "0", *map(str, options)]
    process = forked.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if found := re.match(r"images at (\S+)", line):
                break
        else:
            raise AssertionError("".join(told))
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)
