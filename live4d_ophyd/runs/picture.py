"""A PNG of one image with a scale bar: the positions as they are, and what the bar means below them.

In: a `ScanImage` ``(scan_y, scan_x)``. Out: a file, and the counts that are black and white in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from live4d_ophyd.runs.images import grey_values

#: px of the longer side of the image in the file, at least; a position is a whole number of them
_SIDE = 768
_DPI = 100
#: of the values that are seen, that become black and white: as in the live pictures
PERCENTILES = (0.5, 99.5)


def write_png(path: Path, image: xr.DataArray) -> dict[str, Any]:
    """Draw ``image`` and return ``black``, ``white`` (its unit), ``scale_bar`` and ``unit`` of the bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = image.to_numpy()
    rows, cols = values.shape
    steps, unit = steps_of(image)
    height, width = rows * steps[0], cols * steps[1]
    black, white = levels(values)
    per_length = math.ceil(_SIDE / max(height, width) * min(steps)) / min(steps)  # px of the file, per unit
    inches = (width * per_length / _DPI, height * per_length / _DPI)
    strip = 0.55  # inches below the image: no position is hidden
    page = (max(inches[0], 4.0), inches[1] + strip)
    figure = Figure(figsize=page, dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    left = (1 - inches[0] / page[0]) / 2
    ax = figure.add_axes((left, strip / page[1], inches[0] / page[0], inches[1] / page[1]))
    ax.imshow(
        np.ma.masked_invalid(values), cmap=grey_values(), vmin=black, vmax=white, origin="upper",
        interpolation="nearest", aspect="auto", extent=(0, width, height, 0),
    )  # fmt: skip
    ax.set_axis_off()
    bar = nice_length(width / 4)
    bar_width = bar * per_length / _DPI / page[0]
    base = 0.16 / page[1]
    x = 0.02
    figure.add_artist(Rectangle((x, base), bar_width, 0.07 / page[1], color="white", linewidth=0))
    figure.text(x, base + 0.11 / page[1], f"{bar:g} {unit}", color="white", fontsize=12, va="bottom")
    shown = f"{image.attrs.get('long_name', image.name)}, {black:.6g} to {white:.6g} {image.attrs.get('units', '')}"
    figure.text(1 - x, base, shown.rstrip(), color="white", fontsize=10, va="bottom", ha="right")
    figure.savefig(path, format="png", dpi=_DPI, facecolor="black")
    return {"black": black, "white": white, "scale_bar": bar, "unit": unit}


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
