"""`python -m benchmarks.paced OUT.json`: what an operator looks at, paced at 30 kHz, beside a whole session.

192x192 u32 from a plain TCP sender: bright field alone, with four more virtual detectors and a centre of mass, and
with the mean pattern, too. Sums of the bright field are checked; the others are as in `benchmarks.methods`.
"""

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import matplotlib

from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.session import Session
from live4d_ophyd import Annulus, CenterOfMass, Disk, MeanPattern

RATE, SCAN = 30e3, (512, 512)
FOUR = [
    Annulus("abf", inner=15, outer=30),
    Annulus("adf", inner=36, outer=60),
    Annulus("haadf", inner=60, outer=92),
    Disk("inner", radius=15),
]
SETS = {
    "bright field": [],
    "and four detectors, centre of mass": [*FOUR, CenterOfMass("com", within=Disk("within", radius=60))],
    "and the mean pattern": [
        *FOUR,
        CenterOfMass("com", within=Disk("within", radius=60)),
        MeanPattern("pattern"),
    ],
}


def main(path: Path) -> None:
    """Measure each set once, in turn, and write what came."""
    matplotlib.use("Agg")
    results = {}
    with tempfile.TemporaryDirectory() as directory, closing(PlainSource("192")) as source:
        session = Session(Path(directory))
        for name, beside in SETS.items():
            session.count(source, "192", RATE, (64, 64), "idle", beside=beside)
            found = results[name] = session.count(source, "192", RATE, SCAN, "idle", beside=beside)
            print(
                f"{name:36} {found['khz']:6.1f} kHz, {found['lost']} lost, sender late by "
                f"{found['sender_late_ms']:.0f} ms, engine {found['engine_us_a_frame']:.1f} us a frame"
            )
    report = {"benchmark": "paced", "command": "python -m benchmarks.paced", "machine": machine()}
    path.write_text(json.dumps(report | {"rate_hz": RATE, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
