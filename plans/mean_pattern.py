"""What calibrations share: a raster that gives its mean pattern, though not all methods can be made yet."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator

from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.of_channel import plain
from live4d_ophyd.imaging.parallax import Parallax
from live4d_ophyd.imaging.strain import Strain
from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.disks import unit_of

T = TypeVar("T")


def pattern_of(detector: Any) -> str:
    """Name of the mean pattern."""
    return next(method.name for method in detector.methods() if isinstance(method, MeanPattern))


def with_mean_pattern(
    detector: Any, plan: Callable[[], MsgGenerator[T]], without: Sequence[str] = ()
) -> MsgGenerator[T]:
    """What ``plan`` returns, with the mean pattern enabled, and no method that is not calibrated.

    Afterwards all is as before.

    ``without``: names of methods that are left out in any case.
    """
    pattern_enabled = component(detector, f"{pattern_of(detector)}_enabled")
    enabled = {method.name for method in detector.methods() if getattr(method, "enabled", None) is True}
    left_out = [*_not_yet_possible(detector), *(name for name in without if name in enabled)]
    switched = [component(detector, f"{name}_enabled") for name in dict.fromkeys(left_out)]
    before = yield from bps.rd(pattern_enabled)

    def restore() -> MsgGenerator[None]:
        for signal in switched:
            yield from bps.mv(signal, 1)
        yield from bps.mv(pattern_enabled, before)

    def prepared() -> MsgGenerator[T]:
        yield from bps.mv(pattern_enabled, 1)
        for signal in switched:
            yield from bps.mv(signal, 0)
        return (yield from plan())

    return (yield from bpp.finalize_wrapper(prepared(), restore))


def _not_yet_possible(detector: Any) -> list[str]:
    """Names of the methods to leave out: none, or all that can be, where one needs what is not calibrated.

    Others may be made of that one.
    """
    calibration = detector.calibration()
    known = {"bf": calibration.bf_radius, "mrad": calibration.mrad_per_px, "rad": calibration.mrad_per_px}
    enabled = {
        method.name: plain(method)
        for method in detector.methods()
        if getattr(method, "enabled", None) is True
    }
    needed = {unit_of(method) for method in enabled.values()}
    if any(isinstance(method, Parallax) for method in enabled.values()):
        needed.add("mrad")
    lattices = [method for method in enabled.values() if isinstance(method, Strain)]
    if any(method.radius is None for method in lattices):
        needed.add("bf")
    if all(known.get(unit, 1.0) is not None for unit in needed) and all(
        method.g1 is not None and method.g2 is not None for method in lattices
    ):
        return []
    return [name for name, method in enabled.items() if not isinstance(method, MeanPattern)]
