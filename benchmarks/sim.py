"""`live4d bench sim`: frames a second of the simulator on one core, beside another checkout's, in turns.

Each measurement is a process of its own on one core: a simulated DCU and, in the same process, a client that fetches
its frames without looking at them. Three series of one raster each: the first, the next with new noise, and one more
that repeats the counts of the one before (``frozen_noise``). Time is the process's own on its core, from arm to the
last frame: others who work on the machine do not count, the client does.

And what one sees in a session (device, engine, simulator, as many cores as there are): seconds from a trigger to the
first preview with something in it, and frames a second of the whole raster; the second raster has new noise.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

#: rows and columns of the raster, px of the detector
RASTER, SHAPES = 96, (96, 192)
#: positions a side of the sessions' rasters
SESSIONS = (64, 256, 512)
#: the checkout to compare with: LIVE4D_BENCH_BEFORE, or none
BEFORE = "LIVE4D_BENCH_BEFORE"


def run(rounds: int) -> dict[str, Any]:
    """Report of this checkout and, if it is named, of the one before, interleaved."""
    from benchmarks.report import machine

    here = Path(__file__).resolve().parents[1]
    checkouts = {"now": here}
    if before := os.environ.get(BEFORE):
        checkouts = {"before": Path(before).resolve(), **checkouts}
    core = str(max(os.sched_getaffinity(0)))
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for shape in SHAPES:
            for name, checkout in checkouts.items():
                child = [sys.executable, __file__, str(shape)]
                environment = os.environ | {"PYTHONPATH": str(checkout)}
                answer = subprocess.run(
                    ["taskset", "-c", core, *child],
                    env=environment,
                    check=True,
                    stdout=subprocess.PIPE,
                    cwd=checkout,
                )
                for key, value in json.loads(answer.stdout).items():
                    results.setdefault(f"{shape}x{shape}", {}).setdefault(name, {}).setdefault(
                        key, []
                    ).append(value)
    commits = {name: _commit(checkout) for name, checkout in checkouts.items()}
    return {
        "command": f"{BEFORE}=<checkout> live4d bench sim --rounds {rounds}",
        "machine": machine(),
        "load_average": os.getloadavg(),
        "commits": commits,
        "raster": f"{RASTER}x{RASTER}",
        "results": results,
        "sessions": {f"{side}x{side}": session(side) for side in SESSIONS},
    }


def session(side: int) -> dict[str, list[float]]:
    """Two rasters of a Live4D on the simulator: seconds to the first image, and frames a second."""
    from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon
    from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess

    found: dict[str, list[float]] = {"first_image_s": [], "hz": []}
    with SimulatorProcess(rows=side, cols=side) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(side, side, step=simulator.step_nm, unit="nm"),
            methods=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)],
            control=Simplon(simulator.rest_url),
            scan_generator=SimScanGenerator(simulator.rest_url),
        )
        with closing(live4d):
            live4d.wait_for_connection()
            for _ in range(2):
                live4d.stage()
                began = time.perf_counter()
                status = live4d.trigger()
                while not status.done and not live4d.preview.read()["live4d_live_fraction"]["value"]:
                    time.sleep(0.02)
                found["first_image_s"].append(time.perf_counter() - began)
                status.wait(600)
                found["hz"].append(side**2 / (time.perf_counter() - began))
                assert live4d.frames_lost.get() == live4d.frames_bad.get() == 0
                live4d.unstage()
    return found


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def table(report: dict[str, Any]) -> str:
    """Medians, kHz, and the time to the first image."""
    lines = [f"{'frames':>9} {'':>7} {'first':>8} {'next':>8} {'repeated':>9}  kHz; first image, ms"]
    for shape, checkouts in report["results"].items():
        for name, values in checkouts.items():
            median = {key: statistics.median(value) for key, value in values.items()}
            rates = " ".join(f"{median[key] / 1e3:8.2f}" for key in ("first_hz", "next_hz", "repeated_hz"))
            lines.append(f"{shape:>9} {name:>7} {rates}  {median['first_image_s'] * 1e3:9.0f}")
    for raster, found in report["sessions"].items():
        first, rates = found["first_image_s"], [f"{hz / 1e3:.1f} kHz" for hz in found["hz"]]
        lines.append(f"session of {raster}: first image after {first[0]:.2f} s; {rates[0]}, then {rates[1]}")
    return "\n".join(lines)


def _series(dcu: Any, socket: Any) -> tuple[float, float]:
    """Frames a second of processor time, and when the first came, s."""
    frames = dcu.scan.frames
    while dcu.state != "idle":
        time.sleep(0.001)
    began, used = time.perf_counter(), time.process_time()
    dcu.arm()
    first = 0.0
    for number in range(frames + 2):  # with start and end
        socket.recv()
        if number == 1:
            first = time.perf_counter() - began
    return frames / (time.process_time() - used), first


def _measure(shape: int) -> dict[str, float]:
    """In the child: whichever checkout is in PYTHONPATH."""
    import zmq

    from live4d_ophyd.sim.server import build_dcu

    found = {}
    options: dict[str, Any] = {"shape": (shape, shape), "rate": 1e6, "block": True}
    warm = build_dcu(rows=4, cols=4, **options)
    dcu = build_dcu(rows=RASTER, cols=RASTER, **options)
    context = zmq.Context()
    for device in (warm, dcu):
        socket = context.socket(zmq.PULL)
        socket.connect(device.sender.endpoint)
        rate, first = _series(device, socket)
        if device is dcu:
            found["first_hz"], found["first_image_s"] = rate, first
            found["next_hz"], _ = _series(dcu, socket)
            dcu.source.frozen_noise = True
            _series(dcu, socket)
            found["repeated_hz"], _ = _series(dcu, socket)
        socket.close(0)
        device.close()
    context.term()
    return found


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]))))
