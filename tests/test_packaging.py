"""What pyproject.toml asks for is what the modules need, on every platform and Python that it admits."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import live4d_ophyd

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = packages_distributions()
PACKAGE = ("live4d_ophyd", "plans")  # the package's folder `plans` is a link to that
FOR_TESTS = ("tests", "benchmarks")
#: loaded only where the GPU's packages are found
FOR_A_GPU = {
    "live4d_ophyd/decode/gpu/decoder.py",
    "live4d_ophyd/decode/gpu/device_pass.py",
    "live4d_ophyd/decode/gpu/frame_sums.py",
    "live4d_ophyd/decode/gpu/kernels.py",
    "live4d_ophyd/decode/gpu/named_errors.py",
    "live4d_ophyd/decode/gpu/plan.py",
    "live4d_ophyd/decode/gpu/workspace.py",
    "benchmarks/straightforward.py",
}
#: folders whose modules are loaded only where the packages of an extra are found
OF_EXTRAS = {"live4d_ophyd/window": "qt", "tests/window": "qt", "live4d_ophyd/view": "view"}


def always_installed(requirements):
    """Distributions that come whatever the platform and the Python."""
    return {r.name.lower() for r in map(Requirement, requirements) if r.marker is None}


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
    undeclared = set()
    for path in modules(folders):
        place = path.relative_to(ROOT)
        if str(place) in FOR_A_GPU:
            continue
        extra = OF_EXTRAS.get(str(place.parent))
        known = declared | (always_installed(EXTRAS[extra]) if extra else set())
        undeclared |= {
            f"{place}: {name}"
            for name in set(imported_at_once(path)) - ours - set(sys.stdlib_module_names)
            if not known & {distribution.lower() for distribution in DISTRIBUTIONS.get(name, [])}
        }
    assert undeclared == set()


@pytest.mark.parametrize(
    ("extra", "cuda", "admitted", "refused"),
    [
        # PyPI's torch is for CUDA 13 since 2.11; before, for CUDA 12 (and on aarch64 for none).
        ("gpu", 13, ["2.11.0", "2.15.0"], ["2.9.1", "2.10.0"]),
        ("gpu12", 12, ["2.6.0", "2.10.0"], ["2.11.0", "2.15.0"]),
    ],
)
def test_an_extra_for_a_gpu_is_of_one_cuda(extra, cuda, admitted, refused):
    requirements = {r.name: r for r in map(Requirement, EXTRAS[extra])}
    torch = requirements["torch"].specifier
    assert list(torch.filter(admitted + refused)) == admitted
    assert list(requirements["cuda-bindings"].specifier.filter(["12.9.4", "13.0.3", "14.0.0"])) == [
        {12: "12.9.4", 13: "13.0.3"}[cuda]
    ]
    assert f"nvidia-libnvcomp-cu{cuda}" in requirements
    # cuda-core's extras ask for any cuda-toolkit: resolvers then give up the torch that agrees with nvCOMP.
    assert not requirements["cuda-core"].extras
    assert "cuda-toolkit" not in requirements


def test_only_torch_for_cuda_12_on_aarch64_is_left_to_the_user():
    markers = {
        r.name: r.marker for extra in ("gpu", "gpu12") for r in map(Requirement, EXTRAS[extra]) if r.marker
    }
    assert list(markers) == ["torch"]
    assert not markers["torch"].evaluate({"platform_machine": "aarch64"})
    assert markers["torch"].evaluate({"platform_machine": "x86_64"})


def built_wheel(folder, out):
    """Names in the wheel that a build from ``folder`` gives."""
    (path,) = WheelBuilder(str(folder)).build(directory=str(out), versions=["standard"])
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_plans_and_startup_files_and_claims_no_other_name(wheel):
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"live4d_ophyd"}
    files = [*(ROOT / "plans").glob("*.py"), *(ROOT / "profile_collection" / "startup").glob("*.py")]
    assert {"focus.py", "00-base.py"} <= {path.name for path in files}
    assert {f"live4d_ophyd/{path.parent.name}/{path.name}" for path in files} <= wheel
    assert {"live4d_ophyd/py.typed", "live4d_ophyd/__init__.pyi"} <= wheel


def test_a_wheel_of_the_source_distribution_is_the_same(wheel, tmp_path):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as sources:
        sources.extractall(tmp_path, filter="data")
    folder = path.removesuffix(".tar.gz")
    for file in ("plans/focus.py", "profile_collection/startup/00-base.py"):
        assert (Path(folder) / file).exists()
    assert built_wheel(folder, tmp_path) == wheel


def test_the_plans_have_one_name():
    done = subprocess.run([sys.executable, "-c", "import plans"], cwd=ROOT, capture_output=True, text=True)
    assert "import the plans as live4d_ophyd.plans" in done.stderr


def test_the_package_says_its_public_names_and_errors():
    names = dir(live4d_ophyd)
    assert {"Live4D", "ScanGrid", "open_catalog", "plans", "AcquisitionError", "Unstorable"} <= set(names)
    assert [name for name in names if name.startswith("_")] == []
    for name in names:
        assert getattr(live4d_ophyd, name).__name__.split(".")[-1] == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = live4d_ophyd.no_such_name


def test_importing_the_package_imports_no_bluesky():
    code = "import sys, live4d_ophyd; live4d_ophyd.ScanGrid; print({'bluesky', 'ophyd', 'tiled'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_session_loads_no_kernel_before_it_uses_one():
    """The first costs half a second: numba's types, and what other packages have told it of theirs."""
    code = "import sys; from live4d_ophyd import Live4D; print({'numba', 'numba.np.arraymath'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{'numba'}"
