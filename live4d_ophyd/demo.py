"""`live4d demo`: a simulated scan through everything: detector, engine, device, plan, live picture, catalog."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out/demo"), show_default=True
)
@click.option(
    "--scan", type=click.IntRange(8, 512), default=128, show_default=True, help="Scan positions a side."
)
@click.option(
    "--catalog",
    type=click.Path(file_okay=False, path_type=Path),
    help="Catalog directory; default: OUT/catalog.",
)
def demo(out: Path, scan: int, catalog: Path | None) -> None:
    """Take one simulated 4D-STEM scan and show where it went.

    Starts a DECTRIS detector and a microscope in software, runs `RE(bp.count([live4d]))` on their stream,
    writes the virtual bright-field picture to OUT and stores the run in a databroker catalog.
    """
    click.echo("starting the session (Bluesky, catalog, engine, simulated detector) ...")
    import bluesky.plans as bp
    from bluesky import RunEngine

    from live4d_ophyd import (
        Disk,
        Live4D,
        Live4DBestEffortCallback,
        ScanGrid,
        Simplon,
        live_preview,
        open_catalog,
    )
    from live4d_ophyd.live import ScanProgressBar
    from live4d_ophyd.sim import SimulatorProcess
    from live4d_ophyd.storage import describe_run, record

    out.mkdir(parents=True, exist_ok=True)
    directory = (catalog or out / "catalog").resolve()
    db = open_catalog(directory, name="live4d-demo", overwrite=True)
    RE = RunEngine({})
    bec = Live4DBestEffortCallback(image_directory=out)
    RE.subscribe(bec)
    record(RE, db)
    RE.waiting_hook = ScanProgressBar()  # type: ignore[assignment]  # bluesky declares it as None
    with SimulatorProcess(rows=scan, cols=scan) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(scan, scan, step=simulator.step_nm, unit="nm"),
            detectors=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)],
            control=Simplon(simulator.rest_url),
            timeout=60.0,
        )
        RE.preprocessors.append(live_preview([live4d]))
        live4d.wait_for_connection()
        started = time.monotonic()
        (uid,) = RE(bp.count([live4d]), sample="simulated particles", purpose="demo")  # type: ignore[misc]
        took = time.monotonic() - started
        live4d.close()
    picture = out / "vbf.png"
    assert bec.picture_path is not None
    shutil.copyfile(bec.picture_path, picture)
    click.echo(f"\n{scan} x {scan} frames in {took:.1f} s, simulation included")
    click.echo(f"picture   {picture}")
    click.echo(f"run uid   {uid}")
    click.echo(describe_run(db, uid, profile="live4d-demo"))
