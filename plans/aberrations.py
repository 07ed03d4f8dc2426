"""Focus and astigmatism from the aberrations that parallax finds in a defocused scan: measured, corrected, proved.

One raster out of focus says how far and to which side, so that no series through focus is needed. Nearer to focus than
one and a half depths of field parallax has no number: what is measured lies at a distance to either side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.imaging.parallax import Reason
from live4d_ophyd.plans.components import component, unit_of
from live4d_ophyd.plans.focus import FocusNotFound
from live4d_ophyd.units import ANGSTROM_M, METRES

#: how much of what was asked for a lens may do, at least and at most
_RESPONSE = (0.7, 1.4)
_WHY = {
    Reason.TOO_FEW_POSITIONS: "too few scan positions",
    Reason.NO_COMMON_IMAGE: "too few electrons, vacuum, or far from focus",
    Reason.PERIODIC: "a lattice",
    Reason.NEAR_FOCUS: "too near to focus, or more astigmatism than defocus",
    Reason.UNKNOWN_SIGN: "the sign is not known: set its rotation",
}


class AstigmatismNotFound(ValueError):
    """The stigmators do not do what the measurement says; says why and what to do."""


@dataclass(frozen=True)
class Measured:
    """What parallax found with the lens or the stigmators at ``at``, A; C12 as a vector (cos, sin of twice phi12)."""

    at: tuple[float, ...]
    reason: Reason
    defocus: float
    defocus_error: float
    astigmatism: np.ndarray
    astigmatism_error: float

    @property
    def found(self) -> bool:
        return self.reason is Reason.FITTED


@plan
def correct_defocus(
    detector: Readable,
    defocus: Movable,
    offset: float,
    target: float = 0.0,
    name: str = "parallax",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[float]:
    """
    Go to focus by the defocus that parallax finds in two scans to either side of it.

    Takes a raster where the lens is, and where that is too near to focus, another ``offset`` away. From what parallax
    finds it goes ``offset`` beyond focus and takes a second raster there, which proves sign and size. The focus
    lies between the two; the plan goes ``target`` from there and takes an image (stream ``focused``). After a failure
    or an abort ``defocus`` is back where it was. The lens stays within its limits.

    Parameters
    ----------
    detector : Live4D
        Device with a `Parallax` called ``name``, which is enabled for the plan.
    defocus : Movable
        Lens with a unit of length; more is more underfocus.
    offset : float
        How far from focus parallax measures, in the unit of ``defocus``: two to five depths of field
        (wavelength / semiangle^2; 37 nm at 10 mrad and 100 kV).
    target : float, optional
        Defocus to end at, underfocus positive.
    name : str, optional
        The parallax method.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    float
        Where ``defocus`` is in focus. Also printed, with its error.

    Raises
    ------
    FocusNotFound
        Parallax found nothing, or the lens does not move the focus as it says.

    Examples
    --------
    >>> RE(correct_defocus(live4d, defocus, 80))  # doctest: +SKIP
    >>> RE(correct_defocus(live4d, defocus, 80, target=60))  # doctest: +SKIP
    """
    if not offset > 0:
        raise ValueError(f"offset is {offset!r}; expected a distance from focus above 0")
    lens: Any = defocus
    unit = _length(lens)
    low, high = _limits(lens)
    before = yield from bps.rd(lens)
    measured: list[Measured] = []
    focus = error = math.nan

    def look(at: float) -> MsgGenerator[Measured]:
        found = yield from _measure(detector, name, {lens: at}, [lens])
        measured.append(found)
        return found

    def reached(what: str, value: float) -> float:
        if not low <= value <= high:
            raise FocusNotFound(
                f"{what} is at {lens.name} = {value:.4g}, beyond its limits {low:g} to {high:g}: change offset or "
                "target. The lens is back where it was"
            )
        return value

    def search() -> MsgGenerator[None]:
        nonlocal focus, error
        for at in [before, before + offset, before - offset]:
            if low <= at <= high:
                first = yield from look(at)
                if first.found:
                    break
        else:
            raise FocusNotFound(
                f"{detector.name}_{name} found no defocus at {_places(measured)}. The lens is back where it was"
            )
        away = first.defocus / unit
        other = reached("the other side of focus", at - away - math.copysign(offset, away))
        second = yield from look(other)
        if not second.found:
            raise FocusNotFound(
                f"{detector.name}_{name} found {away:.4g} at {lens.name} = {at:.4g}, and no defocus beyond it, at "
                f"{_places([second])}. The lens is back where it was"
            )
        moved = (first.defocus - second.defocus) / unit / (at - other)
        if not _RESPONSE[0] <= moved <= _RESPONSE[1]:
            raise FocusNotFound(
                f"{lens.name} went from {at:.4g} to {other:.4g}, and the defocus by {moved:.3g} times as much; "
                "expected about 1. Is it in this unit, and positive for underfocus? The lens is back where it was"
            )
        part = first.defocus / (first.defocus - second.defocus)
        focus = at + part * (other - at)
        error = math.hypot((1 - part) * first.defocus_error, part * second.defocus_error) / unit
        yield from bps.checkpoint()
        yield from bps.mv(lens, reached("the target", focus + target))
        yield from bps.trigger_and_read([detector, lens], name="focused")

    arguments = {"offset": offset, "target": target, "name": name}
    start = _start("correct_defocus", detector, [lens], arguments, md)
    yield from _whole(detector, name, start, search, {lens: before})
    print(_table([lens], measured, unit, unit_of(lens)))
    print(
        f"{lens.name} = {focus:.4g} +- {error:.2g} {unit_of(lens)} is in focus; it is at {focus + target:.4g}"
    )
    return focus


@plan
def correct_astigmatism(
    detector: Readable,
    stigmator_a: Movable,
    stigmator_b: Movable,
    step: float,
    name: str = "parallax",
    num: int = 3,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[float]:
    """
    Correct two-fold astigmatism by what parallax finds, whatever the stigmators' units and directions are.

    Takes a raster, one with each stigmator ``step`` further, and so learns what they do; sets both so that C12 is 0,
    and takes a raster that proves it. What is left is corrected again, ``num`` times at most, until it is within its
    error. The scan must be out of focus, by more than the astigmatism and one and a half depths of field: see
    `correct_defocus`, with a ``target``. After a failure or an abort the stigmators are back where they were.

    Parameters
    ----------
    detector : Live4D
        Device with a `Parallax` called ``name``, which is enabled for the plan.
    stigmator_a, stigmator_b : Movable
        The two stigmators, in any unit.
    step : float
        How far each is moved to learn what it does, in its unit.
    name : str, optional
        The parallax method.
    num : int, optional
        Corrections at most.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    float
        C12 that is left, A. Also printed, with its error.

    Raises
    ------
    AstigmatismNotFound
        Parallax found nothing, the stigmators do not move C12, or C12 did not become less.

    Examples
    --------
    >>> RE(correct_astigmatism(live4d, microscope.stigmator_a, microscope.stigmator_b, 5))  # doctest: +SKIP
    """
    if not step or num < 1:
        raise ValueError(
            f"step {step!r} and num {num!r}: expected a step that is not 0, and at least 1 correction"
        )
    stigmators: list[Any] = [stigmator_a, stigmator_b]
    limits = [_limits(stigmator) for stigmator in stigmators]
    before = []
    for stigmator in stigmators:
        before.append((yield from bps.rd(stigmator)))
    measured: list[Measured] = []

    def look(at: np.ndarray) -> MsgGenerator[Measured]:
        for stigmator, value, (low, high) in zip(stigmators, at, limits):
            if not low <= value <= high:
                raise AstigmatismNotFound(
                    f"{stigmator.name} would have to be {value:.4g}, beyond its limits {low:g} to {high:g}. The "
                    "stigmators are back where they were"
                )
        found = yield from _measure(detector, name, dict(zip(stigmators, at.tolist())), stigmators)
        if not found.found:
            raise AstigmatismNotFound(
                f"{detector.name}_{name} found no astigmatism at {_places([found])}. The stigmators are back where "
                "they were"
            )
        measured.append(found)
        return found

    def search() -> MsgGenerator[None]:
        at = np.array(before, float)
        first = yield from look(at)
        moved = []
        for by in step * np.eye(2):
            found = yield from look(at + by)
            moved.append(found.astigmatism - first.astigmatism)
        response = np.array(moved).T / step  # A a unit: columns are what each stigmator does
        if abs(np.linalg.det(response)) * step**2 < (3 * first.astigmatism_error) ** 2:
            raise AstigmatismNotFound(
                f"a step of {step:g} moved C12 by {np.linalg.norm(moved[0]):.2g} and {np.linalg.norm(moved[1]):.2g} A, "
                f"which is known to {first.astigmatism_error:.2g} A, or both the same way: take a larger step. The "
                "stigmators are back where they were"
            )
        last = first
        for _ in range(num):
            at = at - np.linalg.solve(response, last.astigmatism)
            last = yield from look(at)
            if np.linalg.norm(last.astigmatism) <= last.astigmatism_error:
                break
        was, left = (float(np.linalg.norm(found.astigmatism)) for found in (first, last))
        if left > max(3 * last.astigmatism_error, was / 2):
            raise AstigmatismNotFound(
                f"C12 was {was:.3g} A, and is {left:.3g} A after {num} corrections: does something else move? The "
                "stigmators are back where they were"
            )

    arguments = {"step": step, "name": name, "num": num}
    start = _start("correct_astigmatism", detector, stigmators, arguments, md)
    yield from _whole(detector, name, start, search, dict(zip(stigmators, before)))
    print(_table(stigmators, measured, 1.0, "A"))
    left, error = float(np.linalg.norm(measured[-1].astigmatism)), measured[-1].astigmatism_error
    print(f"C12 is {left:.2g} +- {error:.2g} A; it was {np.linalg.norm(measured[0].astigmatism):.3g} A")
    return left


def _measure(detector: Any, name: str, to: dict[Any, float], read: list[Any]) -> MsgGenerator[Measured]:
    """One Event with the lenses ``to`` there."""
    yield from bps.checkpoint()
    yield from bps.mv(*(each for pair in to.items() for each in pair))
    reading = yield from bps.trigger_and_read([detector, *read])

    def value(what: str) -> float:
        return float(reading[f"{detector.name}_{name}_{what}"]["value"])

    twice = 2 * value("phi12")
    return Measured(
        tuple(to.values()), Reason(int(value("reason"))), value("defocus"), value("C10_error"),
        value("C12") * np.array([math.cos(twice), math.sin(twice)]), value("C12_error"),
    )  # fmt: skip


def _whole(
    detector: Any,
    name: str,
    start: dict[str, Any],
    search: Callable[[], MsgGenerator[None]],
    before: dict[Any, float],
) -> MsgGenerator[None]:
    """The run, with parallax enabled for it, and the lenses back after a failure."""
    enabled = component(detector, f"{name}_enabled")
    was = yield from bps.rd(enabled)

    def back(error: Exception) -> MsgGenerator[None]:
        yield from bps.mv(*(each for pair in before.items() for each in pair))

    def restore() -> MsgGenerator[None]:
        yield from bps.mv(enabled, was)

    def enable_and_search() -> MsgGenerator[None]:
        yield from bps.mv(enabled, 1)
        yield from bpp.stage_wrapper(bpp.run_wrapper(search(), md=start), [detector])

    yield from bpp.finalize_wrapper(bpp.contingency_wrapper(enable_and_search(), except_plan=back), restore)


def _start(
    plan_name: str, detector: Any, motors: list[Any], arguments: dict[str, Any], md: dict[str, Any] | None
) -> dict[str, Any]:
    hinted = [field for motor in motors for field in (motor.hints.get("fields") or [motor.name])]
    return {
        "plan_name": plan_name,
        "detectors": [detector.name],
        "motors": [motor.name for motor in motors],
        "plan_args": {"detector": repr(detector), "motors": [repr(motor) for motor in motors], **arguments},
        "hints": {"dimensions": [(hinted, "primary")]},
        **(md or {}),
    }


def _table(motors: list[Any], measured: list[Measured], unit: float, unit_name: str) -> str:
    """What was measured where; defocus in a unit, of so many A, C12 in A."""
    defocus = f"defocus, {unit_name}"
    lines = ["".join(f"{motor.name:>24}" for motor in motors) + f"{defocus:>20}{'C12, A':>16}{'at, deg':>9}"]
    for found in measured:
        angle = math.degrees(math.atan2(found.astigmatism[1], found.astigmatism[0]) / 2)
        places = "".join(f"{at:>24.5g}" for at in found.at)
        if not found.found:
            lines.append(f"{places}  no fit: {_WHY[found.reason]}")
            continue
        defocus = f"{found.defocus / unit:.4g} +- {found.defocus_error / unit:.2g}"
        size = f"{np.linalg.norm(found.astigmatism):.3g} +- {found.astigmatism_error:.2g}"
        lines.append(f"{places}{defocus:>20}{size:>16}{angle:>9.1f}")
    return "\n".join(lines)


def _places(measured: list[Measured]) -> str:
    return "; ".join(
        f"{', '.join(f'{at:.4g}' for at in found.at)} ({_WHY[found.reason]})" for found in measured
    )


def _limits(motor: Any) -> tuple[float, float]:
    """Lowest and highest value; infinite where there are none."""
    low, high = getattr(motor, "limits", None) or (0, 0)
    return (low, high) if low < high else (-math.inf, math.inf)


def _length(lens: Any) -> float:
    """A in the lens's unit. Raises ValueError."""
    if (unit := unit_of(lens)) not in METRES:
        raise ValueError(f"{lens.name} has the unit {unit!r}; expected one of {', '.join(METRES)}")
    return METRES[unit] / ANGSTROM_M
