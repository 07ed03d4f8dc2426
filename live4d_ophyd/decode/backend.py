"""Where frames are decoded: the CPU, or a GPU if there is one that works. Nothing outside decode/ needs to know.

A backend gives receive threads memory for their messages and a decoder each.
"""

from __future__ import annotations

import importlib
import logging
import re
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from live4d_ophyd.decode.cpu import decoder as cpu
from live4d_ophyd.decode.decoder import Backend, Decoder, Demand
from live4d_ophyd.decode.errors import BackendUnavailable, GpuError, GpuLost
from live4d_ophyd.decode.gpu.install import OF_ONE_CUDA, explain_no_gpu, install_command
from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    LENGTH,
    ROWS,
    BatchMemory,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import BSLZ4
from live4d_ophyd.frames.format import FrameFormat

log = logging.getLogger(__name__)

BACKENDS = ("auto", "cpu", "gpu")
_SEVERAL = re.compile(r"gpu:(\d{1,3}(?:,\d{1,3})*)")

#: messages received before they are decoded: few enough to be in the cache still, enough for the Python between; a GPU
#: wants thousands of blocks at a time
_CPU_BATCH_BYTES, _GPU_BATCH_BYTES = 4 << 20, 16 << 20


class CpuBackend:
    """Sums on the cores of the receive threads."""

    name = "cpu"
    in_flight = 0

    def __init__(self, detail: str = "asked for") -> None:
        self.detail = detail

    def of_lane(self, lane: int) -> CpuBackend:
        return self

    @property
    def memory(self) -> BatchMemory:
        return BatchMemory(_CPU_BATCH_BYTES)

    def decoder(self, frame: FrameFormat, *, saturation: Saturation) -> Decoder:
        return cpu.CpuDecoder(frame, saturation=saturation)


class GpuBackend:
    """nvCOMP on GPU number ``device``. Raises BackendUnavailable unless a frame comes out of it right.

    ``fallback`` decodes series whose decoder cannot be made, for lack of memory or of a kernel.
    """

    name = "gpu"
    in_flight = 2

    def __init__(self, fallback: Backend | None = None, device: int = 0) -> None:
        self._fallback = fallback
        self._device = device
        self._streams: list[Any] = []
        torch = _import("torch")
        if torch.version.cuda is None:
            raise BackendUnavailable(
                f"torch {torch.__version__} is built without CUDA",
                remedy=install_command("torch", *OF_ONE_CUDA),
            )
        if not torch.cuda.is_available():
            reason, remedy = explain_no_gpu(torch.__version__, torch.version.cuda)
            raise BackendUnavailable(reason, remedy=remedy)
        if device >= torch.cuda.device_count():
            raise BackendUnavailable(
                f"there is no GPU {device}: this process sees {torch.cuda.device_count()}",
                remedy="they are counted from 0; `nvidia-smi -L` lists them, CUDA_VISIBLE_DEVICES hides some",
            )
        self._gpu = _import("live4d_ophyd.decode.gpu.decoder")
        self._named_errors = self._gpu.named_errors
        kernels = _import("live4d_ophyd.decode.gpu.kernels")
        nvcomp = _import("live4d_ophyd.decode.gpu.nvcomp")
        self._torch = torch
        with self._named_errors(device), torch.cuda.device(device):
            self._nvcomp = nvcomp.Nvcomp(int(torch.version.cuda.split(".")[0]))
            self._kernels = kernels.kernels_of(device)
            self.detail = f"{torch.cuda.get_device_name(device)}, nvCOMP {self._nvcomp.name}"
            self._try_out()

    def of_lane(self, lane: int) -> GpuBackend:
        return self

    @property
    def memory(self) -> BatchMemory:
        return BatchMemory(_GPU_BATCH_BYTES, 4096, self._pinned)

    def _pinned(self, n: int) -> np.ndarray:
        torch = self._torch
        with self._named_errors(self._device), torch.cuda.device(self._device):
            pinned: np.ndarray = torch.empty(n, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned

    def decoder(self, frame: FrameFormat, *, saturation: Saturation) -> Decoder:
        try:
            # One step: another receive thread may take the last one between a look and the pop. No lock: what gives
            # streams back is the garbage collector, in any thread, also in one that has the lock.
            stream = self._streams.pop()
        except IndexError:
            stream = None
        try:
            decoder = self._gpu.GpuDecoder(
                frame,
                self._nvcomp,
                self._kernels,
                device=self._device,
                saturation=saturation,
                stream=stream,
            )
            # torch keeps freed memory for the stream that used it: a new one for every scan would hoard it.
            weakref.finalize(decoder, self._streams.append, decoder.stream)
            return decoder
        except GpuLost:
            raise
        except (GpuError, ValueError) as error:
            if stream is not None:
                self._streams.append(stream)
            if self._fallback is None:
                raise
            log.warning("the CPU decodes this series: %s", error)
            return self._fallback.decoder(frame, saturation=saturation)

    def _try_out(self) -> None:
        """Decode one known frame: 64 pixels of 1, bit planes stored in LZ4 literals."""
        frame = FrameFormat(8, 8, np.dtype(np.uint16))
        planes = bytes([255] * 8 + [0] * 120)
        block = bytes([0xF0, 113]) + planes
        blob = (128).to_bytes(8, "big") + (8192).to_bytes(4, "big") + len(block).to_bytes(4, "big") + block
        batch = FrameBatch.from_messages([blob])
        row = batch.index[0]
        row[[BLOB_OFFSET, BLOB_LENGTH, LENGTH]] = 0, len(blob), len(blob)
        row[[ROWS, COLS, ARRAY_TAG, ALGORITHM, ELEM_SIZE]] = 8, 8, frame.tag, BSLZ4, 2
        decoder = self._gpu.GpuDecoder(frame, self._nvcomp, self._kernels, device=self._device)
        ones = Weights(np.ones((1, 8, 8), np.int64))
        (part,) = decoder.submit(batch, None, Demand(ones, patterns=True)).parts()
        with decoder.working():
            found, pixels = int(part.sums[0, 0]), part.patterns.cpu().numpy()
        if part.status[0] != 0 or found != 64 or (pixels != 1).any():
            raise GpuError(
                f"{self.detail} decodes a known frame to {found} instead of 64 (status {part.status[0]})"
            )


class SeveralGpus:
    """GPUs of one host, to which lanes go in turn. The same one may be there twice."""

    name = "gpu"
    in_flight = GpuBackend.in_flight

    def __init__(self, gpus: Sequence[Backend]) -> None:
        self._gpus = gpus
        self.detail = "; ".join(gpu.detail for gpu in gpus)

    def of_lane(self, lane: int) -> Backend:
        return self._gpus[lane % len(self._gpus)]

    @property
    def memory(self) -> BatchMemory:
        return self._gpus[0].memory

    def decoder(self, frame: FrameFormat, *, saturation: Saturation) -> Decoder:
        return self._gpus[0].decoder(frame, saturation=saturation)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendUnavailable(str(error), remedy=install_command()) from error


def devices_of(backend: str) -> tuple[int, ...]:
    """The GPUs that ``backend`` names: (0, 1) for "gpu:0,1", () where it names none.

    Raises ValueError for what is no backend.
    """
    if backend in BACKENDS:
        return ()
    match = _SEVERAL.fullmatch(backend)
    if match is None:
        raise ValueError(
            f"backend is {backend!r}; it is one of {', '.join(BACKENDS)}, or names GPUs: gpu:0,1"
        )
    return tuple(map(int, match[1].split(",")))


def choose_backend(wanted: str) -> Backend:
    """The backend for ``wanted``: "cpu", "gpu", or "auto", which takes the GPU if it works.

    "gpu" is GPU 0; "gpu:2" another one, "gpu:0,1" two of them, to which connections go in turn. Raises
    BackendUnavailable for "gpu" without one.
    """
    devices = devices_of(wanted)
    if wanted == "cpu":
        return CpuBackend()
    if len(devices) > 1:
        return SeveralGpus([GpuBackend(device=device) for device in devices])
    if wanted != "auto":
        return GpuBackend(device=devices[0] if devices else 0)
    try:
        backend: Backend = GpuBackend(fallback=CpuBackend("the GPU could not take this series"))
    except BackendUnavailable as error:
        backend = CpuBackend(f"no GPU: {error}")
    log.info("backend 'auto' takes the %s (%s)", backend.name, backend.detail)
    return backend
