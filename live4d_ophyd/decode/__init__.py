"""Compressed frames to numbers: sums under weight maps, or pixels. One interface, whatever does the work."""

from live4d_ophyd.decode.arrays import decode_array
from live4d_ophyd.decode.backend import (
    ENGINES,
    Backend,
    CpuBackend,
    Decoder,
    Sums,
    choose_backend,
)
from live4d_ophyd.decode.cpu import CpuDecoder, warm_up
from live4d_ophyd.decode.errors import EngineUnavailable, GpuLost
from live4d_ophyd.decode.framing import DecodeError, FrameFormat, describe_status
from live4d_ophyd.decode.saturation import Projected, Saturation
from live4d_ophyd.decode.weights import Weights

__all__ = [
    "ENGINES",
    "Backend",
    "CpuBackend",
    "CpuDecoder",
    "DecodeError",
    "Decoder",
    "EngineUnavailable",
    "FrameFormat",
    "GpuLost",
    "Projected",
    "Saturation",
    "Sums",
    "Weights",
    "choose_backend",
    "decode_array",
    "describe_status",
    "warm_up",
]
