"""Under Qt the images are drawn in the GUI's thread while the RunEngine runs in its own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BINDINGS = ("PyQt6", "PySide6", "PyQt5")
HERE = Path(__file__).parent


@pytest.mark.system
@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in BINDINGS),
    reason=f"none of {', '.join(BINDINGS)} is installed",
)
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="xvfb-run is not installed")
def test_a_qt_window_follows_the_run():
    command = ["xvfb-run", "-a", sys.executable, str(HERE / "qt_session.py")]
    environment = {
        **os.environ,
        "MPLBACKEND": "qtagg",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # matplotlib wants a display to exist; Qt's own plugin for it needs libraries that few machines have.
        "QT_QPA_PLATFORM": "offscreen",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["backend"] == "qtagg"
    assert result["visible"]
    assert result["threads"] == ["MainThread"]
    assert result["masked"][0] > 0
    assert result["masked"][-1] == 0
    assert result["title"] == "live4d_vbf, 100 % seen"
