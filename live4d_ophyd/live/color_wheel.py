"""The colour wheel: an angle as a hue, as bright as a magnitude is large. Any thread; values only."""

from __future__ import annotations

from typing import Any

import numpy as np

#: percentile of the magnitudes that is as bright as can be, as everything above
BRIGHTEST = 99.5


def wheel_colors(
    angle: np.ndarray, brightness: np.ndarray, percentile: float = BRIGHTEST, *, full: float | None = None
) -> np.ndarray:
    """Colours (rows, cols, 3) from 0 to 1, NaN where either is.

    Parameters
    ----------
    angle : (rows, cols), degrees; 0 is red, and hues go on through yellow and green
    brightness : (rows, cols), at least 0; black where 0
    percentile : of the brightness that is seen, which is the brightest, as everything above
    full : the brightest instead
    """
    from matplotlib.colors import hsv_to_rgb

    seen = np.isfinite(angle) & np.isfinite(brightness)
    colors = np.full((*angle.shape, 3), np.nan)
    if seen.any():
        full = (float(np.percentile(brightness[seen], percentile)) if full is None else full) or 1.0
        hue, value = (angle[seen] % 360) / 360, np.clip(brightness[seen] / full, 0, 1)
        colors[seen] = hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))
    return colors


def draw_legend(ax: Any) -> None:
    """The wheel itself on axes of its own: which colour points where in a picture with rows running down."""
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    radius = np.hypot(y, x)
    colors = wheel_colors(np.degrees(np.arctan2(y, x)), np.where(radius <= 1, radius, np.nan), 100)
    opaque = np.where(np.isfinite(colors[..., :1]), 1.0, 0.0)
    ax.imshow(np.concatenate([np.nan_to_num(colors), opaque], axis=-1), origin="upper")
    ax.set_axis_off()
