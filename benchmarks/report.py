"""What every report says of the machine and the versions it was made with."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "numpy",
    "numba",
    "pyzmq",
    "cbor2",
    "dectris-compression",
    "bluesky",
    "ophyd",
    "databroker",
    "tiled",
    "torch",
    "nvidia-libnvcomp-cu13",
    "cuda-core",
)


def machine() -> dict:
    """Processor, cores, Python and the versions of what is measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }
