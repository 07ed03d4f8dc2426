"""The window's toolbar. In: what is selected. Out: buttons that the window connects. Runs in the GUI's thread."""

from __future__ import annotations

from typing import Any

from pyqtgraph.Qt import QtCore, QtWidgets

from live4d_ophyd.window import theme


class Toolbar(QtWidgets.QToolBar):
    """``shown_changed`` has the names of the images that are to be shown."""

    shown_changed = QtCore.Signal(object)

    def __init__(self) -> None:
        super().__init__("tools")
        self.setMovable(False)
        self.live = self._button("Live", "Show what comes", checkable=True)
        self.live.setChecked(True)
        self._title = QtWidgets.QLabel()
        self._title.setStyleSheet("background: transparent; padding: 0 12px;")
        self.addWidget(self._title)
        space = QtWidgets.QWidget()
        space.setStyleSheet("background: transparent;")
        space.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Preferred)
        self.addWidget(space)
        self.images = self._button("Images", "Which images are shown")
        self.images.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QtWidgets.QMenu(self.images)
        self.images.setMenu(self._menu)
        self.color_maps = QtWidgets.QComboBox()
        self.color_maps.addItems(theme.COLOR_MAPS)
        self.color_maps.setToolTip("Colour map of the selected image")
        self.addWidget(self.color_maps)
        self.auto = self._button(
            "Auto contrast", "Black and white follow the values of the selected image", checkable=True
        )
        self.zoom = self._button("Whole images", "Show all of each image again; the wheel zooms")
        self.profile = self._button(
            "Line profile", "Values along a line on the selected image", checkable=True
        )
        self.spectrum = self._button("FFT", "Power spectrum of the selected image", checkable=True)
        self.save = self._button(
            "Save picture", "Save the selected image: PNG with scale bar and JSON, or TIFF"
        )

    def set_title(self, words: str, looking_back: bool) -> None:
        if looking_back:
            words = f'<b style="color:{theme.WARN}">looking back</b> at {words}'
        self._title.setText(words)

    def set_live(self, live: bool) -> None:
        self.live.setChecked(live)

    def set_images(self, names: list[str], hidden: set[str]) -> None:
        """What can be ticked in the menu of images."""
        self._menu.clear()
        for name in names:
            action = self._menu.addAction(name)
            action.setCheckable(True)
            action.setChecked(name not in hidden)
            action.toggled.connect(self._ticked)

    def show_state_of(self, panel: Any) -> None:
        """What the buttons say of the selected panel."""
        for widget in (self.color_maps, self.auto):
            widget.setEnabled(panel is not None)
        if panel is not None:
            self.color_maps.setCurrentText(panel.color_map)
            self.auto.setChecked(panel.auto)

    def _ticked(self) -> None:
        self.shown_changed.emit([action.text() for action in self._menu.actions() if action.isChecked()])

    def _button(self, text: str, tip: str, checkable: bool = False) -> Any:
        button = QtWidgets.QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.setCheckable(checkable)
        self.addWidget(button)
        return button
