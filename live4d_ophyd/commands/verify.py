"""`live4d verify`: whether every frame of recorded files can be decoded, and the file says the same of it.

Compressed frames have no checksum: bytes that were changed so that they still decode are found by nobody.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from live4d_ophyd.decode import BackendUnavailable
from live4d_ophyd.engine import AcquisitionError
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.offline import reprocess
from live4d_ophyd.recording.template import COMPLETE, CORRUPT, GOOD, LOST, STATES
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames


@dataclass(frozen=True)
class Found:
    """Of one file: frames that decode, that it does not have, that do not decode, and that it keeps apart as corrupt.

    ``complete``: it was closed; None where it does not say. ``wrong``: what contradicts what it says, "" for nothing.
    """

    file: str
    frames: int
    lost: int
    bad: int
    corrupt: int
    complete: bool | None
    wrong: str


@click.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def verify(context: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Decode every frame of recorded FILEs, and compare with what they say of themselves.

    The exit code is 1 if a frame does not decode, or a file says of one what is not so. Frames that were lost, and a
    file that was not closed, are said, and are no fault of the file.
    """
    every = []
    for path in files:
        try:
            found = check_file(path, quiet=as_json)
        except BackendUnavailable as error:
            raise click.ClickException(str(error)) from error
        except (AcquisitionError, ValueError, OSError) as error:
            found = Found(str(path), 0, 0, 0, 0, None, str(error))
        every.append(found)
        click.echo(json.dumps(asdict(found)) if as_json else in_words(found))
    context.exit(1 if any(found.bad or found.wrong for found in every) else 0)


def check_file(path: Path, *, quiet: bool = True) -> Found:
    """Decode all frames of a file. Raises as `reprocess`."""
    with closing(Hdf5Frames(str(path))) as frames:
        count, side = frames.count, max(frames.shape)
        closed, states = frames.value(COMPLETE), frames.value(STATES)
    complete = None if closed is None else bool(np.ravel(closed)[0])
    raster = reprocess(path, [Disk("all", radius=side)], ScanGrid(1, count), quiet=quiet)
    there = np.isfinite(raster.outputs["all"].ravel())
    wrong = ""
    if states is not None and len(states) == count:
        # A kill may come between a frame and its state.
        differ = np.flatnonzero(((states == GOOD) != there) & (bool(complete) | (states == GOOD)))
        if len(differ):
            n = int(differ[0])
            says = {LOST: "lost", GOOD: "good", CORRUPT: "corrupt"}.get(
                int(states[n]), f"in state {states[n]}"
            )
            wrong = (
                f"{len(differ)} frames are not what it says: frame {n} is {says}, and "
                f"{'can' if there[n] else 'cannot'} be decoded"
            )
    losses = raster.losses
    return Found(
        file=str(path),
        frames=losses.received,
        lost=losses.lost,
        bad=losses.bad,
        corrupt=0 if states is None else int((states == CORRUPT).sum()),
        complete=complete,
        wrong=wrong,
    )


def in_words(found: Found) -> str:
    """One line."""
    parts = [f"{found.frames} frames decode"]
    parts += [
        f"{n} {word}"
        for n, word in (
            (found.lost - found.corrupt, "are not there"),
            (found.corrupt, "corrupt, kept apart"),
            (found.bad, "do not decode"),
        )
        if n
    ]
    if found.complete is False:
        parts.append("it was not closed: whoever recorded it was killed, or the raster did not end")
    if found.wrong:
        parts.append(found.wrong)
    return f"{'FAILED' if found.bad or found.wrong else 'ok    '}  {found.file}: {'; '.join(parts)}"
