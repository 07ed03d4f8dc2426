"""Images as they are: one raster, or a movie of rasters back to back."""

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Readable
from bluesky.utils import MsgGenerator, plan, short_uid

from live4d_ophyd.plans.components import component

#: s between two looks for finished rasters of a movie
COLLECT_PERIOD = 0.5


@plan
def single_image(detectors: Sequence[Readable], md: dict[str, Any] | None = None) -> MsgGenerator[str]:
    """
    Take one raster scan.

    Parameters
    ----------
    detectors : list
        Devices to trigger and read.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.

    Examples
    --------
    >>> RE(single_image([live4d], md={"sample": "gold on carbon"}))
    """
    return (yield from bp.count(detectors, num=1, md={"plan_name": "single_image", **(md or {})}))


@plan
def movie(detector: Flyable, num: int, md: dict[str, Any] | None = None) -> MsgGenerator[str]:
    """
    Take rasters back to back in one series of the detector, without the gaps of arming in between.

    Each raster becomes an Event of the stream ``NAME_movie``, within half a second of its end. A pause or an
    abort ends the movie; the rasters taken until then stay.

    Parameters
    ----------
    detector : Live4D
        Device that flies.
    num : int
        Number of rasters.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.

    Examples
    --------
    >>> RE(movie(live4d, 20))
    >>> db[-1]["live4d_movie"].read(["live4d_vbf"])    # dims time, scan_y, scan_x
    """
    if num < 1:
        raise ValueError(f"a movie of {num} rasters: expected at least 1")
    length = component(detector, "movie_rasters")
    start = {
        "plan_name": "movie",
        "detectors": [detector.name],
        "num_points": num,
        "plan_args": {"detector": repr(detector), "num": num},
        "hints": {},
        **(md or {}),
    }

    taken = 0

    def collect() -> MsgGenerator[None]:
        nonlocal taken
        taken += len((yield from bps.collect(detector)) or ())

    def fly() -> MsgGenerator[None]:
        # Bluesky takes documents of recorded frames in declared streams only.
        yield from bps.declare_stream(detector, name=f"{detector.name}_movie", collect=True)
        yield from bps.kickoff(detector, wait=True)
        flight = short_uid("movie")
        yield from bps.complete(detector, group=flight, wait=False)
        done = False
        while not done:
            # None after a pause: how the flight is, the next round will tell.
            done = yield from bps.wait(flight, timeout=COLLECT_PERIOD, error_on_timeout=False)
            yield from collect()
            # One Ctrl-C asks for a pause at the next checkpoint.
            yield from bps.checkpoint()

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md=start)
    def record() -> MsgGenerator[None]:
        # Rasters do not come again: a resume must not start a second flight, nor number them anew.
        yield from bpp.rewindable_wrapper(bpp.finalize_wrapper(fly(), collect), False)

    before = yield from bps.rd(length)

    def restore() -> MsgGenerator[None]:
        yield from bps.mv(length, before)

    def set_and_record() -> MsgGenerator[str]:
        yield from bps.mv(length, num)
        uid = yield from record()
        if taken < num:
            print(f"the movie of {detector.name} ended at {taken} of {num} rasters")
        return uid

    return (yield from bpp.finalize_wrapper(set_and_record(), restore))
