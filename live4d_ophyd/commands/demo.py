"""`live4d demo`: a simulated scan through everything: detector, engine, device, plan, live picture, catalog."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from live4d_ophyd.folders import make_private


class GrowingImage:
    """A callback that keeps the newest preview as ``growing.png`` in a directory, and all of them as ``growing.gif``.

    Positions without a frame yet are transparent.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.path = directory / "growing.png"
        self._key = key
        self._pictures: list[Any] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "event_page":
            for image in doc["data"].get(self._key, ()):
                self.add(np.asarray(image))
        elif name == "event" and self._key in doc["data"]:
            self.add(np.asarray(doc["data"][self._key]))

    def add(self, image: np.ndarray) -> None:
        """Draw one image, (rows, cols)."""
        from PIL import Image

        seen = np.isfinite(image)
        low, high = np.percentile(image[seen], (1, 99)) if seen.any() else (0.0, 1.0)
        grey = np.clip((np.nan_to_num(image) - low) / max(high - low, 1e-9), 0, 1) * 255
        pixels = np.stack([grey, np.where(seen, 255, 0)], axis=-1).astype(np.uint8)
        scale = max(1, 512 // max(image.shape))
        size = image.shape[1] * scale, image.shape[0] * scale
        picture = Image.fromarray(pixels, "LA").resize(size, Image.Resampling.NEAREST)
        self._pictures.append(picture)
        unseen = self.path.with_suffix(".part.png")
        picture.save(unseen)
        unseen.replace(self.path)  # a viewer never finds a part of it
        if len(self._pictures) == 1:
            click.echo(f"growing   {self.path}  (open it in a viewer that reloads)")

    def save_animation(self) -> Path | None:
        """All pictures, five a second, as they came; None if there was none."""
        if not self._pictures:
            return None
        path = self.path.with_suffix(".gif")
        first, *others = self._pictures
        first.save(path, save_all=True, append_images=others, duration=200, loop=0, disposal=2)
        return path


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
    shows the virtual bright-field picture in OUT while it grows, and stores the run in a databroker catalog.
    """
    click.echo(
        "starting Bluesky, catalog, engine and a simulated detector: a minute the first time, then seconds"
    )
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
    from live4d_ophyd.storage import catalog_directory, describe_run, record

    make_private(out)
    directory = (catalog or out / "catalog").resolve()
    before = catalog_directory("live4d-demo")
    db = open_catalog(directory, name="live4d-demo", overwrite=True)
    RE = RunEngine({})
    bec = Live4DBestEffortCallback(image_directory=out)
    RE.subscribe(bec)
    growing = GrowingImage(out, "live4d_vbf")
    RE.subscribe(growing)
    record(RE, db)
    RE.waiting_hook = ScanProgressBar()  # type: ignore[assignment]  # bluesky declares it as None
    with SimulatorProcess(rows=scan, cols=scan) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(scan, scan, step=simulator.step_nm, unit="nm"),
            methods=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)],
            control=Simplon(simulator.rest_url),
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
    if animation := growing.save_animation():
        click.echo(f"animation {animation}")
    click.echo(f"run uid   {uid}")
    click.echo(describe_run(db, uid, profile="live4d-demo"))
    if before is not None and before != directory and (before / "catalog.db").exists():
        click.echo(f"live4d-demo is {directory} now. The run of the demo before:")
        click.echo(f"  live4d show --catalog {shlex.quote(str(before))} -1")
