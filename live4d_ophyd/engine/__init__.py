"""The acquisition: one raster scan from socket to images, in a process of its own. Knows no Bluesky."""

from live4d_ophyd.engine.acquisition import Acquisition
from live4d_ophyd.engine.events import error_of
from live4d_ophyd.engine.spec import AcquisitionError, AcquisitionSpec, Losses, Raster

__all__ = ["Acquisition", "AcquisitionError", "AcquisitionSpec", "Losses", "Raster", "error_of"]
