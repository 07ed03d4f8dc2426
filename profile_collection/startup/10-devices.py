"""The devices: live4d, and the microscope with its axes. A simulator stands in where there is no detector.

LIVE4D_DCU      http://HOST of the detector control unit, which arms and disarms; without it: whoever does
LIVE4D_STREAM   tcp://HOST:PORT of stream v2 (default: port 31001 of LIVE4D_DCU)
LIVE4D_SCAN     positions of the raster, ROWSxCOLS (default: 64x64)

With a detector, define your microscope in a file ``15-microscope.py`` here: movable signals called defocus,
stage_x and stage_y are all that the plans need. A `scan_generator` of a file ``05-scan-generator.py`` is driven by
live4d (docs/how-to/scan-generator.md). A simulator that is in trouble: ``simulator.restart()``.
"""

import atexit
import os
import re
from urllib.parse import urlsplit

from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, Simplon
from live4d_ophyd.simplon import SimplonError


def _scan_shape(text):
    shape = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if not shape:
        raise ValueError(f"LIVE4D_SCAN is {text!r}; expected rows x columns as in 128x128")
    return int(shape[1]), int(shape[2])


def _detector_side(control):
    """Shorter side of the detector, px; 192 where the detector cannot be asked."""
    try:
        sides = [control.get("detector", "config", f"{axis}_pixels_in_detector") for axis in "xy"]
    except (AttributeError, SimplonError):
        return 192
    return min(sides) if all(isinstance(side, int) for side in sides) else 192


_rows, _cols = _scan_shape(os.environ.get("LIVE4D_SCAN", "64x64"))
_dcu, _stream = os.environ.get("LIVE4D_DCU"), os.environ.get("LIVE4D_STREAM")
simulator = None
scan_generator = globals().get("scan_generator")
if _dcu or _stream:
    _control = Simplon(_dcu) if _dcu else None
    _endpoint = _stream or f"tcp://{urlsplit(_dcu).hostname}:31001"
    _grid = ScanGrid(_rows, _cols)
else:
    from live4d_ophyd.sim import SimMicroscope, SimScanGenerator, SimulatorProcess

    # As found after a specimen exchange: a little out of focus, the disk a little off the middle.
    simulator = SimulatorProcess(rows=_rows, cols=_cols, defocus=60.0)
    atexit.register(simulator.close)
    _control = Simplon(simulator.rest_url)
    _endpoint = simulator.stream_endpoint
    _grid = ScanGrid(_rows, _cols, step=simulator.step_nm, unit="nm")

    microscope = SimMicroscope(simulator.rest_url, name="microscope", labels=["motors"])
    scan_generator = SimScanGenerator(simulator.rest_url, name="scan_generator", labels=["scan"])
    defocus = microscope.defocus
    astigmatism = microscope.astigmatism
    stage_x = microscope.stage_x
    stage_y = microscope.stage_y
    beam_current = microscope.beam_current
    sd.baseline = [microscope]  # noqa: F821  from 00-base.py

# Where the bright-field disk usually is, until calibrate_bright_field has looked.
_side = _detector_side(_control)
live4d = Live4D(
    _endpoint,
    name="live4d",
    scan=_grid,
    detectors=[
        Disk("vbf", radius=_side * 5 / 32),
        Annulus("adf", inner=_side * 6 / 32, outer=_side * 15 / 32),
    ],
    control=_control,
    scan_generator=scan_generator,
    labels=["detectors"],
)
live4d.wait_for_connection()
RE.subscribe(live4d.note_run)  # noqa: F821  the stream's header names the run
if _control:
    sd.baseline.append(live4d.detector.status)  # noqa: F821
