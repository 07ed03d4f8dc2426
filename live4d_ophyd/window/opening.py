"""``live_window``: opens the window of a device, and connects it to the RunEngine.

In: a device and a RunEngine. Out: a `LiveWindow`. Qt is imported here, when it is called, and nowhere else before.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live4d_ophyd.window.live_window import LiveWindow

#: of each device, the window that is open
_open: dict[str, LiveWindow] = {}


def live_window(device: Any, RE: Any, *, directory: str | os.PathLike | None = None) -> LiveWindow:
    """Open a window with the device's images as they come, beside the pattern with its virtual detectors.

    The detectors are moved and resized with the mouse; the RunEngine sets them, for the next raster. Drawing takes
    place in the main thread and never holds up the RunEngine. A window that is open already comes to the front; one of
    another device of the same name, or for another RunEngine, is closed. Once closed, a window has let go of the
    RunEngine and of its images.

    Parameters
    ----------
    device
        A Live4D.
    RE
        The RunEngine whose plans take the images. Previews come if `live_preview` is among its preprocessors.
    directory
        Where pictures are saved, unless told otherwise; default: the folder that the session runs in.

    Returns
    -------
    LiveWindow
        With ``save_picture(path, name)``, and ``request({"vbf_radius": 20})``, which the mouse calls.

    Raises
    ------
    RuntimeError
        There is no Qt, no display, it was called in another thread than the main one, or matplotlib has figures of
        another toolkit.

    Examples
    --------
    >>> window = live_window(live4d, RE)  # doctest: +SKIP
    """
    if reason := why_not():
        raise RuntimeError(reason)
    from pyqtgraph.Qt import QtCore, QtWidgets

    _use_qt()
    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["live4d"])
    shown = _open.get(device.name)
    if shown is not None and shown.is_of(device, RE):
        shown.setWindowState(shown.windowState() & ~QtCore.Qt.WindowState.WindowMinimized)
        shown.raise_()
        shown.activateWindow()
        return shown
    if shown is not None:  # the device was made anew under the same name, or the RunEngine was
        shown.close()
    window = _connected(device, RE, Path.cwd() if directory is None else Path(directory).expanduser())
    _open[device.name] = window
    window.app = app  # the application must outlive it
    window.show()
    return window


def is_installed() -> bool:
    """Whether what a window needs is installed: pyqtgraph and a Qt binding."""
    bindings = ("PySide6", "PyQt6", "PyQt5")
    return importlib.util.find_spec("pyqtgraph") is not None and any(map(importlib.util.find_spec, bindings))


def why_not() -> str:
    """Why there can be no window here; empty if there can."""
    if not is_installed():
        return "a live window needs pyqtgraph and Qt, which are not installed: pip install 'live4d-ophyd[qt]'"
    if threading.current_thread() is not threading.main_thread():
        name = threading.current_thread().name
        return f"live_window was called in the thread {name}; Qt draws in the main thread only"
    here = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not here and os.environ.get("QT_QPA_PLATFORM", "") not in ("offscreen", "vnc", "minimal"):
        return "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    return binding_fault()


def binding_fault() -> str:
    """Why the Qt binding would end the session; empty if it would not.

    PySide6 6.12.0 takes a reference from None with each call that returns it. From Python 3.12 on None has none to
    lose; before, the interpreter ends with ``none_dealloc``, after so many calls.
    """
    from pyqtgraph.Qt import QT_LIB, QtCore

    calls = 200
    timer = QtCore.QTimer()
    before = sys.getrefcount(None)
    for _ in range(calls):
        timer.setInterval(0)
    if sys.getrefcount(None) > before - calls // 2:
        return ""
    version, python = QtCore.__version__, f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{QT_LIB} {version} breaks Python {python}: each call loses a reference to None, and the session would die. "
        "Install another: pip install 'PySide6-Essentials<6.12', or use Python 3.12"
    )


def _connected(device: Any, RE: Any, directory: Path) -> LiveWindow:
    from live4d_ophyd.window.changes import Changes
    from live4d_ophyd.window.feed import Feed
    from live4d_ophyd.window.live_window import LiveWindow
    from live4d_ophyd.window.progress import RasterClock

    feed, raster = Feed(device.name), RasterClock()
    changes = Changes(device, RE, raster)
    token = RE.subscribe(feed)
    RE.preprocessors.append(changes.between_rasters)

    def let_go() -> None:
        _open.pop(device.name, None)
        RE.unsubscribe(token)
        if changes.between_rasters in RE.preprocessors:
            RE.preprocessors.remove(changes.between_rasters)

    return LiveWindow(device, feed, changes, raster, directory, let_go)


def _use_qt() -> None:
    """Have the Qt loop turn while a plan runs, as Bluesky does for matplotlib's Qt backend, and at IPython's prompt."""
    import matplotlib
    import matplotlib.pyplot as plt
    from bluesky.callbacks.mpl_plotting import initialize_qt_teleporter
    from IPython import get_ipython

    if "qt" not in matplotlib.get_backend().lower():
        if plt.get_fignums():
            raise RuntimeError(
                f"matplotlib has figures in {matplotlib.get_backend()}: close them, or start with %matplotlib qt"
            )
        shell = get_ipython()
        if shell is None:
            plt.switch_backend("qtagg")
        else:
            shell.run_line_magic("matplotlib", "qt")
    initialize_qt_teleporter()
