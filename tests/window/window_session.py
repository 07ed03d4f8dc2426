"""An operator's session with the live window: calibrate, move a detector with the mouse, scan, look, save.

The arguments: a folder for pictures. What was seen goes to stdout, as JSON on the last line.
"""

import json
import sys
import time
from pathlib import Path

import bluesky.plans as bp
import matplotlib
import numpy as np
from bluesky import RunEngine
from mouse import click, drag_on_image, on_image, send
from ophyd.sim import motor
from pyqtgraph.Qt import QtCore, QtWidgets
from still_live4d import still_live4d

from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, Simplon, live_preview, live_window
from live4d_ophyd.plans import calibrate_bright_field
from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess

SIDE = 32


def until(condition, seconds=60.0):
    """Let the window live until ``condition``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the window did not get there")
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)


def during(condition, action):
    """Do ``action`` once, in the GUI's thread, when ``condition`` holds while a plan runs."""
    timer = QtCore.QTimer()

    def look():
        if condition():
            timer.stop()
            action()

    timer.timeout.connect(look)
    timer.start(5)
    return timer


def are_drawn(window, live4d):
    """Whether the detectors are drawn as the device has them: until then they may still follow a calibration."""
    items = [window.pattern.items.get(name) for name in ("vbf", "adf")]
    return all(
        item is not None
        and not item.held
        and item.center is not None
        and item.outline.center == getattr(live4d, f"{item.outline.name}_center").get()
        for item in items
    ) and items[0].outline.radii == (live4d.vbf_radius.get(),)


def centre_to(window, name, row, col):
    """Drag the centre of a detector."""
    at = window.pattern.items[name].center.pos()
    drag_on_image(window.pattern.panel, (at.x(), at.y()), (col, row))


def radius_by(window, name, factor, index=0):
    """Drag the handle of a detector's circle."""
    item = window.pattern.items[name]
    row, col = item.outline.center
    handle = item.handle(index)
    at = window.pattern.panel.box.mapSceneToView(handle.scenePos())
    to = (col + factor * (at.x() - col), row + factor * (at.y() - row))
    drag_on_image(window.pattern.panel, (at.x(), at.y()), to)


def operate(RE, live4d, folder, seen):
    events = []
    RE.subscribe(lambda name, doc: events.append(doc["data"]), "event")
    window = live_window(live4d, RE, directory=folder)
    seen["one window"] = live_window(live4d, RE) is window
    until(window.isVisible)

    RE(calibrate_bright_field(live4d))
    until(lambda: np.isfinite(window.pattern.panel.view.values).any() and are_drawn(window, live4d))
    seen["pattern"] = list(window.pattern.panel.view.values.shape)
    seen["calibrated"] = [*live4d.vbf_center.get(), live4d.vbf_radius.get()]

    # Calibrated they share a centre, and move together.
    seen["px"] = max(window.pattern.panel.box.viewPixelSize())
    centre_to(window, "vbf", 44.0, 50.0)
    seen["moved"] = [live4d.vbf_center.get(), live4d.adf_center.get()]
    seen["said"] = window.status.words.text()

    # A drag beside the handles moves the view, and no detector.
    drag_on_image(window.pattern.panel, (20.0, 20.0), (24.0, 24.0))
    seen["view moved"] = live4d.vbf_center.get() == seen["moved"][0]
    window.pattern.panel.reset_zoom()

    # In mid-raster: for the next one.
    events.clear()
    radius = live4d.vbf_radius.get()
    running = lambda: window._raster.now() is not None and window._raster.now().frames > 0  # noqa: E731

    def enlarge():
        radius_by(window, "vbf", 1.2)
        seen["waits"] = [live4d.vbf_radius.get() == radius, window.status.words.text()]
        seen["list"] = window.pattern.methods.topLevelItem(0).text(2)

    keep = during(running, enlarge)
    RE(bp.count([live4d], 2))
    finals = [event for event in events if "live4d_vbf_mean" in event]
    seen["radii"] = [event["live4d_vbf_radius"] / radius for event in finals]
    seen["means"] = [event["live4d_vbf_mean"] for event in finals]
    seen["previews"] = len(events) - len(finals)

    # A scan compares its images.
    def refuse():
        radius_by(window, "vbf", 0.8)
        seen["refused"] = window.status.words.text()

    keep = during(running, refuse)
    RE(bp.scan([live4d], motor, 0, 1, 2))
    del keep
    seen["kept"] = live4d.vbf_radius.get() == finals[-1]["live4d_vbf_radius"]
    until(lambda: len(window._feed.records) == 5 and window._live is not None and not window._live.preview)
    until(lambda: are_drawn(window, live4d))  # what was refused is drawn back

    look(window, seen)
    save(window, folder, seen)
    window.close()
    window.close()
    seen["let go"] = [len(RE.preprocessors), len(window._feed.records)]
    again = live_window(live4d, RE)
    anew = still_live4d(
        Disk("vbf", radius=18)
    )  # of the same name, as when a session makes its device once more
    of_anew = live_window(anew, RE)
    seen["made anew"] = [again is not window, again.isVisible(), of_anew.isVisible(), len(RE.preprocessors)]
    of_anew.request({"vbf_radius": 17.0})
    seen["made anew"].append(anew.vbf_radius.get())
    of_anew.close()


def look(window, seen):
    """The last images, the cursor, a line and a spectrum."""
    first = window.strip.visualItemRect(window.strip.item(1)).center()  # the first after the calibration
    click(window.strip.viewport(), first)
    seen["back"] = [window.looking_back, window.moment.number, window.toolbar._title.text()]
    panel = window.panels["vbf"]
    shown = panel.view.values
    seen["back to"] = bool(np.array_equal(shown, window._feed.records[1].array("live4d_vbf")))
    step = panel.view.axes.step
    at = on_image(panel, 5 * step[1], 3 * step[0])
    send(panel.graphics.viewport(), QtCore.QEvent.Type.MouseMove, at)
    until(lambda: "[3, 5]" in panel._cursor.text())
    seen["cursor"] = [panel._cursor.text(), float(shown[3, 5])]
    click(window.toolbar.profile)
    window.profile.set_ends((0.0, 3 * step[0]), (31 * step[1], 3 * step[0]))
    seen["profile"] = [
        bool(np.allclose(window.profile.values, shown[3])),
        float(window.profile.distances[-1]),
    ]
    click(window.toolbar.spectrum)
    seen["spectrum"] = [
        window.spectrum.isVisible(),
        window.spectrum.view.axes.unit,
        window.spectrum.text_at(-2.5, 0.0),
    ]
    click(window.toolbar.live)
    seen["live"] = [window.looking_back, window.moment is window._live]
    window.pattern.panel.color_map, before = "gray", window.panels["vbf"].auto
    window.panels["vbf"].histogram.region.setRegion((100.0, 200.0))  # as a drag of its edges does
    seen["levels"] = [before, window.panels["vbf"].auto]


def save(window, folder, seen):
    """By the button, with the name that it suggests; and a TIFF."""
    suggested = []

    def choose(parent, title, name, filters):
        suggested.append(name)
        return name, filters

    QtWidgets.QFileDialog.getSaveFileName = staticmethod(choose)
    click(window.panels["adf"].graphics.viewport(), on_image(window.panels["adf"], 1.0, 1.0))
    seen["selected"] = window.selected.name
    click(window.toolbar.save)
    seen["saved"] = [Path(suggested[0]).name, window.status.words.text()]
    window.save_picture(folder / "adf.tif", "adf")
    np.save(folder / "adf.npy", window.moment.array("live4d_adf"))
    try:
        window.save_picture(folder / "adf.jpg")
    except ValueError as error:
        seen["jpg"] = str(error)


def main():
    folder, seen = Path(sys.argv[1]), {}
    RE = RunEngine({})
    with SimulatorProcess(rows=SIDE, cols=SIDE, step=0.2, rate=500, seed=5) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint, name="live4d", scan=ScanGrid(SIDE, SIDE, step=0.2, unit="nm"),
            methods=[Disk("vbf", radius=18), Annulus("adf", inner=22, outer=40)], control=Simplon(simulator.rest_url),
            scan_generator=SimScanGenerator(simulator.rest_url, name="scan_generator"),
        )  # fmt: skip
        live4d.wait_for_connection()
        RE.preprocessors.append(live_preview([live4d], max_rate=20))
        try:
            operate(RE, live4d, folder, seen)
            app = QtWidgets.QApplication.instance()
            seen["platform"] = app.platformName()
        finally:
            live4d.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    matplotlib.use("qtagg")
    main()
