"""A PNG of one image with a scale bar: the positions as they are, and what the bar means below them.

In: a `ScanImage` ``(scan_y, scan_x)``. Out: a file, and the counts that are black and white in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from live4d_ophyd.live.color_wheel import BRIGHTEST, draw_legend, wheel_colors
from live4d_ophyd.runs.images import about_zero, colors_of, is_symmetric

#: px of the longer side of the image in the file, at least; a position is a whole number of them
_SIDE = 768
_DPI = 100
#: of the values that are seen, that become black and white: as in the live pictures
PERCENTILES = (0.5, 99.5)


def write_png(path: Path, image: xr.DataArray, brightness: xr.DataArray | None = None) -> dict[str, Any]:
    """Draw ``image`` and return ``black``, ``white`` (its unit), ``scale_bar`` and ``unit`` of the bar.

    With a ``brightness`` the image is an angle in degrees: the two are a colour wheel, whose legend is below it, and
    black and white are those of the brightness.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = image.to_numpy()
    rows, cols = values.shape
    steps, unit = steps_of(image)
    height, width = rows * steps[0], cols * steps[1]
    if brightness is None:
        black, white = about_zero(values) if is_symmetric(image) else levels(values)
    else:
        black, white = 0.0, brightest(brightness.to_numpy())
    per_length = math.ceil(_SIDE / max(height, width) * min(steps)) / min(steps)  # px of the file, per unit
    inches = (width * per_length / _DPI, height * per_length / _DPI)
    strip = 0.55  # inches below the image: no position is hidden
    page = (max(inches[0], 4.0), inches[1] + strip)
    figure = Figure(figsize=page, dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    left = (1 - inches[0] / page[0]) / 2
    ax = figure.add_axes((left, strip / page[1], inches[0] / page[0], inches[1] / page[1]))
    shown = np.ma.masked_invalid(values) if brightness is None else colors(image, brightness)
    ax.imshow(
        shown, cmap=colors_of(image), vmin=black, vmax=white, origin="upper", interpolation="nearest", aspect="auto",
        extent=(0, width, height, 0),
    )  # fmt: skip
    ax.set_axis_off()
    bar = nice_length(width / 4)
    bar_width = bar * per_length / _DPI / page[0]
    base = 0.16 / page[1]
    x = 0.02
    figure.add_artist(Rectangle((x, base), bar_width, 0.07 / page[1], color="white", linewidth=0))
    figure.text(x, base + 0.11 / page[1], f"{bar:g} {unit}", color="white", fontsize=12, va="bottom")
    said = image if brightness is None else brightness
    text = f"{image.attrs.get('long_name', image.name)}, {black:.6g} to {white:.6g} {said.attrs.get('units', '')}"
    if brightness is not None:
        side = strip * 0.84
        right = side / page[0] + x
        draw_legend(figure.add_axes((1 - right, 0.08 * strip / page[1], side / page[0], side / page[1])))
        x = right + 0.01
    figure.text(1 - x, base, text.rstrip(), color="white", fontsize=10, va="bottom", ha="right")
    figure.savefig(path, format="png", dpi=_DPI, facecolor="black")
    return {"black": black, "white": white, "scale_bar": bar, "unit": unit}


def colors(angle: xr.DataArray, brightness: xr.DataArray) -> np.ndarray:
    """A colour wheel as uint8, (..., scan_y, scan_x, 3): the bluish grey of the live pictures where a value is missing.

    Of several Events one brightness is the brightest of all.
    """
    from matplotlib.colors import to_rgb

    from live4d_ophyd.live.panel import NOT_SEEN

    angles, bright = angle.to_numpy(), brightness.to_numpy()
    # The wheel knows rows and columns: Events lie one below the other for it.
    rows = angles.reshape(-1, angles.shape[-1]), bright.reshape(-1, angles.shape[-1])
    wheel = wheel_colors(*rows, full=brightest(bright)).reshape(*angles.shape, 3)
    return np.round(255 * np.where(np.isfinite(wheel), wheel, to_rgb(NOT_SEEN))).astype(np.uint8)


def brightest(brightness: np.ndarray) -> float:
    """The magnitude that is shown as bright as can be, as in the live pictures."""
    seen = brightness[np.isfinite(brightness)]
    return float(np.percentile(seen, BRIGHTEST)) if seen.size else 1.0


def steps_of(image: xr.DataArray) -> tuple[tuple[float, float], str]:
    """((scan_y, scan_x) distance of positions, unit)."""
    attrs = [image.coords[f"scan_{axis}"].attrs for axis in "yx"]
    return (float(attrs[0]["step"]), float(attrs[1]["step"])), str(attrs[0]["units"])


def levels(values: np.ndarray) -> tuple[float, float]:
    """What is black and white in a picture of these values; NaN is neither."""
    seen = values[np.isfinite(values)]
    if not seen.size:
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(seen, PERCENTILES))
    return low, high if high > low else low + 1


def nice_length(wanted: float) -> float:
    """The longest of 1, 2, 5, 10, ... and their decimal fractions that is not longer than ``wanted``."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= wanted * (1 + 1e-9))
