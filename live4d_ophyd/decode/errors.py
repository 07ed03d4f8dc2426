"""What can be wrong with an engine as a whole; what is wrong with one frame is a status (`framing`)."""

from typing import ClassVar


class EngineUnavailable(RuntimeError):
    """The engine that was asked for cannot run here.

    ``reason`` says why; ``remedy`` what to do, "" where the reason says it or nothing is known. The text is both.
    """

    #: what it says besides the reason: keyword arguments, and attributes
    details: ClassVar[tuple[str, ...]] = ("remedy",)

    def __init__(self, reason: str = "", *, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class GpuError(EngineUnavailable):
    """The GPU cannot do it."""


class GpuMemoryError(GpuError):
    """The GPU's memory is full."""


class GpuLost(GpuError):
    """CUDA failed: nothing more can be done on the GPU in this process."""
