"""One series without Bluesky and without an engine process: of recorded frames, or of a stream.

In: files, methods, the scan; or a request. Out: a `RasterResult`, as a live scan gives it. Threads: those of an
`Acquisition`, one a connection; the caller's waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.cluster import acquire_on
from live4d_ophyd.decode import Backend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.recorded_settings import settings_in
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.file import MAX_CONNECTIONS, FileSource
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames

#: longest that a file may bring nothing, s: disks may be slow, and far away
SILENCE_S = 600.0


def reprocess_file(
    path: str | os.PathLike,
    methods: Sequence[Method] | None = None,
    scan: ScanGrid | None = None,
    *,
    backend: str = "auto",
    cluster: Any = None,
    quiet: bool = False,
    **settings: Any,
) -> RasterResult:
    """Images of the frames in an HDF5 file, by the engine that makes them live; parameters as of `reprocess`."""
    return make(request_for(path, methods, scan, **settings), backend, cluster, quiet=quiet)


def request_for(
    path: str | os.PathLike,
    methods: Sequence[Method] | None = None,
    scan: ScanGrid | None = None,
    *,
    dataset: str = "",
    workers: int | None = None,
    nodata: bool | None = None,
    saturated: str | None = None,
    bad_pixels: str | None = None,
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
    calibration: Calibration | None = None,
) -> AcquisitionRequest:
    """What the engine is asked for; None: as the file says that the live image was made.

    Raises ValueError where neither says what is needed; FileNotFoundError.
    """
    with closing(Hdf5Frames(str(path), dataset, places=False)) as frames:
        given = {
            "methods": methods, "nodata": nodata, "saturated": saturated, "pixel_mask": pixel_mask, "gain": gain,
            "calibration": calibration, "bad_pixels": bad_pixels,
        }  # fmt: skip
        pixels = frames.shape[0] * frames.shape[1]
        recorded = settings_in(
            frames.notes(), pixels, [name for name, value in given.items() if value is not None]
        )
        scan = scan or frames.scan()
        if scan is None:
            raise ValueError(
                f"{Path(path).name} has {frames.count} frames one behind the other: give the scan, ScanGrid(rows, cols)"
            )
    if methods is None:
        methods = recorded.methods
    if methods is None:
        raise ValueError(f"{Path(path).name}: give the methods, [Disk(...)]: {recorded.why_no_methods}")
    defaults = AcquisitionRequest
    return AcquisitionRequest(
        FileSource(
            (os.path.abspath(path),), dataset, workers or min(MAX_CONNECTIONS, len(os.sched_getaffinity(0)))
        ),
        scan,
        tuple(methods),
        timeout=SILENCE_S,
        nodata=_first(nodata, recorded.nodata, defaults.nodata),
        saturated=_first(saturated, recorded.saturated, defaults.saturated),
        bad_pixels=_first(bad_pixels, recorded.bad_pixels, defaults.bad_pixels),
        pixel_mask=_first(pixel_mask, recorded.pixel_mask),
        gain=_first(gain, recorded.gain),
        calibration=_first(calibration, recorded.calibration, NOT_CALIBRATED),
    )


def make(
    request: AcquisitionRequest, backend: str, cluster: Any = None, *, quiet: bool = False
) -> RasterResult:
    """The raster of ``request``, here or on a cluster. Raises as `reprocess`."""
    if cluster is None:
        return acquire_raster(request, choose_backend(backend), quiet=quiet)
    alone = replace(request.source, connections=1)  # type: ignore[type-var]
    return acquire_on(cluster, replace(request, source=alone), backend, quiet=quiet)


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def acquire_raster(
    request: AcquisitionRequest,
    backend: Backend,
    *,
    quiet: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> RasterResult:
    """The one raster of ``request``, with a progress bar on a terminal. Raises as `Acquisition.run`.

    ``on_progress`` is told, a few times a second and in this thread, how many frames are done; what it raises ends it.
    """
    warm_up()
    with closing(OpenStream(request.source, backend.memory)) as opened:
        acquisition = Acquisition(request, opened, backend)
        bar: Any = tqdm(
            total=request.series.frames, unit="frames", unit_scale=True, disable=True if quiet else None
        )
        with bar:

            def show() -> None:
                bar.update(acquisition.tracker.finished - bar.n)
                if on_progress is not None:
                    on_progress(acquisition.tracker.finished)

            acquisition.on_progress = show
            (raster,) = acquisition.run()
            show()
    return raster
