"""`python -m benchmarks.paced OUT.json`: what an operator looks at, paced at 30 kHz, beside a whole session.

192x192 u32 from a plain TCP sender: bright field alone, with four more virtual detectors and a centre of mass, and
with the mean pattern, too; then of a simulated scan with parallax, whose fits and images are made meanwhile, and with
strain. Sums of the bright field are checked; the others are as in `benchmarks.methods`.
"""

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import matplotlib

from benchmarks.methods import method_sets
from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.session import Session
from benchmarks.source import SIZES
from live4d_ophyd import Annulus, CenterOfMass, Disk, MeanPattern

RATE, SCAN = 30e3, (512, 512)
#: as wide as the simulated scan, so that rows lie below each other as they were simulated
SCANNED = (1024, 256)
FOUR = [
    Annulus("abf", inner=15, outer=30),
    Annulus("adf", inner=36, outer=60),
    Annulus("haadf", inner=60, outer=92),
    Disk("inner", radius=15),
]
MASS = CenterOfMass("com", within=Disk("within", radius=60))
#: by name: which frames, and the methods beside the bright field
SETS = {
    "bright field": ("192", []),
    "and four detectors, centre of mass": ("192", [*FOUR, MASS]),
    "and the mean pattern": ("192", [*FOUR, MASS, MeanPattern("pattern")]),
    "a scan: bright field": ("192scan", []),
    "and parallax": ("192scan", method_sets(SIZES["192scan"])["VBF, parallax"][1:]),
    "and parallax, centre of mass, strain": (
        "192scan",
        method_sets(SIZES["192scan"])["VBF, CoM, parallax, strain"][1:],
    ),
}


def main(path: Path) -> None:
    """Measure each set once, in turn, and write what came."""
    matplotlib.use("Agg")
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        session = Session(Path(directory))
        for name, (key, beside) in SETS.items():
            scan = SCAN if key == "192" else SCANNED
            with closing(PlainSource(key)) as source:
                session.count(source, key, RATE, (64, 64), "idle", beside=beside)
                found = results[name] = session.count(source, key, RATE, scan, "idle", beside=beside)
            print(
                f"{name:36} {found['khz']:6.1f} kHz, {found['lost']} lost, sender late by "
                f"{found['sender_late_ms']:.0f} ms, engine {found['engine_us_a_frame']:.1f} us a frame"
            )
    report = {"benchmark": "paced", "command": "python -m benchmarks.paced", "machine": machine()}
    path.write_text(json.dumps(report | {"rate_hz": RATE, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
