"""What software makes the numbers, for the record."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

#: packages between the socket and an image
_PACKAGES = (
    "numpy",
    "numba",
    "pyzmq",
    "cbor2",
    "dectris-compression",
    "torch",
    "nvidia-libnvcomp-cu13",
    "nvidia-libnvcomp-cu12",
    "cuda-core",
    "cuda-bindings",
)


def software() -> str:
    """This package, Python and the packages that receive, decode and sum, with their versions, on one line."""
    found = [f"live4d-ophyd {sys.modules['live4d_ophyd'].__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
