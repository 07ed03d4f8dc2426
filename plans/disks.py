"""Which methods of a device follow the bright-field disk when it is calibrated: those set to it, or with its centre."""

from typing import Any

from live4d_ophyd.imaging.of_channel import plain
from live4d_ophyd.plans.components import component


def disk_signals(detector: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Signals of a disk that shall be the bright-field disk: centres, those of concentric methods too, and radii."""
    centers = [component(detector, f"{other}_center") for other in _concentric(detector, name)]
    return centers, [component(detector, f"{name}_radius")] if in_px(detector, name) else []


def _concentric(detector: Any, name: str) -> list[str]:
    """Names of the methods with the centre of ``name``, which comes first; none where that is the calibration's."""
    # One on a further channel, too: its settings have the name without that.
    methods = {method.name: plain(method) for method in detector.methods()}
    centers = {name: _center(method) for name, method in methods.items()}
    if centers[name] is None and not in_px(detector, name):
        return []
    others = [other for other, center in centers.items() if center == centers[name] and other != name]
    return [name, *others]


def _center(method: Any) -> Any:
    """Centre of a method, or of what it looks within; False for one that has none."""
    return getattr(method, "center", getattr(getattr(method, "within", None), "center", False))


def in_px(detector: Any, name: str) -> bool:
    """Whether the lengths of a method are px."""
    return next(unit_of(method) == "px" for method in detector.methods() if method.name == name)


def unit_of(method: Any) -> str:
    """Unit of a method's lengths, or of what it looks within."""
    method = plain(method)
    return getattr(method, "unit", getattr(getattr(method, "within", None), "unit", "px"))
