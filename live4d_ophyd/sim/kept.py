"""What was computed, kept within a bound: the least recently used goes first.

In: things with ``nbytes``, each a numbered part of something larger. Out: the same, or None. Any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Thing = TypeVar("Thing", bound=Sized)


class Kept(Generic[Thing]):
    """Parts by whole and number, ``bound`` bytes of them.

    A whole that is larger than the bound keeps its first parts: they would else be gone, one after the other, before
    each is asked for again.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.nbytes = 0
        self._parts: OrderedDict[tuple[Hashable, int], Thing] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, whole: Hashable, number: int) -> Thing | None:
        """A part, or None if it is not there (any more)."""
        with self._lock:
            part = self._parts.get((whole, number))
            if part is not None:
                self._parts.move_to_end((whole, number))
            return part

    def put(self, whole: Hashable, number: int, part: Thing) -> None:
        """Keep a part if there is room, also by giving up parts of other wholes."""
        with self._lock:
            if (whole, number) in self._parts:
                return
            while self.nbytes + part.nbytes > self.bound:
                if not self._parts or next(iter(self._parts))[0] == whole:
                    return
                self.nbytes -= self._parts.popitem(last=False)[1].nbytes
            self._parts[whole, number] = part
            self.nbytes += part.nbytes
