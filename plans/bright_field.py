"""Where the bright-field disk is on the detector: measured, and set on the virtual detectors."""

import math
from numbers import Real
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd import checks
from live4d_ophyd.calibration_store import refuse_taken
from live4d_ophyd.imaging.bad_pixels import find_dead_pixels, find_hot_pixels
from live4d_ophyd.imaging.disk_fit import DiskFit, fit_disk
from live4d_ophyd.plans.calibrations import save_calibration
from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.disks import disk_signals
from live4d_ophyd.plans.mean_pattern import pattern_of, with_mean_pattern
from live4d_ophyd.plans.stubs import in_thread, mask_pixels, note_run, runs_before

#: stream that holds what the calibration has set
STREAM = "bright_field"
#: hot or dead pixels that are listed
_MOST_LISTED = 200
#: part of the pixels that may be hot, or dead: of more the pattern has a structure, as that of a crystal
_MOST_BAD = 0.005


@plan
def calibrate_bright_field(
    detector: Readable,
    name: str = "vbf",
    semiangle: float | None = None,
    camera_length: float | None = None,
    mask: bool = False,
    save_as: str | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[DiskFit]:
    """
    Fit the bright-field disk of one raster's mean diffraction pattern and set calibration and virtual detector to it.

    Virtual detectors in mrad or in radii of the disk follow the calibration. Of one in px the centre and radius are
    set, and the centre of methods that had the same. Nothing is changed when the pattern shows
    no disk. The pattern is in the run's stream ``primary``, what was set in
    ``bright_field``. Pixels that are hot, or dead inside the disk, by the pattern are printed, as a mask for
    ``Live4D(pixel_mask=...)``.

    Parameters
    ----------
    detector : Live4D
        Device with a disk called ``name``.
    name : str, optional
        Virtual detector that shall be the bright-field disk.
    semiangle : float, optional
        Convergence semi-angle, mrad: with it an angle of a pixel is known, for virtual detectors in mrad; and the
        camera length, where the detector says how large its pixels are.
    camera_length : float, optional
        From the specimen to the detector, m, instead of ``semiangle``: the angle of a pixel then comes from the size of
        the detector's pixels, and the semi-angle from that of the disk.
    mask : bool, optional
        Add the hot and dead pixels that were found to the device's pixel mask, and have their weight spread over their
        good neighbours (``bad_pixels="spread"``).
    save_as : str, optional
        Store the calibration under this name, as `save_calibration` does; "" makes a name.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    DiskFit
        Centre (row, col), radius, edge width, ellipticity; lengths in px, intensities in counts a frame. Also printed.

    Examples
    --------
    >>> RE(calibrate_bright_field(live4d))
    >>> live4d.vbf_center.get(), live4d.vbf_radius.get()
    >>> db[-1]["bright_field"].read()
    """
    _check_optics(semiangle, camera_length)
    if save_as:  # refused before anything is measured
        yield from in_thread(refuse_taken, save_as)
    component(detector, f"{name}_radius")
    pixel_size = _pixel_size(detector)
    if camera_length is not None and pixel_size is None:
        raise ValueError(
            f"camera_length needs the size of a pixel, which {detector.name} does not know (a detector without "
            "control, or binned): give the semiangle instead"
        )
    centers, radii = disk_signals(detector, name)
    calibration = {
        what: component(detector, f"calibration_{what}")
        for what in (
            "center", "bf_radius", "mrad_per_px", "ellipticity", "ellipse_angle", "semiangle", "camera_length",
            "energy",
        )
    }  # fmt: skip
    pattern_name = pattern_of(detector)
    start = {
        "plan_name": "calibrate_bright_field",
        "purpose": "bright-field calibration",
        "detectors": [detector.name],
        "num_points": 1,
        "plan_args": {
            "detector": repr(detector), "name": name, "semiangle": semiangle, "camera_length": camera_length,
            "mask": mask, "save_as": save_as,
        },
        "hints": {},
        **(md or {}),
    }  # fmt: skip

    fit: Any = None  # a DiskFit; what a run itself returns is its uid
    hot = dead = np.zeros((0, 0), bool)
    believed = True

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def measure_and_set() -> MsgGenerator[None]:
        nonlocal fit, hot, dead, believed
        reading = yield from bps.trigger_and_read([detector])
        pattern = reading[f"{detector.name}_{pattern_name}"]["value"]
        try:
            fit = yield from in_thread(fit_disk, pattern)
        except ValueError as error:
            raise ValueError(
                f"{detector.name}: {error}. {name} stays as it was; is the beam on the detector, and "
                "most of the disk?"
            ) from error
        frames = int(reading[f"{detector.name}_frames_received"]["value"])
        hot = yield from in_thread(find_hot_pixels, pattern, frames, fit)
        dead = yield from in_thread(find_dead_pixels, pattern, frames, fit)
        believed = max(hot.sum(), dead.sum()) <= max(_MOST_BAD * hot.size, 1)
        found = {
            "center": fit.center,
            "bf_radius": fit.radius,
            "ellipticity": fit.ellipticity,
            "ellipse_angle": fit.ellipse_angle,
            "energy": reading[f"{detector.name}_series_energy"]["value"],
            **_optics(fit.radius, semiangle, camera_length, pixel_size),
        }
        settings = [(calibration[what], value) for what, value in found.items()]
        settings += [(signal, fit.center) for signal in centers] + [(signal, fit.radius) for signal in radii]
        for signal, value in settings:
            yield from bps.mv(signal, value)
        if mask and believed and (hot | dead).any():
            yield from mask_pixels(detector, hot | dead)
        yield from bps.create(STREAM)
        for signal in (*calibration.values(), *centers, *radii):
            yield from bps.read(signal)
        yield from bps.save()

    runs = runs_before(detector)
    uid = yield from with_mean_pattern(detector, measure_and_set)
    yield from note_run(detector, "bright_field", uid, runs)
    row, col = fit.center
    # RE(plan) answers with uids only: this line is the plan's answer to who runs it by hand.
    print(
        f"{detector.name}_{name}: centre row {row:.2f}, col {col:.2f} px, radius {fit.radius:.2f} px{_ellipse(fit)}"
    )
    if not believed:
        print(
            f"{detector.name}: {hot.sum()} pixels are hot and {dead.sum()} dead by this pattern: too many for single "
            "ones, and none is masked. A crystal's disks look so: measure_flat_field tells by a flood exposure. If it "
            "is none: is the detector's own pixel mask applied, and the threshold above its noise?"
        )
    else:
        print(f"{detector.name}: {_in_words('hot', hot, masked=mask)}")
    if believed and dead.any():
        print(f"{detector.name}: {_in_words('dead', dead, masked=mask)}")
    if save_as is not None:
        yield from save_calibration(detector, save_as)
    return fit


def _check_optics(semiangle: float | None, camera_length: float | None) -> None:
    for what, value, expected in (
        ("semiangle", semiangle, "an angle above 0 mrad"),
        ("camera_length", camera_length, "a length above 0 m"),
    ):
        if value is not None and not (isinstance(value, Real) and 0 < value < math.inf):
            raise ValueError(f"{what} is {checks.shown(value)}; expected {expected}")
    if semiangle is not None and camera_length is not None:
        raise ValueError(
            f"semiangle is {semiangle:g} mrad and camera_length {camera_length:g} m: each says the angle of a "
            "pixel; give one of them"
        )


def _optics(
    radius: float, semiangle: float | None, camera_length: float | None, pixel_size: float | None
) -> dict[str, float]:
    """Angle of a pixel, semi-angle and camera length, as far as the one that was given tells; {} without."""
    if semiangle is not None:
        mrad = semiangle / radius
        length = math.nan if pixel_size is None else pixel_size / (1e-3 * mrad)
        return {"mrad_per_px": mrad, "semiangle": float(semiangle), "camera_length": length}
    if camera_length is not None and pixel_size is not None:
        mrad = 1e3 * pixel_size / camera_length
        return {"mrad_per_px": mrad, "semiangle": mrad * radius, "camera_length": float(camera_length)}
    return {}


def _pixel_size(detector: Any) -> float | None:
    """Side of a pixel, m; None where it is not known, as of a binned detector: firmwares differ in what they say."""
    settings = getattr(detector, "detector", None)
    if settings is None or settings.binning_mode.get() not in (None, "", "off", "1x1"):
        return None
    y, x = settings.y_pixel_size.known_number(), settings.x_pixel_size.known_number()
    return x if x and x > 0 and y in (x, None) else None


def _ellipse(fit: DiskFit) -> str:
    if math.isnan(fit.ellipticity):
        return ""
    return f", ellipticity {fit.ellipticity:.4f} at {fit.ellipse_angle:.0f} degrees from the rows"


def _in_words(kind: str, bad: np.ndarray, *, masked: bool) -> str:
    """How many pixels are hot or dead, and where: as Python that makes the mask."""
    rows, cols = (where.tolist() for where in np.nonzero(bad))
    if not rows:
        return f"no pixel is {kind} by this pattern"
    if masked:
        return f"{len(rows)} {kind} pixel{'s' * (len(rows) > 1)} by this pattern, masked now"
    if len(rows) > _MOST_LISTED:
        return (
            f"{len(rows)} pixels are {kind} by this pattern, the first at row {rows[0]}, col {cols[0]}. To leave them "
            "out: calibrate_bright_field(..., mask=True)"
        )
    return (
        f"{len(rows)} {kind} pixel{'s' * (len(rows) > 1)} by this pattern. To leave them out: "
        f"mask = np.zeros({bad.shape}, bool); mask[{rows}, {cols}] = True; Live4D(..., pixel_mask=mask)"
    )
