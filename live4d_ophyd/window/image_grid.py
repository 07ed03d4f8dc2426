"""ImageGrid: a panel for each image, side by side; those that are not wanted are hidden. Runs in the GUI's thread."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from pyqtgraph.Qt import QtCore, QtWidgets

from live4d_ophyd.window.image_panel import ImagePanel

#: images that are shown at first; more are ticked in the toolbar's menu
AT_FIRST = 4
#: rows and columns that a layout of Qt's is asked to forget
_MOST = 16


class ImageGrid(QtWidgets.QWidget):
    """``made`` has a new panel, ``gone`` one that is not needed any more; ``colors`` are those of methods by name."""

    made = QtCore.Signal(object)
    gone = QtCore.Signal(object)

    def __init__(self, colors: dict[str, str], extra: Any) -> None:
        super().__init__()
        self._colors, self._extra = colors, extra  # one that may be shown behind them
        self.panels: dict[str, ImagePanel] = {}
        self._known: set[str] = set()  # images that there were
        self.hidden: set[str] = set()  #: of these, those that are not shown
        self._with_extra = False
        self._layout = QtWidgets.QGridLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(6)
        extra.setParent(self)  # shown without a parent it would be a window for a moment
        extra.hide()

    def arrange(self, names: list[str]) -> bool:
        """Have a panel for each of ``names``; whether that changed anything."""
        if names == list(self.panels):
            return False
        for name in names:
            if name not in self._known:
                self._known.add(name)
                if len(self._known) > AT_FIRST:
                    self.hidden.add(name)
        for name in [name for name in self.panels if name not in names]:
            panel = self.panels.pop(name)
            self._layout.removeWidget(panel)
            panel.hide()
            self.gone.emit(panel)
            panel.deleteLater()
        self.panels = {name: self.panels.get(name) or self._new(name) for name in names}
        self._lay_out()
        return True

    def show_only(self, names: Collection[str]) -> None:
        self.hidden = self._known - set(names)
        self._lay_out()

    def show_extra(self, shown: bool) -> None:
        self._with_extra = shown
        self._lay_out()

    def _new(self, name: str) -> ImagePanel:
        of = [method for method in self._colors if name == method or name.startswith(f"{method}_")]
        panel = ImagePanel(name, self._colors[max(of, key=len)] if of else None)
        panel.setParent(self)
        self.made.emit(panel)
        return panel

    def _lay_out(self) -> None:
        shown: list[Any] = [panel for name, panel in self.panels.items() if name not in self.hidden]
        if self._with_extra:
            shown.append(self._extra)
        columns = max(1, int(np.ceil(np.sqrt(len(shown)))))
        for widget in (*self.panels.values(), self._extra):
            self._layout.removeWidget(widget)
            widget.setVisible(widget in shown)
        for place in range(_MOST):
            self._layout.setColumnStretch(place, int(place < columns))
            self._layout.setRowStretch(place, int(place < -(-len(shown) // columns)))
        for place, panel in enumerate(shown):
            self._layout.addWidget(panel, place // columns, place % columns)
