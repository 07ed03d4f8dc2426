"""How the detector is turned against the scan: from the centre of mass of one raster."""

import math
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.stubs import note_run, runs_before

#: stream that holds what the calibration has set
STREAM = "rotation"
#: rms of the curl over that of the divergence, from which on the angle means nothing
_MOST_CURL = 0.7


@plan
def calibrate_rotation(
    detector: Readable, dpc: str = "dpc", md: dict[str, Any] | None = None
) -> MsgGenerator[tuple[float, bool]]:
    """
    Find the rotation from the detector to the scan, and whether it is transposed, and set the calibration to them.

    One raster of a specimen with contrast, in focus. All `DPC` and `Parallax` that have no rotation of their own use
    the calibration's from then on, instead of finding one in every raster. Nothing changes where the curl leaves the
    angle open. What was found is in the run's stream ``primary``, what was set in ``rotation``.

    Parameters
    ----------
    detector : Live4D
        Device with a `DPC`.
    dpc : str, optional
        Name of the DPC, which is left without a rotation of its own.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    tuple
        Rotation in degrees, as that of `DPC`, and whether rows and columns of the detector are exchanged before. Also
        printed.

    Examples
    --------
    >>> RE(calibrate_rotation(live4d))  # doctest: +SKIP
    """
    own, own_transpose = component(detector, f"{dpc}_rotation"), component(detector, f"{dpc}_transpose")
    rotation, transpose = (component(detector, f"calibration_{what}") for what in ("rotation", "transpose"))
    start = {
        "plan_name": "calibrate_rotation",
        "purpose": "rotation calibration",
        "detectors": [detector.name],
        "num_points": 1,
        "plan_args": {"detector": repr(detector), "dpc": dpc},
        "hints": {},
        **(md or {}),
    }
    found: Any = None
    signals = (rotation, transpose, own, own_transpose)
    before = [signal.get() for signal in signals]
    runs = runs_before(detector)

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def measure_and_set() -> MsgGenerator[None]:
        nonlocal found
        reading = yield from bps.trigger_and_read([detector])
        degrees, transposed, curl, skewness = (
            float(reading[f"{detector.name}_{dpc}_{what}"]["value"])
            for what in ("rotation_used", "transpose_used", "curl", "skewness")
        )
        if not curl < _MOST_CURL:  # NaN, too
            raise ValueError(
                f"{detector.name}: the rotation is open: the curl is {curl:.2f} of the divergence, expected less than "
                f"{_MOST_CURL}. The calibration stays as it was; scan a specimen with contrast, in focus, with "
                "smaller steps"
            )
        found = degrees, bool(transposed), curl, skewness
        yield from bps.mv(rotation, degrees, transpose, bool(transposed))
        yield from bps.create(STREAM)
        yield from bps.read(rotation)
        yield from bps.read(transpose)
        yield from bps.save()

    def restore(error: Exception) -> MsgGenerator[None]:
        yield from bps.mv(*(part for pair in zip(signals, before) for part in pair))

    def calibrate() -> MsgGenerator[str]:
        yield from bps.mv(rotation, math.nan, own, math.nan)
        return (yield from measure_and_set())

    uid = yield from bpp.contingency_wrapper(calibrate(), except_plan=restore)
    yield from note_run(detector, "rotation", uid, runs)
    degrees, transposed, curl, skewness = found
    print(
        f"{detector.name}: rotation {degrees:.1f} degrees{', transposed' * transposed}; curl {curl:.2f} of the "
        f"divergence. Its half turn is chosen by a skewness of {skewness:.2f}: near 0 it is a guess"
    )
    return degrees, transposed
