"""Plan: what one layout of frames and one demand need on the device, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from live4d_ophyd.decode.decoder import Demand
from live4d_ophyd.decode.gpu.kernels import weigh_name
from live4d_ophyd.decode.gpu.layout import Layout, Selection, select_blocks
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.format import FrameFormat


@dataclass(frozen=True)
class Maps:
    """Weight maps as lists of the pixels that have a weight, one behind the other."""

    count: int
    starts: torch.Tensor  #: (maps + 1,) int64
    places: torch.Tensor  #: (weights,) int32: which of the selected pixels
    weights: torch.Tensor  #: (weights,) float64 or int64, what they are summed in
    result: torch.dtype  #: of the sums
    kernel: str
    threads: int


@dataclass(frozen=True)
class Plan:
    """Blocks of a frame that are decoded, and what is summed of them."""

    demand: Demand
    layout: Layout
    selection: Selection
    place: torch.Tensor  #: Selection.place
    maps: Maps | None


def make_plan(frame: FrameFormat, layout: Layout, demand: Demand, device: torch.device) -> Plan:
    """The plan, its arrays on ``device``. Waits for the device."""

    def upload(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    touched = None
    if not demand.patterns:
        touched = np.zeros(frame.pixels, bool)
        for indices, _ in demand.maps.pixels if demand.maps is not None else ():
            touched[indices] = True
    selection = select_blocks(layout, frame.dtype.itemsize, touched)
    place = upload(selection.place)
    maps = None if demand.maps is None else _make_maps(frame, selection, demand.maps, upload)
    return Plan(demand, layout, selection, place, maps)


def _make_maps(
    frame: FrameFormat, selection: Selection, weights: Weights, upload: Callable[[np.ndarray], torch.Tensor]
) -> Maps:
    # Sums of integers in float64 are as exact while they stay below 2^53, and several times as fast.
    result = weights.sums_of(frame)
    exact = result == np.int64 and not weights.fit_float64(frame.dtype)
    kind = np.dtype(np.int64 if exact else np.float64)
    places = np.concatenate([np.searchsorted(selection.pixels, indices) for indices, _ in weights.pixels])
    values = np.concatenate([of_map for _, of_map in weights.pixels])
    lengths = [len(indices) for indices, _ in weights.pixels]
    longest = max(lengths)
    return Maps(
        len(lengths),
        upload(np.concatenate([[0], np.cumsum(lengths)])),
        upload(places.astype(np.int32)),
        upload(values.astype(kind)),
        torch.int64 if result == np.int64 else torch.float64,
        weigh_name(frame.dtype.name, kind.name, result.name),
        threads=32 if longest < 2048 else 128 if longest < 65536 else 1024,
    )
