"""TIFF files that ImageJ, Fiji, HyperSpy and DigitalMicrograph open calibrated: float32, step, unit, metadata.

In: an image ``(scan_y, scan_x)``, or a stack of them. Out: a file of ImageJ's form. Needs no Bluesky.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".tif", ".tiff")


def write_tiff(
    path: Path,
    images: np.ndarray,
    *,
    steps: tuple[float, float] = (1.0, 1.0),
    unit: str = "px",
    metadata: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``(rows, cols)`` or ``(events, rows, cols)`` as float32, NaN where no frame came.

    Colours, uint8 with a last axis of red, green and blue, are written as they are. ``steps`` (scan_y, scan_x) in
    ``unit``; ``metadata`` goes into ImageJ's Info as JSON, ``labels`` above its slices.
    """
    import tifffile

    colors = images.dtype == np.uint8
    stack = images.ndim - colors == 3
    axes = ("TYX" if stack else "YX") + "S" * colors
    described: dict[str, Any] = {"unit": "pixel" if unit == "px" else unit, "axes": axes}
    if metadata:
        described["Info"] = json.dumps(metadata, indent=1)
    if labels:
        described["Labels"] = list(labels)
    finite = images[np.isfinite(images)]
    if finite.size and not colors:  # what ImageJ shows as black and white
        described["min"], described["max"] = float(finite.min()), float(finite.max())
    resolution = (1 / steps[1], 1 / steps[0])
    tifffile.imwrite(
        path,
        images if colors else images.astype(np.float32),
        imagej=True,
        resolution=resolution,
        metadata=described,
        photometric="rgb" if colors else "minisblack",
    )
