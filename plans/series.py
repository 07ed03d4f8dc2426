"""Series of images: at several defocus values, or of neighbouring fields of view."""

from collections.abc import Sequence
from typing import Any

import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.plans.components import unit_of


@plan
def focal_series(
    detectors: Sequence[Readable],
    defocus: Movable,
    start: float,
    stop: float,
    num: int,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """
    Take one raster at each of several defocus values, then go back to the defocus before.

    Parameters
    ----------
    detectors : list
        Devices to trigger and read.
    defocus : Movable
        Lens to step.
    start, stop : float
        First and last value, in the unit of ``defocus``.
    num : int
        Number of values.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.

    See Also
    --------
    autofocus : goes to the value with the highest contrast

    Examples
    --------
    >>> RE(focal_series([live4d], defocus, -100, 100, 11))
    """
    series = bp.scan(detectors, defocus, start, stop, num=num, md={"plan_name": "focal_series", **(md or {})})
    return (yield from bpp.reset_positions_wrapper(series, [defocus]))


@plan
def tile_scan(
    detectors: Sequence[Readable],
    stage_y: Movable,
    stage_x: Movable,
    rows: int,
    cols: int,
    overlap: float = 0.1,
    field: Sequence[float] | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """
    Take a mosaic of overlapping rasters around the stage's position, then go back to it.

    Parameters
    ----------
    detectors : list
        Devices to trigger and read; the first with a scan grid says how large a tile is.
    stage_y, stage_x : Movable
        Stage along the scan's rows (slow, scan_y) and columns (fast, scan_x).
    rows, cols : int
        Number of tiles along scan_y and scan_x.
    overlap : float, optional
        Part of a tile that its neighbour shows, too: from 0 to below 1.
    field : (float, float), optional
        Height and width of a tile in the units of the stage. Default: the number of scan positions times
        their distance, which has to be known in the units of the stage.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.

    Examples
    --------
    >>> RE(tile_scan([live4d], stage_y, stage_x, 3, 3))
    >>> RE(tile_scan([live4d], stage_y, stage_x, 2, 4, overlap=0.25, field=(16, 16)))
    """
    if rows < 1 or cols < 1:
        raise ValueError(f"tile_scan of {rows} x {cols} tiles: expected at least 1 x 1")
    if not 0 <= overlap < 1:
        raise ValueError(
            f"overlap is {overlap}; expected the part of a tile that is shared, from 0 to below 1"
        )
    height, width = _field_of_view(detectors, (stage_y, stage_x)) if field is None else field
    if not (height > 0 and width > 0):
        raise ValueError(f"field is {field}; expected (height, width) of a tile in the units of the stage")
    reach_y, reach_x = ((n - 1) / 2 * size * (1 - overlap) for n, size in ((rows, height), (cols, width)))
    tiles = {"shape": [rows, cols], "field": [float(height), float(width)], "overlap": float(overlap)}
    mosaic = bp.rel_grid_scan(
        detectors,
        stage_y,
        -reach_y,
        reach_y,
        rows,
        stage_x,
        -reach_x,
        reach_x,
        cols,
        snake_axes=False,
        md={"plan_name": "tile_scan", "tiles": tiles, **(md or {})},
    )
    return (yield from mosaic)


def _field_of_view(detectors: Sequence[Readable], stage: Sequence[Any]) -> tuple[float, float]:
    """Height and width of a raster. Raises ValueError unless its unit is also that of the stage."""
    grids = [detector.grid() for detector in detectors if hasattr(detector, "grid")]
    if not grids:
        names = ", ".join(detector.name for detector in detectors)
        raise ValueError(f"none of the detectors ({names}) knows its scan grid: pass field=(height, width)")
    grid = grids[0]
    for axis in stage:
        if (unit := unit_of(axis)) != grid.unit:
            raise ValueError(
                f"the scan step is in {grid.unit!r} and {axis.name} in {unit!r}: set the "
                "scan step in the units of the stage (scan_step_y, scan_step_x, scan_unit), or pass "
                "field=(height, width)"
            )
    return grid.rows * grid.step[0], grid.cols * grid.step[1]
