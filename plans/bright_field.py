"""Where the bright-field disk is on the detector: measured, and set on the virtual detectors."""

from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd.imaging.disk_fit import DiskFit, fit_disk
from live4d_ophyd.imaging.hot_pixels import find_hot_pixels
from live4d_ophyd.plans.components import component
from live4d_ophyd.plans.mean_pattern import pattern_of, unit_of, with_mean_pattern

#: stream that holds what the calibration has set
STREAM = "bright_field"
#: hot pixels that are listed
_MOST_HOT = 200


@plan
def calibrate_bright_field(
    detector: Readable,
    name: str = "vbf",
    semiangle: float | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[DiskFit]:
    """
    Fit the bright-field disk of one raster's mean diffraction pattern and set calibration and virtual detector to it.

    Virtual detectors in mrad or in radii of the disk follow the calibration. Of one in px the centre and radius are
    set, and the centre of methods that had the same. Nothing is changed when the pattern shows
    no disk. The pattern is in the run's stream ``primary``, what was set in
    ``bright_field``. Pixels that are hot by the pattern are printed, as a mask for ``Live4D(pixel_mask=...)``.

    Parameters
    ----------
    detector : Live4D
        Device with a disk called ``name``.
    name : str, optional
        Virtual detector that shall be the bright-field disk.
    semiangle : float, optional
        Convergence semi-angle, mrad: with it an angle of a pixel is known, for virtual detectors in mrad.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    DiskFit
        Centre (row, col), radius and edge width in px, intensities in counts a frame. Also printed.

    Examples
    --------
    >>> RE(calibrate_bright_field(live4d))
    >>> live4d.vbf_center.get(), live4d.vbf_radius.get()
    >>> db[-1]["bright_field"].read()
    """
    if semiangle is not None and not semiangle > 0:
        raise ValueError(f"semiangle is {semiangle!r}; expected an angle above 0 mrad")
    radius = component(detector, f"{name}_radius")
    center, bf_radius, mrad_per_px = (
        component(detector, f"calibration_{what}") for what in ("center", "bf_radius", "mrad_per_px")
    )
    in_px = [component(detector, f"{other}_center") for other in _concentric(detector, name)]
    radii = [radius, bf_radius] if _in_px(detector, name) else [bf_radius]
    pattern_name = pattern_of(detector)
    start = {
        "plan_name": "calibrate_bright_field",
        "purpose": "bright-field calibration",
        "detectors": [detector.name],
        "num_points": 1,
        "plan_args": {"detector": repr(detector), "name": name, "semiangle": semiangle},
        "hints": {},
        **(md or {}),
    }

    fit: Any = None  # a DiskFit; what a run itself returns is its uid
    hot = np.zeros((0, 0), bool)

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def measure_and_set() -> MsgGenerator[None]:
        nonlocal fit, hot
        reading = yield from bps.trigger_and_read([detector])
        pattern = reading[f"{detector.name}_{pattern_name}"]["value"]
        try:
            fit = fit_disk(pattern)
        except ValueError as error:
            raise ValueError(
                f"{detector.name}: {error}. {name} stays as it was; is the beam on the detector, and "
                "most of the disk?"
            ) from error
        frames = int(reading[f"{detector.name}_frames_received"]["value"])
        hot = find_hot_pixels(pattern, frames, fit)
        for signal in (center, *in_px):
            yield from bps.mv(signal, fit.center)
        for signal in radii:
            yield from bps.mv(signal, fit.radius)
        if semiangle is not None:
            yield from bps.mv(mrad_per_px, semiangle / fit.radius)
        yield from bps.create(STREAM)
        for signal in (center, *in_px, *radii, mrad_per_px):
            yield from bps.read(signal)
        yield from bps.save()

    yield from with_mean_pattern(detector, measure_and_set)
    row, col = fit.center
    # RE(plan) answers with uids only: this line is the plan's answer to who runs it by hand.
    image = radius.name.removesuffix("_radius")
    print(f"{image}: centre row {row:.2f}, col {col:.2f} px, radius {fit.radius:.2f} px")
    print(f"{detector.name}: {_in_words(hot)}")
    return fit


def _in_words(hot: np.ndarray) -> str:
    """How many pixels are hot, and where: as Python that makes the mask."""
    rows, cols = (where.tolist() for where in np.nonzero(hot))
    if not rows:
        return "no pixel is hot by this pattern"
    if len(rows) > _MOST_HOT:
        return (
            f"{len(rows)} pixels are hot by this pattern, the first at row {rows[0]}, col {cols[0]}: too many for "
            "single ones. Is the detector's own pixel mask applied, and the threshold above its noise?"
        )
    return (
        f"{len(rows)} hot pixel{'s' * (len(rows) > 1)} by this pattern. To leave them out: "
        f"mask = np.zeros({hot.shape}, bool); mask[{rows}, {cols}] = True; Live4D(..., pixel_mask=mask)"
    )


def _concentric(detector: Any, name: str) -> list[str]:
    """Names of the methods with the centre of ``name``, which comes first; none where that is the calibration's."""
    centers = {method.name: _center(method) for method in detector.methods()}
    if centers[name] is None and not _in_px(detector, name):
        return []
    others = [other for other, center in centers.items() if center == centers[name] and other != name]
    return [name, *others]


def _center(method: Any) -> Any:
    """Centre of a method, or of what it looks within; False for one that has none."""
    return getattr(method, "center", getattr(getattr(method, "within", None), "center", False))


def _in_px(detector: Any, name: str) -> bool:
    """Whether the lengths of a method are px."""
    return next(unit_of(method) == "px" for method in detector.methods() if method.name == name)
