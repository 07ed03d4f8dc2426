"""One raster of a file on several machines, by dask.distributed: each task takes some rows of the scan.

In: a request for the frames of a file, and a cluster. Out: the `RasterResult` that one process would have made. Tasks
get the request as the engine process does, as bytes that name the methods; what they give back is pickled. A task
whose worker dies is done again by another. Threads: the caller's waits; dask's do the rest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from live4d_ophyd.decode import Backend, BackendUnavailable, choose_backend
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.errors import AcquisitionError, ClusterFailed, NoMethod
from live4d_ophyd.engine.partial import PartialRaster, acquire_part, merge
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import RasterResult
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.urls import shown

#: how long a scheduler may take to answer, and then to have a worker, s
CONNECT_S, WORKERS_S = 10.0, 30.0
#: how often it is looked whether there still are workers, s
_LOOK_S = 1.0
#: tasks for each thread of a worker: a slow one then holds up little
_TASKS_A_THREAD = 4
#: frames that are worth a task of their own
_FEWEST_FRAMES = 1 << 14
_PACKAGE = "live4d-ophyd"


def acquire_on(
    cluster: Any, request: AcquisitionRequest, backend: str, *, quiet: bool = False
) -> RasterResult:
    """The one raster of ``request``, whose source is a file that all workers see under its path.

    Parameters
    ----------
    cluster : address of a scheduler, ``tcp://host:8786``; a number of processes on this machine; or a
        ``distributed.Client``, which stays open
    backend : on which each worker decodes

    Raises
    ------
    ClusterFailed
        There is no dask.distributed, no scheduler or no worker; a worker has another version, or does not see the
        file; workers died again and again.
    NoMethod
        A worker cannot import a method.
    ValueError, MethodFailed, NothingCame, BackendUnavailable
        As of one process.
    """
    with _client(cluster) as client:
        _check_versions(client)
        threads = sum(client.nthreads().values())
        stretches = stretches_of(request.grid, threads * _TASKS_A_THREAD)
        told = protocol.encode(protocol.Acquire(0, request))
        began = time.perf_counter()
        bar = tqdm(total=request.grid.frames, unit="frames", unit_scale=True, disable=True if quiet else None)
        with bar:
            parts = []
            for part in _gathered(client, told, backend, stretches):
                parts.append(part)
                bar.update(part.losses.received + part.losses.bad)
        return merge(request, parts, time.perf_counter() - began)


def stretches_of(grid: ScanGrid, tasks: int) -> list[tuple[int, int | None]]:
    """Which frames each task takes: whole rows of the scan, about ``tasks`` of them, from the first to the last frame.

    The last one has no end: what a file has beyond the grid is counted by it.
    """
    most = max(1, grid.frames // _FEWEST_FRAMES)
    rows = np.linspace(0, grid.rows, min(tasks, most, grid.rows) + 1).astype(int)[1:-1]
    edges = [0, *(grid.lead_in + rows * (grid.cols + grid.flyback)).tolist(), None]
    return list(itertools.pairwise(edges))


def _gathered(
    client: Any, told: bytes, backend: str, stretches: list[tuple[int, int | None]]
) -> Iterator[PartialRaster]:
    """What the tasks give, as they are done; all are given up where one fails."""
    from distributed import wait

    # A result like the others: made again if the worker that has it dies.
    shared = client.submit(bytes, told, pure=False)
    futures = {
        client.submit(_take, shared, backend, begin, end, pure=False): (begin, end)
        for begin, end in stretches
    }
    left, last_seen = set(futures), time.monotonic()
    try:
        while left:
            with suppress(TimeoutError):
                wait(list(left), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
            if client.nthreads():
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > WORKERS_S:
                raise ClusterFailed(
                    f"all workers have gone, {len(left)} of {len(futures)} parts are missing",
                    remedy="their logs, or the batch system's, say why; a worker that comes within "
                    f"{WORKERS_S:g} s goes on",
                )
            for future in [future for future in left if future.done()]:
                left.remove(future)
                if future.status != "finished":
                    raise _named(future, *futures[future])
                part = future.result()
                if not isinstance(part, PartialRaster):
                    raise protocol.Failure(**part).error
                yield part
    finally:
        client.cancel([shared, *futures])


def _take(told: bytes, backend: str, begin: int, end: int | None) -> PartialRaster | dict[str, str]:
    """Runs in a worker. Errors with a class of their own are given back as texts, as the engine process does."""
    try:
        acquire = protocol.from_session(told, allow_modules=True)
        assert isinstance(acquire, protocol.Acquire)
        request = acquire.request
        for path in getattr(request.source, "paths", ()):
            if not Path(path).exists():
                raise ClusterFailed(
                    f"a worker does not see {path}",
                    remedy="files must be where all workers find them by this path",
                )
        return acquire_part(
            replace(request, source=replace(request.source, begin=begin, end=end)),  # type: ignore[type-var]
            _backend(backend),
        )
    except NoMethod as error:
        remedy = "install the package that it is in for all workers"
        return vars(protocol.Failure.of(NoMethod(f"on a worker, {error.reason}", remedy=remedy)))
    except (AcquisitionError, BackendUnavailable, ValueError) as error:
        return vars(protocol.Failure.of(error))


@lru_cache(maxsize=4)
def _backend(name: str) -> Backend:
    warm_up()
    return choose_backend(name)


def _named(future: Any, begin: int, end: int | None) -> Exception:
    """Why a task failed, not by what a method or a file did."""
    from distributed import KilledWorker

    error = future.exception()
    frames = f"frames {begin} to {'the last' if end is None else end - 1}"
    if isinstance(error, KilledWorker):
        return ClusterFailed(
            f"{frames}: the workers that took them died, {error.last_worker.address} the last",
            remedy="their logs say why; too little memory is the usual reason",
        )
    return ClusterFailed(f"{frames}: {type(error).__name__}: {error}")


@contextmanager
def _client(cluster: Any) -> Iterator[Any]:
    try:
        import distributed
    except ImportError as error:
        raise ClusterFailed(
            "there is no dask.distributed here",
            remedy="pip install 'live4d-ophyd[cluster]', here and for the workers",
        ) from error
    with ExitStack() as stack:
        if isinstance(cluster, distributed.Client):
            client = cluster
        elif isinstance(cluster, int) and not isinstance(cluster, bool) and cluster > 0:
            local = distributed.LocalCluster(
                n_workers=cluster, threads_per_worker=1, dashboard_address=None, silence_logs=40
            )
            client = stack.enter_context(distributed.Client(stack.enter_context(local)))
        elif isinstance(cluster, str) and "://" in cluster:
            try:
                client = distributed.Client(cluster, timeout=CONNECT_S)
            except (OSError, TimeoutError, ValueError) as error:
                raise ClusterFailed(
                    f"no scheduler answers at {shown(cluster)}: {error}",
                    remedy="start `dask scheduler` there",
                ) from error
            stack.enter_context(client)
        else:
            raise ValueError(
                f"cluster is {cluster!r}; expected the address of a scheduler, tcp://host:8786, a number of processes, "
                "or a distributed.Client"
            )
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            address = getattr(client.scheduler, "address", cluster)
            raise ClusterFailed(
                f"the scheduler {address} has no workers",
                remedy=f"start `dask worker {address}` on each machine",
            ) from error
        yield client


def _check_versions(client: Any) -> None:
    """Raise ClusterFailed unless all workers have this version of the package."""
    ours = version(_PACKAGE)
    for worker, theirs in client.run(version, _PACKAGE, on_error="return").items():
        if theirs != ours:
            has = f"has {_PACKAGE} {theirs}" if isinstance(theirs, str) else f"has no {_PACKAGE} ({theirs!r})"
            raise ClusterFailed(
                f"the worker {worker} {has}; here is {ours}",
                remedy=f"pip install '{_PACKAGE}[cluster]=={ours}' for the workers",
            )
