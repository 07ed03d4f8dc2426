"""Whether the header of a stream says of the scan what the grid says: else images would be scrambled, their axes false.

In: ``user_data`` of a start message, an AcquisitionRequest. Out: what contradicts it, as text. Pure Python, any thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from live4d_ophyd.checks import from_json
from live4d_ophyd.scan import ScanGrid

#: key of the header under which a scan generator says what it is set to, by the names of a ScanGrid
SCAN_GENERATOR = "scan_generator"
#: key under which whoever armed says what it was for (`AcquisitionRequest.appendix`)
SCAN = "scan"


def disagreement(user_data: Any, grid: ScanGrid, *, armed_here: bool) -> str:
    """What the header says against ``grid``; "" where it agrees, or says nothing of a scan.

    ``armed_here``: what is said of the acquisition is ours, and only a scan generator can know better.
    """
    said = note_of(user_data)
    for key in (SCAN_GENERATOR,) if armed_here else (SCAN_GENERATOR, SCAN):
        if isinstance(scan := said.get(key), Mapping) and (words := _differences(scan, grid)):
            return f"the header's {key} has {words}"
    return ""


def note_of(user_data: Any) -> Mapping[str, Any]:
    """What the header says of scan and run; {} if it is no map."""
    try:
        said = from_json(user_data) if isinstance(user_data, str) else user_data
    except ValueError:  # whoever wrote it
        return {}
    return said if isinstance(said, Mapping) else {}


def _differences(said: Mapping[Any, Any], grid: ScanGrid) -> str:
    """``rows 64, not 32``"""
    names = ["rows", "cols", "serpentine", "flyback", "lead_in"]
    if grid.flyback and said.get("flyback") == grid.flyback:
        names.append("last_flyback")
    words = [
        f"{name} {said[name]}, not {getattr(grid, name)}"
        for name in names
        if isinstance(said.get(name), int) and said[name] != getattr(grid, name)
    ]
    steps = said.get("step")
    if said.get("unit") == grid.unit != "px" and isinstance(steps, list | tuple) and len(steps) == 2:
        numbers = all(isinstance(step, int | float) for step in steps)
        if numbers and not all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(steps, grid.steps)):
            words.append(f"step {tuple(steps)} {grid.unit}, not {grid.steps}")
    return ", ".join(words)
