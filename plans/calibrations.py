"""Calibrations by name: what is calibrated now is stored, and loaded again in any later session."""

from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.calibration_store import (
    StoredCalibration,
    checked_name,
    free_name,
    read_calibration,
    write_calibration,
)
from live4d_ophyd.device.calibration_origin import CHANGED
from live4d_ophyd.device.imaging_settings import calibration_values
from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.disks import disk_signals
from live4d_ophyd.plans.mean_pattern import pattern_of
from live4d_ophyd.plans.stubs import in_thread


@plan
def save_calibration(
    detector: Readable, name: str = "", overwrite: bool = False
) -> MsgGenerator[StoredCalibration]:
    """
    Store what is calibrated now under a name, with pixel mask and flat field, for this and later sessions.

    Later runs have the name in ``calibration_name``, until something of it changes.

    Parameters
    ----------
    detector : Live4D
        Device whose calibration it is.
    name : str, optional
        Letters, digits, spaces and ``_ . , + ( ) -``. Default: of date, energy and convergence semi-angle,
        ``2026-11-28 200 kV 20 mrad``, with a number behind it where that is taken.
    overwrite : bool, optional
        Replace a calibration of that name; else that is refused.

    Returns
    -------
    StoredCalibration
        As it is stored. Also printed.

    Examples
    --------
    >>> RE(save_calibration(live4d))
    >>> calibrations()
    """
    live4d: Any = detector
    component(detector, "calibration_name")
    if name:
        checked_name(name)
    known = live4d.calibration()
    mask, gain = live4d.pixel_mask.get(), live4d.gain.get()
    if known.center is None and known.rotation is None and mask is None and gain is None:
        raise ValueError(
            f"nothing of {detector.name} is calibrated: run calibrate_bright_field, measure_flat_field or "
            "calibrate_rotation before"
        )
    runs = live4d.calibration_runs.get()
    stored = StoredCalibration(
        name=name or (yield from in_thread(free_name, known)),
        calibration=known,
        shape=_frame_shape(detector, measured=True),
        bad_pixels=live4d.bad_pixels.get(),
        pixel_mask=mask,
        gain=gain,
        runs="" if runs.endswith(CHANGED) else runs,
        detector=live4d.series_detector.get(),
    )
    path = yield from in_thread(write_calibration, stored, overwrite=overwrite)
    yield from _have_it_said(detector, stored)
    print(f"{detector.name}: saved {stored}\n  in {path}")
    return stored


@plan
def load_calibration(
    detector: Readable, name: str, disk: str | None = None, gain: bool = True
) -> MsgGenerator[StoredCalibration]:
    """
    Set a device to a stored calibration: from the next raster on, and in each run's record.

    Geometry, pixel mask, what becomes of bad pixels, and flat field become what they were when it was saved, also where
    that is none. With another binning of the detector, positions and lengths are converted.

    Parameters
    ----------
    detector : Live4D
        Device to set.
    name : str
        Name of a stored calibration: ``calibrations()`` lists them.
    disk : str, optional
        Virtual detector in px that shall be the bright-field disk, as of `calibrate_bright_field`; methods with the
        same centre follow. Default: ``vbf``, if there is a disk of that name.
    gain : bool, optional
        False: without the flat field.

    Returns
    -------
    StoredCalibration
        As the device is set. Also printed.

    Examples
    --------
    >>> RE(load_calibration(live4d, "2026-11-28 200 kV 20 mrad"))  # doctest: +SKIP
    """
    live4d: Any = detector
    component(detector, "calibration_name")
    if disk is not None:
        component(detector, f"{disk}_radius")
    elif any(method.name == "vbf" for method in live4d.methods()) and hasattr(detector, "vbf_radius"):
        disk = "vbf"
    stored = yield from in_thread(read_calibration, name)
    if not gain:
        stored = stored.without_gain()
    stored = stored.on(_frame_shape(detector))
    known = stored.calibration
    settings = [(getattr(detector, key), value) for key, value in calibration_values(known).items()]
    settings += [
        (getattr(detector, key), getattr(stored, key)) for key in ("bad_pixels", "pixel_mask", "gain")
    ]
    if disk is not None and known.center is not None and known.bf_radius is not None:
        centers, radii = disk_signals(detector, disk)
        settings += [(signal, known.center) for signal in centers]
        settings += [(signal, known.bf_radius) for signal in radii]
    yield from bps.mv(*(part for pair in settings for part in pair))
    yield from _have_it_said(detector, stored)
    print(f"{detector.name}: loaded {stored}")
    _warn_of_energy(detector, stored)
    return stored


def _have_it_said(detector: Any, stored: StoredCalibration) -> MsgGenerator[None]:
    """What the device has now is what is stored. The name comes last: it is of all that was set before."""
    yield from bps.mv(detector.calibration_runs, stored.runs)
    yield from bps.mv(detector.calibration_name, stored.name, detector.calibration_uid, stored.uid)


def _frame_shape(detector: Any, *, measured: bool = False) -> tuple[int, int] | None:
    """Rows and columns of the frames as the detector says; ``measured``: else of what was measured; None: not known."""
    said = detector.frame_shape()
    if not measured:
        return said
    arrays = (detector.pixel_mask.get(), detector.gain.get(), getattr(detector, pattern_of(detector)).get())
    shapes = [
        array.shape for array in arrays if array is not None and getattr(array, "ndim", 0) == 2 and array.size
    ]
    if said is not None and any(shape != said for shape in shapes):
        raise ValueError(
            f"{detector.name} has frames of {said[0]} x {said[1]} px now, and what is calibrated was measured on "
            f"others, of {shapes[0][0]} x {shapes[0][1]}: calibrate again, or set the detector's binning back"
        )
    return said or (shapes[0] if shapes else None)


def _warn_of_energy(detector: Any, stored: StoredCalibration) -> None:
    """Angles are of one energy and one camera length: say where the detector is set to another energy."""
    energy, now = (
        stored.calibration.energy,
        getattr(getattr(detector, "detector", None), "incident_energy", None),
    )
    known = None if now is None else now.known_number()
    if energy is not None and known and abs(known / energy - 1) > 0.01:
        print(
            f"{detector.name}: the calibration is of {energy / 1e3:.4g} kV, and the detector is set to "
            f"{known / 1e3:.4g} kV: angles may be wrong"
        )
