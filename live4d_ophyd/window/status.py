"""The window's status bar: what was just done or refused, how far the raster is, and what was lost, in colour.

In: words, `Progress`, a `Moment`. Runs in the GUI's thread.
"""

from __future__ import annotations

from pyqtgraph.Qt import QtCore, QtWidgets

from live4d_ophyd.window import theme
from live4d_ophyd.window.feed import Moment
from live4d_ophyd.window.progress import Progress

#: what an operator must see: the end of a data key, words after its number, and how they are coloured
ALARMS = (
    ("frames_lost", "lost", theme.LOST),
    ("frames_bad", "bad", theme.LOST),
    ("frames_dropped", "dropped by the detector", theme.LOST),
    ("frames_unrecorded", "not recorded", theme.LOST),
    ("frames_saturated", "saturated", theme.WARN),
    ("live_saturated", "saturated", theme.WARN),
)


class Status(QtWidgets.QStatusBar):
    """The bar below."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizeGripEnabled(False)
        self.words = QtWidgets.QLabel()
        self.progress = QtWidgets.QLabel()
        self.bar = QtWidgets.QProgressBar()
        self.bar.setFixedWidth(170)
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.losses = QtWidgets.QLabel()
        for label in (self.words, self.progress, self.losses):
            label.setStyleSheet("background: transparent; padding: 1px 6px;")
        self.words.setTextFormat(QtCore.Qt.TextFormat.PlainText)  # "0 <= inner < outer" is no HTML
        # A long word of the device's must not make the window wider; the tool tip has all of it.
        self.words.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Preferred)
        self.addWidget(self.words, 1)
        for widget in (self.progress, self.bar, self.losses):
            self.addPermanentWidget(widget)
        self.show_progress(None, "")

    def say(self, words: str, color: str = theme.TEXT) -> None:
        """The newest word; it stays."""
        self.words.setText(words)
        self.words.setToolTip(words)
        self.words.setStyleSheet(f"background: transparent; padding: 1px 6px; color: {color};")

    def show_progress(self, progress: Progress | None, run: str) -> None:
        """Of the raster, and in words of the run."""
        self.bar.setVisible(progress is not None)
        if progress is None:
            self.progress.setText("")
            return
        self.bar.setValue(round(1000 * progress.fraction))
        self.progress.setText("  |  ".join(filter(None, [run, str(progress)])))

    def show_losses(self, moment: Moment) -> None:
        """Counts of frames, red where data is missing, amber where it may be too small."""
        found = [(moment.count(name), words, color) for name, words, color in ALARMS]
        chips = [
            f'<span style="background:{color};color:#101010;">&nbsp;<b>{count}</b> {words}&nbsp;</span>'
            for count, words, color in found
            if count
        ]
        if not chips and not moment.preview and moment.count("frames_received") is not None:
            chips = [f'<span style="color:{theme.FAINT}">none lost, none saturated</span>']
        self.losses.setText(" ".join(chips))
