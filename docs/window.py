"""`make gallery`: the pictures of docs/how-to/live-window.md, from a session with a simulated scan.

It needs a display: ``xvfb-run -a -s "-screen 0 1600x1000x24" python docs/window.py [folder]``.
"""

import sys
import time
from pathlib import Path

import bluesky.plans as bp
import matplotlib
import pyqtgraph as pg
from bluesky import RunEngine
from pyqtgraph.Qt import QtCore, QtWidgets

from live4d_ophyd import (
    ABF,
    ADF,
    BF,
    DPC,
    IDPC,
    CenterOfMass,
    Disk,
    Live4D,
    MeanPattern,
    ScanGrid,
    Segments,
    Simplon,
    live_preview,
    live_window,
)  # fmt: skip
from live4d_ophyd.plans import calibrate_bright_field
from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess

SIDE, STEP_NM, SEMIANGLE_MRAD = 128, 0.1, 10.0


def methods():
    return [
        BF("bf"), ABF("abf"), ADF("adf"), Segments("quadrants", outer=1.0, unit="bf", enabled=False),
        CenterOfMass("com", Disk("all", radius=3, unit="bf")), DPC("dpc"), IDPC("idpc", unit="rad"),
        MeanPattern("pattern"),
    ]  # fmt: skip


def picture(window, path):
    QtWidgets.QApplication.processEvents()
    if not window.grab().save(str(path)):
        raise OSError(f"{path} could not be written")
    print(path)


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    RE = RunEngine({})
    with SimulatorProcess(rows=SIDE, cols=SIDE, step=STEP_NM, beam_current=200.0, seed=5) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint, name="live4d", scan=ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm"),
            methods=methods(), control=Simplon(simulator.rest_url), timeout=60.0,
            scan_generator=SimScanGenerator(simulator.rest_url, name="scan"),
        )  # fmt: skip
        live4d.wait_for_connection()
        RE.preprocessors.append(live_preview([live4d]))
        window = live_window(live4d, RE)
        window.resize(1500, 930)
        RE(calibrate_bright_field(live4d, "bf", semiangle=SEMIANGLE_MRAD))
        RE(bp.count([live4d], 2))
        window.show_only(["bf", "adf", "dpc_angle", "idpc"])

        def grown():
            """In mid-raster: a detector was made larger, and waits."""
            now = window._raster.now()
            if now is None or now.fraction < 0.6 or window._live is None or not window._live.preview:
                return
            timer.stop()
            window.request({"adf_inner": 1.4, "adf_outer": 2.6})
            QtCore.QTimer.singleShot(300, lambda: picture(window, out / "window.png"))

        timer = QtCore.QTimer()
        timer.timeout.connect(grown)
        timer.start(30)
        RE(bp.count([live4d], 3))
        window.toolbar.profile.setChecked(True)
        window.toolbar.spectrum.setChecked(True)
        window.show_only(["bf", "adf", "idpc"])
        window._select(window.panels["idpc"])
        window.profile.set_ends((1.0, 6.1), (11.5, 6.1))
        window.look_back(window._feed.records[-2])
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)
        picture(window, out / "window-profile.png")
        window.close()
        live4d.close()


if __name__ == "__main__":
    matplotlib.use("qtagg")
    pg.setConfigOptions(antialias=True)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images"))
