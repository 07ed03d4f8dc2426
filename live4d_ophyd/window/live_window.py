"""LiveWindow: the images of a device as they come, beside the pattern with its virtual detectors.

In: what a `Feed` has, looked at by a timer, ten times a second at most and never more than half of the GUI's time;
and the mouse. Out: what is on the screen, and `Changes` of settings. Runs in the GUI's thread, the main one; the
RunEngine's never waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyqtgraph.Qt import QtCore, QtWidgets

from live4d_ophyd.imaging.method import SCAN
from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.window import theme
from live4d_ophyd.window.changes import REFUSED, WAITS, Changes
from live4d_ophyd.window.errors import Contained
from live4d_ophyd.window.feed import Feed, Moment
from live4d_ophyd.window.image_grid import ImageGrid
from live4d_ophyd.window.image_panel import ImagePanel, View
from live4d_ophyd.window.looks import lost
from live4d_ophyd.window.pattern_panel import PatternPanel
from live4d_ophyd.window.progress import RasterClock, clock
from live4d_ophyd.window.saving import as_shown, save
from live4d_ophyd.window.status import Status
from live4d_ophyd.window.strip import Strip
from live4d_ophyd.window.toolbar import Toolbar
from live4d_ophyd.window.tools import Profile, Spectrum

#: ms between two looks at what is new, at least
PERIOD_MS = 100
#: s between two looks at the device's settings
_SETTINGS_PERIOD = 0.3


class LiveWindow(QtWidgets.QMainWindow):
    """Of one device; `live_window` opens it. ``on_close`` is called when it is closed."""

    def __init__(
        self,
        device: Any,
        feed: Feed,
        changes: Changes,
        raster: RasterClock,
        directory: Path,
        on_close: Callable[[], None],
    ) -> None:
        super().__init__()
        self._device, self._feed, self._changes, self._raster = device, feed, changes, raster
        self._directory, self._on_close = directory, on_close
        self.moment: Moment | None = None  #: what is shown
        self._live: Moment | None = None  #: the newest
        self.looking_back = False
        self._settings_at = 0.0
        self._from: dict[ImagePanel, Moment] = {}  # which moment a panel shows
        self.selected: ImagePanel | None = None
        names = [method.name for method in device.methods()]
        self._colors = {name: theme.DETECTORS[n % len(theme.DETECTORS)] for n, name in enumerate(names)}
        self.setWindowTitle(f"{device.name} live")
        self.setStyleSheet(theme.STYLE)
        self.resize(1440, 900)
        self.pattern = PatternPanel(device, self._colors)
        self.pattern.wanted.connect(self.request)
        self.profile, self.spectrum, self.strip = Profile(), Spectrum(), Strip()
        self.images = ImageGrid(self._colors, self.spectrum)
        self.toolbar, self.status = Toolbar(), Status()
        self._lay_out()
        self._connect()
        self._errors = Contained(lambda words: self.status.say(words, theme.LOST))
        self._closed = False
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._tick)
        self._timer.start(0)

    def _lay_out(self) -> None:
        self.addToolBar(self.toolbar)
        self.setStatusBar(self.status)
        right = QtWidgets.QSplitter(QtCore.Qt.Orientation.Vertical)
        right.addWidget(self.images)
        right.addWidget(self.profile)
        right.setSizes([700, 220])
        right.setStretchFactor(0, 1)
        middle = QtWidgets.QSplitter()
        middle.addWidget(self.pattern)
        middle.addWidget(right)
        middle.setStretchFactor(0, 2)
        middle.setStretchFactor(1, 3)
        middle.setSizes([540, 880])
        whole = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(whole)
        layout.setContentsMargins(8, 8, 8, 4)
        layout.setSpacing(6)
        layout.addWidget(middle, 1)
        layout.addWidget(self.strip)
        self.setCentralWidget(whole)
        self.profile.hide()

    def _connect(self) -> None:
        bar = self.toolbar
        bar.live.clicked.connect(self.go_live)
        bar.color_maps.textActivated.connect(self._set_color_map)
        bar.auto.clicked.connect(self._set_auto)
        bar.zoom.clicked.connect(self._reset_zoom)
        bar.profile.toggled.connect(self._show_profile)
        bar.spectrum.toggled.connect(self._show_spectrum)
        bar.save.clicked.connect(self._ask_and_save)
        bar.shown_changed.connect(self.show_only)
        self.images.made.connect(self._panel_made)
        self.images.gone.connect(self._panel_gone)
        self.strip.chosen.connect(self.look_back)
        self.pattern.panel.selected.connect(self._select)
        self.pattern.panel.levels_moved.connect(self._levels_moved)
        self.pattern.dragged.connect(self.status.say)

    def is_of(self, device: Any, RE: Any) -> bool:
        """Whether it is the window of this device and RunEngine."""
        return self._device is device and self._changes.RE is RE

    # What an operator does, also for scripts and tests --------------------------------------------

    def request(self, values: dict[str, Any]) -> str:
        """Have settings set by the RunEngine's rules, by the names of signals; what became of it, in words."""
        outcome, words = self._changes.request(values)
        if self._closed:
            return words
        self.status.say(
            words, theme.LOST if outcome == REFUSED else theme.WARN if outcome == WAITS else theme.TEXT
        )
        if outcome == REFUSED:
            self.pattern.redraw()
        self._refresh_settings()
        return words

    def look_back(self, record: Moment) -> None:
        """Show one of the last rasters, until `go_live`."""
        self.looking_back = True
        self._show(record)
        self.strip.choose(record)
        self.toolbar.set_live(False)

    def go_live(self) -> None:
        """Show what comes."""
        self.looking_back = False
        self.strip.choose(None)
        self.toolbar.set_live(True)
        if self._live is not None:
            self._show(self._live)

    def save_picture(self, path: str | os.PathLike, name: str | None = None) -> list[Path]:
        """Save an image, by default the selected one, as it is shown; the files that were written.

        ``.png`` with a scale bar, and beside it its metadata as JSON; ``.tif`` has the values, step and unit.
        """
        panel = self.selected if name is None else self.panels.get(name)
        if panel is None or panel not in self._from:
            shown = [panel.name for panel in self._from]
            what = (
                "none is selected that could be saved"
                if name is None
                else f"there is no image {name} to be seen"
            )
            raise ValueError(
                f"{what}; there are: {', '.join(shown) or 'none yet'} (more by the button Images)"
            )
        written = save(path, as_shown(self._from[panel], f"{self._device.name}_{panel.name}", panel))
        self.status.say(f"saved {written[0]}")
        return written

    # What comes -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        began = time.monotonic()
        self._errors.watch()
        try:
            self._look()
        finally:
            spent = round(1000 * (time.monotonic() - began))
            if (
                not self._closed
            ):  # a change that is set turns the GUI's loop, in which the window may be closed
                self._timer.start(max(PERIOD_MS - spent, spent, 1))

    def _look(self) -> None:
        newest, finished = self._feed.take()
        if newest is not None:
            self._live = newest
            if not self.looking_back:
                for moment in finished[-1:]:  # it has more than the previews behind it
                    self._show(moment)
                if newest.preview:
                    self._show(newest)
        if finished:
            self.strip.show_records(list(self._feed.records), self._selected_key())
            if self.looking_back:
                self.strip.choose(self.moment)
        self._changes.flush()
        if self._closed:
            return
        while self._changes.words:
            self.status.say(self._changes.words.popleft())
        self.status.show_progress(self._raster.now(), self._run_progress())
        if time.monotonic() - self._settings_at > _SETTINGS_PERIOD:
            self._refresh_settings()

    def _refresh_settings(self) -> None:
        self._settings_at = time.monotonic()
        self.pattern.refresh(self._changes.waiting)

    def _run_progress(self) -> str:
        """``raster 3 of 10, 0:42 to the run's end``: of the run that the newest moment is of."""
        live, now = self._live, self._raster.now()
        if live is None or now is None:
            return ""
        done = live.number if not live.preview else live.number - 1
        total = live.start.get("num_points")
        if not isinstance(total, int) or total < 2 or done >= total:
            return ""
        words = f"raster {done + 1} of {total}"
        if done:
            spent = time.time() - live.start["time"] - now.elapsed
            left = spent / done * (total - done) - now.elapsed
            words += f", {clock(max(left, 0))} to the end of the run"
        return words

    def _show(self, moment: Moment) -> None:
        self.moment = moment
        self._arrange(moment)
        for name, panel in self.panels.items():
            key = f"{moment.device}_{name}"
            if panel.isHidden():
                continue
            if key in moment.data:
                self._show_image(panel, moment, key)
            elif panel in self._from:  # only the end of a raster brings it
                panel.set_title(f"still of {self._from[panel].title}")
        self._show_pattern(moment)
        if self.profile.isVisible():
            self.profile.update_values()
        of = self._image_selected()
        if self.toolbar.spectrum.isChecked() and of is not None:
            self.spectrum.show_of(of)
        when = datetime.fromtimestamp(moment.time).strftime("%H:%M:%S")
        self.toolbar.set_title(f"{moment.title}, {when}", self.looking_back)
        self.status.show_losses(moment)

    def _show_image(self, panel: ImagePanel, moment: Moment, key: str) -> None:
        values, brightness = moment.array(key), moment.brightness(key)
        colors = None if brightness is None else _rgba(wheel_colors(values, brightness))
        missing = lost(values, moment.preview) if not np.isfinite(values).all() else None
        panel.show_view(View(values, moment.axes, moment.units(key), colors=colors, lost=missing))
        self._from[panel] = moment
        seen = np.floor(1000 * np.isfinite(values).mean()) / 10
        panel.set_title(f"{seen:g} % seen" if seen < 100 else "", bool(missing is not None and missing.any()))

    def _show_pattern(self, moment: Moment) -> None:
        """The first pattern of a moment; without one the last stays."""
        for key in moment.pattern_keys[:1]:
            values = moment.array(key)
            self.pattern.pattern_is(values.shape)
            panel = self.pattern.panel
            panel.name = key.removeprefix(f"{moment.device}_")
            masked = ~np.isfinite(values)
            panel.show_view(
                View(values, ScanAxes(), moment.units(key), ("q_y", "q_x"), lost=masked, logarithmic=True)
            )
            panel.set_title(moment.title)

    # Panels ---------------------------------------------------------------------------------------

    def _arrange(self, moment: Moment) -> None:
        """A panel for each image: those of the moment, and those that only the end of a raster brings."""
        here = [key.removeprefix(f"{moment.device}_") for key in moment.image_keys]
        coming = [] if self.looking_back else [n for n, o in self._device.outputs().items() if o.dims == SCAN]
        if self.images.arrange(coming + [name for name in here if name not in coming]):
            self.toolbar.set_images(list(self.panels), self.images.hidden)
        if self.selected is None and self.panels:
            self._select(next(iter(self.panels.values())))

    def _panel_made(self, panel: ImagePanel) -> None:
        panel.selected.connect(self._select)
        panel.levels_moved.connect(self._levels_moved)

    def _panel_gone(self, panel: ImagePanel) -> None:
        self._from.pop(panel, None)
        if panel is self.selected:
            self._select(None)
        if panel is self.profile.panel:
            self.profile.put_on(None)

    @property
    def panels(self) -> dict[str, ImagePanel]:
        """Of the images, by their names."""
        return self.images.panels

    def _select(self, panel: ImagePanel | None) -> None:
        for other in (*self.panels.values(), self.pattern.panel):
            other.set_selected(other is panel)
        self.selected = panel
        self.toolbar.show_state_of(panel)
        if panel is None or panel is self.pattern.panel:
            return
        if self.profile.isVisible() and panel is not self.profile.panel:
            self.profile.put_on(panel)
        if self.toolbar.spectrum.isChecked():
            self.spectrum.show_of(panel)
        self.strip.show_records(list(self._feed.records), self._selected_key())

    def _selected_key(self) -> str | None:
        names = [name for name, panel in self.panels.items() if panel is self.selected]
        return f"{self._device.name}_{names[0]}" if names else None

    def _levels_moved(self, panel: ImagePanel) -> None:
        if panel is self.selected:
            self.toolbar.show_state_of(panel)

    def _set_color_map(self, name: str) -> None:
        if self.selected is not None:
            self.selected.set_color_map(name)

    def _set_auto(self, auto: bool) -> None:
        if self.selected is not None:
            self.selected.set_auto(auto)

    def _reset_zoom(self) -> None:
        for panel in (*self.panels.values(), self.pattern.panel, self.spectrum):
            panel.reset_zoom()

    def show_only(self, names: Collection[str]) -> None:
        """Show these images, as they are named in the toolbar's menu."""
        self.images.show_only(names)
        self.toolbar.set_images(list(self.panels), self.images.hidden)
        if self.moment is not None:
            self._show(self.moment)

    def _show_profile(self, on: bool) -> None:
        self.profile.setVisible(on)
        self.profile.put_on(self._image_selected() if on else None)

    def _show_spectrum(self, on: bool) -> None:
        self.images.show_extra(on)
        panel = self._image_selected()
        if on and panel is not None:
            self.spectrum.show_of(panel)

    def _image_selected(self) -> ImagePanel | None:
        """The selected image, or the first."""
        selected = self.selected if self.selected in self.panels.values() else None
        return selected or next(iter(self.panels.values()), None)

    # Pictures -------------------------------------------------------------------------------------

    def _ask_and_save(self) -> None:
        moment = None if self.selected is None else self._from.get(self.selected)
        if moment is None or self.selected is None:
            self.status.say("there is no image to save: click into one", theme.WARN)
            return
        suggested = self._directory / f"{moment.stem}_{self._device.name}_{self.selected.name}.png"
        name, _ = QtWidgets.QFileDialog.getSaveFileName(
            self,
            "Save picture",
            str(suggested),
            "PNG with scale bar, and JSON (*.png);;TIFF, calibrated (*.tif *.tiff)",
        )
        if not name:
            return
        self._directory = Path(name).parent
        try:
            self.save_picture(name)
        except (OSError, ValueError) as error:
            self.status.say(str(error), theme.LOST)

    def closeEvent(self, event: Any) -> None:
        if not self._closed:  # it comes again when a closed window is closed
            self._closed = True
            self._timer.stop()
            self._errors.end()
            self._on_close()
            self._feed.records.clear()  # up to 512 MB, and a session may keep the window's name
            self._from.clear()
            self.strip.show_records([], None)
            self.moment = self._live = None
            self.deleteLater()  # by Qt, in this thread: Python would find what is left of it in any thread
        super().closeEvent(event)


def _rgba(colors: np.ndarray) -> np.ndarray:
    """(rows, cols, 4) uint8 of colours (rows, cols, 3) from 0 to 1; transparent where they are NaN."""
    known = np.isfinite(colors).all(axis=-1, keepdims=True)
    return (np.concatenate([np.nan_to_num(colors), known], axis=-1) * 255).astype(np.uint8)
