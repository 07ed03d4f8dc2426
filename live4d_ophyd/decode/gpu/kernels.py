"""The CUDA kernels of this package, compiled at first use by NVRTC: no compiler and no toolkit on the machine.

cuda.core compiles and launches them; binaries are kept in the user's cache and found again by their source.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import torch
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, Stream, launch
from cuda.core.utils import FileStreamProgramCache

from live4d_ophyd.decode.cpu import lz4
from live4d_ophyd.decode.entries import OTHER_LAYOUT
from live4d_ophyd.frames import batch, codecs, status

#: names that the kernels take from Python
_COLUMNS = (
    "STATUS", "BLOB_OFFSET", "BLOB_LENGTH", "ROWS", "COLS", "ARRAY_TAG", "ALGORITHM", "ELEM_SIZE", "COLUMNS", "IMAGE",
)  # fmt: skip
_CODECS = ("RAW", "LZ4")
_STATUSES = (
    "OK", "NOT_AN_IMAGE", "WRONG_SHAPE", "WRONG_DTYPE", "OUTSIDE_BUFFER", "BLOB_TOO_SHORT", "WRONG_TOTAL",
    "BAD_BLOCK_SIZE", "BLOCK_TRUNCATED", "BAD_LZ4", "SHORT_BLOCK", "LEFT_OVER", "WRONG_LENGTH",
)  # fmt: skip
_PLAIN = ("find_blocks", "check_blocks", "list_blocks", "judge", "copy_stored", "unshuffle", "blank_bad")
#: frames that a block of threads weighs together: they share the loads of places and weights
FRAMES_A_BLOCK = 4
#: pixels that a thread adds up in `add_frames`
PIXELS_A_THREAD = 4
#: pixel types of `weigh` and `add_frames` by numpy's name, and how its sums are named
PIXELS = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "int32": "int", "float32": "float"}
SUMS = {"float64": "double", "int64": "i64"}


def source() -> str:
    """The kernels' source, with the constants of this package in front."""
    defines = {name: getattr(batch, name) for name in _COLUMNS}
    defines |= {name: getattr(codecs, name) for name in _CODECS}
    defines |= {name: getattr(status, name) for name in _STATUSES}
    defines |= {
        "OTHER_LAYOUT": OTHER_LAYOUT,
        "LAST_LITERALS": lz4.LAST_LITERALS,
        "LAST_MATCH": lz4.LAST_MATCH,
        "PIXELS_A_THREAD": PIXELS_A_THREAD,
    }
    head = "".join(f"#define {name} ({value})\n" for name, value in defines.items())
    return head + resources.files(__package__).joinpath("kernels.cu").read_text()


def weigh_name(pixel: str, sums: str, result: str) -> str:
    """The kernel that weighs ``pixel``, sums in ``sums`` and returns ``result`` (numpy's names)."""
    return f"weigh_{pixel}_{sums}_{result}"


def add_frames_name(pixel: str) -> str:
    """The kernel that adds frames of ``pixel`` (numpy's name) to a sum over frames."""
    return f"add_frames_{pixel}"


def _instance(name: str) -> str:
    """Source of the instance of `weigh` or `add_frames` that is called ``name``."""
    if name.startswith("add_frames_"):
        pixel = PIXELS[name.removeprefix("add_frames_")]
        # CUDA adds unsigned integers atomically; in two's complement it is the same sum.
        total = "double" if pixel == "float" else "u64"
        return f"""
extern "C" __global__ void {name}(const u8* patterns, i64 stride, const i64* take, i64 first, i64 n, i64 pixels,
    i64 chunk, i64 limited, i64 limit, {total}* total, u64* valid) {{
    add_frames<{pixel}, {total}>(patterns, stride, take, first, n, pixels, chunk, limited, limit, total, valid);
}}
"""
    _, pixel, sums, result = name.split("_")
    return f"""
extern "C" __global__ void {name}(const u8* decoded, i64 stride, i64 n, i64 maps, const i64* starts,
    const int* places, const {SUMS[sums]}* weights, const int* status, i64 rule, i64 limit, i64 counted,
    {SUMS[result]}* sums, u8* saturated, u8* flagged) {{
    weigh<{PIXELS[pixel]}, {SUMS[sums]}, {SUMS[result]}, {FRAMES_A_BLOCK}>(
        decoded, stride, n, maps, starts, places, weights, status, rule, limit, counted, sums, saturated, flagged);
}}
"""


def compile_kernels(names: Sequence[str], architecture: str, cache: Any = None) -> Any:
    """cuda.core ObjectCode for ``architecture`` (``sm_90``): the plain kernels, and ``names``."""
    code = source() + "".join(map(_instance, names))
    return Program(code, "c++", ProgramOptions(arch=architecture, std="c++17")).compile("cubin", cache=cache)


@cache
def kernels_of(device: int) -> Kernels:
    """Those of a device, by its number."""
    with torch.cuda.device(device):
        return Kernels(device)


class Kernels:
    """Compiled kernels for one device, which is the current one in threads that launch them; they may share these."""

    def __init__(self, number: int) -> None:
        device = Device(number)
        device.set_current()
        self._architecture = f"sm_{device.arch}"
        self._cache = FileStreamProgramCache()
        self._lock = threading.Lock()
        self._kernels: dict[str, Any] = {}
        self._configs: dict[tuple, LaunchConfig] = {}
        self._streams: dict[int, Stream] = {}
        # Those that streams need; others are compiled when they are.
        counts = ("uint8", "uint16", "uint32")
        self._load(
            [weigh_name(pixel, "float64", "int64") for pixel in counts] + [*map(add_frames_name, counts)]
        )

    def _load(self, names: list[str]) -> None:
        with self._lock:
            missing = [name for name in names if name not in self._kernels]
            if missing or not self._kernels:
                code = compile_kernels(missing, self._architecture, self._cache)
                wanted = missing if self._kernels else [*_PLAIN, *missing]
                self._kernels |= {name: code.get_kernel(name) for name in wanted}

    def launch(
        self, name: str, stream: torch.cuda.Stream, grid: int | tuple[int, ...], block: int, *args: int
    ) -> None:
        """Enqueue a kernel; integers and addresses are all it takes, 8 bytes each."""
        if name not in self._kernels:
            self._load([name])
        shape = (grid, block)
        config = self._configs.get(shape)
        if config is None:
            config = LaunchConfig(grid=grid, block=block)
            if len(self._configs) < 4096:
                self._configs[shape] = config
        launch(self._stream(stream), config, self._kernels[name], *args)

    def _stream(self, stream: torch.cuda.Stream) -> Stream:
        handle = stream.cuda_stream
        if handle not in self._streams:
            self._streams[handle] = Stream.from_handle(handle)
        return self._streams[handle]
