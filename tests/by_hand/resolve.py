"""What pip and uv choose for the extras of a GPU: torch, nvCOMP and cuda-bindings of one CUDA. `make resolve` runs it.

Asks the package registry for metadata only; some minutes, most of them pip's. Prints a table of what was chosen.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
THIS_PYTHON = ".".join(platform.python_version_tuple()[:2])
#: what decides, in the table's order
COLUMNS = (
    "torch",
    "cuda-toolkit",
    "cuda-bindings",
    "cuda-core",
    "nvidia-libnvcomp-cu12",
    "nvidia-libnvcomp-cu13",
)

pytestmark = pytest.mark.timeout(900)


def pip(*arguments):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def registry():
    asked = pip("--retries=0", "--timeout=20", "--no-deps", "nvidia-libnvcomp-cu13")
    if asked.returncode:
        pytest.skip(f"no package registry answers: {asked.stderr.strip().splitlines()[-1]}")
    print("\n\n| by | Python | machine | extra |", *(f" {name} |" for name in COLUMNS), sep="")
    print("|---" * (4 + len(COLUMNS)) + "|")


def chosen_by_pip(extra):
    """Names and versions; its markers speak of this machine alone."""
    resolved = pip("--report=-", f"{ROOT}[{extra}]")
    assert resolved.returncode == 0, resolved.stderr
    packages = (package["metadata"] for package in json.loads(resolved.stdout)["install"])
    return {package["name"].lower(): Version(package["version"]) for package in packages}


def chosen_by_uv(extra, machine, python, resolution):
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--resolution", resolution]
    command += [
        "--python-platform",
        f"{machine}-manylinux_2_28",
        "--python-version",
        python,
        "--extra",
        extra,
    ]
    resolved = subprocess.run([*command, ROOT / "pyproject.toml"], capture_output=True, text=True)
    assert resolved.returncode == 0, resolved.stderr
    lines = (line.partition(";")[0].strip() for line in resolved.stdout.splitlines())
    return {name: Version(version) for name, _, version in (line.partition("==") for line in lines)}


def check(chosen, extra, machine, by, python):
    found = (f" {chosen.get(name, '')} |" for name in COLUMNS)
    print(f"| {by} | {python} | {machine} | {extra} |", *found, sep="", flush=True)
    cuda, other = {"gpu": (13, 12), "gpu12": (12, 13)}[extra]
    assert f"nvidia-libnvcomp-cu{cuda}" in chosen
    assert chosen["cuda-bindings"].major == cuda
    assert not [name for name in chosen if name.endswith(f"-cu{other}")]
    if extra == "gpu":
        # It is torch that asks for it; a build without CUDA, or for CUDA 12, does not.
        assert chosen["cuda-toolkit"].major == 13
    elif machine == "aarch64":
        assert "torch" not in chosen
    else:
        assert "nvidia-cuda-runtime-cu12" in chosen


@pytest.mark.parametrize("extra", ["gpu", "gpu12"])
def test_pip_chooses_one_cuda(extra):
    check(chosen_by_pip(extra), extra, platform.machine(), "pip", THIS_PYTHON)


@pytest.mark.skipif(UV is None, reason="uv is not installed: pip install uv")
@pytest.mark.parametrize("extra", ["gpu", "gpu12"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_uv_chooses_one_cuda(extra, machine, python, resolution):
    by = "uv" if resolution == "highest" else "uv, lowest"
    check(chosen_by_uv(extra, machine, python, resolution), extra, machine, by, python)
