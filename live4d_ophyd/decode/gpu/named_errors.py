"""What CUDA, torch and nvCOMP raise, as GpuError: whether the memory is full, the GPU lost, or a call refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from live4d_ophyd.decode.errors import BackendUnavailable, GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu.nvcomp import NvcompCallError, NvcompError

#: named already, or none of the GPU's
_OTHERS = (BackendUnavailable, MemoryError, OSError, ValueError, TypeError, LookupError, NotImplementedError)


@contextmanager
def named_errors(device: Any = None) -> Iterator[None]:
    """Raise what CUDA, torch and nvCOMP raise as GpuError; ``device`` is where, None the current one."""
    try:
        yield
    except _OTHERS:
        raise
    except Exception as error:
        raise as_gpu_error(error, device) from error


def as_gpu_error(error: BaseException, device: Any = None) -> Exception:
    """The GpuError of what CUDA, torch and nvCOMP raise."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        free, total = torch.cuda.mem_get_info(device)
        return GpuMemoryError(
            f"the GPU's memory is full ({free >> 20} of {total >> 20} MiB free)",
            remedy="end what else uses it, take fewer connections, or backend='cpu'",
        )
    if isinstance(error, NvcompError):
        lost = isinstance(error, NvcompCallError) and error.cuda_failed
        return (GpuLost if lost else GpuError)(error.reason, remedy=error.remedy)
    # cuda.core's errors share no base class with torch's.
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "out of memory" in reason:
        return GpuMemoryError(f"no pinned memory left: {reason}; take fewer connections")
    return GpuLost(
        f"the GPU failed: {reason}; nothing works on it any more in this process. `live4d doctor` says what works, "
        "backend='cpu' does without a GPU"
    )
