"""The live window in a real IPython session under Xvfb: it lives at the prompt, and while a plan runs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest
from qt_display import on_screen, platform

pexpect = pytest.importorskip("pexpect", reason="pexpect types into the session")
pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

REPOSITORY = Path(__file__).parents[2]
#: a timer of Qt's that writes down what it sees, and once, at the idle prompt, changes a detector
WATCH = """
import json, os, threading
from pyqtgraph.Qt import QtCore, QtWidgets
from bluesky import Msg

seen = {"ticks": 0, "in plan": 0, "previews": 0, "said": "", "thread": ""}

def _watch():
    seen["ticks"] += 1
    seen["in plan"] += RE.state == "running"
    seen["previews"] += bool(window and window.moment and window.moment.preview)
    seen["thread"] = threading.current_thread().name
    seen["visible"] = bool(window and window.isVisible())
    seen["events"] = len(window._feed.records) if window else 0
    seen["figures"] = plt.get_fignums() and [plt.figure(n).get_label() for n in plt.get_fignums()]
    if RE.state == "idle" and seen["events"] and not seen["said"]:
        seen["said"] = window.request({"vbf_radius": 20.0})
    seen["radius"] = live4d.vbf_radius.get()
    with open("seen.draft", "w") as file:
        json.dump(seen, file)
    os.replace("seen.draft", "seen.json")

_timer = QtCore.QTimer()
_timer.timeout.connect(_watch)
_timer.start(50)
"""


def until(folder, condition, seconds):
    """What was seen, as soon as it is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "seen.json").exists() and condition(
            found := json.loads((folder / "seen.json").read_text())
        ):
            return found
        time.sleep(0.05)
    raise AssertionError(
        (folder / "seen.json").read_text() if (folder / "seen.json").exists() else "nothing was seen"
    )


def test_the_window_of_a_session(tmp_path, new_user):
    name, why = platform()
    if why:
        pytest.skip(why)
    profile = tmp_path / "profile"
    shutil.copytree(REPOSITORY / "profile_collection", profile, ignore=shutil.ignore_patterns("*.sqlite*"))
    (profile / "startup" / "95-watch.py").write_text(WATCH)
    # No --simple-prompt: IPython turns the Qt loop at its own prompt only.
    words = [
        sys.executable,
        "-m",
        "IPython",
        f"--profile-dir={profile}",
        "--colors=NoColor",
        "--TerminalInteractiveShell.confirm_exit=False",
    ]
    command, *arguments = on_screen(words)
    # A raster of so many positions takes seconds, so that there are previews.
    environment = new_user | {"TERM": "xterm", "QT_QPA_PLATFORM": name, "LIVE4D_SCAN": "64x64"}
    child = pexpect.spawn(
        command, arguments, cwd=tmp_path, env=environment, encoding="utf-8", dimensions=(50, 200), timeout=90
    )
    log = child.logfile_read = (tmp_path / "terminal.log").open("w")
    try:
        at_prompt = until(tmp_path, lambda seen: seen["ticks"] > 5, 90)
        assert (at_prompt["visible"], at_prompt["thread"], at_prompt["in plan"]) == (True, "MainThread", 0)
        child.send("RE(count([live4d], 2))\r")
        after = until(tmp_path, lambda seen: seen["events"] == 2 and seen["said"], 60)
        assert after["in plan"] > 5
        assert after["previews"] > 0
        assert not any(
            "images" in label for label in after["figures"] or []
        )  # matplotlib shows none beside it
        assert (after["said"], after["radius"]) == ("vbf_radius 20 px", 20.0)
        child.send("exit()\r")
        child.expect(pexpect.EOF, timeout=30)
        child.wait()
        assert child.exitstatus == 0
    except (AssertionError, pexpect.ExceptionPexpect) as error:
        raise AssertionError((tmp_path / "terminal.log").read_text()[-4000:]) from error
    finally:
        child.close(force=True)
        log.close()
