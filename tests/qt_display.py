"""A screen for tests of Qt windows: Xvfb, with Qt's platform for X where its libraries are, else drawn off screen."""

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache

#: Python code that fails with a reason why there can be no live window here
_CHECK = """
import pyqtgraph.Qt as Qt
from live4d_ophyd.window.opening import binding_fault
app = Qt.QtWidgets.QApplication([])
raise SystemExit(binding_fault() or 0)
"""


def on_screen(command):
    """``command`` with a screen of its own."""
    return ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *command]


@cache
def platform():
    """(Qt's platform, "") or ("", why there is none)."""
    if shutil.which("xvfb-run") is None:
        return "", "xvfb-run is not installed"
    if importlib.util.find_spec("pyqtgraph") is None:
        return "", "pyqtgraph is not installed"
    why = ""
    for name in ("xcb", "offscreen"):
        environment = {
            **os.environ,
            "QT_QPA_PLATFORM": name,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            on_screen([sys.executable, "-c", _CHECK]),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode == 0:
            return name, ""
        why = (done.stdout + done.stderr).strip().rpartition("\n")[
            2
        ] or f"Qt's platform {name} does not start"
    return "", why
