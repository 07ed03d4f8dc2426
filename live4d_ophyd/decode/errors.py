"""Errors of a backend as a whole. A frame that cannot be decoded has a status instead (`frames.status`)."""

from typing import ClassVar


class BackendUnavailable(RuntimeError):
    """The backend that was asked for cannot run here.

    ``reason`` says why; ``remedy`` what to do, "" where the reason says it or nothing is known. The text is both.
    """

    #: what it says besides the reason: keyword arguments, and attributes
    details: ClassVar[tuple[str, ...]] = ("remedy",)

    def __init__(self, reason: str = "", *, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class GpuError(BackendUnavailable):
    """The GPU cannot do it."""


class GpuMemoryError(GpuError):
    """The GPU's memory is full."""


class GpuLost(GpuError):
    """CUDA failed: nothing more can be done on the GPU in this process."""
