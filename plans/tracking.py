"""A region kept in view over a movie: rasters one after the other, and a stage that follows what drifts."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator, plan
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.device import create_device_from_components

from live4d_ophyd.device.signals import Value
from live4d_ophyd.imaging.drift import MovedSum
from live4d_ophyd.imaging.registration import Displacement, Reason, displacement, is_empty
from live4d_ophyd.plans.components import component, unit_of

#: what may happen beyond the limit
BEYOND = ("recentre", "pause")
#: rasters in a row without the region, after which it is lost
PATIENCE = 3
#: stream of the rasters that measure how the stage moves the image
RESPONSE = "response"
_WORDS = {
    Reason.EMPTY: "the image is empty",
    Reason.TOO_FAR: "further away than the search",
    Reason.UNCERTAIN: "not to be told from other places",
}
_OTHER_AXES = (
    "its axes are others than was thought (try probe=STEP), or the specimen drifts faster than it is followed"
)


class FeatureLost(RuntimeError):
    """The region is not in view any more, or cannot be kept there; says why and what to do."""


class Track(Device):
    """Where the region was in a raster, from where it began, and what that means for the stage."""

    #: 0 to 1; NaN of the first raster
    confidence = Cpt(Value, value=math.nan, kind="normal")
    #: a `live4d_ophyd.imaging.registration.Reason`: 0 found, 1 the first raster, else why not
    reason = Cpt(Value, value=0, kind="normal")

    def put(self, at: np.ndarray, found: Displacement, move: np.ndarray) -> None:
        """Say it, for the Event of this raster."""
        values = (*at, float(found.confidence), int(found.reason), *move)
        for name, value in zip(("row", "col", "confidence", "reason", "move_y", "move_x"), values):
            getattr(self, name).put(value if isinstance(value, int) else float(value))


def _track(unit: str, stage_units: Sequence[str]) -> Any:
    """A `Track` with its lengths in these units: ``row``, ``col``, and the stage's moves ``move_y``, ``move_x``."""
    lengths = {name: Cpt(Value, value=math.nan, units=unit, kind="hinted") for name in ("row", "col")}
    moves = {
        name: Cpt(Value, value=0.0, units=units, kind="normal")
        for name, units in zip(("move_y", "move_x"), stage_units)
    }
    made = create_device_from_components("Track", base_class=Track, **lengths, **moves)
    return made("", name="track")


@dataclass(frozen=True)
class _Line:
    """Of the table."""

    row: float
    col: float
    confidence: float
    stage: tuple[float, float]
    done: str


@plan
def track_region(
    detector: Readable,
    stage_y: Movable,
    stage_x: Movable,
    num: int,
    limit: float,
    name: str = "vbf",
    region: Sequence[int] | None = None,
    beyond: str = "recentre",
    search: float | None = None,
    probe: float | None = None,
    reach: float | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[list[list[float]]]:
    """
    Take rasters and keep a region of the first one in view: the stage follows where it drifts to.

    Each raster is compared with the sum of those before, and its Event says where the region was, how sure that is
    and how far the stage is moved then (``track_row``, ``track_col``, ``track_confidence``, ``track_move_y``,
    ``track_move_x``). Nothing is moved for a raster in which the region is not found for sure. A table at the end
    says what was done. The stage stays where it is: going back would lose the region.

    Parameters
    ----------
    detector : Live4D
        Device with a virtual detector called ``name``.
    stage_y, stage_x : Movable
        Stage or scan shift. Without ``probe`` their positive moves take the field of view towards larger rows and
        columns, in the unit of the scan's step.
    num : int
        Rasters to take.
    limit : float
        How far the region may be from where it began, in the unit of the scan's step.
    name : str, optional
        Virtual detector whose image is followed.
    region : (int, int, int, int), optional
        First row, first column, rows and columns of the region in the first raster. Default: all of it.
    beyond : "recentre" or "pause", optional
        Beyond the limit: move the region back to where it began, or pause for somebody who does. A pause leaves the
        stage alone; ``RE.resume()`` goes on.
    search : float, optional
        How far the region may move from raster to raster, in scan positions. Default: a quarter of the raster. On a
        lattice less than half its period.
    probe : float, optional
        Measure first how the stage moves the image, by steps of this size: for axes that are turned against the scan,
        mirrored or in another unit.
    reach : float, optional
        How far either axis may go from its position now, in its unit. Default: as far as its own limits let it.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    list of [row, col]
        Where the region was in each raster, NaN where it was not found. Also printed.

    Raises
    ------
    FeatureLost
        The region was not found in three rasters in a row, the stage would leave its limits or its reach, or it moves
        the image elsewhere than was thought. The rasters until then stay.

    Examples
    --------
    >>> RE(track_region(live4d, stage_y, stage_x, 100, limit=2.0))  # doctest: +SKIP
    >>> RE(track_region(live4d, shift_a, shift_b, 100, limit=2.0, region=(20, 20, 24, 24), probe=3.0))  # doctest: +SKIP
    """
    stage: tuple[Any, Any] = (stage_y, stage_x)
    grid = component(detector, "grid")()
    image_key = component(detector, name).name
    if num < 1 or not limit > 0 or beyond not in BEYOND:
        raise ValueError(
            f"track_region of {num} rasters with the limit {limit} and beyond={beyond!r}: expected at least 1, a limit "
            f"above 0 {grid.unit}, and one of {', '.join(BEYOND)}"
        )
    for what, value in (("search", search), ("probe", probe), ("reach", reach)):
        if value is not None and not value > 0:
            raise ValueError(f"{what} is {value!r}; expected more than 0, or None")
    if stage_y is stage_x:
        raise ValueError(
            f"{stage[0].name} is both axes: expected two that move the image in different directions"
        )
    mask = _mask(region, grid.shape)
    units = tuple(unit_of(axis) for axis in stage)
    if probe is None and set(units) != {grid.unit}:
        raise ValueError(
            f"the scan step is in {grid.unit!r}, {stage[0].name} in {units[0]!r} and {stage[1].name} in {units[1]!r}: "
            "set the scan step in the units of the stage (scan_step_y, scan_step_x, scan_unit), or have it measured by "
            "probe=STEP"
        )
    far = min(grid.shape) / 4 if search is None else float(search)
    steps = np.array(grid.steps)
    track = _track(grid.unit, units)
    run_md = {
        "plan_name": "track_region",
        "detectors": [detector.name],
        "motors": [axis.name for axis in stage],
        "num_points": num,
        "plan_args": {
            "detector": repr(detector),
            "stage_y": repr(stage_y),
            "stage_x": repr(stage_x),
            "num": num,
            "limit": limit,
            "name": name,
            "region": None if region is None else list(region),
            "beyond": beyond,
            "search": search,
            "probe": probe,
            "reach": reach,
        },
        "hints": {"dimensions": [(["time"], "primary")]},
        **(md or {}),
    }
    lines: list[_Line] = []
    total = MovedSum(grid.shape)

    def taken(stream: str, judge: Any) -> MsgGenerator[Any]:
        """One raster as an Event of ``stream``; what ``judge`` says of its image."""
        yield from bps.checkpoint()
        yield from bps.trigger(detector, wait=True)
        yield from bps.create(stream)
        reading = yield from bps.read(detector)
        for axis in stage:
            yield from bps.read(axis)
        said = judge(np.asarray(reading[image_key]["value"]))
        yield from bps.read(track)
        yield from bps.save()
        return said

    def measured_response() -> MsgGenerator[np.ndarray]:
        """By how many positions the region moves with a unit of each axis, (2, 2)."""
        start = yield from _positions(stage)
        found: list[np.ndarray] = []

        def judge(image: np.ndarray) -> None:
            if not found:
                _begin(image, total, mask, name)
            # An axis that is back is where it was, but for the drift.
            expected = found[-2] if len(found) in (2, 4) else found[-1] if found else np.zeros(2)
            here = displacement(image, _seen(total, mask), far, tuple(expected))
            track.put(steps * (here.row, here.col), here, np.zeros(2))
            if not here.found:
                raise FeatureLost(
                    f"a move of {probe:g} of the stage cannot be seen in {image_key}: {_WORDS[here.reason]}. Try "
                    "another probe, a wider search, or more electrons"
                )
            found.append(np.array([here.row, here.col]))

        yield from taken(RESPONSE, judge)
        for number, axis in enumerate(stage):
            target = [*start]
            target[number] += float(probe or 0.0)
            _check(stage, target, start, reach)
            yield from bps.mv(axis, target[number])
            yield from taken(RESPONSE, judge)
            yield from bps.mv(axis, start[number])
            yield from taken(RESPONSE, judge)
        # What drifts meanwhile is the same before and after, on the average.
        moved = [(found[at] - (found[at - 1] + found[at + 1]) / 2) / probe for at in (1, 3)]
        response = np.stack(moved, axis=1)
        if np.linalg.cond(response) > 10:
            raise FeatureLost(
                f"{stage[0].name} and {stage[1].name} move the image the same way, or hardly: by "
                f"{moved[0].round(3).tolist()} and {moved[1].round(3).tolist()} positions (row, col) a unit. Are they "
                "the two axes of the stage? Try a larger probe"
            )
        return response

    def follow() -> MsgGenerator[None]:
        nonlocal total
        response = -np.diag(1 / steps)
        start = yield from _positions(stage)
        if probe is not None:
            response = yield from measured_response()
            total = MovedSum(grid.shape)
        expected, before, missed = np.zeros(2), math.inf, 0
        for _ in range(num):
            move: np.ndarray = np.zeros(2)
            at: np.ndarray = np.zeros(2)
            found = Displacement(0.0, 0.0, math.nan, Reason.REFERENCE)

            def judge(image: np.ndarray, expected: np.ndarray = expected) -> None:
                nonlocal found, at, move
                if not total.rasters:
                    _begin(image, total, mask, name)
                else:
                    found = displacement(image, _seen(total, mask), far, tuple(expected))
                    if found.found:
                        total.add(image, np.tile([found.row, found.col], (grid.rows, 1)))
                at = np.array([found.row, found.col])
                away = math.hypot(*(at * steps))
                if away > limit and beyond == "recentre":
                    move = -np.linalg.solve(response, at)
                track.put(at * steps, found, move)

            yield from taken("primary", judge)
            here = yield from _positions(stage)
            known = bool(np.isfinite(at).all())
            away = math.hypot(*(at * steps)) if known else math.nan
            missed = 0 if known else missed + 1
            row, col = (at * steps).tolist()
            line = _Line(row, col, found.confidence, (here[0], here[1]), _WORDS.get(found.reason, ""))
            lines.append(line)
            if missed >= PATIENCE:
                since = "" if math.isinf(before) else f" since the stage was moved: {_OTHER_AXES}"
                raise FeatureLost(
                    f"the region was not found in {missed} rasters in a row ({_WORDS[found.reason]}){since}. Take more "
                    f"beam current, a larger region, or a wider search than {far:g} positions"
                )
            if not known:
                continue
            if away > limit and away >= before:
                raise FeatureLost(
                    f"the region is {away:.3g} {grid.unit} away since the stage was moved, and was {before:.3g} "
                    f"before: {_OTHER_AXES}"
                )
            expected, before = at, math.inf
            if not away > limit or len(lines) == num:
                continue
            if beyond == "pause":
                lines[-1] = replace(line, done="paused")
                print(f"{image_key}: the region is {away:.3g} {grid.unit} away. RE.resume() goes on")
                yield from bps.checkpoint()
                yield from bps.pause()
                moved = np.array((yield from _positions(stage))) - here
                expected = at + response @ moved
                continue
            target = [p + m for p, m in zip(here, move)]
            _check(stage, target, start, reach)
            yield from bps.checkpoint()
            yield from bps.mv(stage[0], target[0], stage[1], target[1])
            lines[-1] = replace(line, done="recentred")
            expected, before = np.zeros(2), away

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=run_md)
    def record() -> MsgGenerator[None]:
        yield from follow()

    def tell() -> MsgGenerator[None]:
        # RE(plan) answers with uids only: this table is the plan's answer to who runs it by hand.
        if lines:
            print(_table(lines, grid.unit, [axis.name for axis in stage], units))
        yield from bps.null()

    yield from bpp.finalize_wrapper(record(), tell)
    return [[line.row, line.col] for line in lines]


def _mask(region: Sequence[int] | None, shape: tuple[int, int]) -> np.ndarray:
    """The positions of the region, (rows, cols) bool. Raises ValueError for one that is not on the raster."""
    mask = np.zeros(shape, bool)
    if region is None:
        return ~mask
    numbers = tuple(region)
    if (
        len(numbers) != 4
        or not all(isinstance(n, int | np.integer) for n in numbers)
        or min(numbers[:2]) < 0
        or min(numbers[2:]) < 8
        or any(first + size > n for first, size, n in zip(numbers[:2], numbers[2:], shape))
    ):
        raise ValueError(
            f"region is {region}; expected first row, first column, rows and columns (8 or more) on a raster of "
            f"{shape[0]} x {shape[1]}"
        )
    row, col, rows, cols = numbers
    mask[row : row + rows, col : col + cols] = True
    return mask


def _begin(image: np.ndarray, total: MovedSum, mask: np.ndarray, name: str) -> None:
    if is_empty(np.where(mask, image, np.nan)):
        raise FeatureLost(
            f"the region of the first {name} image shows nothing: all values are alike, or missing. Is the beam on?"
        )
    total.add(image, np.zeros((len(image), 2)))


def _seen(total: MovedSum, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, total.mean(), np.nan)


def _positions(stage: Sequence[Any]) -> MsgGenerator[list[float]]:
    found = []
    for axis in stage:
        found.append(float((yield from bps.rd(axis))))
    return found


def _check(
    stage: Sequence[Any], target: Sequence[float], start: Sequence[float], reach: float | None
) -> None:
    """Raise FeatureLost where an axis must not go: before any of them moves."""
    for axis, value, begin in zip(stage, target, start):
        if reach is not None and abs(value - begin) > reach:
            raise FeatureLost(
                f"{axis.name} would have to go to {value:.5g}, {abs(value - begin):.3g} from where it began: the "
                f"reach is {reach:g}. Nothing was moved"
            )
        check = getattr(axis, "check_value", None)
        if check is None or inspect.iscoroutinefunction(check):  # then the move itself is refused
            continue
        try:
            check(value)
        except Exception as error:  # whatever class of error a control system has for it
            raise FeatureLost(f"{axis.name} cannot go to {value:.5g}: {error}. Nothing was moved") from error


def _table(lines: Sequence[_Line], unit: str, names: Sequence[str], units: Sequence[str]) -> str:
    head = (
        "raster",
        f"row [{unit}]",
        f"col [{unit}]",
        "confidence",
        *(f"{n} [{u}]" for n, u in zip(names, units)),
        "",
    )
    body = [
        (str(number), f"{line.row:.3f}", f"{line.col:.3f}", f"{line.confidence:.2f}",
         *(f"{position:.3f}" for position in line.stage), line.done)
        for number, line in enumerate(lines, 1)
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths)).rstrip() for cells in (head, *body)
    )
