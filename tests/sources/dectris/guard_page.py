"""Memory that ends at a page nobody may touch: a read one byte too far ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PROT_NONE = 0


class GuardedMemory:
    """Writable pages followed by one without access; messages are placed against it."""

    def __init__(self, pages: int = 4) -> None:
        self._map = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.end = start + pages * mmap.PAGESIZE
        self._bytes = np.frombuffer(self._map, np.uint8)[: pages * mmap.PAGESIZE]
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self.end), ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, message: bytes) -> int:
        """Copy the message so that it ends where the guard page begins; its address."""
        if message:
            self._bytes[-len(message) :] = np.frombuffer(message, np.uint8)
        return self.end - len(message)
