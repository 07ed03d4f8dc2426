"""`live4d listen`: one series from a stream to images on disk, without Bluesky."""

from __future__ import annotations

from pathlib import Path

import click

from live4d_ophyd.commands.images import detector_options, detectors_of, output_options, report
from live4d_ophyd.commands.parameters import BackendName, Shape
from live4d_ophyd.decode import BackendUnavailable, choose_backend
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest
from live4d_ophyd.offline import acquire_raster
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError
from live4d_ophyd.sources.dectris.source import DectrisSource


@click.command()
@click.argument("endpoint")
@click.option("--scan", required=True, type=Shape(), help="Scan positions, e.g. 256x256.")
@detector_options
@click.option(
    "--backend",
    type=BackendName(),
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
@click.option("--flyback", type=click.IntRange(0), default=0, help="Frames after each line.")
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
@output_options
def listen(
    endpoint: str,
    scan: tuple[int, int],
    disk: tuple[tuple[float, ...], ...],
    annulus: tuple[tuple[float, ...], ...],
    backend: str,
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
    if api and not simplon:
        raise click.UsageError("--api is of the detector's control unit: give --simplon URL with it")
    detectors = detectors_of(disk, annulus)
    try:
        grid = ScanGrid(*scan, flyback=flyback, last_flyback=not no_last_flyback, serpentine=serpentine)
        control = Simplon(simplon, api=api) if simplon else None
        source = DectrisSource(endpoint, connections, channel, control)
        request = AcquisitionRequest(source, grid, tuple(detectors), timeout=timeout)
        raster = acquire_raster(request, choose_backend(backend), quiet=as_json)
    except (AcquisitionError, BackendUnavailable, SimplonError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    report(raster, detectors, out, as_json)
