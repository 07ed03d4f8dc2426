"""Components of a device by name, for plans that take any detector with the signals they need.

Plans annotate their arguments with Bluesky's protocols, because the queueserver looks for these to turn names
into devices; what a plan needs beyond the protocol it asks for here, before it touches anything.
"""

from typing import Any

from bluesky.protocols import HasName


def component(detector: HasName, name: str) -> Any:
    """``detector.NAME``. Raises ValueError that names the device and its virtual detectors if it has none."""
    found = getattr(detector, name, None)
    if found is None:
        methods = detector.methods() if hasattr(detector, "methods") else ()
        virtual = ", ".join(method.name for method in methods) or "none"
        raise ValueError(
            f"{detector.name} has no {name!r}; this plan takes a Live4D, and the methods of "
            f"{detector.name} are: {virtual}"
        )
    return found


def unit_of(axis: Any) -> str:
    """Unit of what moves; "" if it has none."""
    description, *_ = axis.describe().values()
    return description.get("units") or ""
