"""Strip: small pictures of the last rasters, to click back to. Runs in the GUI's thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyqtgraph.Qt import QtCore, QtGui, QtWidgets

from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.feed import Moment
from live4d_ophyd.window.image_panel import View, color_map
from live4d_ophyd.window.looks import levels

SIDE = 76


class Strip(QtWidgets.QListWidget):
    """``chosen`` has the record that was clicked."""

    chosen = QtCore.Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setViewMode(QtWidgets.QListView.ViewMode.IconMode)
        self.setFlow(QtWidgets.QListView.Flow.LeftToRight)
        self.setWrapping(False)
        self.setMovement(QtWidgets.QListView.Movement.Static)
        self.setIconSize(QtCore.QSize(SIDE, SIDE))
        self.setFixedHeight(SIDE + 42)
        self.setSpacing(3)
        self._shown: list[tuple[Moment, str]] = []
        self.itemClicked.connect(lambda item: self.chosen.emit(item.data(QtCore.Qt.ItemDataRole.UserRole)))

    def show_records(self, records: list[Moment], key: str | None) -> None:
        """Show ``records``, the newest at the right, by their image ``key``, or their first image or pattern."""
        named = [(record, key if key in record.image_keys else None) for record in records]
        wanted = [
            (record, name or next(iter((*record.image_keys, *record.pattern_keys)))) for record, name in named
        ]
        if wanted == self._shown:
            return
        if not wanted:
            self.clear()
            self._shown = []
            return
        kept = 0  # usually the oldest goes, and one comes
        while kept < len(wanted) and self._shown and self._shown[0] != wanted[0]:
            self.takeItem(0)
            self._shown.pop(0)
        if self._shown != wanted[: len(self._shown)]:
            self.clear()
            self._shown = []
        for record, name in wanted[len(self._shown) :]:
            self.addItem(_item(record, name))
        self._shown = wanted
        self.scrollToItem(self.item(self.count() - 1))

    def choose(self, record: Moment | None) -> None:
        """Mark one; None: none."""
        self.clearSelection()
        for row, (other, _) in enumerate(self._shown):
            if other is record:
                self.setCurrentRow(row)


def _item(record: Moment, key: str) -> Any:
    item = QtWidgets.QListWidgetItem(f"{record.start.get('scan_id', 0)}.{record.number}")
    item.setData(QtCore.Qt.ItemDataRole.UserRole, record)
    item.setToolTip(record.title)
    item.setTextAlignment(QtCore.Qt.AlignmentFlag.AlignHCenter)
    item.setIcon(QtGui.QIcon(thumbnail(record, key)))
    return item


def thumbnail(record: Moment, key: str) -> Any:
    """A QPixmap of an image, no larger than `SIDE`."""
    step = max(1, max(np.shape(record.data[key])) // (2 * SIDE))
    is_image = key in record.image_keys
    values = record.array(key)[::step, ::step]
    brightness = record.brightness(key)
    if brightness is not None:
        colors = wheel_colors(values, brightness[::step, ::step])
        shades = np.nan_to_num(colors * 255).astype(np.uint8)
    else:
        if not is_image:  # a pattern
            values = View(values, ScanAxes(), "", logarithmic=True).drawn()
        low, high = levels(values) or (0.0, 1.0)
        scaled = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        shades = (
            color_map("gray" if is_image else "inferno")
            .getLookupTable(nPts=256)[scaled][..., :3]
            .astype(np.uint8)
        )
    missing = QtGui.QColor(theme.NOT_SEEN)
    shades[~np.isfinite(values)] = (missing.red(), missing.green(), missing.blue())
    shades = np.ascontiguousarray(shades)
    rows, cols = shades.shape[:2]
    image = QtGui.QImage(shades.data, cols, rows, 3 * cols, QtGui.QImage.Format.Format_RGB888)
    ratio = record.axes.step[0] / record.axes.step[1] if is_image else 1.0
    height, width = rows * ratio, float(cols)
    scale = SIDE / max(height, width)
    size = QtCore.QSize(max(1, round(width * scale)), max(1, round(height * scale)))
    return QtGui.QPixmap.fromImage(image.scaled(size))
