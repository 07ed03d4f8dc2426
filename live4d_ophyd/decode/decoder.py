"""Decoder: frames to numbers, once for all that wants them.

In: a batch of compressed frames and a Demand, what all methods of an acquisition need of a frame together. Out: parts,
each with sums under all weight maps, or decoded patterns, or both, where they were decoded. A decoder belongs to one
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.batch import BatchMemory, FrameBatch
from live4d_ophyd.frames.format import FrameFormat


@dataclass(frozen=True, eq=False)
class Demand:
    """What is needed of every frame. At least one of the two."""

    maps: Weights | None  #: sums under these, all projections stacked
    patterns: bool = False  #: the decoded frame


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the entries that were submitted. Its arrays are valid until the next part is asked for."""

    at: np.ndarray  #: which of the submitted entries, (n,) int64
    status: np.ndarray  #: (n,) int64 on the host: 0, or why a frame has no numbers (`frames.status`)
    flagged: np.ndarray  #: (n,) bool on the host: a pixel that a map weighs holds no count
    sums: Any | None  #: (n, maps) int64 or float64 where it was decoded; 0 where the status is not 0
    saturated: Any | None  #: (n, maps) bool where it was decoded: a pixel that this map weighs holds no count
    #: (n, q_y, q_x) of the frames' dtype where it was decoded; 0 where the status is not 0
    patterns: Any | None


class Decoded(Protocol):
    """Frames under way in a decoder, or there already."""

    @property
    def ready(self) -> bool:
        """Whether `parts` need not wait for the first of them."""

    def parts(self) -> Iterator[Part]:
        """All entries, each in one part. Waits for the device; once."""


class Decoder(Protocol):
    """What the CPU's and the GPU's decoder both do. A frame is copied and decoded once, whatever is demanded of it."""

    backend: str  #: "cpu" or "gpu"
    format: FrameFormat
    copies: int  #: batches that were copied to the device so far; 0 on a CPU
    decodes: int  #: passes over a batch so far

    def submit(self, batch: FrameBatch, entries: np.ndarray | None, demand: Demand) -> Decoded:
        """Begin to decode ``entries`` (n,) of the batch, by default all frames.

        The batch must stay as it is until the last part was taken. Raises ValueError when maps are for another shape,
        or integer sums could overflow; IndexError for entries outside the batch.
        """

    def working(self) -> AbstractContextManager[None]:
        """Where work on the arrays of a part is done: in the decoder's CUDA stream, errors of it as GpuError."""


class Backend(Protocol):
    """Where frames are decoded. Gives receive threads memory for their messages and a decoder each."""

    name: str  #: "cpu" or "gpu"
    detail: str  #: what it runs on, or why it was chosen
    in_flight: int  #: batches of a receive thread that may be under way while it receives the next

    def of_lane(self, lane: int) -> Backend:
        """Where this lane's frames are decoded: with several devices, lanes go to them in turn."""

    @property
    def memory(self) -> BatchMemory:
        """What batches of messages are to be, for this backend."""

    def decoder(self, frame: FrameFormat, *, saturation: Saturation) -> Decoder:
        """A decoder for one receive thread."""
