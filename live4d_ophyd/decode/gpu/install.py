"""Which CUDA the driver of this machine takes, and the command that installs packages of one CUDA that fit it."""

from __future__ import annotations

import ctypes
import platform

#: Go before those of another CUDA come: the nvCOMPs lie in one folder, where uninstalling either breaks the other, and
#: NVRTC of CUDA 13 is found before that of 12.
OF_ONE_CUDA = ("nvidia-libnvcomp-cu12", "nvidia-libnvcomp-cu13", "nvidia-cuda-nvrtc")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA, (major, minor), that NVIDIA's driver takes; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


def install_command(*replaced: str, cuda_major: int | None = None) -> str:
    """What installs the GPU's packages for a CUDA (the driver's unless given), instead of packages that do not fit."""
    if cuda_major is None:
        driver = driver_cuda()
        cuda_major = 12 if driver and driver[0] == 12 else 13
    uninstall = f"pip uninstall -y {' '.join(replaced)} && " if replaced else ""
    install = f"{uninstall}pip install 'live4d-ophyd[{'gpu12' if cuda_major == 12 else 'gpu'}]'"
    if cuda_major == 12 and platform.machine() == "aarch64" and ("torch" in replaced or not replaced):
        return f"{install}, and torch for CUDA 12 from JetPack or PyTorch's own index (PyPI has none for aarch64)"
    return install


def explain_no_gpu(torch_version: str, torch_cuda: str) -> tuple[str, str]:
    """Why a torch that is built for CUDA sees no GPU, and what to do."""
    driver = driver_cuda()
    if driver is None or driver[0] >= int(torch_cuda.partition(".")[0]):
        return f"torch {torch_version} sees no NVIDIA GPU", "does nvidia-smi show one?"
    newest = "{}.{}".format(*driver)
    found = f"torch {torch_version} is built for CUDA {torch_cuda}, the driver takes CUDA {newest} at most"
    if driver[0] < 12:
        return found, "install a driver of version 580 or newer"
    return found, f"install a driver of version 580 or newer, or {install_command('torch', *OF_ONE_CUDA)}"
