"""`live4d reprocess`: images of recorded frames, without Bluesky."""

from __future__ import annotations

from pathlib import Path

import click

from live4d_ophyd.commands.images import detector_options, detectors_of, output_options, report
from live4d_ophyd.commands.parameters import BackendName, Shape
from live4d_ophyd.decode import BackendUnavailable
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.offline import reprocess as reprocess_file
from live4d_ophyd.scan import ScanGrid


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--scan",
    type=Shape(),
    help="Scan positions, e.g. 256x256; needed where the dataset has no scan axes.",
)
@detector_options
@click.option("--dataset", default="", help="Where in the file the frames are; default: looks for them.")
@click.option(
    "--backend", type=BackendName(), default="auto", show_default=True,
    help="Where frames are decoded: cpu, gpu, gpu:0,1; auto takes a GPU if one works.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that decode; default: one a core.")
@click.option("--flyback", type=click.IntRange(0), default=0, help="Frames after each line.")
@click.option("--serpentine", is_flag=True, help="Odd lines run backwards.")
@output_options
def reprocess(
    path: Path,
    scan: tuple[int, int] | None,
    disk: tuple[tuple[float, ...], ...],
    annulus: tuple[tuple[float, ...], ...],
    dataset: str,
    backend: str,
    workers: int | None,
    flyback: int,
    serpentine: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Sum the frames of an HDF5 FILE over virtual detectors.

    FILE is a master file of a DECTRIS detector, or has a dataset (frames, rows, columns) or (scan rows, scan columns,
    rows, columns). Frames that are compressed one by one with bitshuffle or LZ4 are read as they lie in the file.
    Images are float64 counts, NaN where the file has no frame.
    """
    detectors = detectors_of(disk, annulus)
    if scan is None and (flyback or serpentine):
        raise click.UsageError("--flyback and --serpentine are of a scan: give --scan ROWSxCOLS with them")
    try:
        grid = None if scan is None else ScanGrid(*scan, flyback=flyback, serpentine=serpentine)
        raster = reprocess_file(
            path, detectors, grid, dataset=dataset, backend=backend, workers=workers, quiet=as_json
        )
    except (AcquisitionError, BackendUnavailable, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    report(raster, detectors, out, as_json)
