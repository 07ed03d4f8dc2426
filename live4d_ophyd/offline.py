"""One series without Bluesky and without an engine process: of recorded frames, or of a stream.

In: files, methods, the scan; or a request. Out: a `RasterResult`, as a live scan gives it. Threads: those of an
`Acquisition`, one a connection; the caller's waits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from live4d_ophyd.cluster import acquire_on
from live4d_ophyd.decode import Backend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames

#: longest that a file may bring nothing, s: disks may be slow, and far away
SILENCE_S = 600.0


def reprocess(
    path: str | os.PathLike,
    methods: Sequence[Method],
    scan: ScanGrid | None = None,
    *,
    dataset: str = "",
    backend: str = "auto",
    workers: int | None = None,
    cluster: Any = None,
    quiet: bool = False,
    nodata: bool = True,
    saturated: str = "leave_out",
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
) -> RasterResult:
    """Images of the frames in an HDF5 file, by the engine that makes them live.

    Parameters
    ----------
    path : a DECTRIS master file, or any HDF5 file with a dataset (frames, q_y, q_x) or (scan_y, scan_x, q_y, q_x)
    methods : virtual detectors and other methods
    scan : the scan's geometry; None takes it from a dataset of four dimensions
    dataset : where in the file the frames are; "" looks for them
    backend : "auto", "cpu", "gpu", or GPUs by number, "gpu:0,1"
    workers : threads that decode; None: one a core
    cluster : machines that share the work, by dask.distributed: the address of a scheduler, ``tcp://host:8786``; a
        number of processes on this machine; or a ``distributed.Client``. All see the file by the same path
    quiet : without a progress bar
    nodata, saturated, pixel_mask, gain : as of `Live4D`

    Returns
    -------
    RasterResult
        ``outputs`` by name, float64, NaN where the file has no frame that can be read; ``losses`` counts them.

    Raises
    ------
    ValueError
        The file has no frames, or no scan is given for a dataset of three dimensions; the settings do not fit.
    FileNotFoundError
        There is no such file.
    NothingCame, MethodFailed, BackendUnavailable
        As of a live scan.
    ClusterFailed, NoMethod
        The cluster lacks something: the reason says what, and what to do.

    Examples
    --------
    >>> reprocess("scan_master.h5", [Disk("bf", radius=12)], ScanGrid(256, 256)).outputs["bf"]  # doctest: +SKIP
    """
    scan = scan or _scan_of(str(path), dataset)
    threads = 1 if cluster is not None else workers or len(os.sched_getaffinity(0))
    source = FileSource((os.path.abspath(path),), dataset, threads)
    request = AcquisitionRequest(
        source, scan, tuple(methods), timeout=SILENCE_S, nodata=nodata, saturated=saturated, pixel_mask=pixel_mask,
        gain=gain,
    )  # fmt: skip
    if cluster is not None:
        return acquire_on(cluster, request, backend, quiet=quiet)
    return acquire_raster(request, choose_backend(backend), quiet=quiet)


def acquire_raster(request: AcquisitionRequest, backend: Backend, *, quiet: bool = False) -> RasterResult:
    """The one raster of ``request``, with a progress bar on a terminal. Raises as `Acquisition.run`."""
    warm_up()
    with closing(OpenStream(request.source, backend.memory)) as opened:
        acquisition = Acquisition(request, opened, backend)
        bar: Any = tqdm(
            total=request.series.frames, unit="frames", unit_scale=True, disable=True if quiet else None
        )
        with bar:

            def show() -> None:
                bar.update(acquisition.tracker.finished - bar.n)

            acquisition.on_progress = show
            (raster,) = acquisition.run()
            show()
    return raster


def _scan_of(path: str, dataset: str) -> ScanGrid:
    with closing(Hdf5Frames(path, dataset)) as frames:
        if frames.scan_shape is None:
            raise ValueError(
                f"{Path(path).name} has {frames.count} frames one behind the other: give the scan, ScanGrid(rows, cols)"
            )
        return ScanGrid(*frames.scan_shape)
