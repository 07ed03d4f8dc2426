"""`live4d listen`: one series from a stream to images on disk, without Bluesky."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from live4d_ophyd.commands.parameters import Engine, Numbers, Shape
from live4d_ophyd.decode import Backend, EngineUnavailable, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionError, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.acquisition import warm_up
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.runs import tiff
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError
from live4d_ophyd.sources.dectris.source import DectrisSource


def _image_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    # Before the scan: an image must not be taken and then lost because of its file's name.
    if value is not None and value.suffix.lower() not in ("", ".npy", *tiff.SUFFIXES):
        formats = ", ".join((".npy", *tiff.SUFFIXES))
        raise click.BadParameter(
            f"{value} would be of the format {value.suffix}; there are {formats}. For others take the run into a "
            "catalog and use `live4d export`"
        )
    return value


@click.command()
@click.argument("endpoint")
@click.option("--scan", required=True, type=Shape(), help="Scan positions, e.g. 256x256.")
@click.option(
    "--disk", multiple=True, type=Numbers("ROW,COL,RADIUS", "95.5,95.5,30"),
    help="Disk detector, centre and radius in px. May be given several times.",
)  # fmt: skip
@click.option(
    "--annulus", multiple=True, type=Numbers("ROW,COL,INNER,OUTER", "95.5,95.5,40,80"),
    help="Annular detector, centre and radii in px. May be given several times.",
)  # fmt: skip
@click.option(
    "--engine",
    type=Engine(),
    default="auto",
    show_default=True,
    help="Where frames are decoded: cpu, gpu, gpu:0,1 (connections go to these GPUs in turn); auto takes a GPU if one "
    "works.",
)
@click.option(
    "--connections", type=click.IntRange(1, 16), default=1, show_default=True, help="Parallel connections."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Longest silence, s.",
)
@click.option("--flyback", type=click.IntRange(0), default=0, help="Images after each line.")
@click.option("--no-last-flyback", is_flag=True, help="None after the last line.")
@click.option("--serpentine", is_flag=True, help="Odd lines run backwards.")
@click.option("--channel", default="", help="Data channel, e.g. threshold_1; default: the first.")
@click.option("--simplon", metavar="URL", help="Also arm the detector at this address; default: listen only.")
@click.option(
    "--api",
    default="",
    metavar="VERSION",
    help="SIMPLON version there, e.g. 1.8.0; default: asks the detector.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_image_file,
    help="Write the images here, one file a detector: .npy (float64), .tif or .tiff (float32).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def listen(
    endpoint: str,
    scan: tuple[int, int],
    disk: tuple[tuple[float, ...], ...],
    annulus: tuple[tuple[float, ...], ...],
    engine: str,
    connections: int,
    timeout: float,
    flyback: int,
    no_last_flyback: bool,
    serpentine: bool,
    channel: str,
    simplon: str | None,
    api: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Take one series from the stream at ENDPOINT (tcp://dcu:31001) and sum it over virtual detectors.

    With one detector --out names its file; with several, the detector's name is put before the suffix:
    image-disk1.npy, image-annulus1.npy. Images are float64 counts, NaN where no frame came.
    """
    detectors: list[Disk | Annulus] = [
        *(Disk(f"disk{n}", center=(r, c), radius=radius) for n, (r, c, radius) in enumerate(disk, 1)),
        *(
            Annulus(f"annulus{n}", center=(r, c), inner=i, outer=o)
            for n, (r, c, i, o) in enumerate(annulus, 1)
        ),
    ]
    if api and not simplon:
        raise click.UsageError("--api is of the detector's control unit: give --simplon URL with it")
    if not detectors:
        raise click.UsageError("no detector: give --disk ROW,COL,RADIUS or --annulus ROW,COL,INNER,OUTER")
    try:
        grid = ScanGrid(*scan, flyback=flyback, last_flyback=not no_last_flyback, serpentine=serpentine)
        control = Simplon(simplon, api=api) if simplon else None
        source = DectrisSource(endpoint, connections, channel, control)
        request = AcquisitionRequest(source, grid, tuple(detectors), timeout=timeout)
        raster = _take(request, choose_backend(engine), quiet=as_json)
    except (AcquisitionError, EngineUnavailable, SimplonError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    files = _save(out, detectors, raster) if out else []
    counts = {
        "frames_expected": raster.losses.expected,
        "frames_received": raster.losses.received,
        "frames_lost": raster.losses.lost,
        "frames_bad": raster.losses.bad,
        "rate_hz": raster.rate_hz,
        "engine": raster.engine,
    }
    if raster.losses.beyond:  # more images than the scan has: what was summed may be another scan's half
        counts["frames_beyond"] = raster.losses.beyond
    if as_json:
        click.echo(json.dumps(counts))
    else:
        for key, value in counts.items():
            click.echo(f"{key:16} {value}")
        for path in files:
            click.echo(f"{'image':16} {path}")


def _take(request: AcquisitionRequest, backend: Backend, *, quiet: bool) -> RasterResult:
    """The one raster of ``request``, with a progress bar on a terminal."""
    warm_up()
    with closing(OpenStream(request.source)) as stream:
        acquisition = Acquisition(request, stream, backend)
        with tqdm(
            total=request.series.frames, unit="frames", unit_scale=True, disable=True if quiet else None
        ) as bar:

            def show() -> None:
                bar.update(acquisition.tracker.settled - bar.n)

            acquisition.on_progress = show
            (raster,) = acquisition.run()
            show()
    return raster


def _save(out: Path, detectors: list[Disk | Annulus], raster: RasterResult) -> list[Path]:
    files = []
    for detector in detectors:
        image = raster.outputs[detector.name]
        path = (
            out if len(detectors) == 1 else out.with_name(f"{out.stem}-{detector.name}{out.suffix or '.npy'}")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in tiff.SUFFIXES:
            tiff.write_tiff(path, image, metadata={"detector": registry.to_dict(detector)})
        else:
            with open(path, "wb") as file:  # np.save would add .npy to a name without it
                np.save(file, image)
        files.append(path)
    return files
