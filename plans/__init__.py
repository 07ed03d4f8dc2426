"""Plans for 4D-STEM, all built from standard ones. Each is a generator of messages for a RunEngine."""

from plans.bright_field import calibrate_bright_field
from plans.focus import autofocus
from plans.images import movie, single_image
from plans.series import focal_series, tile_scan

__all__ = [
    "autofocus",
    "calibrate_bright_field",
    "focal_series",
    "movie",
    "single_image",
    "tile_scan",
]
