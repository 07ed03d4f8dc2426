"""Plans for 4D-STEM, all built from standard ones. Each is a generator of messages for a RunEngine.

The folder is a part of the package: ``from live4d_ophyd.plans import autofocus``.
"""

if __name__ != "live4d_ophyd.plans":  # from the checkout's folder it would all be there twice
    raise ImportError(f"import the plans as live4d_ophyd.plans, not as {__name__}")

from live4d_ophyd.plans.aberrations import AstigmatismNotFound, correct_astigmatism, correct_defocus
from live4d_ophyd.plans.bright_field import calibrate_bright_field
from live4d_ophyd.plans.calibrations import load_calibration, save_calibration
from live4d_ophyd.plans.flat_field import measure_flat_field
from live4d_ophyd.plans.focus import FocusNotFound, autofocus
from live4d_ophyd.plans.images import movie, single_image
from live4d_ophyd.plans.lattice import calibrate_lattice
from live4d_ophyd.plans.rotation import calibrate_rotation
from live4d_ophyd.plans.series import focal_series, tile_scan
from live4d_ophyd.plans.tracking import FeatureLost, track_region

__all__ = [
    "AstigmatismNotFound",
    "FeatureLost",
    "FocusNotFound",
    "autofocus",
    "calibrate_bright_field",
    "calibrate_lattice",
    "calibrate_rotation",
    "correct_astigmatism",
    "correct_defocus",
    "focal_series",
    "load_calibration",
    "measure_flat_field",
    "movie",
    "save_calibration",
    "single_image",
    "tile_scan",
    "track_region",
]
