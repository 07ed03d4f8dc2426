"""A DECTRIS DCU and a microscope in software: physics, REST, stream; also replays files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live4d_ophyd.sim.microscope import SimMicroscope
    from live4d_ophyd.sim.process import SimulatorProcess
    from live4d_ophyd.sim.scan_generator import SimScanGenerator

__all__ = ["SimMicroscope", "SimScanGenerator", "SimulatorProcess"]

_MODULES = {
    "SimMicroscope": "microscope",
    "SimScanGenerator": "scan_generator",
    "SimulatorProcess": "process",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the simulator's own process needs no ophyd.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
