"""`live4d doctor`: what of this machine works for live4d, measured; and what to do about the rest.

In: addresses and a directory, all optional. Out: a `Check` a line, or all as JSON. One thread. Nothing is changed:
no catalog or profile is made, no detector is armed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import click
import zmq
from numba.core import config

import live4d_ophyd
from live4d_ophyd.commands.decode_rate import measure
from live4d_ophyd.decode import Backend, BackendUnavailable, CpuBackend, choose_backend
from live4d_ophyd.decode.errors import GpuError, GpuMemoryError
from live4d_ophyd.decode.gpu.nvcomp import NvcompCallError, NvcompError
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.libzmq import addresses
from live4d_ophyd.sources.dectris.receiver import Receiver
from live4d_ophyd.sources.dectris.rest import SimplonError
from live4d_ophyd.urls import one_line, shown

Status = Literal["ok", "warn", "missing", "failed"]

#: how long a detector may take to answer, s
ANSWER_S = 2.0
#: socket buffer that rides out some ms of a fast stream, bytes
_SOCKET_BYTES = 4 << 20
#: free disk space below which to think of a larger disk, bytes
_DISK_BYTES = 10 * 10**9
_COPY_BYTES, _COPIES = 64 << 20, 16

_RMEM_MAX, _TCP_RMEM = (Path("/proc/sys/net") / name for name in ("core/rmem_max", "ipv4/tcp_rmem"))


@dataclass(frozen=True)
class Check:
    """One line of the answer."""

    name: str
    status: Status
    found: str
    advice: str = ""  #: what to do about a shortfall


# The machine ------------------------------------------------------------------------------------


def python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()}, live4d {live4d_ophyd.__version__}")


def processor() -> Check:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return Check(
        "processor",
        "ok",
        f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    )


def libzmq() -> Check:
    addresses()  # the receive loop calls these functions; fails where pyzmq hides them
    return Check("libzmq", "ok", f"{zmq.zmq_version()}, pyzmq {zmq.pyzmq_version()}")


def socket_buffers() -> Check:
    """The kernel's limits of receive buffers: asked for (rmem_max), and grown by itself (tcp_rmem).

    The receivers ask for none, so that tcp_rmem is what a stream gets.
    """
    try:
        fixed, grown = (int(path.read_text().split()[-1]) for path in (_RMEM_MAX, _TCP_RMEM))
    except OSError as error:  # older kernels show them to no container
        return Check("socket buffers", "warn", one_line(error), "in a container: run this on its host")
    found = f"net.core.rmem_max {fixed / 2**20:.3g} MiB, net.ipv4.tcp_rmem up to {grown / 2**20:.3g} MiB"
    settings = [
        *(["net.core.rmem_max=16777216"] if fixed < _SOCKET_BYTES else []),
        *(["net.ipv4.tcp_rmem='4096 131072 16777216'"] if grown < _SOCKET_BYTES else []),
    ]
    if settings:
        line = f"sudo sysctl -w {' '.join(settings)}"
        return Check("socket buffers", "warn", found, f"{line}  (to keep it: a file in /etc/sysctl.d)")
    return Check("socket buffers", "ok", found)


# Backends ---------------------------------------------------------------------------------------


def cpu_backend() -> Check:
    started = time.perf_counter()
    warm_up()
    ready = f"kernels ready in {time.perf_counter() - started:.1f} s"
    measured = measure(CpuBackend())
    if measured.wrong:
        return Check(
            "CPU backend", "failed", f"{ready}; {measured}",
            f"remove numba's cache ({config.CACHE_DIR}) and try again; if it stays, images are wrong here: report "
            "this line",
        )  # fmt: skip
    return Check("CPU backend", "ok", f"{ready}; one thread {measured}")


def gpu_backend() -> Check:
    try:
        backend = choose_backend("gpu")
        measured = measure(backend)
        if measured.wrong:
            return Check(
                "GPU backend",
                "failed",
                f"{backend.detail}: {measured}",
                "use backend='cpu', and report this line",
            )
        return Check("GPU backend", "ok", f"{_describe_gpu(backend)}; {measured}")
    except BackendUnavailable as error:
        return _without_gpu(error)


def _without_gpu(error: BackendUnavailable) -> Check:
    """'missing' where backend='auto' simply takes the CPU; 'failed' for a GPU that is there and does not work."""
    if isinstance(error, GpuMemoryError):
        return Check("GPU backend", "warn", one_line(error), "nvidia-smi shows what else uses it")
    cause = error.__cause__
    unfit = isinstance(cause, NvcompError) and not isinstance(cause, NvcompCallError)
    if isinstance(error, GpuError) and not unfit:
        return Check(
            "GPU backend",
            "failed",
            one_line(error),
            "use backend='cpu'; `dmesg | grep NVRM` may say what is wrong",
        )
    return Check(
        "GPU backend",
        "missing",
        f"{' '.join(error.reason.split())}; backend='auto' takes the CPU",
        f"to decode on a GPU: {error.remedy}" if error.remedy else "",
    )


def _describe_gpu(backend: Backend) -> str:
    """What it is and how fast memory gets there. Loads torch, which is there if the backend is."""
    import torch

    free, total = torch.cuda.mem_get_info()
    version = Path("/proc/driver/nvidia/version")
    driver = re.search(r"\d{3,}(\.\d+)+", version.read_text()) if version.exists() else None
    return (
        f"{backend.detail}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
        f"driver {driver[0] if driver else 'unknown'}, torch {torch.__version__} with CUDA {torch.version.cuda}; "
        f"copies {_copy_rate():.3g} GB/s"
    )


def _copy_rate() -> float:
    """GB/s from pinned memory to torch's current GPU."""
    import torch

    host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    device.copy_(host, non_blocking=True)  # the first copy pays for more than the copy
    begin.record()
    for _ in range(_COPIES):
        device.copy_(host, non_blocking=True)
    end.record()
    end.synchronize()
    return _COPIES * _COPY_BYTES / begin.elapsed_time(end) / 1e6  # from bytes/ms


# Catalog and detector ---------------------------------------------------------------------------


def catalog(path: Path | None = None) -> Check:
    from live4d_ophyd.storage.catalog import PROFILE, choose_directory

    directory = choose_directory(path, os.environ.get("LIVE4D_PROFILE", PROFILE))
    database = directory / "catalog.db"
    disk = next(folder for folder in (directory, *directory.parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    space = f"{free / 1e9:.0f} GB free"
    # SQLite would make the file, if only to find nothing in it.
    if not database.exists():
        return Check(
            "catalog", "missing", f"none yet at {directory}, {space}",
            "nothing to do: the first session makes it; LIVE4D_CATALOG says where",
        )  # fmt: skip
    if not all(os.access(place, os.W_OK) for place in (directory, database)):
        return Check(
            "catalog", "failed", f"{directory} cannot be written",
            f"sudo chown -R $USER {directory}, or set LIVE4D_CATALOG to another directory",
        )  # fmt: skip
    try:
        found = f"{directory}: {_count_runs(database)} runs, {space}"
    except Exception as error:
        # Tiled and SQLite raise much: for a database of another version, for a damaged one.
        return Check(
            "catalog", "failed", f"{directory} cannot be opened: {one_line(error)}",
            "do as that says, or set LIVE4D_CATALOG to another directory for a new one",
        )  # fmt: skip
    if free < _DISK_BYTES:
        return Check("catalog", "warn", found, "make room, or set LIVE4D_CATALOG to a larger disk")
    return Check("catalog", "ok", found)


def _count_runs(database: Path) -> int:
    """Runs in the catalog, read through Tiled as a session does, but never initialised. Takes some seconds."""
    with warnings.catch_warnings():
        # Of Starlette, about the HTTP client that Tiled has it use.
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        import tiled.server.app
        from tiled.catalog import from_uri
        from tiled.client import from_context
        from tiled.client.context import Context

        # Set by the import above; it would announce its version.
        logging.getLogger(tiled.server.app.__name__).setLevel(logging.WARNING)
        specs = [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}]
        app = tiled.server.app.build_app(from_uri(f"sqlite:///{database}", specs=specs))
        with Context.from_app(app) as context:
            return len(from_context(context))


def stream(endpoint: str) -> Check:
    # A small queue: should a series be running, few of its messages are taken from whom they are for.
    try:
        receiver = Receiver(endpoint, high_water_mark=1)
    except ValueError as error:
        return Check("stream", "failed", one_line(error), "give --endpoint tcp://HOST:PORT")
    try:
        if not receiver.connected(ANSWER_S):
            return Check(
                "stream", "failed", f"{endpoint} does not answer within {ANSWER_S:g} s",
                "is the detector on, its stream interface enabled, the port right (31001), no firewall between?",
            )  # fmt: skip
        taken = receiver.receive(FrameBatch.allocate(1 << 20), wait=0.1).count
    finally:
        receiver.close()
    if taken:
        return Check(
            "stream", "warn", f"{endpoint} answers and sends: a running series has lost messages to this check",
            "check the stream between series",
        )  # fmt: skip
    return Check("stream", "ok", f"{endpoint} answers")


def simplon(url: str, api: str = "") -> Check:
    try:
        control = Simplon(url, api=api)
        version, state = control.rest.api, control.get("detector", "status", "state")
    except (SimplonError, ValueError) as error:
        return Check(
            "SIMPLON", "failed", f"{shown(url)}: {one_line(error)}",
            "is the control unit on and this its address (http://HOST, port 80 unless given)?",
        )  # fmt: skip
    found = f"{control.url} speaks {version}, the detector's state is {state}"
    if state == "error":
        return Check(
            "SIMPLON", "warn", found, "the detector's web interface says what is wrong; initialize it there"
        )
    return Check("SIMPLON", "ok", found)


def server(address: str, keys: Path | None) -> Check:
    from live4d_ophyd.commands.server_check import check_server

    status, found, advice = check_server(address, keys)
    return Check("engine there", cast(Status, status), found, advice)


# The command ------------------------------------------------------------------------------------


def run_checks(checks: list[tuple[str, Callable[[], Check]]]) -> Iterator[Check]:
    """Run checks in turn. One that raises has failed under its name; the others run all the same."""
    for name, check in checks:
        try:
            yield check()
        except ModuleNotFoundError as error:
            yield Check(name, "missing", one_line(error), "pip install live4d-ophyd, with all it needs")
        except Exception as error:
            yield Check(
                name, "failed", one_line(error), f"unexpected ({type(error).__name__}): please report it"
            )


@click.command()
@click.option(
    "--endpoint",
    metavar="tcp://HOST:PORT",
    help="Also ask for the detector's stream here. Not during a series: it would lose some frames.",
)
@click.option("--simplon", "url", metavar="URL", help="Also ask the detector's REST interface, http://HOST.")
@click.option(
    "--api",
    default="",
    metavar="VERSION",
    help="SIMPLON version there, e.g. 1.8.0; default: asks the detector.",
)
@click.option(
    "--server",
    "address",
    metavar="tcp://HOST:PORT",
    help="Also ask the engine that `live4d serve` runs there, and measure the link. Not while a session uses it.",
)
@click.option(
    "--keys",
    type=click.Path(file_okay=False, path_type=Path),
    help="The session's folder of keys for --server.",
)
@click.option(
    "--catalog",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the catalog; default: the one a session opens.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def doctor(
    context: click.Context,
    endpoint: str | None,
    url: str | None,
    api: str,
    address: str | None,
    keys: Path | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Say what of this machine works: backends with measured rates, catalog, and the detector or the
    engine elsewhere if one is named.

    Changes nothing. What is missing can be done without; the exit code is 1 if something failed.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", python),
        ("processor", processor),
        ("libzmq", libzmq),
        ("socket buffers", socket_buffers),
        ("CPU backend", cpu_backend),
        ("GPU backend", gpu_backend),
        ("catalog", partial(catalog, directory)),
    ]
    # As everywhere, an endpoint may be several addresses.
    checks += [
        ("stream", partial(stream, address.strip())) for address in (endpoint or "").split(",") if address
    ]
    if url:
        checks.append(("SIMPLON", partial(simplon, url, api)))
    if address:
        checks.append(("engine there", partial(server, address, keys)))
    done = []
    for check in run_checks(checks):
        done.append(check)
        if not as_json:
            click.echo(f"{check.status:8} {check.name:15} {check.found}")
            if check.advice:
                click.echo(f"{'':24} -> {check.advice}")
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in done]}))
    context.exit(1 if any(check.status == "failed" for check in done) else 0)
