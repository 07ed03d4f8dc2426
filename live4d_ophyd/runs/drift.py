"""Drift of an old run: where the specimen was in each of its rasters, and their mean without that.

In: a run with several rasters of one place, a movie or a `count`. Out: an xarray Dataset.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from live4d_ophyd.imaging.drift import Followed, MovedSum, Path, checked_strips
from live4d_ophyd.imaging.registration import LEAST_CONFIDENCE, Reason
from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.images import find_images, find_stream, read_images
from live4d_ophyd.runs.readings import DeviceReadings, RunReadings

#: rasters after the first from which the speed of the drift in it is taken
_NEXT = 4


def drift_corrected(
    run: Any,
    name: str,
    *,
    stream: str | None = None,
    search: float = 8.0,
    strips: int = 1,
    least_confidence: float = LEAST_CONFIDENCE,
    catalog: str | None = None,
) -> xr.Dataset:
    """Where the specimen was in each raster of a run, and the mean of the rasters without that.

    Parameters
    ----------
    run
        As `describe` takes it: ``db[-1]``, or a uid, its first characters, a scan id, -1.
    name
        What a method gave, ``"adf"``, or data key, ``"live4d_adf"``. Dark field shows drift better than bright field.
    stream
        Default: the only one that holds such images, else ``primary``.
    search
        How far the specimen may move from raster to raster, scan positions. On a lattice less than half its period.
    strips
        In how many strips of rows, at least 16 each, a raster is compared: for a drift whose speed changes.
    least_confidence
        From 0 to 1; rasters below are left out.
    catalog
        As in `describe`.

    Returns
    -------
    xarray.Dataset
        ``corrected`` and ``plain`` (scan_y, scan_x): mean of the rasters at moved positions, and as they are.
        ``path`` (event, scan_y, axis): where the specimen was while each row was scanned, towards larger rows and
        columns, from the middle of the first raster on; ``drift`` (event, axis) the same in the middle of each raster;
        both in the scan's unit, NaN for a raster that was not found. ``confidence`` and ``reason`` (event): 0 found,
        1 what the others are compared with, or why not, see `live4d_ophyd.imaging.registration.Reason`.

    Raises
    ------
    NoSuchRun, KeyError
        As `image`.
    ValueError
        There are fewer than two rasters, or too few rows for the strips.

    Notes
    -----
    What the drift did within the first raster can be seen in none: it is taken as straight there, as fast as towards
    the rasters that follow. So the image has no shear, if the drift is steady.
    """
    with opened(run, catalog) as client:
        readings = RunReadings(client)
        device, short = find_images(readings, name)
        stream = find_stream(readings, device, short, stream)
        images = read_images(readings, device, short, stream, None)
    values = images.to_numpy()
    count, rows, _ = values.shape
    if count < 2:
        raise ValueError(
            f"the run has {count} raster of {images.name} in {stream!r}; drift needs at least two"
        )
    checked_strips(strips, rows, "drift_corrected")
    followed, paths = Followed(MovedSum(values.shape[1:])), list[Path]()
    for number in range(count):
        followed = followed.with_raster(values[number], search, strips, least_confidence)
        assert followed.path is not None
        if followed.path.whole.reason is Reason.REFERENCE:
            paths = [_not_found(path) for path in paths]  # of another reference, which was no good
        paths.append(followed.path)
    where = _straightened(paths, _in_rasters(images, device, len(paths)))
    total = MovedSum(values.shape[1:])
    for image, path in zip(values, where):
        if np.isfinite(path).all():
            total.add(image, path)
    steps = np.array([images.coords[f"scan_{axis}"].attrs["step"] for axis in "yx"])
    unit = images.coords["scan_y"].attrs["units"]
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(values).sum(axis=0)
        plain = np.divide(np.nansum(values, axis=0), seen, out=np.full(seen.shape, np.nan), where=seen > 0)
    of_image = {key: value for key, value in images.attrs.items() if not key.startswith("frames_")}
    return xr.Dataset(
        {
            "corrected": (("scan_y", "scan_x"), total.mean(), of_image),
            "plain": (("scan_y", "scan_x"), plain, of_image),
            "path": (("event", "scan_y", "axis"), where * steps, {"units": unit}),
            "drift": (("event", "axis"), where.mean(axis=1) * steps, {"units": unit}),
            "confidence": ("event", [path.whole.confidence for path in paths]),
            "reason": ("event", [int(path.whole.reason) for path in paths]),
        },
        coords={**images.coords, "axis": ["row", "col"]},
        attrs={
            "rasters": total.rasters,
            "search": search,
            "strips": strips,
            "least_confidence": least_confidence,
        },
    )


def _not_found(path: Path) -> Path:
    return Path(path.whole, np.full_like(path.rows, np.nan))


def _in_rasters(images: xr.DataArray, device: DeviceReadings, count: int) -> np.ndarray:
    """When each raster ended, in units of what one lasts, (events,)."""
    times = images.coords["time"].to_numpy().astype("datetime64[ns]").astype(float) / 1e9
    period = float(np.median(np.diff(times)))
    expected, rate = device.get("frames_expected"), device.get("frame_rate")
    rate = float(np.nanmedian(rate)) if isinstance(rate, list) and np.isfinite(rate).any() else rate
    lasts = period
    if (
        isinstance(expected, int | float)
        and isinstance(rate, int | float)
        and rate > 0
        and math.isfinite(rate)
    ):
        lasts = min(period, expected / rate)
    return (times - times[0]) / lasts if lasts > 0 else np.arange(count, dtype=float)


def _straightened(paths: list[Path], times: np.ndarray) -> np.ndarray:
    """Where the specimen was, (events, rows, 2), with what it did within the reference, as far as that can be told."""
    where = np.stack([path.rows for path in paths])
    found = np.isfinite(where).all(axis=(1, 2))
    first = int(np.argmax(found))
    after = np.flatnonzero(found)[: _NEXT + 1]
    if len(after) < 2:
        return where
    middle = where[after].mean(axis=1)
    degree = 2 if len(after) > _NEXT else 1
    since = times[after] - times[first]
    speed = np.array(
        [np.polynomial.Polynomial.fit(since, middle[:, axis], degree).deriv()(0.0) for axis in (0, 1)]
    )
    rows = where.shape[1]
    # What moves towards later rows is scanned later, and has moved the more from one raster to the next.
    speed /= 1 + speed[0] / rows
    in_reference = np.arange(rows) - where[..., 0] - (rows - 1) / 2
    return where + in_reference[..., np.newaxis] / rows * speed
