"""The devices: live4d, and the microscope with its axes. A simulator stands in where there is no detector.

LIVE4D_DCU      http://HOST of the detector control unit, which arms and disarms; without it: whoever does
LIVE4D_STREAM   tcp://HOST:PORT of stream v2 (default: port 31001 of LIVE4D_DCU)
LIVE4D_RECORD   where frames are recorded, /data/{date}/{scan_id}.h5 (default: nowhere)
LIVE4D_SCAN     positions of the raster, ROWSxCOLS (default: 64x64)

With a detector, define your microscope in a file ``15-microscope.py`` here: movable signals called defocus,
stage_x and stage_y are all that the plans need. A `scan_generator` of a file ``05-scan-generator.py`` is driven by
live4d (docs/how-to/scan-generator.md). A simulator that is in trouble: ``simulator.restart()``.
"""

import atexit
import os
from urllib.parse import urlsplit

from live4d_ophyd import Annulus, Disk, Live4D, Parallax, ScanGrid, Simplon
from live4d_ophyd.scan import parse_shape
from live4d_ophyd.sources.dectris.rest import SimplonError


def _scan_shape():
    try:
        return parse_shape(os.environ.get("LIVE4D_SCAN", "64x64"))
    except ValueError as error:
        raise ValueError(f"LIVE4D_SCAN: {error}") from None


def _detector_side(control):
    """Shorter side of the detector, px; 192 where the detector cannot be asked."""
    try:
        sides = [control.get("detector", "config", f"{axis}_pixels_in_detector") for axis in "xy"]
    except (AttributeError, SimplonError):
        return 192
    return min(sides) if all(isinstance(side, int) for side in sides) else 192


def _devices(scan_generator):
    """What this session has, by name. Raises ValueError for what cannot be."""
    rows, cols = _scan_shape()
    dcu, stream = os.environ.get("LIVE4D_DCU"), os.environ.get("LIVE4D_STREAM")
    found = {"simulator": None}
    grid = ScanGrid(rows, cols)
    if dcu or stream:
        control = Simplon(dcu) if dcu else None
        endpoint = stream or f"tcp://{urlsplit(dcu).hostname}:31001"
    else:
        from live4d_ophyd.sim import SimMicroscope, SimScanGenerator, SimulatorProcess

        # As found after a specimen exchange: a little out of focus, the disk a little off the middle.
        simulator = SimulatorProcess(rows=rows, cols=cols, defocus=60.0)
        atexit.register(simulator.close)
        control = Simplon(simulator.rest_url)
        endpoint = simulator.stream_endpoint
        grid = ScanGrid(rows, cols, step=simulator.step_nm, unit="nm")
        microscope = SimMicroscope(simulator.rest_url, name="microscope", labels=["motors"])
        scan_generator = SimScanGenerator(simulator.rest_url, name="scan_generator", labels=["scan"])
        found |= {"simulator": simulator, "microscope": microscope}
        for axis in ("defocus", "astigmatism", "stage_x", "stage_y", "beam_current"):
            found[axis] = getattr(microscope, axis)

    # Where the bright-field disk usually is, until calibrate_bright_field has looked.
    side = _detector_side(control)
    live4d = Live4D(
        endpoint,
        name="live4d",
        scan=grid,
        methods=[
            Disk("vbf", radius=side * 5 / 32),
            Annulus("adf", inner=side * 6 / 32, outer=side * 15 / 32),
            Parallax("parallax", enabled=False),  # correct_defocus and correct_astigmatism look with it
        ],
        control=control,
        scan_generator=scan_generator,
        record=os.environ.get("LIVE4D_RECORD", ""),
        labels=["detectors"],
    )
    return found | {"scan_generator": scan_generator, "live4d": live4d}


simulator = live4d = None
try:
    globals().update(_devices(globals().get("scan_generator")))
    live4d.wait_for_connection()
except (ValueError, OSError, RuntimeError, SimplonError) as _error:
    if _shell is None:  # noqa: F821  from 00-base.py; nobody would see it
        raise
    _next = (
        "start the session again when that is mended" if live4d is None
        else "live4d.wait_for_connection() tries again"
    )  # fmt: skip
    print(f"\n{'There is no live4d' if live4d is None else 'live4d does not work yet'}: {_error}\n({_next})")
if simulator is not None:
    sd.baseline = [microscope]  # noqa: F821
if live4d is not None:
    RE.subscribe(live4d.note_run)  # noqa: F821  the stream's header names the run
    if live4d.control:
        sd.baseline.append(live4d.detector.status)  # noqa: F821
