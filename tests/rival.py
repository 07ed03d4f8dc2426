"""A thread that comes in between two steps of another one, where a test says, unless a lock keeps it out."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

#: how long a rival may take to do its work where nothing keeps it out, s
_TIME_S = 0.3


class Rival:
    """Does ``work`` in a thread of its own when it comes in for the first time."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=work, daemon=True)

    def come_in(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(_TIME_S)

    def finish(self) -> None:
        """Wait until its work is done. It must have come in."""
        assert self._thread.ident is not None
        self._thread.join(10)
        assert not self._thread.is_alive()


def array_read_before(rival: Rival, array: np.ndarray) -> np.ndarray:
    """The array, whose elements are read just before the rival comes in."""

    class Array(np.ndarray):
        def __getitem__(self, index):
            value = super().__getitem__(index)
            rival.come_in()
            return value

    return array.view(Array)


def number_read_before(rival: Rival) -> int:
    """0; the rival comes in before a number is added to it, or taken from it."""

    class Number(int):
        def __add__(self, other):
            rival.come_in()
            return int(self) + other

    return Number(0)


def dict_read_before(rival: Rival, values: dict) -> dict:
    """The dict, whose values are read just before the rival comes in."""

    class Dict(type(values)):
        def __getitem__(self, key):
            value = super().__getitem__(key)
            rival.come_in()
            return value

        def get(self, key, default=None):
            value = super().get(key, default)
            rival.come_in()
            return value

    return Dict(values)


def dict_walked_beside(rival: Rival, values: dict, way: str) -> dict:
    """The dict; the rival comes in while its ``way``, "keys" or "items", is gone through."""

    class Dict(type(values)):
        def __iter__(self):
            for key in super().__iter__():
                if way == "keys":
                    rival.come_in()
                yield key

        def items(self):
            for item in super().items():
                if way == "items":
                    rival.come_in()
                yield item

    return Dict(values)
