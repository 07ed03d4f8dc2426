"""What the GPU stage is compared with: cbor2, Python over block headers, nvCOMP's LZ4, an unfused sum in torch.

The shape of published pipelines: Python per frame and per block, a copy from pageable memory, all blocks decoded, a
synchronise per chunk.
"""

from __future__ import annotations

import struct
import time

import cbor2
import numpy as np
import torch
import zmq

from benchmarks.source import Size
from live4d_ophyd.decode.gpu.kernels import Kernels
from live4d_ophyd.decode.gpu.nvcomp import BlockTable, Nvcomp

#: frames after which it waits for the device
CHUNK = 128
_BLOCK = 8192


def _hook(decoder, tag, *_):
    # cbor2 6 passes the tag alone, earlier ones the decoder before it.
    tag = tag if isinstance(tag, cbor2.CBORTag) else decoder
    return tag.value


def image_of(raw: bytes) -> tuple[int, bytes] | None:
    """Number and compressed pixels of an image message; None for another."""
    message = cbor2.loads(raw, tag_hook=_hook)
    if message["type"] != "image":
        return None
    _, (_, _, blob) = message["data"]["threshold_1"]
    return message["image_id"], blob


class Straightforward:
    def __init__(self, size: Size) -> None:
        self._nvcomp, self._kernels = Nvcomp(int(torch.version.cuda.split(".")[0])), Kernels(0)
        mask = size.disk.weights((size.side, size.side)).astype(bool)
        self._mask = torch.from_numpy(mask).cuda().reshape(-1)
        self._item = np.dtype(size.dtype).itemsize
        self._kind = {2: torch.int16, 4: torch.int32}[self._item]
        self._total = size.side**2 * self._item
        self._starts = np.arange(0, self._total, _BLOCK)

    def sums(self, blobs: list[bytes]) -> np.ndarray:
        """(n,) int64, of n compressed frames."""
        pieces, sizes = [], []
        for blob in blobs:
            at = 12
            while at < len(blob):
                (length,) = struct.unpack_from(">I", blob, at)
                pieces.append(blob[at + 4 : at + 4 + length])
                sizes.append(length)
                at += 4 + length
        n, total, item = len(blobs), self._total, self._item
        stream = torch.cuda.current_stream()
        joined = torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8).cuda()
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        places = np.add.outer(np.arange(n) * total, self._starts).reshape(-1)
        room = np.tile(np.minimum(_BLOCK, total - self._starts), n)
        planes, pixels = torch.empty((2, n * total), dtype=torch.uint8, device="cuda")
        columns = [begins + joined.data_ptr(), sizes, places + planes.data_ptr(), room, room]
        table = torch.from_numpy(np.stack(columns).astype(np.int64)).cuda()
        status = torch.empty(len(sizes), dtype=torch.int32, device="cuda")
        self._nvcomp.lz4_decompress(
            BlockTable(len(sizes), *(row.data_ptr() for row in table), status.data_ptr()),
            0,
            0,
            stream.cuda_stream,
        )
        groups = total // (8 * item)
        self._kernels.launch(
            "unshuffle", stream, (-(-groups // 256), n), 256,
            planes.data_ptr(), pixels.data_ptr(), n, groups, total, _BLOCK, item,
        )  # fmt: skip
        counts = pixels.view(self._kind).view(n, -1)
        sums = (counts * self._mask).sum(dim=1, dtype=torch.int64)
        torch.cuda.synchronize()
        return sums.cpu().numpy()


def receive(endpoint: str, size: Size, count: int) -> tuple[np.ndarray, float]:
    """Sums of one series of ``count`` frames in one thread, (count,) float64, and seconds from its first message."""
    pipeline = Straightforward(size)
    found = np.full(count, np.nan)
    ids: list[int] = []
    blobs: list[bytes] = []
    started = 0.0
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.rcvhwm = 20_000
        socket.linger = 0
        for address in endpoint.split(","):
            socket.connect(address)
        for n in range(count + 2):  # start and end besides
            image = image_of(socket.recv())
            started = started or time.perf_counter()
            if image is not None:
                ids.append(image[0])
                blobs.append(image[1])
            if ids and (len(ids) == CHUNK or n == count + 1):
                found[ids] = pipeline.sums(blobs)
                ids, blobs = [], []
    return found, time.perf_counter() - started
