"""What pyproject.toml asks for is what the modules need, on every platform and Python that it admits."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGE = ("live4d_ophyd", "plans")
FOR_TESTS = ("tests", "benchmarks")
#: loaded only where the GPU's packages are found
FOR_A_GPU = {
    "live4d_ophyd/decode/gpu.py",
    "live4d_ophyd/decode/cuda_kernels.py",
    "benchmarks/straightforward.py",
}


def always_installed(requirements):
    """Distributions that come whatever the platform and the Python."""
    return {r.name for r in map(Requirement, requirements) if r.marker is None}


def modules(folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_at_once(path):
    """Top-level packages that are imported when ``path`` is."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folders", "requirements"),
    [(PACKAGE, PROJECT["dependencies"]), (FOR_TESTS, PROJECT["dependencies"] + EXTRAS["dev"])],
)
def test_every_module_can_be_imported_wherever_it_is_installed(folders, requirements):
    # numba asks for the llvmlite that it was built with.
    declared = always_installed(requirements) | {"llvmlite"}
    # Tests import each other by name or folder.
    ours = {name for path in modules(PACKAGE + FOR_TESTS) for name in (path.stem, path.parent.name)}
    distributions = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(folders)
        if str(path.relative_to(ROOT)) not in FOR_A_GPU
        for name in set(imported_at_once(path)) - ours - set(sys.stdlib_module_names)
        if not declared & {distribution.lower() for distribution in distributions.get(name, [])}
    }
    assert undeclared == set()
