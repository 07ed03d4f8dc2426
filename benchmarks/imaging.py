"""`live4d bench imaging`: whole sets of methods beside the bright field alone, from sockets to images, on one GPU.

Plain TCP senders in processes of their own, four connections. Frames of a simulated scan, so that parallax has
something to find: its fits and previews are made while frames come, as in a session. In turns, so that each set is
compared with the bright field of the same round; every bright-field sum is checked.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from statistics import median

from benchmarks.plain_source import PlainSource
from benchmarks.report import machine
from benchmarks.source import SIZES
from benchmarks.stream import measure
from live4d_ophyd.commands.main import ENGINE_ENVIRONMENT
from live4d_ophyd.decode import choose_backend

CONNECTIONS = 4
FRAMES = {"192scan": 1 << 20, "96scan": 1 << 21}
SETS = (
    "VBF",
    "VBF, parallax",
    "VBF, CoM, parallax, strain",
    "VBF, 4 detectors, CoM",
    "VBF, 4 detectors, CoM, mean pattern",
)
#: a set once more without fits and previews while frames come
QUIET = "VBF, CoM, parallax, strain"


def run(rounds: int = 3) -> dict:
    os.environ.update(ENGINE_ENVIRONMENT)  # for the process that receives: it is what a session runs
    results: dict[str, dict] = {}
    for key, count in FRAMES.items():
        size = SIZES[key]
        assert size.messages.places.size  # simulated before the senders need it
        runs: dict[str, list[dict]] = {name: [] for name in (*SETS, _quiet(QUIET))}
        with (
            ProcessPoolExecutor(1, get_context("spawn")) as process,
            closing(PlainSource(key, CONNECTIONS)) as source,
        ):
            for name in SETS:
                measure(process, source, key, 1 << 16, name)  # kernels, page tables
            for _ in range(rounds):
                for name, of in runs.items():
                    live = name in SETS
                    of.append(measure(process, source, key, count, name if live else QUIET, live=live))
                    print(size.name, name, f"{of[-1]['khz']:.0f} kHz", file=sys.stderr, flush=True)
        for name, of in runs.items():
            alone = [run["khz"] for run in runs["VBF"]]
            results[f"{size.name}, {name}"] = {
                "khz": median(run["khz"] for run in of),
                "khz_range": [min(run["khz"] for run in of), max(run["khz"] for run in of)],
                "ratio": median(run["khz"] / one for run, one in zip(of, alone)),
                "us_a_frame": median(1e3 * run["cores"] / run["khz"] for run in of),
                "results_s": median(run["results_s"] for run in of),
                "latency_99_ms": median(run["latency_ms"]["99"] for run in of),
                "found": of[-1]["numbers"],
                "runs": of,
            }
    return {
        "benchmark": "imaging",
        "command": f"live4d bench imaging --rounds {rounds}",
        "rounds": rounds,
        "connections": CONNECTIONS,
        "machine": machine() | {"backend": choose_backend("gpu").detail},
        "results": results,
    }


def _quiet(name: str) -> str:
    return f"{name}; no fits, no previews"


def table(report: dict) -> str:
    lines = [
        f"{'from sockets to images on a GPU':60} {'kHz':>6} {'range':>13} {'of VBF':>7} {'CPU us':>7}"
        f" {'results, s':>10} {'99 %, ms':>9}"
    ]
    for name, r in report["results"].items():
        low, high = r["khz_range"]
        lines.append(
            f"{name:60} {r['khz']:6.0f} {low:6.0f}-{high:<6.0f} {r['ratio']:7.2f} {r['us_a_frame']:7.1f}"
            f" {r['results_s']:10.2f} {r['latency_99_ms']:9.1f}"
        )
    return "\n".join(lines)
