"""Compressed frames to numbers: sums under weight maps, or pixels. One interface, whatever does the work."""

from live4d_ophyd.decode.backend import BACKENDS, CpuBackend, choose_backend, devices_of
from live4d_ophyd.decode.cpu.array_decoder import decode_array
from live4d_ophyd.decode.cpu.decoder import CpuDecoder, warm_up
from live4d_ophyd.decode.decoder import Backend, Decoded, Decoder, Demand, Part
from live4d_ophyd.decode.errors import BackendUnavailable, GpuLost
from live4d_ophyd.decode.frame_sums import sum_over_frames
from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.frames.status import DecodeError, describe_status

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailable",
    "CpuBackend",
    "CpuDecoder",
    "DecodeError",
    "Decoded",
    "Decoder",
    "Demand",
    "FrameFormat",
    "GpuLost",
    "Part",
    "Saturation",
    "Weights",
    "choose_backend",
    "decode_array",
    "describe_status",
    "devices_of",
    "sum_over_frames",
    "warm_up",
]
