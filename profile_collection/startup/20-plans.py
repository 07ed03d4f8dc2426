"""Plans by name: RE(count([live4d])) in IPython, and the list that bluesky-queueserver offers."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from bluesky.plan_stubs import mv, mvr, sleep  # noqa: F401
from bluesky.plans import (  # noqa: F401
    adaptive_scan,
    count,
    grid_scan,
    list_grid_scan,
    list_scan,
    rel_grid_scan,
    rel_list_scan,
    rel_scan,
    scan,
)
from bluesky.protocols import Movable

from live4d_ophyd.plans import (  # noqa: F401
    autofocus,
    calibrate_bright_field,
    calibrate_lattice,
    calibrate_rotation,
    correct_astigmatism,
    correct_defocus,
    focal_series,
    load_calibration,
    measure_flat_field,
    movie,
    save_calibration,
    single_image,
    tile_scan,
    track_region,
)


def _annotated(plan, **annotations):
    """The plan with other annotations. By these the queueserver accepts a call and finds devices by their names."""
    signature = inspect.signature(plan)
    parameters = [
        p.replace(annotation=annotations.get(p.name, p.annotation)) for p in signature.parameters.values()
    ]

    @functools.wraps(plan)
    def annotated(*args, **kwargs):
        return (yield from plan(*args, **kwargs))

    annotated.__signature__ = signature.replace(parameters=parameters)
    return annotated


# Bluesky's own want each axis and its points in a pair that the plan does not take, and names of axes stay text.
_snaked = Sequence[Movable] | bool | None
list_scan = _annotated(list_scan, args=Movable | Any)
list_grid_scan = _annotated(list_grid_scan, snake_axes=_snaked)
grid_scan = _annotated(grid_scan, snake_axes=_snaked)
rel_grid_scan = _annotated(rel_grid_scan, snake_axes=_snaked)
