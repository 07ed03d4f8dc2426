"""Where the diffraction disks of a crystal are on the detector: measured, and set on the strain maps."""

import math
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.imaging.lattice_fit import LatticeFit, fit_lattice
from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.mean_pattern import pattern_of, with_mean_pattern
from live4d_ophyd.plans.stubs import in_thread

#: stream that holds what the calibration has set
STREAM = "lattice"


@plan
def calibrate_lattice(
    detector: Readable, name: str = "strain", md: dict[str, Any] | None = None
) -> MsgGenerator[LatticeFit]:
    """
    Fit the lattice of one raster's mean diffraction pattern and set the windows of a strain map to it.

    The raster is of any part of the crystal, best one with little strain, as wide as the maps will be: descan moves the
    disks. Centre, radius of the disks and both lattice vectors are set. Nothing is changed when the pattern shows no
    lattice. The pattern is in the run's stream ``primary``, what was set in ``lattice``.

    Parameters
    ----------
    detector : Live4D
        Device with a `Strain` called ``name``.
    name : str, optional
        The strain map.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    LatticeFit
        Centre, g1 and g2 (row, col), radius of the disks, how many there were and how far they are from the lattice,
        px. Also printed.

    Examples
    --------
    >>> RE(calibrate_lattice(live4d))  # doctest: +SKIP
    >>> live4d.strain_g1.get(), live4d.strain_g2.get()  # doctest: +SKIP
    >>> db[-1]["lattice"].read()  # doctest: +SKIP
    """
    settings = [component(detector, f"{name}_{what}") for what in ("center", "radius", "g1", "g2")]
    pattern_name = pattern_of(detector)
    start = {
        "plan_name": "calibrate_lattice",
        "purpose": "lattice calibration",
        "detectors": [detector.name],
        "num_points": 1,
        "plan_args": {"detector": repr(detector), "name": name},
        "hints": {},
        **(md or {}),
    }
    fit: Any = None  # a LatticeFit; what a run itself returns is its uid

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def measure_and_set() -> MsgGenerator[None]:
        nonlocal fit
        reading = yield from bps.trigger_and_read([detector])
        frames = int(reading[f"{detector.name}_frames_received"]["value"])
        try:
            pattern = reading[f"{detector.name}_{pattern_name}"]["value"]
            fit = yield from in_thread(fit_lattice, pattern, frames)
        except ValueError as error:
            raise ValueError(f"{detector.name}: {error}. {name} stays as it was") from error
        values = (fit.center, fit.radius, fit.g1, fit.g2)
        # Together: with one vector of another lattice the two might have one direction.
        yield from bps.mv(*(part for pair in zip(settings, values) for part in pair))
        yield from bps.create(STREAM)
        for signal in settings:
            yield from bps.read(signal)
        yield from bps.save()

    yield from with_mean_pattern(detector, measure_and_set, without=[name])
    # RE(plan) answers with uids only: this line is the plan's answer to who runs it by hand.
    print(f"{detector.name}_{name}: {_in_words(fit)}")
    return fit


def _in_words(fit: LatticeFit) -> str:
    lengths = [math.hypot(*g) for g in (fit.g1, fit.g2)]
    cosine = (fit.g1[0] * fit.g2[0] + fit.g1[1] * fit.g2[1]) / (lengths[0] * lengths[1])
    row, col = fit.center
    return (
        f"centre row {row:.2f}, col {col:.2f} px, {fit.disks} disks of radius {fit.radius:.2f} px, g1 {lengths[0]:.2f} "
        f"and g2 {lengths[1]:.2f} px at {math.degrees(math.acos(cosine)):.1f} degrees, residual {fit.residual:.2f} px"
    )
