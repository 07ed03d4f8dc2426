"""`live4d runs`, and `show`, `export` and `delete` for one of them. One thread."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from live4d_ophyd.checks import printable
from live4d_ophyd.commands.catalog import of_catalog, opened
from live4d_ophyd.urls import one_line

_WIDEST = 40  #: of a column of the list, letters
_FORMATS = ("png", "tiff", "npy", "nexus", "zarr")


def _check_run(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value.startswith("-") and not re.fullmatch(r"-[0-9]+", value):
        raise click.NoSuchOption(value, ctx=ctx)
    return value


def _of_run(default: str | None) -> Callable[[Any], Any]:
    """The argument RUN, which may be -1, and --catalog."""

    def decorate(function: Any) -> Any:
        # click takes an argument with default=None for one that may be left out.
        options: dict[str, Any] = {"required": True} if default is None else {"default": default}
        return click.argument("run", metavar="RUN", callback=_check_run, **options)(of_catalog(function))

    return decorate


#: lets RUN be -1, which click would take for an option
_MINUS = {"ignore_unknown_options": True}


@contextmanager
def _found(catalog: str | None, which: str) -> Iterator[tuple[Any, Any]]:
    """(catalog, run), opened."""
    from live4d_ophyd.runs.find import NoSuchRun, find_run

    with opened(catalog) as db:
        try:
            run = find_run(db, which)
        except NoSuchRun as error:
            raise click.ClickException(str(error)) from None
        yield db, run


@click.command()
@of_catalog
@click.option(
    "--newest", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="So many of them."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each run, with its whole uid.")
def runs(catalog: str | None, newest: int, as_json: bool) -> None:
    """List the runs of the catalog, the newest first.

    \b
    live4d runs
    live4d runs --newest 100 --catalog live4d-demo
    """
    with opened(catalog) as db:
        from live4d_ophyd.runs.listing import newest_runs

        found, there = newest_runs(db, newest), len(db)
    lines = list(zip(*found.values(), strict=True))
    if as_json:
        for line in lines:
            click.echo(json.dumps(dict(zip(found, line, strict=True))))
        return
    if not lines:
        click.echo("The catalog has no runs yet.")
        return
    shown = [tuple(found), *((scan, uid[:8], *map(_cell, rest)) for scan, uid, *rest in lines)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for scan, *rest in shown:
        texts = (text.ljust(width) for text, width in zip(rest, widths[1:], strict=True))
        click.echo("  ".join([scan.rjust(widths[0]), *texts]).rstrip())
    if there > len(lines):
        click.echo(f"{len(lines)} of {there} runs (--newest {there}: all)")


def _cell(text: str) -> str:
    """What somebody has typed, in one line that no terminal takes for a command."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…"


_PNG = click.Path(path_type=Path, dir_okay=False)


def _save_together(run: Any, name: str | None, montage: Path | None, stitched: Path | None) -> None:
    """Write the pictures of several images of a run, and print the paths."""
    from live4d_ophyd.runs import montage as together
    from live4d_ophyd.runs.picture import write_png
    from live4d_ophyd.runs.readings import RunReadings

    for path in (montage, stitched):
        if path is not None and path.suffix.lower() != ".png":
            raise ValueError(f"{path} is to be a PNG file: expected a name that ends with .png")
    if name is None:
        there = [f"{d.name}_{short}" for d in RunReadings(run).devices.values() for short in d.images]
        if not there:
            raise ValueError("the run has no images")
        name = there[0]
    if montage is not None:
        together.montage(run, name).savefig(montage, dpi=100)
        click.echo(montage)
    if stitched is not None:
        write_png(stitched, together.stitch(run, name))
        click.echo(stitched)


@click.command(context_settings=_MINUS)
@_of_run("-1")
@click.option("--json", "as_json", is_flag=True, help="Print values, units and notes as JSON.")
@click.option("--montage", type=_PNG, metavar="FILE.png", help="Save all images of one name side by side.")
@click.option("--stitched", type=_PNG, metavar="FILE.png", help="Save the tiles of a tile scan as one image.")
@click.option("--detector", metavar="NAME", help="Of these images; default: the first of the run.")
def show(
    run: str,
    catalog: str | None,
    as_json: bool,
    montage: Path | None,
    stitched: Path | None,
    detector: str | None,
) -> None:
    """Show what a run is: plan, time, sample, scan, virtual detectors, beam, detector, losses, software.

    RUN is a uid, its first 5 characters or more, a scan id, or -1 for the newest (the default), -2 for the one before.
    Angles in mrad need a camera length or a convergence angle in the baseline: docs/how-to/old-runs.md has the names.

    \b
    live4d show
    live4d show ca3108a4 --json
    live4d show 17 --catalog live4d-demo
    live4d show --montage series.png --detector vbf
    live4d show 21 --stitched mosaic.png
    """
    with _found(catalog, run) as (_, found):
        from live4d_ophyd.runs.description import describe

        if montage is not None or stitched is not None:
            try:
                _save_together(found, detector, montage, stitched)
            except (LookupError, ValueError, OSError) as error:
                raise click.ClickException(one_line(error)) from error
            return
        description = describe(found)
    click.echo(json.dumps(description.to_dict(), indent=1, default=str) if as_json else repr(description))


@click.command(context_settings=_MINUS)
@_of_run("-1")
@click.option("--to", type=click.Choice(_FORMATS), required=True, help="See above.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("."),
    help="Folder, or the file where it is one; default: this folder.",
)
@click.option(
    "--detector", "names", multiple=True, metavar="NAME", help="Only this virtual detector; repeatable."
)
@click.option("--event", type=int, help="Only the Event of this number; -1: the last.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def export(
    run: str,
    catalog: str | None,
    to: str,
    out: Path,
    names: tuple[str, ...],
    event: int | None,
    overwrite: bool,
) -> None:
    """Write the images of a run to files that other programs open.

    RUN as in `live4d show`. Files are called SCANID_UID8_KEY.

    \b
    png     a picture an Event, with scale bar (and ....png.json: values, levels, the run)
    tiff    float32, step and unit as ImageJ has them; a stack of several Events
    npy     float64, (event, scan_y, scan_x) (and ....npy.json)
    nexus   one HDF5 file of NXdata groups, float64
    zarr    one Zarr 3 store: xarray.open_zarr(path, consolidated=False)

    \b
    live4d export -1 --to png
    live4d export 17 --to tiff --detector vbf --out vbf.tif
    live4d export ca3108a4 --to nexus --out exported/
    """
    with _found(catalog, run) as (_, found):
        from live4d_ophyd.runs.export import NothingToExport, export_run

        try:
            paths = export_run(found, to, out, names=names, event=event, overwrite=overwrite)
        except (NothingToExport, ValueError, OSError) as error:
            raise click.ClickException(one_line(error)) from error
    for path in paths:
        click.echo(path)


@click.command(context_settings=_MINUS)
@_of_run(None)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--unfinished",
    is_flag=True,
    help="Also a run without an end that a session elsewhere may be writing.",
)
def delete(run: str, catalog: str | None, yes: bool, unfinished: bool) -> None:
    """Delete a run: its documents, images, pictures and backup. It cannot be undone.

    RUN as in `live4d show`, and has to be given. A run that is being written is refused. Files that `live4d export`
    has written stay.

    \b
    live4d delete ca3108a4
    live4d delete 17 --yes
    """
    with _found(catalog, run) as (db, found):
        from live4d_ophyd.runs.delete import RunInUse, delete_run, pictures
        from live4d_ophyd.storage import served_from

        try:
            served = served_from(catalog)
        except ValueError:
            served = None  # a server's: its files are its own
        start = found.metadata["start"]
        name = f"run {start['uid']} (scan {start.get('scan_id', '?')}, {start.get('plan_name', '?')})"
        if not yes:
            from live4d_ophyd.runs.facts import local_time

            seen = pictures(found, served)
            click.echo(f"{name} of {local_time(start['time'])}, streams {', '.join(found) or 'none'}")
            if seen:
                click.echo(f"{len(seen)} pictures in {seen[0].parent}")
            click.confirm("delete it for good?", abort=True)
        try:
            others = delete_run(db, found, served, unfinished=unfinished)
        except RunInUse as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:  # Tiled's, of a server that lets nobody delete
            raise click.ClickException(f"not deleted: {one_line(error)}") from error
    click.echo(f"deleted {name}")
    for path in others:
        click.echo(f"deleted {path}")
