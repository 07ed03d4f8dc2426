"""ImagePanel: one image with colour map, levels in a histogram, scale bar, and the value under the cursor.

In: arrays with their place in a unit. Out: what is on the screen, and signals of what the user does. Runs in the GUI's
thread; all arrays are `(rows, cols)`, row 0 on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets

from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.looks import levels
from live4d_ophyd.window.scale_bar import RoundScaleBar


@dataclass(frozen=True, eq=False)
class View:
    """What a panel shows."""

    values: np.ndarray  #: (rows, cols), NaN where nothing is known
    axes: ScanAxes  #: distance of rows and columns, and its unit
    units: str  #: of the values
    names: tuple[str, str] = ("scan_y", "scan_x")
    origin: tuple[float, float] = (0.0, 0.0)  #: (row, col) that has the coordinates 0
    colors: np.ndarray | None = None  #: (rows, cols, 4) uint8, instead of the values
    lost: np.ndarray | None = None  #: (rows, cols) bool: shown in a colour that is no value
    logarithmic: bool = False  #: shown as their decimal logarithm

    def rect(self) -> tuple[float, float, float, float]:
        """(left, top, width, height), pixel centres on their coordinates."""
        (rows, cols), (y, x) = self.values.shape, self.axes.step
        return (-0.5 - self.origin[1]) * x, (-0.5 - self.origin[0]) * y, cols * x, rows * y

    def pixel(self, x: float, y: float) -> tuple[int, int] | None:
        """(row, col) at coordinates; None off the image."""
        row, col = (
            round(y / self.axes.step[0] + self.origin[0]),
            round(x / self.axes.step[1] + self.origin[1]),
        )
        inside = 0 <= row < self.values.shape[0] and 0 <= col < self.values.shape[1]
        return (row, col) if inside else None

    @property
    def is_line(self) -> bool:
        """A scan of one row or column."""
        return min(self.values.shape) == 1 < self.values.size

    def drawn(self) -> np.ndarray:
        """The values as they are coloured."""
        if not self.logarithmic:
            return self.values
        seen = self.values[np.isfinite(self.values) & (self.values > 0)]
        floor = float(np.percentile(seen, 2)) if seen.size else 1.0
        return np.log10(np.maximum(self.values, floor))  # NaN stays


class ImagePanel(QtWidgets.QFrame):
    """A panel; ``selected`` says that it was clicked into, ``levels_moved`` that the user has set black and white."""

    selected = QtCore.Signal(object)
    levels_moved = QtCore.Signal(object)

    def __init__(self, name: str, color: str | None = None, color_map: str = "gray") -> None:
        super().__init__()
        self.setObjectName("panel")
        self.name, self.color = name, color
        self.view: View | None = None
        self.margin = 0.01  #: about the image, of its size
        self.auto = True  #: black and white follow the values
        self._mine = False  # levels that are being set from here
        self._title = QtWidgets.QLabel()
        self._cursor = QtWidgets.QLabel(" ")
        self._cursor.setStyleSheet(f"color: {theme.FAINT};")
        for label in (self._title, self._cursor):  # words make no panel wider
            label.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Preferred)
        self.graphics = pg.GraphicsLayoutWidget()
        self.graphics.setBackground(theme.PANEL)
        self.graphics.ci.layout.setContentsMargins(0, 0, 0, 0)
        self._wheel = QtWidgets.QLabel()  # which colour points where
        layout = QtWidgets.QGridLayout(self)
        layout.setContentsMargins(7, 5, 7, 4)
        layout.setSpacing(2)
        layout.addWidget(self._title, 0, 0)
        layout.addWidget(self.graphics, 1, 0, 1, 2)
        layout.addWidget(self._cursor, 2, 0, 1, 2)
        layout.addWidget(
            self._wheel, 1, 1, QtCore.Qt.AlignmentFlag.AlignTop | QtCore.Qt.AlignmentFlag.AlignRight
        )
        layout.setColumnStretch(0, 1)
        layout.setRowStretch(1, 1)
        self.plot = self.graphics.addPlot(0, 0)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        self.box = self.plot.getViewBox()
        self.box.invertY(True)
        self.box.setDefaultPadding(0.0)
        self._backdrop = QtWidgets.QGraphicsRectItem()
        self._backdrop.setBrush(pg.mkBrush(theme.NOT_SEEN))
        self._backdrop.setPen(pg.mkPen(None))
        self.image = pg.ImageItem(axisOrder="row-major")
        self._colored = pg.ImageItem(axisOrder="row-major")  # of an angle: colours have no levels
        self._over = pg.ImageItem(axisOrder="row-major")  # lost positions
        self._curve = pg.PlotDataItem(pen=pg.mkPen(theme.ACCENT, width=1.5))
        for z, item in enumerate((self._backdrop, self.image, self._colored, self._over)):
            item.setZValue(z - 10)
            self.box.addItem(item, ignoreBounds=True)
        self.plot.addItem(self._curve)
        self.bar = RoundScaleBar()
        self.bar.setParentItem(self.box)
        self.bar.setZValue(50)
        self.histogram = pg.HistogramLUTItem(self.image)
        self.histogram.vb.setMaximumWidth(46)
        self.histogram.axis.setStyle(tickFont=_font(9), maxTickLevel=0)
        self.histogram.axis.setTextPen(theme.FAINT)
        self.histogram.gradient.showTicks(False)
        self.histogram.vb.setMenuEnabled(False)
        self.histogram.fillHistogram(True, color=(190, 205, 220, 150))
        self.histogram.region.setBrush(pg.mkBrush(255, 255, 255, 16))
        self.histogram.region.setHoverBrush(pg.mkBrush(77, 163, 255, 50))
        self.histogram.sigLevelsChanged.connect(self._levels_changed)
        self.graphics.addItem(self.histogram, 0, 1)
        self.set_color_map(color_map)
        self._shape_shown: tuple[Any, ...] = ()
        self._image_rect = QtCore.QRectF()
        self._moves = pg.SignalProxy(self.graphics.scene().sigMouseMoved, rateLimit=30, slot=self._moved)
        self.graphics.scene().sigMouseClicked.connect(lambda event: self.selected.emit(self))
        for item in (self.bar, self.histogram):
            item.hide()
        for side in ("left", "bottom"):
            self.plot.hideAxis(side)
        self.set_title("")

    def set_title(self, words: str, alarming: bool = False) -> None:
        """Above the image, behind its name: HTML."""
        dot = f'<span style="color:{self.color};font-size:15px">&#9679;</span> ' if self.color else ""
        style = theme.LOST if alarming else theme.FAINT
        self._title.setText(f'{dot}<b>{self.name}</b>&nbsp;&nbsp;<span style="color:{style}">{words}</span>')

    def set_selected(self, selected: bool) -> None:
        self.setProperty("selected", selected)
        self.style().unpolish(self)
        self.style().polish(self)

    def set_color_map(self, name: str) -> None:
        """One of `theme.COLOR_MAPS`."""
        self.color_map = name
        self.histogram.gradient.setColorMap(color_map(name))
        self.histogram.gradient.showTicks(False)

    def show_view(self, view: View) -> None:
        """Show ``view``; the user's zoom stays while the image has its place and size."""
        self.view = view
        self._show_kind(view)
        place = (view.rect(), view.axes.unit, view.is_line)
        if place != self._shape_shown:
            self._place(view)
            self._shape_shown = place
        if view.is_line:
            axis = 0 if view.values.shape[0] > 1 else 1
            self._curve.setData(np.arange(view.values.size) * view.axes.step[axis], view.values.ravel())
            return
        if view.colors is not None:
            self._colored.setImage(view.colors, autoLevels=False)
            self._colored.setRect(QtCore.QRectF(*view.rect()))
        else:
            self._show_values(view)
        if view.lost is not None and view.lost.any():
            red = pg.mkColor(theme.LOST)
            over = np.zeros((*view.lost.shape, 4), np.uint8)
            over[view.lost] = (red.red(), red.green(), red.blue(), 255)
            self._over.setImage(over, autoLevels=False)
            self._over.setRect(QtCore.QRectF(*view.rect()))
            self._over.show()
        else:
            self._over.hide()

    def set_levels(self, low: float, high: float, auto: bool = False) -> None:
        """What is black and white; with ``auto`` until the next image only."""
        self.auto = auto
        with self._from_here():
            self.histogram.setLevels(low, high)
            margin = 0.15 * (high - low)
            self.histogram.setHistogramRange(low - margin, high + margin, padding=0)

    @contextmanager
    def _from_here(self) -> Iterator[None]:
        """Levels that change within it are not the user's."""
        self._mine = True
        try:
            yield
        finally:
            self._mine = False

    def set_auto(self, auto: bool) -> None:
        self.auto = auto
        if auto and self.view is not None:
            self.show_view(self.view)

    @property
    def levels(self) -> tuple[float, float]:
        low, high = self.histogram.getLevels()
        return float(low), float(high)

    def reset_zoom(self) -> None:
        if self.view is not None:
            self._place(self.view)

    def text_at(self, x: float, y: float) -> str:
        """The value at coordinates, with position and units; empty off the image."""
        view = self.view
        pixel = None if view is None else view.pixel(x, y)
        if view is None or pixel is None:
            return ""
        value, (row, col) = float(view.values[pixel]), pixel
        y, x = ((n - o) * step for n, o, step in zip(pixel, view.origin, view.axes.step))
        where = f"{view.names[0]} {y:.4g}, {view.names[1]} {x:.4g} {view.axes.unit}"
        if view.axes.unit != "px":
            where += f" [{row}, {col}]"
        if np.isfinite(value):
            return f"{where}: {value:.6g} {view.units}"
        missing = view.lost is not None and view.lost[pixel]
        return f"{where}: {'lost' if missing else 'no value'}"

    def _show_values(self, view: View) -> None:
        drawn = view.drawn()
        found = levels(drawn) if self.auto or not np.isfinite(drawn).any() else self.levels
        self.image.setVisible(found is not None)
        if found is None:  # nothing is known yet
            return
        with self._from_here():
            self.image.setImage(drawn, autoLevels=False, levels=found)
            self.image.setRect(self._image_rect)
        if self.auto:
            self.set_levels(*found, auto=True)
        label = f"log10 {view.units}" if view.logarithmic else view.units
        self.histogram.axis.setLabel(label, color=theme.FAINT)

    def _show_kind(self, view: View) -> None:
        self.image.setVisible(not view.is_line and view.colors is None)
        self._colored.setVisible(not view.is_line and view.colors is not None)
        self._backdrop.setVisible(not view.is_line)
        self._curve.setVisible(view.is_line)
        self.bar.setVisible(not view.is_line)
        self.histogram.setVisible(not view.is_line and view.colors is None)
        self._wheel.setVisible(not view.is_line and view.colors is not None)
        if view.colors is not None and self._wheel.pixmap().isNull():
            self._wheel.setPixmap(wheel_pixmap(46))
        for side in ("left", "bottom"):
            self.plot.showAxis(side, view.is_line)

    def _place(self, view: View) -> None:
        rect = QtCore.QRectF(*view.rect())
        self._backdrop.setRect(rect)
        self.box.setAspectLocked(not view.is_line)
        self.box.invertY(not view.is_line)
        if view.is_line:
            axis = 0 if view.values.shape[0] > 1 else 1
            self.plot.setLabel("bottom", f"{view.names[axis]} ({view.axes.unit})")
            self.plot.setLabel("left", view.units)
            self.box.enableAutoRange()
            return
        self._image_rect = rect
        self.box.setRange(rect, padding=self.margin)
        self.bar.set_place(view.rect(), view.axes.unit)

    def _levels_changed(self) -> None:
        if not self._mine:
            self.auto = False
            self.levels_moved.emit(self)

    def _moved(self, arguments: Any) -> None:
        (position,) = arguments
        if not self.box.sceneBoundingRect().contains(position):
            self._cursor.setText(" ")
            return
        at = self.box.mapSceneToView(position)
        self._cursor.setText(self.text_at(at.x(), at.y()) or " ")


def color_map(name: str) -> Any:
    """A pyqtgraph colour map."""
    return pg.colormap.getFromMatplotlib(name)


def wheel_pixmap(side: int) -> Any:
    """The colour wheel, as a QPixmap: which colour points where in an image with rows running down."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    radius = np.hypot(y, x)
    colors = wheel_colors(np.degrees(np.arctan2(y, x)), np.where(radius <= 1, radius, np.nan), 100)
    shades = np.zeros((side, side, 4), np.uint8)
    shades[..., :3] = np.nan_to_num(colors) * 255
    shades[..., 3] = np.where(radius <= 1, 255, 0)
    image = QtGui.QImage(shades.data, side, side, 4 * side, QtGui.QImage.Format.Format_RGBA8888)
    return QtGui.QPixmap.fromImage(image.copy())


def _font(size: int) -> Any:
    font = QtGui.QFont()
    font.setPixelSize(size)
    return font
