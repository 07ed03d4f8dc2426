"""The acquisition: one raster scan from socket to images, in a process of its own. Knows no Bluesky."""

from live4d_ophyd.engine.acquisition import Acquisition
from live4d_ophyd.engine.errors import AcquisitionError
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import Losses, RasterResult

__all__ = ["Acquisition", "AcquisitionError", "AcquisitionRequest", "Losses", "RasterResult"]
