"""Tools of the window that look closer at one image: a line whose profile is plotted, and its spectrum.

In: an `ImagePanel` with its view. Out: a plot, and a panel. Runs in the GUI's thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from pyqtgraph.Qt import QtWidgets

from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.image_panel import ImagePanel, View
from live4d_ophyd.window.looks import profile, spectrum


class Profile(QtWidgets.QFrame):
    """Values along a line that lies on a panel's image and is dragged by its ends."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("panel")
        self.panel: ImagePanel | None = None
        self._line: Any = None
        self.distances, self.values = np.zeros(0), np.zeros(0)
        self._title = QtWidgets.QLabel()
        self.width_box = QtWidgets.QSpinBox()
        self.width_box.setRange(1, 99)
        self.width_box.setPrefix("line width ")
        self.width_box.setToolTip("Lines side by side whose mean is taken")
        self.width_box.valueChanged.connect(lambda _: self.update_values())
        self._plot = pg.PlotWidget(background=theme.PANEL)
        self._plot.setMenuEnabled(False)
        self._plot.showGrid(x=True, y=True, alpha=0.15)
        for side in ("left", "bottom"):
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self._curve = self._plot.plot(pen=pg.mkPen(theme.WARN, width=1.6))
        top = QtWidgets.QHBoxLayout()
        top.addWidget(self._title, 1)
        top.addWidget(self.width_box)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(7, 5, 7, 4)
        layout.addLayout(top)
        layout.addWidget(self._plot, 1)
        self.setMinimumHeight(170)

    def put_on(self, panel: ImagePanel | None) -> None:
        """Lay the line on ``panel``, across the middle of its image; None takes it away."""
        if self._line is not None and self.panel is not None:
            self.panel.box.removeItem(self._line)
            self._line.deleteLater()
        self.panel, self._line = panel, None
        if panel is None or panel.view is None:
            return
        left, top, width, height = panel.view.rect()
        ends = [(left + 0.2 * width, top + 0.5 * height), (left + 0.8 * width, top + 0.5 * height)]
        pen = pg.mkPen(theme.WARN, width=2)
        self._line = pg.LineSegmentROI(ends, pen=pen, handlePen=pen, antialias=True)
        self._line.setZValue(40)
        self._line.sigRegionChanged.connect(lambda _: self.update_values())
        panel.box.addItem(self._line, ignoreBounds=True)
        self.update_values()

    def set_ends(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Put the line's ends to coordinates (x, y)."""
        for handle, at in zip(self._line.getHandles(), (start, end)):
            self._line.movePoint(handle, pg.Point(*at), finish=False, coords="parent")
        self.update_values()

    def update_values(self) -> None:
        """Of the image as it is now."""
        panel = self.panel
        if self._line is None or panel is None or panel.view is None:
            return
        view, step = panel.view, panel.view.axes.step
        ends = [self._line.mapToParent(handle.pos()) for handle in self._line.getHandles()]
        start, end = ((at.y() / step[0] + view.origin[0], at.x() / step[1] + view.origin[1]) for at in ends)
        width = self.width_box.value()
        self.distances, self.values = profile(view.values, start, end, step, width)
        self._curve.setData(self.distances, self.values)
        self._plot.setLabel("bottom", f"along the line ({view.axes.unit})")
        self._plot.setLabel("left", view.units)
        length = self.distances[-1] if self.distances.size else 0.0
        self._title.setText(f"<b>profile of {panel.name}</b>&nbsp; {length:.4g} {view.axes.unit} long")


class Spectrum(ImagePanel):
    """The power spectrum of another panel's image; the cursor says the period."""

    def __init__(self) -> None:
        super().__init__("FFT", color_map="gray")

    def show_of(self, panel: ImagePanel) -> None:
        """Of the image as it is now."""
        view = panel.view
        self.name = f"FFT of {panel.name}"
        if view is None or view.is_line or view.colors is not None:
            self.set_title("there is none; what is shown is of another image")
            return
        power, per_px = spectrum(view.values, view.axes.step)
        unit = view.axes.unit
        middle = float(power.shape[0] // 2), float(power.shape[1] // 2)
        whole = power.shape == view.values.shape
        self.set_title("" if whole else f"middle {power.shape[0]} x {power.shape[1]} positions")
        names = ("k_y", "k_x")
        self.show_view(View(power, ScanAxes(per_px, f"1/{unit}"), "log10 power", names, middle))

    def text_at(self, x: float, y: float) -> str:
        words, length = super().text_at(x, y), float(np.hypot(x, y))
        if not words or not length or self.view is None:
            return words
        return f"{words}, period {1 / length:.4g} {self.view.axes.unit.removeprefix('1/')}"
