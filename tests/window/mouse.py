"""A mouse for Qt widgets: events as the window system sends them, so that no real pointer is needed."""

import pyqtgraph as pg
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets

pg.setConfigOption("mouseRateLimit", 0)  # else pyqtgraph drops moves within 10 ms, here all of a drag

LEFT = QtCore.Qt.MouseButton.LeftButton
NONE = QtCore.Qt.MouseButton.NoButton


def send(widget, kind, at, button=NONE, buttons=NONE, modifiers=QtCore.Qt.KeyboardModifier.NoModifier):
    at = QtCore.QPointF(at)
    event = QtGui.QMouseEvent(
        kind, at, QtCore.QPointF(widget.mapToGlobal(at.toPoint())), button, buttons, modifiers
    )
    QtWidgets.QApplication.sendEvent(widget, event)


def drag(widget, start, end, steps=8):
    """Press at ``start``, move in steps, release at ``end``; in the widget's px."""
    start, end = QtCore.QPointF(start), QtCore.QPointF(end)
    send(widget, QtCore.QEvent.Type.MouseMove, start)
    send(widget, QtCore.QEvent.Type.MouseButtonPress, start, LEFT, LEFT)
    for step in range(1, steps + 1):
        send(widget, QtCore.QEvent.Type.MouseMove, start + (end - start) * (step / steps), NONE, LEFT)
    send(widget, QtCore.QEvent.Type.MouseButtonRelease, end, LEFT, NONE)
    QtWidgets.QApplication.processEvents()  # what a drag means is said after its event


def click(widget, at=None):
    at = QtCore.QPointF(widget.rect().center() if at is None else at)
    send(widget, QtCore.QEvent.Type.MouseButtonPress, at, LEFT, LEFT)
    send(widget, QtCore.QEvent.Type.MouseButtonRelease, at, LEFT, NONE)


def on_image(panel, x, y):
    """Where coordinates of a panel's image are, in px of the widget that draws it."""
    return QtCore.QPointF(panel.graphics.mapFromScene(panel.box.mapViewToScene(QtCore.QPointF(x, y))))


def drag_on_image(panel, start, end):
    """Drag on a panel's image, from (x, y) to (x, y)."""
    drag(panel.graphics.viewport(), on_image(panel, *start), on_image(panel, *end))
