"""RunNotes: what a device knows of the run that it is in: the header's words, shapes of arrays, baseline.

A descriptor gives each array one shape for the whole run; storage would pad or cut others. Runs in the RunEngine's
thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

#: values of a reading that are noted
_MOST_VALUES = 100


class RunNotes:
    """Of the run that goes on, as far as the device is told."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}  #: plan_name, scan_id, uid
        self.began: float | None = None  #: Unix time
        self.baseline: dict[str, Any] = {}  #: readings of the stream "baseline", the first
        self._baseline_descriptor = ""
        self._described: dict[str, tuple[int, ...]] = {}

    def note(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document of the RunEngine."""
        if name == "start":
            self.header = {key: doc[key] for key in ("plan_name", "scan_id", "uid") if key in doc}
            self.began, self.baseline = doc.get("time"), {}
            self.clear_shapes()
        elif name == "stop" and doc["run_start"] == self.header.get("uid"):
            self.header, self.began, self.baseline = {}, None, {}
            self.clear_shapes()
        elif name == "descriptor" and doc.get("name") == "baseline":
            self._baseline_descriptor = doc["uid"]
        elif name == "event" and doc["descriptor"] == self._baseline_descriptor and not self.baseline:
            self.baseline = dict(_plain(doc["data"]))

    def describe(self, keys: Mapping[str, Mapping[str, Any]]) -> None:
        """Note the shapes of a descriptor."""
        self._described = {
            key: tuple(entry["shape"]) for key, entry in keys.items() if entry["dtype"] == "array"
        }

    @property
    def arrays(self) -> Set[str]:
        """Data keys of the arrays that the descriptor has."""
        return self._described.keys()

    def clear_shapes(self) -> None:
        """The next Event may begin a run."""
        self._described = {}

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError for arrays of another shape than the descriptor of this run has."""
        for key, shape in shapes.items():
            before = self._described.get(key, shape)
            if shape != before:
                raise ValueError(
                    f"{key} would have the shape {shape} after Events of {before} in the same run: take it in a run of "
                    "its own (within one stage: RE.subscribe(live4d.note_run) tells the device where a run begins)"
                )


def _plain(readings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those of a few numbers or texts, as plain values; others do not fit into the notes of a file."""
    for key, value in readings.items():
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            continue
        if array.size <= _MOST_VALUES and array.dtype.kind in "biufU":
            yield key, array.tolist()
