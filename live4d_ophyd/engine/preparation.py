"""What the frames of a series are summed under: pixel mask and weights, kept for the series that follow.

Both take time for millions of pixels. What they are made of seldom changes from one series to the next.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from live4d_ophyd.decode import Weights, decode_array
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.imaging.virtual_detectors import weight_maps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Pixels to leave out, (rows, cols) bool or None, in all and by the detector's own mask; weights of the others."""

    mask: np.ndarray | None
    detectors_mask: np.ndarray | None
    weights: Weights


class Preparation:
    """Mask and weights of the last series. For one thread at a time."""

    def __init__(self) -> None:
        #: whether it was said that no pixel is masked
        self.unmasked_said = False
        self._made_of: tuple[Any, ...] | None = None
        self._prepared: Prepared | None = None

    def prepare(
        self, request: AcquisitionRequest, shape: tuple[int, int], detectors_mask: EncodedArray | None
    ) -> Prepared:
        """What frames of ``shape`` are summed under.

        ``detectors_mask`` is the one that the detector sent: any bit makes a pixel bad. Raises ValueError where the
        user's mask or the virtual detectors do not fit the frames.
        """
        made_of = (request.detectors, shape, detectors_mask, _Array(request.pixel_mask), _Array(request.gain))
        if made_of != self._made_of or self._prepared is None:
            self._made_of = None
            own = _decoded(detectors_mask, shape)
            mask = _combined(request.pixel_mask, shape, own)
            weights = weight_maps(request.detectors, shape, pixel_mask=mask, gain=request.gain)
            self._prepared = Prepared(mask, own, weights)
            self._made_of = made_of
        return self._prepared

    def prepare_again(self, request: AcquisitionRequest) -> None:
        """Make before arming what frames like those of the last series need; what does not fit is said later."""
        if self._made_of is not None:
            _, shape, detectors_mask, *_ = self._made_of
            with contextlib.suppress(ValueError):
                self.prepare(request, shape, detectors_mask)


class _Array:
    """An array, or None, that equals one with the same elements."""

    def __init__(self, array: np.ndarray | None) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Array) or self.array is None or other.array is None:
            return isinstance(other, _Array) and self.array is other.array
        return np.array_equal(self.array, other.array, equal_nan=self.array.dtype.kind == "f")

    __hash__ = None  # type: ignore[assignment]


def _combined(
    users: np.ndarray | None, shape: tuple[int, int], detectors: np.ndarray | None
) -> np.ndarray | None:
    if users is None:
        return detectors
    if users.shape != shape:
        raise ValueError(f"pixel_mask has shape {users.shape}, the frames have {shape}")
    mask = users.astype(bool)
    return mask if detectors is None else mask | detectors


def _decoded(mask: EncodedArray | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Pixels that the detector calls bad, (rows, cols) bool; None where its mask cannot be used."""
    if mask is None:
        return None
    try:
        bits = decode_array(mask)
    except ValueError as error:
        log.warning("the detector's pixel mask is not used: %s", error)
        return None
    if bits.shape != shape:
        log.warning("the detector's pixel mask of %s is not used for images of %s px", bits.shape, shape)
        return None
    return bits != 0
