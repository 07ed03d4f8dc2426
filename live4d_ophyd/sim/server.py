"""One simulated DCU in this process: built from plain options, served until it is told to end.

The main thread runs the REST server; series threads belong to the Dcu (see dcu.py), those that compute to the
FrameSource (frames.py). ``sim-specimen`` makes the specimen at the start, ``status-line`` says on a terminal what the
simulator is doing, and with ``exit_on_eof`` ``stdin-watch`` waits for the parent to go away.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import uvicorn

from live4d_ophyd.listener import listen
from live4d_ophyd.sim.dcu import Dcu
from live4d_ophyd.sim.encode import ImageTemplate, Series
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.flaws import Flaws
from live4d_ophyd.sim.frames import KEPT_BYTES, FrameSource, Readout
from live4d_ophyd.sim.rest import MICROSCOPE, checked_scan, create_app
from live4d_ophyd.sim.sender import StreamSender
from live4d_ophyd.sim.settings import API_VERSIONS, Parameter
from live4d_ophyd.sim.specimen import Detector, Microscope, PhaseObject, Scan, Specimen
from live4d_ophyd.sim.status import hide_keys

NO_FAULTS, SPECIMEN = Faults(), Specimen()

#: memory for frames that no client has fetched, and never more of them than this
BUFFER_BYTES, MOST_BUFFERED = 1 << 30, 100_000


def build_dcu(
    *,
    endpoint: str = "tcp://127.0.0.1:0",
    rows: int = 64,
    cols: int = 64,
    step: float = 0.25,
    shape: tuple[int, int] = (96, 96),
    dtype: str = "uint16",
    bf_center: tuple[float, float] | None = None,
    bf_radius: float | None = None,
    bf_ellipticity: float = 1.0,
    bf_ellipse_angle: float = 0.0,
    defocus: float = 0.0,
    beam_current: float = 100.0,
    semiangle: float = 10.0,
    rate: float = 30e3,
    dead_pixels: int = 0,
    hot_pixels: int = 0,
    cold_pixels: int = 0,
    gain_spread: float = 0.0,
    seed: int = 0,
    frozen_noise: bool = False,
    buffered: int | None = None,
    block: bool = False,
    uninitialized: bool = False,
    unprepared: bool = False,
    silent_scan: bool = False,
    kept_mb: int = KEPT_BYTES >> 20,
    api: str = API_VERSIONS[-1],
    without: Iterable[str] = (),
    faults: Faults = NO_FAULTS,
    specimen: PhaseObject = SPECIMEN,
) -> Dcu:
    """A DCU that streams at ``endpoint``.

    ``step``, ``defocus`` in nm, detector lengths in px, ``beam_current`` in pA, ``semiangle`` in mrad, ``rate`` in
    Hz; `Flaws` has what hot and cold pixels and ``gain_spread`` are; ``buffered`` frames wait for a slow client (None:
    what fits in BUFFER_BYTES); ``unprepared``: without high voltage, with the settings UNPREPARED instead of ``rate``;
    ``silent_scan``: headers do not say what is scanned; ``kept_mb`` of what was computed are kept; ``without`` are
    config and status keys that the firmware does not have.

    Raises ValueError for values out of range and OSError for a port in use.
    """
    if api not in API_VERSIONS:
        raise ValueError(f"api is {api!r}; expected one of {', '.join(API_VERSIONS)}")
    if not 0.1 <= semiangle <= 100:
        raise ValueError(f"semiangle is {semiangle:g} mrad; expected 0.1 to 100 mrad")
    microscope = Microscope(semiangle_mrad=float(semiangle))
    for name, value in (("defocus", defocus), ("beam_current", beam_current)):
        attribute, unit, low, high = MICROSCOPE[name]
        checked = Parameter(0.0, "float", unit, minimum=low, maximum=high).checked(name, float(value))
        microscope = replace(microscope, **{attribute: checked})
    raster = checked_scan(Scan(), {"rows": rows, "cols": cols, "step_nm": step})
    detector = Detector(*shape, bf_center, bf_radius, bf_ellipticity, bf_ellipse_angle)
    detector.check()
    flaws = Flaws(hot_pixels, cold_pixels, gain_spread)
    flaws.check()
    if buffered is None:
        # Frames compress to about a quarter.
        frame_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
        buffered = min(MOST_BUFFERED, 4 * BUFFER_BYTES // frame_bytes + 1)
    dcu = Dcu(
        StreamSender(endpoint, buffered=buffered, block=block),
        FrameSource(
            specimen,
            seed=seed,
            frozen_noise=frozen_noise,
            dead_pixels=dead_pixels,
            flaws=flaws,
            kept_bytes=kept_mb << 20,
        ),
        detector=detector,
        microscope=microscope,
        scan=raster,
        faults=faults,
        dtype=dtype,
        initialized=not uninitialized,
        prepared=not unprepared,
        silent_scan=silent_scan,
        api=api,
    )
    try:
        hide_keys(dcu, without)
        if not unprepared:
            dcu.config.put("frame_time", 1 / rate)
            dcu.config.put("count_time", 1 / rate)
            dcu.config.put("nimages", raster.frames)
        dcu.save_start_settings()
    except ValueError:
        dcu.close()
        raise
    return dcu


def ready_line(dcu: Dcu, rest_url: str) -> str:
    """What a program that started the simulator needs to know, JSON."""
    facts: dict[str, object] = {"rest_url": rest_url, "stream_endpoint": dcu.sender.endpoint}
    facts |= {"rows": dcu.scan.rows, "cols": dcu.scan.cols, "step_nm": dcu.scan.step_nm}
    facts |= {"bf_center": dcu.detector.bf_center, "bf_radius": dcu.detector.bf_radius}
    return json.dumps(facts)


def warm_up(dcu: Dcu) -> None:
    """Compile (or load) what computes and sends frames, so that the first series is not late by seconds."""
    sender, small = dcu.sender, Detector(16, 16)
    source = FrameSource(Specimen(size_nm=2.0), kept_bytes=0, threads=1)
    readout = Readout(dtype=dcu.config["pixel_format"])
    raster = source.raster(dcu.microscope, Scan(1, 1), small, readout, 0)
    block, sender.block = sender.block, False
    sender.send_images(ImageTemplate(Series(0), 1e-3, 1e-3), raster, Faults().schedules(0, 1), 0)
    sender.block = block
    source.close()


def _show_progress(dcu: Dcu, over: threading.Event) -> None:
    """Keep a line on the terminal up to date; for a thread of its own."""
    shown = ""
    while not over.wait(0.5):
        text = str(dcu.progress["text"])
        if text != shown:
            print(f"\r{text:<{len(shown)}}", end="", file=sys.stderr, flush=True)
            shown = text
    print(file=sys.stderr)


class _Server(uvicorn.Server):
    """Says that it is ready when it is, and when signals end it as they should."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready, flush=True)


def serve(dcu: Dcu, host: str = "127.0.0.1", port: int = 0, *, exit_on_eof: bool = False) -> None:
    """Print the ready line and serve until SIGINT or SIGTERM. Raises OSError when the port is taken."""
    try:
        listener = listen(host, port)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OSError(error.errno, f"cannot serve REST on {host}:{port}: {reason}") from None
    over = threading.Event()
    with listener:
        warm_up(dcu)
        # It takes seconds: while the session starts, rather than at the first trigger.
        look = threading.Thread(
            target=dcu.source.optics, args=(dcu.microscope, dcu.detector), name="sim-specimen", daemon=True
        )
        look.start()
        config = uvicorn.Config(
            create_app(dcu),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        rest_url = f"http://{host}:{listener.getsockname()[1]}"
        server = _Server(config, ready_line(dcu, rest_url))
        if exit_on_eof:
            threading.Thread(target=_watch_stdin, args=(server, dcu), name="stdin-watch", daemon=True).start()
        if sys.stderr.isatty():
            threading.Thread(target=_show_progress, args=(dcu, over), name="status-line", daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            over.set()
            look.join()  # a thread that is ended within scipy would end the process with SIGABRT


def _watch_stdin(server: uvicorn.Server, dcu: Dcu) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    dcu.abort()
    server.should_exit = True
