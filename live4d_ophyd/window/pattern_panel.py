"""PatternPanel: the diffraction pattern with the virtual detectors on it, and the list of a device's methods.

In: patterns, and the device's settings as they are, looked at now and then. Out: ``wanted``, values by the names of
signals, when a handle is let go or a method is ticked. Detectors that share a centre are moved together; with Shift
one alone. Runs in the GUI's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets

from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.changes import shown, when
from live4d_ophyd.window.image_panel import ImagePanel, View
from live4d_ophyd.window.outline_items import OutlineItem
from live4d_ophyd.window.outlines import (
    CALIBRATION,
    Outline,
    Position,
    Rings,
    Values,
    in_words,
    outlines,
    sharing_center,
)

#: frames are taken to be so large until one is known
_UNKNOWN_SHAPE = (192, 192)


class PatternPanel(QtWidgets.QWidget):
    """``colors`` gives each method its colour."""

    wanted = QtCore.Signal(object)
    dragged = QtCore.Signal(str)

    def __init__(self, device: Any, colors: dict[str, str]) -> None:
        super().__init__()
        self._device, self._colors = device, colors
        self.panel = ImagePanel("pattern", color_map="inferno")
        self.panel.margin = 0.06  # names of detectors stand outside of them
        self.items: dict[str, OutlineItem] = {}
        self._outlines: dict[str, Outline | str] = {}
        self._shape: tuple[int, int] | None = None
        self.methods = QtWidgets.QTreeWidget()
        self.methods.setHeaderLabels(["method", "virtual detector", ""])
        self.methods.setRootIsDecorated(False)
        self.methods.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.NoSelection)
        self.methods.setFixedHeight(190)
        self.methods.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.methods.header()
        header.setSectionResizeMode(1, QtWidgets.QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(2, QtWidgets.QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(False)
        header.resizeSection(0, 150)
        self.methods.itemChanged.connect(self._ticked)
        self.panel.show_view(
            View(np.full(self.shape, np.nan), ScanAxes(), "counts", ("q_y", "q_x"), logarithmic=True)
        )
        self.panel.set_title(f"none yet: RE(calibrate_bright_field({device.name})), or tick it below")
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel, 1)
        layout.addWidget(self.methods)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the frames, (q_y, q_x), as far as it is known."""
        if self._shape is None and self._device.control is not None:
            rows, cols = self._device.detector.largest_frame()
            return (int(rows), int(cols)) if rows * cols < float("inf") else _UNKNOWN_SHAPE
        return self._shape or _UNKNOWN_SHAPE

    def pattern_is(self, shape: tuple[int, int]) -> None:
        """The frames' shape is known."""
        self._shape = shape

    def refresh(self, waiting: Values) -> None:
        """Draw the detectors as the device has them, or will have at the next raster; not those that are held."""
        if any(item.held for item in self.items.values()):
            return
        try:
            found = outlines(self._device, self.shape, waiting)
            methods = self._device.methods(waiting)
        except ValueError:  # two parameters are being set, one after the other
            return
        self._list_methods(methods, waiting, found)
        for name in [name for name in self.items if found.get(name) != self._outlines.get(name)]:
            self.items.pop(name).remove()
        for place, (name, outline) in enumerate(found.items()):
            if isinstance(outline, str) or not self._is_on(name):
                if name in self.items:
                    self.items.pop(name).remove()
                continue
            if name not in self.items:
                self._draw(name, outline, place)
            prefix = f"{name}_"
            self.items[name].set_waiting(any(key.startswith(prefix) for key in waiting))
        self._outlines = found

    def redraw(self) -> None:
        """Draw all anew, as the device has it: a drag was refused."""
        for item in self.items.values():
            item.remove()
        self.items.clear()
        self._outlines = {}

    def _draw(self, name: str, outline: Outline, place: int) -> None:
        color = theme.CALIBRATION if name == CALIBRATION else self._colors.get(name, theme.TEXT)
        item = OutlineItem(self.panel.box, outline, color, place)
        item.dragged.connect(lambda values, center, name=name: self._drag(name, values, center))
        item.released.connect(lambda values, name=name: self._release(name, values))
        self.items[name] = item

    def _is_on(self, name: str) -> bool:
        enabled = getattr(self._device, f"{name}_enabled", None)
        return name == CALIBRATION or enabled is None or bool(enabled.get())

    def _together(self, name: str) -> list[str]:
        """Names of the detectors that move with this one's centre."""
        outline = self._outlines.get(name)
        alone = QtGui.QGuiApplication.keyboardModifiers() & QtCore.Qt.KeyboardModifier.ShiftModifier
        if not isinstance(outline, Rings) or alone or name == CALIBRATION:
            return [name]
        return [
            ring.name for ring in sharing_center(self._outlines, outline.center) if ring.name in self.items
        ]

    def _drag(self, name: str, values: Values, center: Position | None) -> None:
        if center is not None:
            followers = self._followers() if name == CALIBRATION else self._together(name)
            for other in followers:
                if other != name:
                    self.items[other].move_to(center)
        self.dragged.emit(", ".join(f"{key} {shown(value)}" for key, value in values.items()))

    def _followers(self) -> list[str]:
        rings = [outline for outline in self._outlines.values() if isinstance(outline, Rings)]
        return [ring.name for ring in rings if ring.follows and ring.name in self.items]

    def _release(self, name: str, values: Values) -> None:
        outline = self._outlines.get(name)
        if isinstance(outline, Rings) and outline.center_signal in values:
            (center,) = values.values()
            for other in self._together(name):
                ring = self._outlines[other]
                if isinstance(ring, Rings):
                    values = values | ring.moved(center)
        self.wanted.emit(values)

    # The list -------------------------------------------------------------------------------------

    def _list_methods(self, methods: Sequence[Any], waiting: Values, found: dict[str, Outline | str]) -> None:
        self.methods.blockSignals(True)
        try:
            while self.methods.topLevelItemCount() < len(methods):
                self.methods.addTopLevelItem(QtWidgets.QTreeWidgetItem())
            for row, method in enumerate(methods):
                self._list_method(self.methods.topLevelItem(row), method, waiting, found.get(method.name))
        finally:
            self.methods.blockSignals(False)

    def _list_method(self, item: Any, method: Any, waiting: Values, outline: Outline | str | None) -> None:
        enabled = getattr(method, "enabled", None)
        part = next((p for p in (method, *vars(method).values()) if hasattr(p, "unit")), method)
        unit = getattr(part, "unit", "px")
        words = "" if outline is None else in_words(outline, unit)
        waits = [key for key in waiting if key.startswith(f"{method.name}_")]
        for column, text in enumerate((method.name, words, when(waits) if waits else "")):
            if item.text(column) != text:
                item.setText(column, text)
                item.setToolTip(column, text)
        item.setForeground(0, QtGui.QColor(self._colors.get(method.name, theme.TEXT)))
        item.setForeground(2, QtGui.QColor(theme.WARN))
        if isinstance(enabled, bool):
            state = QtCore.Qt.CheckState.Checked if enabled else QtCore.Qt.CheckState.Unchecked
            if item.checkState(0) != state or item.data(0, QtCore.Qt.ItemDataRole.CheckStateRole) is None:
                item.setCheckState(0, state)

    def _ticked(self, item: Any, column: int) -> None:
        if column == 0:
            on = item.checkState(0) == QtCore.Qt.CheckState.Checked
            self.wanted.emit({f"{item.text(0)}_enabled": on})
