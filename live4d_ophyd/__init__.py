"""Live 4D-STEM images from a DECTRIS stream, as a Bluesky device."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live4d_ophyd.device.live4d import Live4D
    from live4d_ophyd.device.scan_start import ScanGenerator
    from live4d_ophyd.imaging.center_of_mass import CenterOfMass
    from live4d_ophyd.imaging.mean_pattern import MeanPattern
    from live4d_ophyd.imaging.segments import Segments
    from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
    from live4d_ophyd.live import Live4DBestEffortCallback, ScanProgressBar, live_preview
    from live4d_ophyd.runs.description import describe
    from live4d_ophyd.runs.export import export_run
    from live4d_ophyd.runs.images import image, images, plot_image
    from live4d_ophyd.scan import ScanGrid
    from live4d_ophyd.sources.dectris.control import Simplon
    from live4d_ophyd.storage import open_catalog

__version__ = "0.1.0"
__all__ = [
    "Annulus",
    "CenterOfMass",
    "Disk",
    "Live4D",
    "Live4DBestEffortCallback",
    "MeanPattern",
    "ScanGenerator",
    "ScanGrid",
    "ScanProgressBar",
    "Segments",
    "Simplon",
    "describe",
    "export_run",
    "image",
    "images",
    "live_preview",
    "open_catalog",
    "plot_image",
]

# The engine process and most commands need no Bluesky and no Tiled, whose import takes seconds.
_HOMES = {
    "Annulus": "imaging.virtual_detectors",
    "CenterOfMass": "imaging.center_of_mass",
    "Disk": "imaging.virtual_detectors",
    "Live4D": "device.live4d",
    "Live4DBestEffortCallback": "live",
    "MeanPattern": "imaging.mean_pattern",
    "ScanGenerator": "device.scan_start",
    "ScanGrid": "scan",
    "ScanProgressBar": "live",
    "Segments": "imaging.segments",
    "Simplon": "sources.dectris.control",
    "describe": "runs.description",
    "export_run": "runs.export",
    "image": "runs.images",
    "images": "runs.images",
    "live_preview": "live",
    "open_catalog": "storage",
    "plot_image": "runs.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
