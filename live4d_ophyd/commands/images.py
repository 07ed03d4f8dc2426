"""What commands have in common that make images of frames: virtual detectors as options, files, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from live4d_ophyd.commands.parameters import Numbers
from live4d_ophyd.engine import RasterResult
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.runs import tiff


def _image_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    # Before the scan: an image must not be taken and then lost because of its file's name.
    if value is not None and value.suffix.lower() not in ("", ".npy", *tiff.SUFFIXES):
        formats = ", ".join((".npy", *tiff.SUFFIXES))
        raise click.BadParameter(
            f"{value} would be of the format {value.suffix}; there are {formats}. For others take the run into a "
            "catalog and use `live4d export`"
        )
    return value


def detector_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--disk`` and ``--annulus``; see `detectors_of`."""
    annulus = click.option(
        "--annulus", multiple=True, type=Numbers("ROW,COL,INNER,OUTER", "95.5,95.5,40,80"),
        help="Annular detector, centre and radii in px. May be given several times.",
    )  # fmt: skip
    disk = click.option(
        "--disk", multiple=True, type=Numbers("ROW,COL,RADIUS", "95.5,95.5,30"),
        help="Disk detector, centre and radius in px. May be given several times.",
    )  # fmt: skip
    return disk(annulus(command))


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--out`` and ``--json``; see `report`."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
    out = click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_image_file,
        help="Write the images here, one file a detector: .npy (float64), .tif or .tiff (float32).",
    )
    return out(as_json(command))


def detectors_of(
    disk: tuple[tuple[float, ...], ...], annulus: tuple[tuple[float, ...], ...]
) -> list[Disk | Annulus]:
    """The virtual detectors of the options, ``disk1``, ``annulus1`` and so on. Raises UsageError without one."""
    detectors: list[Disk | Annulus] = [
        *(Disk(f"disk{n}", center=(r, c), radius=radius) for n, (r, c, radius) in enumerate(disk, 1)),
        *(
            Annulus(f"annulus{n}", center=(r, c), inner=i, outer=o)
            for n, (r, c, i, o) in enumerate(annulus, 1)
        ),
    ]
    if not detectors:
        raise click.UsageError("no detector: give --disk ROW,COL,RADIUS or --annulus ROW,COL,INNER,OUTER")
    return detectors


def report(
    raster: RasterResult, detectors: list[Disk | Annulus] | None, out: Path | None, as_json: bool
) -> None:
    """Write the images to ``out``, if there is one, and print where the frames are; of no ``detectors`` all images."""
    if detectors is None:
        said: dict[str, dict[str, Any]] = {
            name: {} for name, array in raster.outputs.items() if array.ndim == 2
        }
    else:
        said = {detector.name: {"detector": registry.to_dict(detector)} for detector in detectors}
    files = _save(out, said, raster) if out else []
    counts = {
        "frames_expected": raster.losses.expected,
        "frames_received": raster.losses.received,
        "frames_lost": raster.losses.lost,
        "frames_bad": raster.losses.bad,
        "rate_hz": raster.rate_hz,
        "backend": raster.backend,
    }
    if raster.losses.beyond:  # more frames than the scan has: what was summed may be another scan's half
        counts["frames_beyond"] = raster.losses.beyond
    if as_json:
        click.echo(json.dumps(counts))
    else:
        for key, value in counts.items():
            click.echo(f"{key:16} {value}")
        for path in files:
            click.echo(f"{'image':16} {path}")


def _save(out: Path, said: Mapping[str, Mapping[str, Any]], raster: RasterResult) -> list[Path]:
    """``said``: of each image, what its file says of it."""
    files = []
    for name, metadata in said.items():
        image = raster.outputs[name]
        path = out if len(said) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix or '.npy'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in tiff.SUFFIXES:
            tiff.write_tiff(path, image, metadata=dict(metadata))
        else:
            with open(path, "wb") as file:  # np.save would add .npy to a name without it
                np.save(file, image)
        files.append(path)
    return files
