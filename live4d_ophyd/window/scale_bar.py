"""A scale bar that keeps a round length while the view is zoomed. Runs in the GUI's thread."""

from __future__ import annotations

from typing import Any

import pyqtgraph as pg
from pyqtgraph.Qt import QtCore

from live4d_ophyd.runs.picture import nice_length
from live4d_ophyd.window.theme import TEXT

#: of the visible part of the image, at most; and px from its corner
_PART, _MARGIN = 0.3, 12


class RoundScaleBar(pg.ScaleBar):
    """pyqtgraph's bar, in the image's corner: the longest of 1, 2, 5, ... units that fits a third of the image."""

    def __init__(self) -> None:
        super().__init__(1.0, width=4, brush=TEXT, pen=pg.mkPen("#000000"), suffix="")
        self.offset = None  # it stays at the view's origin, and places what it draws
        self.text.setColor(TEXT)
        self.text.fill = pg.mkBrush(0, 0, 0, 110)
        self._unit, self._rect = "", (0.0, 0.0, 1.0, 1.0)

    def set_place(self, rect: tuple[float, float, float, float], unit: str) -> None:
        """Where the image is, (left, top, width, height), and what one of these coordinates is."""
        self._rect, self._unit = rect, unit
        self.updateBar()

    @property
    def words(self) -> str:
        """``5 nm``."""
        return f"{self.size:g} {self._unit}"

    def updateBar(self, *args: Any) -> None:
        view = self.parentItem()
        if view is None:
            return
        (left, right), (top, bottom) = view.viewRange()
        x, y, width, height = self._rect
        left, right = max(left, x), min(right, x + width)
        bottom = min(bottom, y + height)
        if right <= left or bottom <= max(top, y):
            return  # the image is out of sight
        self.size = nice_length(_PART * (right - left))
        start, corner = (
            view.mapFromViewToItem(self, QtCore.QPointF(at, bottom)) for at in (right - self.size, right)
        )
        length = corner.x() - start.x()
        self.bar.setRect(
            QtCore.QRectF(corner.x() - length - _MARGIN, corner.y() - _MARGIN, length, self._width)
        )
        self.text.setText(self.words)
        self.text.setPos(corner.x() - length / 2 - _MARGIN, corner.y() - _MARGIN)
