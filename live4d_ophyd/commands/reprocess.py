"""`live4d reprocess`: images of recorded frames: of a file, without Bluesky, or of a run, into a new run."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from live4d_ophyd.commands.catalog import opened
from live4d_ophyd.commands.images import detector_options, detectors_of, output_options, report
from live4d_ophyd.commands.parameters import BackendName, Shape
from live4d_ophyd.decode import BackendUnavailable
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.runs.reprocessing import is_file
from live4d_ophyd.runs.reprocessing import reprocess as reprocessed
from live4d_ophyd.scan import ScanGrid


# ignore_unknown_options lets RUN be -1, which click would take for an option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("which", metavar="FILE|RUN")
@click.option(
    "--scan",
    type=Shape(),
    help="Scan positions, e.g. 256x256; needed where the file does not know them.",
)
@detector_options
@click.option("--event", type=int, help="Of a RUN, only the Event of this number; -1: the last.")
@click.option(
    "--catalog",
    metavar="NAME|DIRECTORY|URL",
    help="Of a RUN: where it is looked up, and the new run written; default: the catalog that a session opens. With a "
    "FILE: where a new run is written; default: nowhere.",
)
@click.option("--dataset", default="", help="Where in the file the frames are; default: looks for them.")
@click.option(
    "--backend", type=BackendName(), default="auto", show_default=True,
    help="Where frames are decoded: cpu, gpu, gpu:0,1; auto takes a GPU if one works.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that decode; default: one a core.")
@click.option(
    "--cluster",
    metavar="ADDRESS|N",
    help="Share the work by dask.distributed: a scheduler at tcp://host:8786 and its workers, or N processes here.",
)
@click.option("--flyback", type=click.IntRange(0), default=0, help="Frames after each line.")
@click.option("--serpentine", is_flag=True, help="Odd lines run backwards.")
@output_options
def reprocess(
    which: str,
    scan: tuple[int, int] | None,
    disk: tuple[tuple[float, ...], ...],
    annulus: tuple[tuple[float, ...], ...],
    event: int | None,
    catalog: str | None,
    dataset: str,
    backend: str,
    workers: int | None,
    cluster: str | None,
    flyback: int,
    serpentine: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Sum recorded frames over virtual detectors: those given, or those of the live image.

    FILE was recorded by live4d, is a master file of a DECTRIS detector, or has a dataset (frames, rows, columns) or
    (scan rows, scan columns, rows, columns). Frames that are compressed one by one with bitshuffle or LZ4 are read as
    they lie in the file. Images are float64 counts, NaN where the file has no frame.

    RUN, as in `live4d show`, has recorded frames. The images become a new run, which names it.

    \b
    live4d reprocess scan_master.h5 --scan 256x256 --disk 95.5,95.5,30 --out image.tif
    live4d reprocess -1 --annulus 95.5,95.5,40,90
    live4d reprocess 17 --cluster tcp://head:8786
    """
    detectors = detectors_of(disk, annulus) if disk or annulus else None
    if scan is None and (flyback or serpentine):
        raise click.UsageError("--flyback and --serpentine are of a scan: give --scan ROWSxCOLS with them")
    of_file = is_file(which)
    if of_file and not Path(which).is_file():
        raise click.BadParameter(f"there is no file {which}", param_hint="FILE|RUN")
    into_catalog = not of_file or catalog is not None
    if into_catalog and out is not None:
        raise click.UsageError(
            "--out is of a FILE without --catalog: `live4d export` writes the images of a run"
        )
    try:
        with opened(catalog) if into_catalog else nullcontext() as db:
            made = reprocessed(
                which,
                detectors,
                None if scan is None else ScanGrid(*scan, flyback=flyback, serpentine=serpentine),
                event=event,
                catalog=db,
                dataset=dataset,
                backend=backend,
                workers=workers,
                cluster=int(cluster) if cluster and cluster.isdecimal() else cluster,
                quiet=as_json,
            )
            if into_catalog:
                _report_run(made, as_json)
            else:
                report(made, detectors, out, as_json)
    except (AcquisitionError, BackendUnavailable, ValueError, LookupError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _report_run(run: Any, as_json: bool) -> None:
    from live4d_ophyd.runs.description import describe

    start = run.metadata["start"]
    said = {"uid": start["uid"], "scan_id": start["scan_id"]}
    said |= {key: start[key] for key in ("original_uid", "original_scan_id") if key in start}
    counts = {f"frames_{name}": fact.value for name, fact in describe(run)["frames"].items() if fact.unit}
    said |= {"events": start["num_points"], **counts}
    if as_json:
        click.echo(json.dumps(said))
    else:
        for key, value in said.items():
            click.echo(f"{key:16} {value}")
