"""One stream of a stored run: each thing that is asked of the catalog is a request, and is asked for once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np


class StoredStream:
    """What the client of a stream gives. It is of the time when it was asked for: a run that goes on has more."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._arrays: dict[str, Any] = {}
        self.metadata: Mapping[str, Any] = client.metadata

    @cached_property
    def keys(self) -> frozenset[str]:
        """Columns and arrays that are stored; none before the first Event."""
        return frozenset(self._client)

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """One plain value an Event."""
        dataset = self._client.read(list(names))
        return {name: dataset[name].values.tolist() for name in names}

    def events(self, key: str) -> int:
        """How many Events an array has."""
        return int(self._array(key).shape[0])

    def array(self, key: str, events: slice) -> np.ndarray:
        """That of these Events, (events, ...)."""
        return np.asarray(self._array(key).read(events))

    def _array(self, key: str) -> Any:
        if key not in self._arrays:
            # The base has arrays by their own names; the stream asks twice for all its keys before it finds one, which
            # may be a column.
            try:
                self._arrays[key] = getattr(self._client, "base", self._client)[key]
            except KeyError:
                self._arrays[key] = self._client[key]
        return self._arrays[key]
