"""Where the bright-field disk is on a diffraction pattern: centre, radius, ellipticity and edge width from robust fits.

In comes a mean pattern (or a single frame of a few counts a pixel), out comes a :class:`DiskFit`. Dead and
hot pixels may be there. Any thread; tens of milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.special import erfc

#: pixels that the fit takes at most: a 16-megapixel pattern gains nothing from more
_MOST_PIXELS = 100_000
#: what the fit looks at, in radii around the centre: the edge and background, not the next diffraction disk
_WINDOW = 1.5
#: relative deviation from which on a pixel counts as an outlier rather than as noise
_OUTLIER = 0.05
#: how far the disk must rise above its surroundings, as a part of its level
_LEAST_CONTRAST = 0.3
#: the same difference of mean levels, in standard errors of the two means
_LEAST_SIGNIFICANCE = 5.0
#: part of the disk's edge that must lie on the pattern, and from which on its ellipticity is fitted, too
_LEAST_EDGE, _ELLIPSE_EDGE = 0.25, 0.75
#: major over minor axis from which on an ellipse is not believed
_MOST_ELLIPTIC = 1.5


@dataclass(frozen=True)
class DiskFit:
    """A disk of ``intensity / 2 * erfc((distance - radius) / edge_width) + background``.

    Of an ellipse ``radius`` is the geometric mean of its semi-axes, and the distance is that after a stretch which
    makes it a circle of the same area.
    """

    #: (row, col), px
    center: tuple[float, float]
    #: where the intensity is half, px
    radius: float
    #: width of the edge, px
    edge_width: float
    #: height of the disk above the background, counts
    intensity: float
    #: level around the disk, counts
    background: float
    #: median absolute deviation of the pixels from the fit, as a part of the intensity
    residual: float
    #: major over minor semi-axis, at least 1; NaN where too little of the edge is on the pattern to tell
    ellipticity: float = math.nan
    #: of the major axis, from the rows towards the columns, degrees from 0 to 180; NaN with ``ellipticity``
    ellipse_angle: float = math.nan

    @property
    def semiaxes(self) -> tuple[float, float]:
        """(major, minor), px; NaN where the ellipticity is."""
        stretch = math.sqrt(self.ellipticity)
        return self.radius * stretch, self.radius / stretch

    def distance(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """From the centre, px; of an ellipse after the stretch, so that its edge is at `radius`."""
        y, x = rows - self.center[0], cols - self.center[1]
        if not math.isnan(self.ellipticity):
            s, turn = 0.5 * math.log(self.ellipticity), math.radians(2 * self.ellipse_angle)
            y, x = _on_circle(y, x, s * math.cos(turn), s * math.sin(turn))
        return np.hypot(y, x)


def fit_disk(pattern: np.ndarray, valid: np.ndarray | None = None) -> DiskFit:
    """Fit the bright-field disk of a pattern ``(rows, cols)``, counts.

    ``valid`` ``(rows, cols)``: False where a pixel is to be left out; pixels that are not finite always are.
    The disk may reach over the pattern's edge. Raises ValueError when there is no disk.
    """
    pattern = np.asarray(pattern, np.float64)
    if pattern.ndim != 2 or min(pattern.shape) < 5:
        raise ValueError(f"pattern of shape {pattern.shape}: expected (rows, cols) of at least 5 px each")
    usable = np.isfinite(pattern)
    if valid is not None:
        if np.shape(valid) != pattern.shape:
            raise ValueError(f"valid of shape {np.shape(valid)} for a pattern of {pattern.shape}")
        usable &= np.asarray(valid, bool)
    center, radius, level = _start(pattern, usable)
    # Hot pixels far above the disk carry nothing; weaker outliers are left to the loss function.
    usable &= pattern < 4 * level + 4 * np.sqrt(level)
    grid = np.indices(pattern.shape)
    rows, cols = grid[0], grid[1]
    parameters = np.array([*center, radius, level, 1.0, 0.0])
    # Twice: the second window is about the disk that the first one found.
    for _ in range(2):
        near = usable & (np.hypot(rows - parameters[0], cols - parameters[1]) < _WINDOW * parameters[2] + 3)
        step = 1 + np.count_nonzero(near) // _MOST_PIXELS
        y, x, counts = rows[near][::step], cols[near][::step], pattern[near][::step]
        if len(counts) < 20:
            raise ValueError(
                f"no bright-field disk: only {len(counts)} usable pixels around {_at(parameters)}"
            )
        parameters = _fit(y, x, counts, parameters)
        _check(parameters, pattern.shape)
    _check_counts(parameters, y, x, counts)
    parameters, ellipse = _with_ellipse(parameters, y, x, counts, pattern.shape)
    row, col, radius, intensity, width, background = (float(p) for p in parameters[:6])
    deviation = np.median(np.abs(_disk(parameters, y, x) - counts)) / intensity
    return DiskFit((row, col), radius, abs(width), intensity, background, float(deviation), *ellipse)


def _start(pattern: np.ndarray, usable: np.ndarray) -> tuple[tuple[float, float], float, float]:
    """Centre, radius and level of the largest bright region, whatever single pixels do."""
    # The median knows no outliers, the mean sees the disk when most pixels have no count at all.
    clean = ndimage.median_filter(np.where(usable, pattern, 0.0), size=5)
    if clean.max() > 0:
        ceiling = 4 * clean.max() + 4 * np.sqrt(clean.max())
    else:
        ceiling = max(4.0, 10 * float(np.mean(pattern[usable]))) if usable.any() else 0.0
    good = usable & (pattern < ceiling)
    weight = ndimage.gaussian_filter(good.astype(float), 1.5)
    smooth = ndimage.gaussian_filter(np.where(good, pattern, 0.0), 1.5) / np.maximum(weight, 1e-3)
    highest = float(smooth.max())
    if not highest > 0:
        raise ValueError("no bright-field disk: the pattern has no counts")
    level = float(np.median(smooth[smooth > 0.5 * highest]))
    regions, _ = ndimage.label(smooth > 0.5 * level)
    sizes = np.bincount(regions.ravel())[1:]
    region = ndimage.binary_fill_holes(regions == 1 + int(np.argmax(sizes)))
    row, col = ndimage.center_of_mass(region)
    return (row, col), float(np.sqrt(region.sum() / np.pi)), level


def _disk(parameters: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The model: of a circle with 6 parameters, of an ellipse with 8."""
    row, col, radius, intensity, width, background, *ellipse = parameters
    y, x = y - row, x - col
    if ellipse:
        y, x = _on_circle(y, x, *ellipse)
    edge = (np.hypot(y, x) - radius) / (abs(width) + 1e-3)
    return 0.5 * intensity * erfc(edge) + background


def _on_circle(y: np.ndarray, x: np.ndarray, p: float, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions times exp(-S), S = [[p, q], [q, -p]]: shrinks one axis, and stretches the other as much."""
    s = math.hypot(p, q)
    c, t = math.cosh(s), math.sinh(s) / s if s > 1e-9 else 1.0
    return (c - t * p) * y - t * q * x, (c + t * p) * x - t * q * y


def _with_ellipse(
    circle: np.ndarray, y: np.ndarray, x: np.ndarray, counts: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Parameters with those of an ellipse, its ellipticity and angle; ``circle`` and NaN where it cannot be told."""
    unknown = circle, (math.nan, math.nan)
    if _edge_seen(circle, shape) < _ELLIPSE_EDGE:
        return unknown
    found = _fit(y, x, counts, np.array([*circle, 0.0, 0.0]))
    p, q = found[6:]
    s = math.hypot(p, q)
    if not np.isfinite(found).all() or math.exp(2 * s) > _MOST_ELLIPTIC:
        return unknown
    return found, (math.exp(2 * s), math.degrees(0.5 * math.atan2(q, p)) % 180.0)


def _fit(y: np.ndarray, x: np.ndarray, counts: np.ndarray, start: np.ndarray) -> np.ndarray:
    level = start[3]
    # Shot noise is no outlier: without this, a pattern of few counts is fitted to its medians.
    inside = counts[np.hypot(y - start[0], x - start[1]) < 0.7 * start[2] + 1]
    if not len(inside):
        raise ValueError(f"no bright-field disk: no usable pixels inside {_at(start)}")
    low, high = np.percentile(inside, [16, 84])
    scale = max(_OUTLIER, (high - low) / 2 / level)
    return least_squares(
        lambda parameters: (_disk(parameters, y, x) - counts) / level,
        start,
        loss="soft_l1",
        f_scale=scale,
        x_scale=[1.0, 1.0, 1.0, level, 1.0, level, *[1 / start[2]] * (len(start) - 6)],
    ).x


def _at(parameters: np.ndarray) -> str:
    return f"row {parameters[0]:.1f}, col {parameters[1]:.1f} with radius {parameters[2]:.1f} px"


def _check(parameters: np.ndarray, shape: tuple[int, int]) -> None:
    radius, intensity, width, background = parameters[2:]
    if not (np.isfinite(parameters).all() and 1.0 <= radius <= np.hypot(shape[0], shape[1])):
        raise ValueError(f"no bright-field disk: the fit went to {_at(parameters)}")
    seen = _edge_seen(parameters, shape)
    if seen < _LEAST_EDGE:
        raise ValueError(
            f"no bright-field disk: of the edge at {_at(parameters)}, {100 * seen:.0f} % lies on the "
            f"pattern of {shape[0]} x {shape[1]} px"
        )
    if intensity < _LEAST_CONTRAST * (intensity + max(background, 0.0)) or intensity <= 0:
        raise ValueError(
            f"no bright-field disk: {_at(parameters)} is {intensity:.3g} counts above a background of "
            f"{background:.3g}"
        )
    if abs(width) > radius:
        raise ValueError(
            f"no bright-field disk: the edge at {_at(parameters)} is {abs(width):.1f} px wide, "
            "wider than the disk"
        )


def _edge_seen(parameters: np.ndarray, shape: tuple[int, int]) -> float:
    """Part of the circle's edge that lies on the pattern."""
    row, col, radius = parameters[:3]
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    edge_row, edge_col = row + radius * np.sin(angle), col + radius * np.cos(angle)
    seen = (edge_row >= 0) & (edge_row <= shape[0] - 1) & (edge_col >= 0) & (edge_col <= shape[1] - 1)
    return float(seen.mean())


def _check_counts(parameters: np.ndarray, y: np.ndarray, x: np.ndarray, counts: np.ndarray) -> None:
    """Is there a step in the counts themselves? The loss function sees disks in sparse single counts."""
    distance = np.hypot(y - parameters[0], x - parameters[1]) / parameters[2]
    inside, around = counts[distance < 0.9], counts[distance > 1.1]
    if not len(inside) or not len(around):
        raise ValueError(f"no bright-field disk: no usable pixels inside or around {_at(parameters)}")
    step = inside.mean() - around.mean()
    error = np.sqrt(inside.var() / len(inside) + around.var() / len(around))
    if step < _LEAST_CONTRAST * inside.mean() or step < _LEAST_SIGNIFICANCE * error:
        raise ValueError(
            f"no bright-field disk: {inside.mean():.3g} counts a pixel inside {_at(parameters)}, "
            f"{around.mean():.3g} around it"
        )
