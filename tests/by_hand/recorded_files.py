"""Recorded files that `tests/by_hand/readers.py` reads: ``recorded_files.py FOLDER``; `make readers` runs it.

Beside ``NAME.h5`` is ``NAME.npz``: ``data``, (scan_y, scan_x, q_y, q_x), is what a reader must give.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recorded_file import recorded_file

from live4d_ophyd.scan import ScanGrid

#: no two lengths and no two steps are alike: a swap of axes is seen
SCAN = ScanGrid(7, 5, step=(3.0, 2.0), unit="nm")
#: readers of DECTRIS' files read the second only
DETECTORS = {"oblong": (24, 32), "square": (24, 24)}
#: dtype, and how the file comes about
KINDS = {
    "uint8": (np.uint8, {}),
    "uint16": (np.uint16, {}),
    "uint32": (np.uint32, {}),
    "lz4": (np.uint16, {"codec": "lz4"}),
    "uncompressed": (np.uint16, {"codec": ""}),
    "lost": (np.uint16, {"lost": [0, 3, 11, 12, 34], "corrupt": [5, 20]}),
    # Readers give the images' channel, and know nothing of others.
    "channels": (np.uint16, {"others": ("threshold_2", "difference"), "lost": [2, 37, 40]}),
    "flyback": (np.uint16, {"flyback": True, "lost": [2, 40]}),
    # Left after a checkpoint, as by a process that is killed.
    "unclosed": (np.uint16, {"lost": range(20, 35), "close": False}),
}


def frames_of(dtype, shape, rng):
    """(n, q_y, q_x): few counts, and in some pixels whatever the type holds."""
    frames = rng.poisson(3, shape).astype(dtype)
    bright = rng.random(frames.shape) < 0.02
    frames[bright] = rng.integers(0, np.iinfo(dtype).max, np.count_nonzero(bright), dtype, endpoint=True)
    return frames


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2026)
    for kind, (dtype, how) in KINDS.items():
        for detector, shape in DETECTORS.items():
            scan = replace(SCAN, flyback=2) if how.get("flyback") else SCAN
            count = scan.frames
            frames = frames_of(dtype, (count, *shape), rng)
            others = {name: frames_of(dtype, (count, *shape), rng) for name in how.get("others", ())}
            path = recorded_file(
                folder / f"{kind}_{detector}.h5", frames, scan, detector="DECTRIS ARINA", channel="threshold_1",
                energy=200e3, count_time=1e-4, frame_time=1e-4, pixel_mask=np.zeros(shape, np.uint32),
                flatfield=np.ones(shape, np.float32), notes={"plan_name": "raster"}, **{**how, "others": others},
            )  # fmt: skip
            every = np.concatenate([frames, *others.values()])
            every[[*how.get("lost", ()), *how.get("corrupt", ())]] = 0
            data, aside = every[: scan.size], every[scan.size :]
            np.savez(
                path.with_suffix(".npz"), data=data.reshape(*scan.shape, *shape), aside=aside,
            )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
