"""The commands ``live4d sim`` and ``live4d replay``."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from live4d_ophyd.commands.parameters import Numbers, Shape
from live4d_ophyd.sim.faults import Faults

_POSITIVE = click.FloatRange(0, min_open=True)
_BUFFER_HELP = "Frames kept for a client that does not fetch, then they are dropped.  [default: about 1 GB]"
_PICK = "every:N or a list of frame ids, as in 3,17,900"


def _text(error: Exception) -> str:
    """What went wrong without the number of an OSError."""
    return getattr(error, "strerror", None) or str(error)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--rest-port", default=0, show_default=True, help="Port of the REST interface; 0: any free one."
)
@click.option("--stream-port", default=0, show_default=True, help="Port of the stream; 0: any free one.")
@click.option("--rows", default=64, show_default=True, type=click.IntRange(1), help="Rows of the raster.")
@click.option("--cols", default=64, show_default=True, type=click.IntRange(1), help="Columns of the raster.")
@click.option("--step", default=0.25, show_default=True, type=_POSITIVE, help="Scan step, nm.")
@click.option("--shape", default="96x96", show_default=True, type=Shape(), help="Detector, px.")
@click.option(
    "--dtype",
    default="uint16",
    show_default=True,
    type=click.Choice(["uint8", "uint16", "uint32"]),
    help="Pixels.",
)
@click.option(
    "--bf-center",
    type=Numbers("ROW,COL", "46.8,48.9"),
    help="Centre of the bright-field disk, px.  [default: a little off]",
)
@click.option(
    "--bf-radius", type=click.FloatRange(1), help="Radius of the bright-field disk, px.  [default: 15 of 96]"
)
@click.option(
    "--bf-ellipticity", default=1.0, show_default=True, help="Major over minor axis of the bright-field disk."
)
@click.option(
    "--bf-ellipse-angle",
    default=0.0,
    show_default=True,
    help="Of the major axis, from the detector's rows towards its columns, degrees.",
)
@click.option("--defocus", default=0.0, show_default=True, help="Defocus at the start, nm.")
@click.option("--beam-current", default=100.0, show_default=True, help="Beam current at the start, pA.")
@click.option("--semiangle", default=10.0, show_default=True, help="Convergence semi-angle, mrad.")
@click.option(
    "--specimen",
    default="particles",
    show_default=True,
    type=click.Choice(["particles", "crystal"]),
    help="What is scanned: heavy particles on a film, or a crystal with known strain.",
)
@click.option(
    "--rate",
    default=30e3,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Frames a second (frame_time at the start).",
)
@click.option("--dead-pixels", default=0, show_default=True, help="Pixels without data, at random places.")
@click.option("--hot-pixels", default=0, show_default=True, help="Pixels that count in every frame.")
@click.option("--cold-pixels", default=0, show_default=True, help="Pixels that count nothing, unmasked.")
@click.option(
    "--gain-spread", default=0.0, show_default=True, help="How much pixels differ, standard deviation / mean."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the counts and the dead pixels.")
@click.option(
    "--frozen-noise", is_flag=True, help="Same counts in every series while nothing changes; no waiting."
)
@click.option("--buffer", "buffered", type=click.IntRange(1), help=_BUFFER_HELP)
@click.option("--block", is_flag=True, help="Wait for a slow client instead of dropping frames.")
@click.option(
    "--uninitialized", is_flag=True, help="Start in state na, without high voltage, as after switching on."
)
@click.option(
    "--unprepared",
    is_flag=True,
    help="Start as others may leave a detector: without high voltage, stream disabled and in the legacy format, "
    "software triggers, long exposures.",
)
@click.option(
    "--silent-scan", is_flag=True, help="Headers do not say what is scanned, as those of most microscopes."
)
@click.option(
    "--kept-mb",
    default=1024,
    show_default=True,
    type=click.IntRange(0),
    help="Memory for what was computed, MB; what does not fit is computed again.",
)
@click.option("--api", default="1.8.0", show_default=True, help="SIMPLON version: 1.6.0, 1.7.0 or 1.8.0.")
@click.option(
    "--without",
    multiple=True,
    metavar="KEY",
    help="A config or status key that this firmware lacks; repeatable.",
)
@click.option("--drop", default="", help=f"Frames never sent: {_PICK}.")
@click.option("--late", default="", help=f"Frames sent late: {_PICK}.")
@click.option("--late-by", default=8, show_default=True, help="How many frames late.")
@click.option("--duplicate", default="", help=f"Frames sent twice: {_PICK}.")
@click.option("--corrupt", default="", help=f"Frames with damaged bytes: {_PICK}.")
@click.option("--truncate", default="", help=f"Frames cut in half: {_PICK}.")
@click.option(
    "--foreign", default="", help=f"Frames with a stray one of another series before them: {_PICK}."
)
@click.option("--wrong-shape", default="", help=f"Frames of another shape than announced: {_PICK}.")
@click.option("--wrong-dtype", default="", help=f"Frames of another dtype than announced: {_PICK}.")
@click.option("--stall-at", default=-1, help="Frame before which the stream stands still for a while.")
@click.option("--stall-s", default=1.0, show_default=True, help="How long, s.")
@click.option(
    "--after-abort", default=0, help="Frames of an aborted series that are sent after abort was answered."
)
@click.option("--no-start", is_flag=True, help="Leave out start messages.")
@click.option("--no-end", is_flag=True, help="Leave out end messages.")
@click.option("--fail-series", is_flag=True, help="Let the first series break off with state error.")
@click.option("--rest-latency", default=0.0, help="Every SIMPLON answer is so late, s.")
@click.option("--rest-errors", default=0, help="So many SIMPLON requests are answered with status 500.")
@click.option("--rest-garbage", default=0, help="So many SIMPLON requests are answered with HTML.")
@click.option("--exit-on-eof", is_flag=True, help="End when stdin is closed (for parent processes).")
@click.option("-v", "--verbose", is_flag=True, help="Log every series to stderr.")
def sim(
    host: str,
    rest_port: int,
    stream_port: int,
    specimen: str,
    verbose: bool,
    exit_on_eof: bool,
    **options: Any,
) -> None:
    """A DECTRIS DCU and a microscope in software: REST and stream v2, with a specimen to look at.

    Prints one JSON line, {"rest_url": ..., "stream_endpoint": ..., ...}, when it is ready, and runs until
    Ctrl-C. Arm it over REST as a real detector; with trigger_mode exts (the default) the microscope then
    scans its raster by itself as soon as a client is connected, with ints on command/trigger. Defocus,
    astigmatism, stage and beam current are set under /microscope, faults under /faults.
    """
    from live4d_ophyd.sim.crystal import Crystal
    from live4d_ophyd.sim.server import SPECIMEN, build_dcu, serve

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    names = {field.name for field in fields(Faults)} & (options.keys() - {"seed"})
    try:
        faults = Faults.parse(**{name: options.pop(name) for name in names})
        options["specimen"] = Crystal() if specimen == "crystal" else SPECIMEN
        dcu = build_dcu(endpoint=f"tcp://{host}:{stream_port}", faults=faults, **options)
    except (ValueError, OSError) as error:
        raise click.ClickException(_text(error)) from None
    try:
        serve(dcu, host, rest_port, exit_on_eof=exit_on_eof)
    except OSError as error:
        raise click.ClickException(_text(error)) from None
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    finally:
        dcu.close()


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--endpoint", default="tcp://127.0.0.1:0", show_default=True, help="Where to stream; port 0: any free."
)
@click.option(
    "--rate", default=100.0, show_default=True, type=click.FloatRange(0), help="Frames a second; 0: no pause."
)
@click.option(
    "--repeat", default=1, show_default=True, type=click.IntRange(1), help="Times to stream the files."
)
@click.option(
    "--make-start", is_flag=True, help="Make a start message from the first frame if none is recorded."
)
@click.option(
    "--linger", default=30.0, show_default=True, help="Seconds a client has to fetch the rest at the end."
)
def replay(
    files: tuple[Path, ...], endpoint: str, rate: float, repeat: int, make_start: bool, linger: float
) -> None:
    """Stream what was recorded: an HDF5 file of frames, or messages.

    FILES are one HDF5 file, whose frames are sent as they lie in it, in scan order and without flyback, with a start
    message of what the file says; or files of one stream v2 message each, or directories of *.cbor, in a detector's
    order.

    Prints one JSON line, {"stream_endpoint": ...}, waits for a client, sends the messages in the order
    given, and ends when they are delivered. A file that is no message is refused before anything is sent.
    """
    from live4d_ophyd.sim.file_replay import FileReplay
    from live4d_ophyd.sim.replay import Recording, stream_recording

    def ready(address: str) -> None:
        click.echo(json.dumps({"stream_endpoint": address}))

    try:
        if len(files) == 1 and files[0].suffix in (".h5", ".hdf5", ".nxs"):
            with closing(FileReplay(files[0])) as frames:
                stream_recording(frames, endpoint, rate, repeat=repeat, linger_s=linger, ready=ready)
            return
        recording = Recording.load(files)
        if recording.start_missing:
            if make_start:
                recording = recording.with_start()
            else:
                click.echo(
                    "no start message among the files; --make-start makes one from the first frame", err=True
                )
        stream_recording(recording, endpoint, rate, repeat=repeat, linger_s=linger, ready=ready)
    except (ValueError, OSError) as error:
        raise click.ClickException(_text(error)) from None
