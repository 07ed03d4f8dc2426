"""`live4d verify`: whether every frame of recorded files can be decoded, and the file says the same of it.

Compressed frames have no checksum: bytes that were changed so that they still decode are found by nobody.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from live4d_ophyd.decode import BackendUnavailable, choose_backend
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.results import Losses
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.offline import SILENCE_S, acquire_raster
from live4d_ophyd.recording.template import COMPLETE, CORRUPT, GOOD, STATE_WORDS, UNRECORDED
from live4d_ophyd.scan import MOST, ScanGrid
from live4d_ophyd.sources.file import MAX_CONNECTIONS, FileSource
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames


@dataclass(frozen=True)
class Found:
    """Of one file: frames that decode, that its datasets do not have, and that do not decode.

    Of those that they do not have, the ones that are kept apart as corrupt, and that came and were not recorded; the
    others never came. They are of all channels together.
    ``complete``: it was closed; None where it does not say. ``wrong``: what contradicts what it says, "" for nothing.
    """

    file: str
    frames: int
    lost: int
    bad: int
    corrupt: int
    unrecorded: int
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
            found = Found(str(path), 0, 0, 0, 0, 0, None, str(error))
        every.append(found)
        click.echo(json.dumps(asdict(found)) if as_json else in_words(found))
    context.exit(1 if any(found.bad or found.wrong for found in every) else 0)


def check_file(path: Path, *, quiet: bool = True) -> Found:
    """Decode all frames of a file, of all channels. Raises as `reprocess`."""
    with closing(Hdf5Frames(str(path))) as frames:
        closed, states = frames.value(COMPLETE), frames.states()
    complete = None if closed is None else bool(np.ravel(closed)[0])
    said: dict[str, np.ndarray | None] = {**states} or {"": None}
    every = [
        _check_frames(path, dataset, of_them, complete=bool(complete), quiet=quiet)
        for dataset, of_them in said.items()
    ]
    decode, lost, bad, corrupt, unrecorded = (sum(counts) for counts in zip(*(counts for counts, _ in every)))
    wrong = "; ".join(wrong for _, wrong in every if wrong)
    return Found(str(path), decode, lost, bad, corrupt, unrecorded, complete, wrong)


def _check_frames(
    path: Path, dataset: str, states: np.ndarray | None, *, complete: bool, quiet: bool
) -> tuple[tuple[int, int, int, int, int], str]:
    """The numbers of `Found` of a dataset's frames, and what contradicts their ``states``."""
    with closing(Hdf5Frames(str(path), dataset)) as frames:
        count, side = frames.count, max(frames.shape)
    try:
        # Not with the settings of the live image: every pixel counts, whatever it holds.
        request = AcquisitionRequest(
            FileSource((str(path),), dataset, min(MAX_CONNECTIONS, len(os.sched_getaffinity(0)))), _grid_of(count),
            (Disk("all", radius=side),), timeout=SILENCE_S, nodata=False, saturated="count",
        )  # fmt: skip
        raster = acquire_raster(request, choose_backend("auto"), quiet=quiet)
        there, losses = np.isfinite(raster.outputs["all"].ravel()), raster.losses
    except NothingCame:
        if states is None or (states == GOOD).any():
            raise
        there, losses = np.zeros(count, bool), Losses(count, 0, count, 0)
    wrong = ""
    if states is not None and len(states) == count:
        # A kill may come between a frame and its state.
        differ = np.flatnonzero(((states == GOOD) != there) & (complete | (states == GOOD)))
        if len(differ):
            n = int(differ[0])
            wrong = (
                f"{len(differ)} frames of {dataset} are not what it says: frame {n} is {_word(int(states[n]))}, and "
                f"{'can' if there[n] else 'cannot'} be decoded"
            )
    corrupt, unrecorded = (
        0 if states is None else int((states == state).sum()) for state in (CORRUPT, UNRECORDED)
    )
    return (losses.received, losses.lost, losses.bad, corrupt, unrecorded), wrong


def _grid_of(count: int) -> ScanGrid:
    """So many positions, in rows as long as there may be."""
    cols = next(n for n in range(min(count, MOST), 0, -1) if count % n == 0)
    return ScanGrid(count // cols, cols)


def _word(state: int) -> str:
    return STATE_WORDS[state] if state < len(STATE_WORDS) else f"in state {state}"


def in_words(found: Found) -> str:
    """One line."""
    parts = [f"{found.frames} frames decode"]
    parts += [
        f"{n} {word}"
        for n, word in (
            (
                found.lost - found.corrupt - found.unrecorded,
                "lost: they never came" if found.complete else "are not there",
            ),
            (found.unrecorded, "not recorded: they came, and the disk was too slow, or failed"),
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
