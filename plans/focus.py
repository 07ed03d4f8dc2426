"""Focus by contrast: a bright-field image is sharpest where its contrast over the raster is highest."""

import math
from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.plans.components import component, unit_of

#: standard errors of one contrast value by which a focal series has to vary
LEAST_VARIATION = 5.0
#: of half the range that a peak is looked for in: a peak that is less certain is none
LARGEST_ERROR = 1.0


class FocusNotFound(ValueError):
    """The focal series has no maximum inside its range; says why and what to do."""


@plan
def autofocus(
    detector: Readable,
    defocus: Movable,
    start: float,
    stop: float,
    num: int = 9,
    refine: int = 4,
    name: str = "vbf",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[float]:
    """
    Find the defocus with the highest image contrast and stay there.

    Takes ``num`` rasters from ``start`` to ``stop``, ``refine`` more between the neighbours of the best one,
    puts a parabola through what lies there, moves to its maximum and takes one image (stream ``focused``). Says how
    certain that is, and how much the contrast varies. After a failure or an abort ``defocus`` is back where it was.

    Parameters
    ----------
    detector : Live4D
        Device with a virtual detector called ``name``.
    defocus : Movable
        Lens to step.
    start, stop : float
        Range to search, in the unit of ``defocus``.
    num : int, optional
        Rasters over the whole range, at least 3.
    refine : int, optional
        Further rasters around the best.
    name : str, optional
        Virtual detector whose contrast (standard deviation over mean) counts.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    float
        The best defocus. Also printed.

    Raises
    ------
    FocusNotFound
        The contrast is highest at an end of the range, does not depend on the defocus, is flatter about its highest
        value than it scatters, or is not known.

    Examples
    --------
    >>> RE(autofocus(live4d, defocus, -200, 200))
    >>> RE(autofocus(live4d, defocus, -40, 40, num=5))
    """
    if num < 3 or refine < 0 or not start < stop:
        raise ValueError(
            f"autofocus from {start} to {stop} with {num} and {refine} rasters: expected start < stop, at "
            "least 3 rasters over the range and none or more to refine"
        )
    contrast, mean = (component(detector, f"{name}_{statistic}").name for statistic in ("contrast", "mean"))
    motor: Any = defocus
    hinted = motor.hints.get("fields") or [motor.name]
    run_md = {
        "plan_name": "autofocus",
        "detectors": [detector.name],
        "motors": [motor.name],
        "num_points": num + refine,
        "plan_args": {
            "detector": repr(detector),
            "defocus": repr(defocus),
            "start": start,
            "stop": stop,
            "num": num,
            "refine": refine,
            "name": name,
        },
        "hints": {"dimensions": [(hinted, "primary")]},
        **(md or {}),
    }

    mean_counts = math.nan

    def contrast_at(value: float) -> MsgGenerator[float]:
        nonlocal mean_counts
        reading = yield from bps.one_1d_step([detector], defocus, value)
        mean_counts, found = float(reading[mean]["value"]), float(reading[contrast]["value"])
        if not (math.isfinite(found) and mean_counts > 0 and found > 0):
            raise FocusNotFound(
                f"the {name} image at {value:g} has no contrast: mean {mean_counts:g} counts. Is the beam on?"
            )
        return found

    best = uncertain = reached = least = math.nan  # what a run itself returns is its uid

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=run_md)
    def search() -> MsgGenerator[None]:
        nonlocal best, uncertain, reached, least
        measured = {}
        for value in np.linspace(start, stop, num).tolist():
            measured[value] = yield from contrast_at(value)
        error = shot_noise(max(measured.values()), mean_counts, component(detector, "grid")().size)
        low, high = bracket(list(measured), list(measured.values()), error)
        for value in np.linspace(low, high, refine + 2)[1:-1].tolist():
            measured[value] = yield from contrast_at(value)
        near = {value: c for value, c in measured.items() if low <= value <= high}
        best, uncertain = peak(near, error)
        if uncertain > LARGEST_ERROR * (high - low) / 2:
            raise FocusNotFound(
                f"the contrast of {name} is flatter than it scatters from {low:g} to {high:g}: "
                f"{min(near.values()):.4g} to {max(near.values()):.4g}, its highest value at {best:.4g} +- "
                f"{uncertain:.2g}. Search a wider range, or take more beam current or scan positions. The lens is back "
                "where it was"
            )
        least = min(measured.values())
        yield from bps.checkpoint()
        yield from bps.mv(defocus, best)
        reading = yield from bps.trigger_and_read([detector, motor], name="focused")
        reached = float(reading[contrast]["value"])

    before = yield from bps.rd(motor)

    def back(error: Exception) -> MsgGenerator[None]:
        yield from bps.mv(defocus, before)

    yield from bpp.contingency_wrapper(search(), except_plan=back)
    # RE(plan) answers with uids only: this line is the plan's answer to who runs it by hand.
    print(
        f"{motor.name} = {best:.4g} +- {uncertain:.2g} {unit_of(motor)}, where the contrast of {detector.name}_{name} "
        f"is highest: {reached:.4g}; the lowest of the search was {least:.4g} ({1 - least / reached:.1%} less)"
    )
    return best


def shot_noise(contrast: float, mean: float, positions: int) -> float:
    """Standard error of a contrast (std / mean) over ``positions`` with Poisson counts about ``mean``.

    The specimen is the same in every raster: only the counts differ from one to the next.
    """
    noise = 1 / mean
    specimen = max(contrast**2 - noise, 0.0)
    return math.sqrt((2 * noise**2 + 4 * noise * specimen) / positions) / (2 * contrast)


def bracket(values: Sequence[float], contrasts: Sequence[float], error: float) -> tuple[float, float]:
    """Neighbours of the value with the highest contrast; ``error`` is the standard error of a contrast.

    Raises FocusNotFound.
    """
    ends = f"{values[0]:g} to {values[-1]:g}"
    lowest, highest = min(contrasts), max(contrasts)
    if highest - lowest < LEAST_VARIATION * error:
        raise FocusNotFound(
            f"the contrast does not depend on the defocus: {lowest:.3g} to {highest:.3g} from {ends}, with "
            f"an error of {error:.1g}. Is there something to see in the field of view? If so, take more beam "
            "current or scan positions"
        )
    at = int(np.argmax(contrasts))
    if at in (0, len(values) - 1):
        width = values[-1] - values[0]
        raise FocusNotFound(
            f"the contrast is highest at {values[at]:g}, an end of the range {ends}: the focus may lie "
            f"beyond. Try {values[at] - width / 2:g} to {values[at] + width / 2:g}. The lens is back where "
            "it was"
        )
    return values[at - 1], values[at + 1]


def peak(measured: dict[float, float], error: float) -> tuple[float, float]:
    """Where a parabola through the contrasts by value has its maximum, and the standard error of that.

    Without a maximum inside, the best value; its error is infinite. ``error``: of one contrast, at least; more where
    the contrasts scatter more about the parabola.
    """
    values, contrasts = np.array(list(measured)), np.array(list(measured.values()))
    middle, scale = values.mean(), np.ptp(values) / 2
    design = np.vander((values - middle) / scale, 3)
    found, *_ = np.linalg.lstsq(design, contrasts)
    curvature, slope, _ = found
    if not (curvature < 0 and abs(slope) <= -2 * curvature):
        return float(values[np.argmax(contrasts)]), math.inf
    free = len(values) - 3
    scatter = math.sqrt(((contrasts - design @ found) ** 2).sum() / free) if free else 0.0
    covariance = max(error, scatter) ** 2 * np.linalg.inv(design.T @ design)
    by = np.array(
        [slope / (2 * curvature**2), -1 / (2 * curvature), 0.0]
    )  # of the maximum, by curvature and slope
    return float(middle - slope / (2 * curvature) * scale), float(scale * math.sqrt(by @ covariance @ by))
