"""Plans by name: RE(count([live4d])) in IPython, and the list that bluesky-queueserver offers."""

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

from plans import (  # noqa: F401
    autofocus,
    calibrate_bright_field,
    focal_series,
    movie,
    single_image,
    tile_scan,
)
