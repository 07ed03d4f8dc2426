"""A figure with one panel an image, side by side, redrawn as its documents come.

Comes in: images by data key, with NaN where nothing was seen. Goes out: a window, or a PNG file. A figure belongs to
one thread: of a window the GUI's under Qt, else the RunEngine's; of files that of pictures.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from live4d_ophyd.folders import make_private
from live4d_ophyd.live.color_wheel import draw_legend, wheel_colors

NOT_SEEN = "#3b5b7a"  # no grey: a missing position must not look like a value
NOT_SEEN_OF_TWO = "#8f8f8f"  # grey, which is between no two of red, white and blue
ALARM = "#c81e1e"
#: of a figure, inches at 100 dpi: what fits on a screen of 1080 px beside a task bar
LARGEST_IN = (18.0, 9.0)


@dataclass(frozen=True)
class ScanAxes:
    """Distance of scan positions (scan_y, scan_x) and its unit."""

    step: tuple[float, float] = (1.0, 1.0)
    unit: str = "px"

    def extent(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) of an image whose pixel centres lie on the positions, row 0 on top."""
        (rows, cols), (step_y, step_x) = shape, self.step
        return -0.5 * step_x, (cols - 0.5) * step_x, (rows - 0.5) * step_y, -0.5 * step_y


@dataclass(frozen=True)
class Panel:
    """What one panel shows: an image (rows, cols), NaN where nothing was seen, its axes, and the unit of its values.

    With a ``brightness`` (rows, cols) the image is an angle in degrees, and both are shown as a colour wheel. A
    ``symmetric`` one has values of either sign: white is 0, and both colours reach equally far.
    """

    image: np.ndarray
    axes: ScanAxes
    units: str
    brightness: np.ndarray | None = None
    symmetric: bool = False


class ImageFigure:
    """The images of one device.

    Parameters
    ----------
    name : title of the window
    keys : data keys, one panel each, in this order
    window : show a window (a pyplot figure, reused under its name); otherwise only ``save`` shows anything
    percentiles : of the finite values, that become black and white
    """

    def __init__(
        self, name: str, keys: Sequence[str], *, window: bool, percentiles: tuple[float, float]
    ) -> None:
        self.keys = tuple(keys)
        self._name = name
        self._window = window
        self.percentiles = percentiles
        self._colors = {
            symmetric: plt.get_cmap(name).with_extremes(bad=bad)
            for symmetric, name, bad in ((False, "gray", NOT_SEEN), (True, "RdBu_r", NOT_SEEN_OF_TWO))
        }
        self._panels: dict[str, _DrawnPanel] = {}
        self._open()

    @property
    def closed(self) -> bool:
        """The user has closed the window."""
        return self._window and not plt.fignum_exists(self._name)

    def _open(self) -> None:
        columns = min(len(self.keys), 4)
        rows = math.ceil(len(self.keys) / columns)
        wanted = 0.6 + 4.4 * columns, 0.4 + 4.0 * rows
        size = min(wanted[0], LARGEST_IN[0]), min(wanted[1], LARGEST_IN[1])
        if self._window:
            self.figure = plt.figure(num=self._name, figsize=size, layout="constrained", clear=True)
        else:
            self.figure = Figure(figsize=size, layout="constrained")
            FigureCanvasAgg(self.figure)
        axes = np.ravel(self.figure.subplots(rows, columns, squeeze=False))
        for spare in axes[len(self.keys) :]:
            spare.set_visible(False)
        self._panels = {key: _DrawnPanel(ax, self._colors) for key, ax in zip(self.keys, axes)}

    def show(self, panels: Mapping[str, Panel]) -> None:
        """Put images into their panels, by data key; ``redraw`` makes them visible."""
        for key, panel in panels.items():
            self._panels[key].show(key, panel, self.percentiles)

    def redraw(self, title: str, alarming: bool = False) -> None:
        """Bring the window up to date, at the GUI's next opportunity; ``title``, red if ``alarming``, goes above."""
        self.figure.suptitle(title, fontsize="medium", color=ALARM if alarming else "black")
        if self._window and self.figure.canvas.required_interactive_framework is not None:
            self.figure.canvas.draw_idle()

    def save(self, path: Path) -> None:
        """Write a PNG file, and put it in place when it is whole."""
        make_private(path.parent)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        self.figure.savefig(draft, format="png", dpi=110)
        draft.replace(path)


class _DrawnPanel:
    """One image with its colour bar, or, of a scan of one row or column, a line."""

    def __init__(self, ax: Any, colors: Mapping[bool, Any]) -> None:
        self._ax, self._colors = ax, colors
        self._image = ax.imshow(
            np.full((1, 1), np.nan),
            cmap=colors[False],
            origin="upper",
            interpolation="nearest",
            vmin=0,
            vmax=1,
        )
        self._bar = ax.figure.colorbar(self._image, cax=ax.inset_axes((1.04, 0, 0.05, 1)))
        (self._line,) = ax.plot([], [], ".-")
        self._wheel: Any = None

    def show(self, key: str, panel: Panel, percentiles: tuple[float, float]) -> None:
        image = panel.image
        seen = np.isfinite(image)
        is_line = min(image.shape) == 1 < image.size
        is_wheel = panel.brightness is not None and not is_line
        if is_wheel and self._wheel is None:
            self._wheel = self._ax.inset_axes((1.04, 0.82, 0.18, 0.18))
            draw_legend(self._wheel)
        for artist, visible in (
            (self._image, not is_line),
            (self._bar.ax, not is_line and not is_wheel),
            (self._line, is_line),
            (self._wheel, is_wheel),
        ):
            if artist is not None:
                artist.set_visible(visible)
        low, high = np.percentile(image[seen], (0, 100) if is_line else percentiles) if seen.any() else (0, 1)
        if panel.symmetric and not is_line:
            high = max(abs(low), abs(high)) or 1.0
            low = -high
        high = high if high > low else low + 1
        (self._show_line if is_line else self._show_image)(panel, low, high)
        # Rounded down: 100 % means every position.
        self._ax.set_title(f"{key}, {math.floor(1000 * seen.mean()) / 10:g} % seen", fontsize="medium")

    def _show_image(self, panel: Panel, low: float, high: float) -> None:
        extent = panel.axes.extent(panel.image.shape)
        if panel.brightness is None:
            self._image.set_data(np.ma.masked_invalid(panel.image))
            self._image.set_cmap(self._colors[panel.symmetric])
        else:
            colors = wheel_colors(panel.image, panel.brightness)
            self._image.set_data(np.where(np.isfinite(colors), colors, to_rgb(NOT_SEEN)))
        self._image.set_extent(extent)
        self._image.set_clim(low, high)
        self._ax.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        self._ax.set_xlabel(f"scan_x [{panel.axes.unit}]")
        self._ax.set_ylabel(f"scan_y [{panel.axes.unit}]")
        self._bar.set_label(panel.units)

    def _show_line(self, panel: Panel, low: float, high: float) -> None:
        values = panel.image.ravel()
        axis = 1 if panel.image.shape[0] == 1 else 0
        step = panel.axes.step[axis]
        self._line.set_data(step * np.arange(values.size), values)
        margin = 0.05 * (high - low)
        self._ax.set(
            xlim=(-0.5 * step, (values.size - 0.5) * step), ylim=(low - margin, high + margin), aspect="auto"
        )
        self._ax.set_xlabel(f"{('scan_y', 'scan_x')[axis]} [{panel.axes.unit}]")
        self._ax.set_ylabel(panel.units)
