"""Panels of the live window with made-up values, and the mouse on all kinds of outlines. JSON on the last line."""

import json

import numpy as np
import pyqtgraph as pg
from mouse import drag, drag_on_image, on_image
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets
from still_live4d import still_live4d

from live4d_ophyd import ABF, BF, Annulus, Calibration, Disk, Mask, Points, Polygon, Segments
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.image_panel import ImagePanel, View
from live4d_ophyd.window.pattern_panel import PatternPanel


def shown(widget):
    widget.resize(600, 640)
    widget.show()
    for _ in range(5):
        QtWidgets.QApplication.processEvents()
    return widget


def pixels(widget, color):
    """How many of the widget's are of a colour."""
    image = widget.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB32)
    values = np.frombuffer(image.constBits(), np.uint32).reshape(image.height(), image.width())
    return int((values & 0xFFFFFF == QtGui.QColor(color).rgb() & 0xFFFFFF).sum())


def images(seen):
    values = np.tile(np.linspace(0, 100, 8), (8, 1))
    values[2, 3] = np.nan
    values[6:] = np.nan
    missing = np.zeros((8, 8), bool)
    missing[2, 3] = True
    panel = ImagePanel("vbf")
    panel.show_view(View(values, ScanAxes((0.5, 0.5), "nm"), "counts", lost=missing))
    shown(panel)
    red, blue = pixels(panel, theme.LOST), pixels(panel, theme.NOT_SEEN)
    seen["lost"] = [
        red > 0,
        12 < blue / red < 20,
        panel.text_at(1.5, 1.0),
        panel.text_at(0, 3.5),
        panel.text_at(9, 9),
    ]
    seen["levels"] = panel.levels
    seen["bar"] = panel.bar.words
    line = shown(ImagePanel("line"))
    line.show_view(View(np.arange(20.0)[np.newaxis], ScanAxes((1.0, 0.5), "nm"), "counts"))
    x, y = line._curve.getData()
    seen["line"] = [x[-1], y[-1], line.plot.getAxis("bottom").labelText, line.image.isVisible()]
    empty = ImagePanel("empty")
    empty.show_view(View(np.full((4, 4), np.nan), ScanAxes(), "counts"))
    seen["empty"] = shown(empty).image.isVisible()


def pattern(*methods, calibration=None, **kwargs):
    device = still_live4d(*methods, **({} if calibration is None else {"calibration": calibration}), **kwargs)
    panel, wanted = PatternPanel(device, {}), []
    panel.pattern_is((96, 96))
    panel.wanted.connect(wanted.append)
    panel.panel.show_view(View(np.ones((96, 96)), ScanAxes(), "counts", ("q_y", "q_x")))
    panel.refresh({})
    return shown(panel), wanted


def outlines(seen):
    points = [(20.0, 30.0), (60.0, 70.0)]
    panel, wanted = pattern(
        Points("spots", points, radius=5), Polygon("poly", [(10, 50), (10, 90), (30, 70)])
    )
    drag_on_image(panel.panel, (70, 60), (75, 66))
    seen["point"] = wanted.pop()
    drag_on_image(panel.panel, (90, 10), (84, 18))
    seen["corner"] = wanted.pop()

    panel, wanted = pattern(
        Disk("vbf", (40.0, 40.0), radius=12), Annulus("adf", (40.0, 40.0), inner=20, outer=30)
    )
    drag_on_image(panel.panel, (40, 40), (46, 44))
    seen["together"] = wanted.pop()
    panel.redraw()
    panel.refresh({})
    shift = QtCore.Qt.KeyboardModifier.ShiftModifier
    QtGui.QGuiApplication.keyboardModifiers = staticmethod(lambda: shift)  # as a key that is held down
    drag_on_image(panel.panel, (40, 40), (46, 44))
    seen["alone"] = wanted.pop()
    QtGui.QGuiApplication.keyboardModifiers = staticmethod(lambda: QtCore.Qt.KeyboardModifier.NoModifier)
    panel.refresh({"vbf_radius": 15.0})
    styles = [panel.items[name]._circles[0].pen.style() for name in ("vbf", "adf")]
    seen["waiting"] = [style == QtCore.Qt.PenStyle.DashLine for style in styles]
    panel.methods.topLevelItem(1).setCheckState(0, QtCore.Qt.CheckState.Unchecked)
    seen["tick"] = wanted.pop()

    calibration = Calibration((48.0, 50.0), 15.0)
    panel, wanted = pattern(
        BF("bf"),
        ABF("abf"),
        Segments("q", outer=1, unit="bf"),
        Mask("m", np.eye(96, dtype=int)),
        calibration=calibration,
    )
    seen["crosses"] = [name for name, item in panel.items.items() if item.center is not None]
    drag_on_image(panel.panel, (50, 48), (54, 45))
    seen["calibration"] = wanted.pop()
    moved = panel.items["abf"]._circles[1]
    seen["followed"] = [moved.pos().x() + moved.size()[0] / 2, moved.pos().y() + moved.size()[1] / 2]
    handle = panel.items["abf"].handle(0)
    at = panel.panel.box.mapSceneToView(handle.scenePos())
    start = panel.panel.graphics.mapFromScene(handle.scenePos())
    end = on_image(panel.panel, 54 + 1.2 * (at.x() - 54), 45 + 1.2 * (at.y() - 45))
    drag(panel.panel.graphics.viewport(), start, end)
    seen["radius"] = wanted.pop()


if __name__ == "__main__":
    app = pg.mkQApp()
    app.setStyleSheet(theme.STYLE)
    found = {}
    images(found)
    outlines(found)
    print(json.dumps(found))
