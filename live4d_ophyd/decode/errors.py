"""What can be wrong with an engine as a whole; what is wrong with one frame is a status (`framing`)."""


class EngineUnavailable(RuntimeError):
    """The engine that was asked for cannot run here; the text says why and what to do."""


class GpuError(EngineUnavailable):
    """The GPU cannot do it."""


class GpuMemoryError(GpuError):
    """The GPU's memory is full."""


class GpuLost(GpuError):
    """CUDA failed: nothing more can be done on the GPU in this process."""
