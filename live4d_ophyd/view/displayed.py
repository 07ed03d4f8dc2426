"""What a page is sent of an image: as many positions as it shows, float32, and its levels. Once for all viewers.

In: `ScanPicture`, `PatternPicture`. Out: `Displayed`, which is kept as long as its picture. The server's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import NOT_SEEN
from live4d_ophyd.view.live_run import PatternPicture, ScanPicture

#: positions along the longer side that a page is sent
MOST_SIDE = 1024
#: what becomes black and white, percentiles of the values seen, by the words for it
CONTRASTS = {"0.5 to 99.5 %": (0.5, 99.5), "2 to 98 %": (2.0, 98.0), "all values": (0.0, 100.0)}


@dataclass(frozen=True, eq=False)
class Displayed:
    """An image as a page has it: ``values`` (rows, cols) float32, NaN where nothing was seen."""

    values: np.ndarray
    #: lengths of the whole, along rows and columns, in ``unit``, and where it begins
    size: tuple[float, float]
    origin: tuple[float, float]
    unit: str
    levels: tuple[float, float]
    #: of the whole image, floored: 1 means every position
    seen: float
    #: of a colour wheel: (rows, cols) uint32 of RGBA bytes, and what its brightness means
    colors: np.ndarray | None = None
    brightness: np.ndarray | None = None
    symmetric: bool = False  #: two colours, equally far about 0


_MADE: WeakKeyDictionary[ScanPicture | PatternPicture, dict[str, Displayed]] = WeakKeyDictionary()


def displayed(picture: ScanPicture | PatternPicture, contrast: str) -> Displayed:
    """The picture with this contrast, one of `CONTRASTS`; made once, since each viewer asks for the same."""
    made = _MADE.setdefault(picture, {})
    if contrast not in made:
        made[contrast] = (
            _displayed_picture(picture, contrast)
            if isinstance(picture, ScanPicture)
            else _displayed_pattern(picture, contrast)
        )
    return made[contrast]


def _displayed_picture(picture: ScanPicture, contrast: str) -> Displayed:
    rows, cols = picture.values.shape
    every = -(-max(rows, cols) // MOST_SIDE)
    values = picture.values[::every, ::every]
    step_y, step_x = picture.axes.step
    colors = bright = None
    if picture.brightness is not None:
        bright = picture.brightness[::every, ::every].astype(np.float32)
        colors = _packed(wheel_colors(values, bright))
    return Displayed(
        values.astype(np.float32),
        (rows * step_y, cols * step_x),
        (-0.5 * step_y, -0.5 * step_x),
        picture.axes.unit,
        levels(picture.values, contrast, symmetric=picture.symmetric),
        float(np.isfinite(picture.values).mean()),
        colors,
        bright,
        picture.symmetric,
    )


def _displayed_pattern(pattern: PatternPicture, contrast: str) -> Displayed:
    rows, cols = pattern.values.shape
    return Displayed(
        pattern.values.astype(np.float32), (rows, cols), (-0.5, -0.5), "px", levels(pattern.values, contrast),
        float(np.isfinite(pattern.values).mean()),
    )  # fmt: skip


def levels(values: np.ndarray, contrast: str, *, symmetric: bool = False) -> tuple[float, float]:
    """What is black and white of these values, ``symmetric`` about 0; NaN is neither."""
    seen = values[np.isfinite(values)]
    if not seen.size:
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(seen, CONTRASTS[contrast]))
    if symmetric:
        high = max(abs(low), abs(high)) or 1.0
        return -high, high
    return low, high if high > low else low + 1.0


def _packed(colors: np.ndarray) -> np.ndarray:
    """(rows, cols, 3) of 0 to 1 as RGBA bytes in one uint32; NaN as not seen."""
    missing = [int(NOT_SEEN[n : n + 2], 16) for n in (1, 3, 5)]
    packed = np.full((*colors.shape[:2], 4), 255, np.uint8)
    seen = np.isfinite(colors).all(axis=-1)
    packed[..., :3] = np.where(seen[..., None], np.nan_to_num(colors) * 255, missing).astype(np.uint8)
    return packed.view(np.uint32)[..., 0]
