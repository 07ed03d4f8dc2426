"""One and four connections from plain TCP senders onto a GPU: rate, CPU a frame, latency, as JSON lines.

`python -m benchmarks.gpu_connections LABEL` measures the checkout that it runs in. To compare two, run it in both in
turns, on one card.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

from benchmarks.plain_source import PlainSource
from benchmarks.source import SIZES
from benchmarks.stream import measure

#: size, connections, frames
CASES = (
    ("192", 1, 512 * 1024), ("192", 4, 1024 * 1024), ("96u32", 1, 1024 * 1024), ("96u32", 4, 4096 * 1024),
)  # fmt: skip
ROUNDS = 2


def main() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for key, connections, count in CASES:
            with closing(PlainSource(key, connections)) as source:
                measure(process, source, key, 16 * 1024, 1, receiver="zmtp")  # kernels, page tables
                for _ in range(ROUNDS):
                    found = measure(process, source, key, count, 1, receiver="zmtp")
                    row = {
                        "label": sys.argv[1],
                        "size": SIZES[key].name,
                        "connections": connections,
                        "khz": round(found["khz"]),
                        "us": round(1e3 * found["cores"] / found["khz"], 2),
                        "latency_ms": {name: round(ms, 1) for name, ms in found["latency_ms"].items()},
                    }
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
