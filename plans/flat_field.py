"""What each pixel counts of the same, and which are hot or dead: from an exposure in which all pixels are hit alike."""

from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator, plan

from live4d_ophyd import checks
from live4d_ophyd.imaging.flat_field import FlatField, flat_field
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.plans.mean_pattern import pattern_of, with_mean_pattern
from live4d_ophyd.plans.stubs import Measured, in_thread, mask_pixels, note_run, runs_before

#: stream that holds what was measured
STREAM = "flat_field"
_MOST_RASTERS = 10_000


@plan
def measure_flat_field(
    detector: Readable, num: int = 1, order: int = 0, md: dict[str, Any] | None = None
) -> MsgGenerator[FlatField]:
    """
    Measure flat field, hot and dead pixels from rasters with the beam spread over the whole detector, and set them.

    Spread the beam evenly before, without a specimen: what is uneven of it would count as the pixels' own. Bad pixels
    are added to the device's pixel mask, and their weight is spread over their good neighbours; pixels without a count
    that can be read, masked ones among them, are bad, too. The flat field becomes the device's ``gain`` where the
    pixels differ by more than the shot noise of the exposure; else it would bring more noise than it takes, and
    ``gain`` stays as it was. Nothing changes where it is no flood exposure. The patterns are in the run's stream
    ``primary``; gain, mask, and how much of the gain is shot noise in ``flat_field``.

    Parameters
    ----------
    detector : Live4D
        Device to measure.
    num : int, optional
        Rasters to take: the counts of all are added.
    order : int, optional
        Of the polynomial that the illumination is over the detector: 0 is the same everywhere, 1 a plane, 2 a
        paraboloid. What has its form is then not taken for the pixels' own.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    FlatField
        Gain, hot and dead pixels, scatter and shot noise. Also printed.

    Examples
    --------
    >>> RE(measure_flat_field(live4d, num=3))  # doctest: +SKIP
    """
    num = checks.whole("num of rasters", num, 1, _MOST_RASTERS)
    order = checks.whole("order of the illumination", order, 0, 2)
    live4d: Any = detector
    pattern_name = pattern_of(detector)
    start = {
        "plan_name": "measure_flat_field",
        "purpose": "flat-field calibration",
        "detectors": [detector.name],
        "num_points": num,
        "plan_args": {"detector": repr(detector), "num": num, "order": order},
        "hints": {},
        **(md or {}),
    }
    found: Any = None

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def measure_and_set() -> MsgGenerator[None]:
        nonlocal found
        total: Any = 0.0
        frames = 0
        for _ in range(num):
            yield from bps.checkpoint()
            reading = yield from bps.trigger_and_read([detector])
            received = int(reading[f"{detector.name}_frames_received"]["value"])
            # A pixel that held no count in some frames has its mean over the others.
            total = total + received * reading[f"{detector.name}_{pattern_name}"]["value"]
            frames += received
        try:
            found = yield from in_thread(flat_field, total / frames, frames, order)
        except ValueError as error:
            raise ValueError(f"{detector.name}: {error}. Pixel mask and gain stay as they were") from error
        yield from mask_pixels(detector, found.bad)
        if found.helps:
            yield from bps.mv(live4d.gain, found.gain)
        values = {
            "flat_field_gain": found.gain,
            "flat_field_bad": (live4d.pixel_mask.get() != 0).astype(np.uint8),
            "flat_field_counts": found.counts,
            "flat_field_scatter": found.scatter,
            "flat_field_noise": found.noise,
            "flat_field_unevenness": found.unevenness,
        }
        yield from bps.create(STREAM)
        yield from bps.read(Measured(detector.name, values, {"flat_field_counts": "counts"}))
        yield from bps.save()

    runs = runs_before(detector)
    # A scan without a specimen shows nothing.
    others = [method.name for method in live4d.methods() if not isinstance(method, MeanPattern)]
    uid = yield from with_mean_pattern(detector, measure_and_set, without=others)
    yield from note_run(detector, "flat_field", uid, runs)
    print(*(f"{detector.name}: {line}" for line in _in_words(found, order)), sep="\n")
    return found


def _in_words(found: FlatField, order: int) -> list[str]:
    hot, dead, bad = (np.count_nonzero(pixels) for pixels in (found.hot, found.dead, found.bad))
    silent = f", and {bad - hot - dead} that cannot be read" if bad > hot + dead else ""
    lines = [
        f"{hot} hot and {dead} dead pixels{silent}, masked; their neighbours have their weight",
        f"pixels differ by {100 * found.spread:.2f} %, and by {100 * found.noise:.2f} % from shot noise "
        f"({found.counts:.0f} counts a pixel)",
    ]
    if not found.helps:
        lines.append(
            "the gain stays as it was, as this one would be mostly noise: expose longer, or give num="
        )
    if found.unexposed:
        lines.append(
            f"{found.unexposed} pixels have too few counts to tell: they keep a factor of 1. Spread the beam further"
        )
    if order == 0 and found.unevenness > max(found.noise, 0.2 * found.spread):
        lines.append(
            f"the illumination varies by {100 * found.unevenness:.2f} % over the detector, which is in the gain: "
            "spread the beam more evenly, or give order=2"
        )
    return lines
