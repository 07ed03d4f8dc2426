"""A mismatch of torch, nvCOMP and driver is named with the command that mends it."""

import ctypes
import platform
from types import SimpleNamespace

import pytest

from live4d_ophyd.decode.gpu import install as cuda_install
from live4d_ophyd.decode.gpu.install import OF_ONE_CUDA, driver_cuda, explain_no_gpu, install_command

WITHOUT_NVCOMP = "pip uninstall -y nvidia-libnvcomp-cu12 nvidia-libnvcomp-cu13 nvidia-cuda-nvrtc && "
WITHOUT_BOTH = "pip uninstall -y torch nvidia-libnvcomp-cu12 nvidia-libnvcomp-cu13 nvidia-cuda-nvrtc && "
GPU, GPU12 = ("pip install 'live4d-ophyd[gpu]'", "pip install 'live4d-ophyd[gpu12]'")


def libcuda(version, status=0):
    """libcuda.so.1 as far as it says its version."""

    def get_version(pointer):
        pointer._obj.value = version
        return status

    return lambda _: SimpleNamespace(cuDriverGetVersion=get_version)


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return request.param


def with_driver(monkeypatch, cuda):
    monkeypatch.setattr(cuda_install, "driver_cuda", lambda: cuda)


@pytest.mark.parametrize(
    ("library", "cuda"),
    [
        (libcuda(13020), (13, 2)),
        (libcuda(12080), (12, 8)),
        (libcuda(0, status=100), None),
        (no_library, None),
    ],
)
def test_the_driver_says_its_cuda(monkeypatch, library, cuda):
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert driver_cuda() == cuda


@pytest.mark.parametrize("driver", [None, (13, 0), (13, 5)])
def test_cuda_13_is_installed_where_the_driver_does_not_forbid_it(monkeypatch, machine, driver):
    with_driver(monkeypatch, driver)
    assert install_command() == GPU
    assert install_command("torch", *OF_ONE_CUDA) == WITHOUT_BOTH + GPU


def test_a_driver_for_cuda_12_gets_the_packages_for_it(monkeypatch, machine):
    with_driver(monkeypatch, (12, 6))
    command = install_command("torch", *OF_ONE_CUDA)
    assert command.startswith(WITHOUT_BOTH + GPU12)
    # PyPI has no such torch for aarch64, and the extra asks for none there.
    assert ("JetPack" in command) == (machine == "aarch64")


def test_a_torch_that_works_is_left_alone(monkeypatch, machine):
    with_driver(monkeypatch, (13, 0))
    assert install_command(*OF_ONE_CUDA, cuda_major=12) == WITHOUT_NVCOMP + GPU12


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "words", "command"),
    [
        (None, "13.0", "sees no NVIDIA GPU", "does nvidia-smi show one?"),
        ((13, 0), "13.2", "sees no NVIDIA GPU", "does nvidia-smi show one?"),
        ((12, 8), "12.8", "sees no NVIDIA GPU", "does nvidia-smi show one?"),
        ((12, 8), "13.2", "built for CUDA 13.2, the driver takes CUDA 12.8 at most", WITHOUT_BOTH + GPU12),
        ((11, 4), "12.8", "built for CUDA 12.8, the driver takes CUDA 11.4 at most", "580 or newer"),
    ],
)
def test_a_driver_too_old_is_told_from_a_gpu_that_is_not_there(
    monkeypatch, driver, torch_cuda, words, command
):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with_driver(monkeypatch, driver)
    reason, remedy = explain_no_gpu("2.15.0", torch_cuda)
    assert words in reason
    assert remedy.endswith(command)
