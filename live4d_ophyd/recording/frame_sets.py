"""FrameSet: one dataset of frames in a recorded file, and how frames are numbered over all of them.

The images' channel over the scan comes first: its frames have the numbers of their scan positions. Behind it come the
detector's other channels, then, where they are kept, frames of each that belong to no position: flyback and lead-in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: the frames of the images' channel, in scan order; the only thing in its group: readers of DECTRIS' files add up all
#: that is there
FRAMES = "/entry/data/data_000001"
#: the same over the scan, a virtual dataset: (scan_y, scan_x, q_y, q_x)
SCAN = "/entry/scan/data"
#: the group of frames that belong to no position, ``data``, with their ``frame_number`` in the raster
FLYBACK = "/entry/flyback"
RECORDING = "/entry/recording"
#: what became of each frame, (n,) uint8: `template.LOST` and those with it
STATES = f"{RECORDING}/frame_state"
#: frames that cannot be decoded, (`MOST_CORRUPT`, 3) int64: number, place in the file, bytes; -1 behind the last
CORRUPT_FRAMES = f"{RECORDING}/corrupt_frames"


@dataclass(frozen=True)
class FrameSet:
    """Frames ``first`` to ``first + count`` of a file: of one channel, in one dataset.

    frames, states, corrupt : datasets, as of `FRAMES`, `STATES`, `CORRUPT_FRAMES`
    scan : the same frames over the scan, as of `SCAN`; "": they belong to no position
    """

    frames: str
    states: str
    corrupt: str
    first: int
    count: int
    channel: str
    scan: str

    @property
    def end(self) -> int:
        """Behind the last number."""
        return self.first + self.count


def frame_sets(positions: int, channel: str, others: Sequence[str], flyback: int = 0) -> tuple[FrameSet, ...]:
    """Of a file with the frames of ``positions`` of the scan, of the images' channel and others.

    ``flyback``: frames of each that belong to no position.
    """
    sets = [FrameSet(FRAMES, STATES, CORRUPT_FRAMES, 0, positions, channel, SCAN)]
    # RosettaSciIO takes all whose names begin as that of the default plot does, quantem the first of the alphabet.
    for other, name in zip(others, names_in_file(others)):
        places = f"/entry/data_{name}/data_000001", f"{STATES}_{name}", f"{CORRUPT_FRAMES}_{name}"
        sets.append(FrameSet(*places, sets[-1].end, positions, other, f"/entry/stack_{name}/data"))
    if flyback:
        count = room_aside(flyback)
        for each, name in zip((channel, *others), ("", *(f"_{name}" for name in names_in_file(others)))):
            places = (
                f"{FLYBACK}{name}/data",
                f"{RECORDING}/flyback_state{name}",
                f"{RECORDING}/corrupt_flyback{name}",
            )
            sets.append(FrameSet(*places, sets[-1].end, count, each, ""))
    return tuple(sets)


def scan_of(channel: str) -> str:
    """The frames of a further channel over the scan, as of `SCAN`, in a file without two of the same name there."""
    return f"/entry/stack_{names_in_file([channel])[0]}/data"


def frames_of(scan: str) -> str:
    """The frames, as of `FRAMES`, that a dataset over the scan shows. Raises ValueError for one that is none."""
    if scan == SCAN:
        return FRAMES
    found = re.fullmatch(r"/entry/stack_(\w+)/data", scan, re.ASCII)
    if found is None:
        raise ValueError(f"{scan!r} is no dataset of recorded frames over the scan; expected {SCAN}")
    return f"/entry/data_{found[1]}/data_000001"


def room_aside(flyback: int) -> int:
    """Chunks of a dataset of frames that belong to no position: HDF5 has no index for a single one."""
    return max(2, flyback)


def names_in_file(channels: Sequence[str]) -> list[str]:
    """What channels are called in names of groups: a stream may call them anything."""
    names: list[str] = []
    for channel in channels:
        name = re.sub(r"[^A-Za-z0-9_]", "_", channel) or "_"
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names
