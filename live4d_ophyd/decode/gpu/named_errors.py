"""What CUDA, torch and nvCOMP raise, as GpuError: whether the memory is full, the GPU lost, or a call refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from live4d_ophyd.decode.errors import EngineUnavailable, GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu.nvcomp import NvcompCallError, NvcompError


@contextmanager
def named_errors() -> Iterator[None]:
    """Raise what CUDA, torch and nvCOMP raise as GpuError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise GpuMemoryError(
            f"the GPU's memory is full ({free >> 20} of {total >> 20} MiB free): end what else uses it, take fewer "
            "connections, or engine='cpu'"
        ) from error
    except NvcompError as error:
        lost = isinstance(error, NvcompCallError) and error.cuda_failed
        raise (GpuLost if lost else GpuError)(str(error)) from error
    except (EngineUnavailable, MemoryError, OSError, ValueError, TypeError, LookupError, NotImplementedError):
        raise  # named already, or none of the GPU's
    except Exception as error:
        # cuda.core's errors share no base class with torch's.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "out of memory" in reason:
            raise GpuMemoryError(f"no pinned memory left: {reason}; take fewer connections") from error
        raise GpuLost(
            f"the GPU failed: {reason}; nothing works on it any more in this process. `live4d doctor` says what "
            "works, engine='cpu' does without a GPU"
        ) from error
