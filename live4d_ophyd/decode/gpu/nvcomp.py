"""nvCOMP's low-level batched decompression by ctypes: blocks on the GPU to bytes on the GPU, in a CUDA stream.

The library is that of the wheels nvidia-libnvcomp-cu12 and -cu13. Constants, structures and limits are those of its
headers, nvcomp/lz4.h, zstd.h and shared_types.h of versions 5.2 to 6.0.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

from live4d_ophyd.decode.gpu.install import OF_ONE_CUDA, install_command

#: oldest version with an inverse bit-shuffle in LZ4, and the first one not known to work
VERSIONS = ((5, 2), (7, 0))

_SUCCESS = 0
_BACKEND_CUDA = 2
_LSB_FIRST = 2
#: element size -> nvcompType_t of unsigned integers
_UNSIGNED = {1: 1, 2: 3, 4: 5}


class NvcompError(RuntimeError):
    """nvCOMP is missing, or of the wrong version; ``reason`` and ``remedy`` as those of `BackendUnavailable`."""

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class NvcompCallError(NvcompError):
    """nvCOMP refused a call; ``status`` is its nvcompStatus_t."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call} failed with nvcompStatus_t {status}")
        self.status = status

    @property
    def cuda_failed(self) -> bool:
        """nvcompErrorCudaError or nvcompErrorInternal: not the call was wrong, the device is."""
        return self.status in (1000, 10000)


class Lz4Options(ctypes.Structure):
    """nvcompBatchedLZ4DecompressOpts_t."""

    _fields_ = [
        ("backend", ctypes.c_int),
        ("sort_before_hw_decompress", ctypes.c_int),
        ("data_type", ctypes.c_int),
        ("bitshuffle_mode", ctypes.c_int),
        ("reserved", ctypes.c_char * 48),
    ]


class ZstdOptions(ctypes.Structure):
    """nvcompBatchedZstdDecompressOpts_t."""

    _fields_ = [("backend", ctypes.c_int), ("reserved", ctypes.c_char * 60)]


class _Properties(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("cudart_version", ctypes.c_uint32)]


@dataclass(frozen=True)
class BlockTable:
    """``count`` blocks, as addresses of arrays on the device (8-byte entries but ``status``, which has 4)."""

    count: int
    source: int  #: where each block begins
    source_bytes: int
    target: int  #: where it goes
    target_bytes: int  #: bytes it may take there
    actual: int  #: receives the bytes it took
    status: int  #: receives 0, or what was wrong


def lz4_options(unshuffle: int = 0) -> Lz4Options:
    """``unshuffle``: size of the elements whose bits are shuffled, 0: none are.

    Blocks of up to 8192 bytes; nvCOMP would un-shuffle larger ones in pieces of that size.
    """
    if not unshuffle:
        return Lz4Options(backend=_BACKEND_CUDA)
    return Lz4Options(backend=_BACKEND_CUDA, data_type=_UNSIGNED[unshuffle], bitshuffle_mode=_LSB_FIRST)


class Nvcomp:
    """The loaded library. Raises NvcompError where there is none that fits ``cuda_major``."""

    def __init__(self, cuda_major: int) -> None:
        install = install_command(*OF_ONE_CUDA, cuda_major=cuda_major)
        try:
            package = importlib.import_module("nvidia.libnvcomp")
            self._library = package.load_library()
        except (ImportError, OSError, AttributeError) as error:
            raise NvcompError(f"nvCOMP is not installed ({error})", remedy=install) from error
        if self._library is None:
            raise NvcompError("nvCOMP's library is not where its package should have it", remedy=install)
        properties = _Properties()
        self._check("nvcompGetProperties", self._library.nvcompGetProperties(ctypes.byref(properties)))
        packed = properties.version
        self.version = (packed // 1000, packed % 1000 // 100, packed % 100)
        self.cuda_major = properties.cudart_version // 1000
        if not VERSIONS[0] <= self.version[:2] < VERSIONS[1]:
            raise NvcompError(f"nvCOMP {self.name} is installed, 5.2 to 6 is needed", remedy=install)
        if self.cuda_major != cuda_major:
            raise NvcompError(
                f"nvCOMP {self.name} is built for CUDA {self.cuda_major}, torch for CUDA {cuda_major}",
                remedy=install,
            )
        self._temp_bytes: dict[tuple, int] = {}

    @property
    def name(self) -> str:
        """Version as text, ``6.0.0``."""
        return ".".join(map(str, self.version))

    def lz4_temp_bytes(self, count: int, largest: int, unshuffle: int = 0) -> int:
        """Bytes of device memory that decompressing ``count`` blocks of up to ``largest`` bytes takes besides."""
        return self._get_temp_bytes("LZ4", count, largest, lz4_options(unshuffle))

    def zstd_temp_bytes(self, count: int, largest: int) -> int:
        return self._get_temp_bytes("Zstd", count, largest, ZstdOptions(backend=_BACKEND_CUDA))

    def lz4_decompress(
        self, table: BlockTable, temp: int, temp_bytes: int, stream: int, unshuffle: int = 0
    ) -> None:
        """Enqueue on ``stream``; nothing is waited for."""
        self._decompress("LZ4", table, temp, temp_bytes, lz4_options(unshuffle), stream)

    def zstd_decompress(self, table: BlockTable, temp: int, temp_bytes: int, stream: int) -> None:
        """Enqueue on ``stream``; nothing is waited for."""
        self._decompress("Zstd", table, temp, temp_bytes, ZstdOptions(backend=_BACKEND_CUDA), stream)

    def _get_temp_bytes(self, algorithm: str, count: int, largest: int, options: ctypes.Structure) -> int:
        key = (algorithm, count, largest, bytes(options))
        if key not in self._temp_bytes:
            size = ctypes.c_size_t()
            arguments = [
                ctypes.c_size_t(count), ctypes.c_size_t(largest), options, ctypes.byref(size),
                ctypes.c_size_t(count * largest),
            ]  # fmt: skip
            name = f"nvcompBatched{algorithm}DecompressGetTempSize"
            if hasattr(self._library, name):
                arguments.append(ctypes.c_void_p(0))  # version 6 asks for a stream, and does nothing in it
            else:
                name += "Async"
            self._check(name, getattr(self._library, name)(*arguments))
            self._temp_bytes[key] = size.value
        return self._temp_bytes[key]

    def _decompress(
        self,
        algorithm: str,
        table: BlockTable,
        temp: int,
        temp_bytes: int,
        options: ctypes.Structure,
        stream: int,
    ) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        name = f"nvcompBatched{algorithm}DecompressAsync"
        status = getattr(self._library, name)(
            pointer(table.source), pointer(table.source_bytes), pointer(table.target_bytes), pointer(table.actual),
            size(table.count), pointer(temp), size(temp_bytes), pointer(table.target), options,
            pointer(table.status), pointer(stream),
        )  # fmt: skip
        self._check(name, status)

    def _check(self, call: str, status: int) -> None:
        if status != _SUCCESS:
            raise NvcompCallError(call, status)
