"""Workspace: the memory of one submission, on the device and pinned on the host, reused from batch to batch.

Allocations, pinned ones above all, cost as much as the kernels of a small batch. Belongs to one decoder and its stream:
what is enqueued later may take the memory that earlier work used. One thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

#: of pieces of device memory, bytes
_ALIGNMENT = 256
#: memory is made in steps of this many bytes
_GRANULE = 2 << 20


class _Memory:
    """Bytes that grow when more are asked for, and never shrink."""

    def __init__(self, make: Callable[[int], torch.Tensor]) -> None:
        self._make = make
        self._bytes: torch.Tensor | None = None

    def reserve(self, nbytes: int) -> torch.Tensor:
        """At least ``nbytes`` bytes, (n,) uint8; what was reserved before is over."""
        if self._bytes is None or self._bytes.numel() < nbytes:
            self._bytes = None  # first: both may not fit
            # A little more, as batches differ a little.
            self._bytes = self._make((nbytes + nbytes // 8) // _GRANULE * _GRANULE + _GRANULE)
        return self._bytes

    def carve(self, *nbytes: int) -> tuple[torch.Tensor, list[int]]:
        """At least so many bytes together, and where in them pieces of these lengths begin."""
        ends = list(itertools.accumulate(-(-n // _ALIGNMENT) * _ALIGNMENT for n in nbytes))
        return self.reserve(ends[-1]), [0, *ends[:-1]]


class Workspace:
    """``batch``: compressed frames and their table; ``frames``: all that a pass makes of them."""

    def __init__(self, device: torch.device) -> None:
        self.batch = _Memory(lambda n: torch.empty(n, dtype=torch.uint8, device=device))
        self.frames = _Memory(lambda n: torch.empty(n, dtype=torch.uint8, device=device))
        self._entries = _Memory(lambda n: torch.empty(n, dtype=torch.uint8, device=device))
        self._from_host = _Memory(lambda n: torch.empty(n, dtype=torch.uint8, pin_memory=True))
        self._to_host = _Memory(lambda n: torch.empty(n, dtype=torch.uint8, pin_memory=True))
        #: the newest pass is over. Waited for without spinning
        self.done = torch.cuda.Event(blocking=True)

    def upload(self, entries: np.ndarray) -> torch.Tensor:
        """(n,) int64 on the device. The pass before must be over."""
        staged = self._from_host.reserve(entries.nbytes)[: entries.nbytes].view(torch.int64)
        staged.numpy()[...] = entries
        on_device = self._entries.reserve(entries.nbytes)[: entries.nbytes].view(torch.int64)
        return on_device.copy_(staged, non_blocking=True)

    def download(self, piece: torch.Tensor) -> np.ndarray:
        """Bytes of the device as they will be on the host when `done`; valid until the next download."""
        host = self._to_host.reserve(piece.numel())[: piece.numel()]
        host.copy_(piece, non_blocking=True)
        return host.numpy()
