"""Several images of a run as one: tiles as a stitched view, focal series and movies as a montage with labels.

In: a run and the name of an image; or plain arrays. Out: a `ScanImage` of all tiles, or a matplotlib Figure. Any
thread; no window is opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.images import (
    ScanImage,
    about_zero,
    colors_of,
    find_images,
    find_stream,
    is_symmetric,
    read_images,
)
from live4d_ophyd.runs.picture import levels, steps_of
from live4d_ophyd.runs.readings import RunReadings

#: positions of a stitched image at most: 2 GiB
MOST_POSITIONS = 1 << 28
#: images of a montage at most; of more, every second, third, ... is shown, and the title says so
MOST_PANELS = 64


def place_tiles(
    tiles: np.ndarray, positions: np.ndarray, step: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """One image of all tiles, (rows, cols) float64, and how far the first position of its corner lies from 0.

    Parameters
    ----------
    tiles : (n, scan_y, scan_x), NaN where nothing was seen
    positions : (n, 2) of the tiles' centres along (scan_y, scan_x)
    step : (scan_y, scan_x) distance of positions, in the unit of ``positions``

    Tiles are put to the nearest position, at most half a step off; where they overlap, what was seen is averaged.
    NaN where nothing was seen. Raises ValueError where sizes do not fit, a position is not finite, or the image would
    have more than `MOST_POSITIONS`.
    """
    tiles, positions = np.asarray(tiles, np.float64), np.asarray(positions, np.float64)
    if tiles.ndim != 3 or not tiles.size or positions.shape != (len(tiles), 2):
        raise ValueError(
            f"tiles are {tiles.shape} at positions {positions.shape}; expected (n, scan_y, scan_x) and (n, 2)"
        )
    if not np.isfinite(positions).all() or not all(math.isfinite(s) and s > 0 for s in step):
        raise ValueError(f"tiles at {positions.tolist()} with a step of {step}: expected finite numbers")
    shape = np.array(tiles.shape[1:])
    first = positions.min(axis=0)
    at = np.round((positions - first) / step)
    size = at.max(axis=0) + shape
    if size.prod() > MOST_POSITIONS:
        raise ValueError(
            f"the tiles would be an image of {size[0]:g} x {size[1]:g} positions, more than {MOST_POSITIONS}: are "
            "stage and scan step in the same unit?"
        )
    total, count = np.zeros(size.astype(int)), np.zeros(size.astype(int), np.int64)
    for tile, (row, col) in zip(tiles, at.astype(int)):
        here = slice(row, row + shape[0]), slice(col, col + shape[1])
        seen = np.isfinite(tile)
        total[here] += np.where(seen, tile, 0.0)
        count[here] += seen
    stitched = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    corner = first - (shape - 1) / 2 * np.asarray(step)
    return stitched, (float(corner[0]), float(corner[1]))


def stitch(
    run: Any, name: str, *, sign: tuple[int, int] = (1, 1), stream: str | None = None, catalog: str | None = None
) -> ScanImage:  # fmt: skip
    """All tiles of a `tile_scan` as one image, ``(scan_y, scan_x)`` float64, NaN where nothing was seen.

    Parameters
    ----------
    run, name, stream, catalog
        As of `image`.
    sign
        (1, 1): the field of view moves along the scan's rows and columns as the stage's numbers do; -1 along an axis
        where it moves the other way, as with a stage that moves the specimen under the beam.

    Returns
    -------
    ScanImage
        Coordinates are positions of the stage, in its unit, at the recorded positions, to the nearest scan position.
        Where tiles overlap, what was seen is averaged.

    Raises
    ------
    NoSuchRun, KeyError
        As `image`.
    ValueError
        The run did not move two axes, or stage and scan step have other units and it was no `tile_scan`.
    """
    tiles, start = _all(run, name, stream, catalog)
    axes = [_moved_key(tiles, motor) for motor in start.get("motors") or ()]
    if len(axes) != 2 or None in axes:
        moved = ", ".join(start.get("motors") or ()) or "nothing"
        raise ValueError(
            f"run {start['uid'][:8]} ({start.get('plan_name', '?')}) moved {moved}; "
            "to stitch, a run must move a stage along scan_y and then along scan_x, as tile_scan does"
        )
    step, unit = _step_of_stage(tiles, start, [str(axis) for axis in axes])
    where = np.stack([tiles.coords[axis].to_numpy().astype(float) for axis in axes], axis=1) * sign
    stitched, corner = place_tiles(tiles.to_numpy(), where, step)
    coords = {
        f"scan_{axis}": (
            f"scan_{axis}",
            (first + np.arange(size) * distance) * direction,
            {"long_name": str(key), "units": unit, "step": distance},
        )
        for axis, key, first, size, distance, direction in zip("yx", axes, corner, stitched.shape, step, sign)
    }
    attrs = {**tiles.attrs, "tiles": len(tiles)}
    return ScanImage(stitched, dims=("scan_y", "scan_x"), coords=coords, name=tiles.name, attrs=attrs)


def montage(
    run: Any,
    name: str,
    *,
    columns: int | None = None,
    stream: str | None = None,
    catalog: str | None = None,
) -> Any:
    """All images of one name in a figure, each with what was moved: a focal series, a movie.

    Parameters
    ----------
    run, name, stream, catalog
        As of `image`.
    columns
        Images side by side; default: as many as make the figure about a square.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("series.png")``; in Jupyter the cell shows it. Grey values are those of all images together.
        Of more than 64 images every second, third, ... is shown, and the title says so.
    """
    stack, _ = _all(run, name, stream, catalog)
    return draw_montage(stack, columns)


def draw_montage(stack: xr.DataArray, columns: int | None = None) -> Any:
    """The figure of `montage`, of images ``(event, scan_y, scan_x)`` as `images` gives them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = -(-stack.sizes["event"] // MOST_PANELS)
    shown = stack.isel(event=slice(None, None, every))
    count = shown.sizes["event"]
    across = columns or math.ceil(math.sqrt(count))
    if across < 1:
        raise ValueError(f"a montage of {columns} columns; expected at least 1")
    across = min(across, count)
    down = math.ceil(count / across)
    (step_y, step_x), unit = steps_of(stack)
    height, width = stack.sizes["scan_y"] * step_y, stack.sizes["scan_x"] * step_x
    side = min(3.0, 16.0 / max(across, down))  # inches of a panel's longer side
    panel = side * width / max(width, height), side * height / max(width, height)
    figure = Figure(
        figsize=(across * (panel[0] + 0.25) + 1.0, down * (panel[1] + 0.35) + 0.7), layout="constrained"
    )
    FigureCanvasAgg(figure)
    black, white = (about_zero if is_symmetric(shown) else levels)(shown.to_numpy())
    axes = np.ravel(figure.subplots(down, across, squeeze=False))
    for ax in axes:
        ax.set_axis_off()
    for ax, index in zip(axes, range(count)):
        drawn = ax.imshow(
            np.ma.masked_invalid(shown.isel(event=index).to_numpy()), cmap=colors_of(shown), vmin=black, vmax=white,
            origin="upper", interpolation="nearest", extent=(0, width, height, 0),
        )  # fmt: skip
        ax.set_title(label(shown, index), fontsize="small")
    figure.colorbar(drawn, ax=axes.tolist(), label=str(stack.attrs.get("units", "")), shrink=0.6)
    which = "" if every == 1 else f", every {every} of {stack.sizes['event']} images"
    run = f", scan {stack.attrs['scan_id']}" if "scan_id" in stack.attrs else ""
    figure.suptitle(f"{stack.name}{run}: {height:g} x {width:g} {unit} each{which}", fontsize="medium")
    return figure


def label(stack: xr.DataArray, index: int) -> str:
    """What was moved at one of the images, with units; of images that nothing was moved for, number and time."""
    moved = [
        (name, coordinate)
        for name, coordinate in stack.coords.items()
        if coordinate.dims == ("event",) and name not in ("event", "time") and coordinate.dtype.kind in "iuf"
    ]
    if moved:
        values = [f"{name} {float(c[index]):.5g} {c.attrs.get('units', '')}".rstrip() for name, c in moved]
        return ", ".join(values)
    number = f"event {int(stack.coords['event'][index])}"
    if "time" not in stack.coords:
        return number
    times = stack.coords["time"].to_numpy()
    return f"{number}, {(times[index] - times[0]) / np.timedelta64(1, 's'):.3g} s"


def _all(run: Any, name: str, stream: str | None, catalog: str | None) -> tuple[ScanImage, Any]:
    with opened(run, catalog) as client:
        readings = RunReadings(client)
        device, short = find_images(readings, name)
        stream = find_stream(readings, device, short, stream)
        return read_images(readings, device, short, stream, None), readings.start


def _moved_key(tiles: xr.DataArray, motor: str) -> str | None:
    """The coordinate that has where a motor was: a positioner's own key, or the one that begins with its name."""
    keys = [str(key) for key, c in tiles.coords.items() if c.dims == ("event",)]
    own = [key for key in keys if key == motor] or [
        key for key in keys if key.startswith(f"{motor}_") and not key.endswith("_setpoint")
    ]
    return own[0] if own else None


def _step_of_stage(tiles: ScanImage, start: Any, axes: Sequence[str]) -> tuple[tuple[float, float], str]:
    """Distance of scan positions in the stage's unit, and that unit."""
    units = [tiles.coords[axis].attrs.get("units", "") for axis in axes]
    field = (start.get("tiles") or {}).get("field")
    if field is not None:
        return (
            float(field[0]) / tiles.sizes["scan_y"],
            float(field[1]) / tiles.sizes["scan_x"],
        ), units[0]
    step, unit = steps_of(tiles)
    if set(units) != {unit}:
        raise ValueError(
            f"the scan step is in {unit!r}, {axes[0]} and {axes[1]} in {units[0]!r} and {units[1]!r}, and the run says "
            "no field of view, as tile_scan's do: how far apart the tiles are is not known"
        )
    return step, unit
