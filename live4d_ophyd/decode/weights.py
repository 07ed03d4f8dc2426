"""Weights: the maps that frames are projected on, compiled once for the kernels and shared by threads.

An integer map becomes bit masks with coefficients (one mask a distinct value, or its two's-complement bits),
so that sum = sum_j coefficient_j * (sum of the pixels under mask_j), exact in int64. Float maps stay float64.
Masks cover the whole frame, one bit a pixel, first pixel lowest: a block of any size starts at a multiple of
8 pixels and finds its bits at pixel / 8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from live4d_ophyd.decode.framing import FrameFormat
from live4d_ophyd.decode.saturation import Saturation

#: pixels under one entry of the touched-prefix: one 64-byte chunk of a mask
GRANULE = 512

_INT64_LIMIT = 2**63


class Plan(NamedTuple):
    """Arrays of compiled weights, as the kernels take them. Row 0 of ``masks`` is the union of all others."""

    masks: np.ndarray  #: (1 + k, bytes) uint8, 64-byte aligned rows with 64 zero bytes behind
    touched: np.ndarray  #: (1 + k, granules + 1) int32, number of touched granules before each
    term_map: np.ndarray  #: (t,) int64: sums[term_map] += term_coefficient * (sum under mask term_mask)
    term_mask: np.ndarray  #: (t,) int64, >= 1
    term_coefficient: np.ndarray  #: (t,) int64
    values: np.ndarray  #: (m, pixels + padding) float64, empty for integer maps
    last_integer: np.ndarray  #: (m, 8) int64, weights of the last pixels % 8 pixels, empty for float maps
    last_float: np.ndarray  #: (m, 8) float64, empty for integer maps


def aligned_zeros(rows: int, columns: int, dtype) -> np.ndarray:
    """Zeros whose first row starts at a multiple of 64 bytes; the caller chooses columns that keep it so."""
    size = rows * columns * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(rows, columns)


def _split(weights: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(coefficient, binary mask) terms whose sum is an int64 map."""
    values = np.unique(weights)
    values = values[values != 0]
    if not len(values):
        return []
    lowest, highest = int(values[0]), int(values[-1])
    bits = max(highest.bit_length(), (-lowest - 1).bit_length() if lowest < 0 else 0)
    if len(values) <= bits + (lowest < 0):
        return [(int(value), weights == value) for value in values]
    terms = [(1 << bit, (weights >> bit) & 1 != 0) for bit in range(bits)]
    if lowest < 0:
        terms.append((-(1 << bits), weights < 0))
    return [(coefficient, mask) for coefficient, mask in terms if mask.any()]


class Weights:
    """``maps``: (m, rows, cols) integers or floats, m >= 1, one sum a frame and map.

    Integers give int64 sums, equal bit for bit on every backend; floats give float64 sums. Raises ValueError
    for another number of axes, another kind of number, or weights that are not finite.
    """

    def __init__(self, maps: np.ndarray) -> None:
        maps = np.asarray(maps)
        if maps.ndim != 3 or 0 in maps.shape:
            raise ValueError(
                f"weight maps of shape {maps.shape}: expected (maps, rows, cols), none of them 0"
            )
        if maps.dtype.kind == "u" and maps.dtype.itemsize == 8 and maps.max() >= _INT64_LIMIT:
            raise ValueError(f"a weight of {maps.max()} does not fit int64")
        if maps.dtype.kind in "bui":
            maps = maps.astype(np.int64)
        elif maps.dtype.kind == "f":
            maps = maps.astype(np.float64)
            if not np.isfinite(maps).all():
                bad = int(np.count_nonzero(~np.isfinite(maps)))
                raise ValueError(f"{bad} weights are not finite: mask such pixels with weight 0")
        else:
            raise ValueError(f"weight maps of dtype {maps.dtype}: expected integers or floats")
        self.maps = maps
        self.integer = maps.dtype == np.int64
        self.shape: tuple[int, int] = maps.shape[1:]
        self.plan = self._compile()
        flat = maps.reshape(len(maps), -1)
        self._largest = max(sum(abs(int(v)) * int(n) for v, n in zip(*np.unique(row, return_counts=True)))
                            if self.integer else float(np.abs(row).sum()) for row in flat)  # fmt: skip
        self._pixels = [np.flatnonzero(row) for row in flat]

    def __len__(self) -> int:
        return len(self.maps)

    def sums_of(self, frame: FrameFormat) -> np.dtype:
        """`sums_dtype` of these frames; ValueError also when the weights are for another shape."""
        if self.shape != frame.shape:
            raise ValueError(f"weights for frames of {self.shape} px, but the frames have {frame.shape}")
        return self.sums_dtype(frame.dtype)

    def sums_dtype(self, pixel_dtype: np.dtype) -> np.dtype:
        """int64 for integer weights on integer pixels, else float64; ValueError where sums could overflow."""
        if not self.integer or pixel_dtype.kind == "f":
            return np.dtype(np.float64)
        if self._largest * int(np.iinfo(pixel_dtype).max) >= _INT64_LIMIT:
            raise ValueError(
                f"integer weights with sum |w| = {self._largest} on {pixel_dtype} pixels can exceed int64: "
                "use float weights"
            )
        return np.dtype(np.int64)

    def fit_float64(self, pixel_dtype: np.dtype) -> bool:
        """Whether float64 holds every partial sum of integer weights on integer pixels exactly."""
        return self.integer and self._largest * int(np.iinfo(pixel_dtype).max) < 2**53

    def project_pixels(self, pixels: np.ndarray, saturation: Saturation) -> tuple[np.ndarray, np.ndarray]:
        """Sums ``(m,)`` of one decoded frame ``(rows, cols)`` of any dtype, and which maps have saturated pixels.

        The general, slow way.
        """
        sums = np.zeros(len(self), self.sums_dtype(pixels.dtype))
        saturated = np.zeros(len(self), bool)
        flat = pixels.reshape(-1)
        for number, where in enumerate(self._pixels):
            values = flat[where]
            weights = self.maps[number].reshape(-1)[where]
            found = saturation.found_in(values)
            saturated[number] = found.any()
            if not saturation.counted:
                values, weights = values[~found], weights[~found]
            sums[number] = (values.astype(sums.dtype) * weights).sum()
        return sums, saturated

    def _compile(self) -> Plan:
        count, rows, cols = self.maps.shape
        pixels = rows * cols
        flat = self.maps.reshape(count, pixels)
        masks: list[np.ndarray] = [(flat != 0).any(axis=0)]
        terms: list[tuple[int, int, int]] = []
        known: dict[bytes, int] = {}
        for number, row in enumerate(flat):
            for coefficient, mask in _split(row) if self.integer else [(0, row != 0)]:
                # Maps share masks: detectors with the same support, or bits that coincide.
                place = (
                    known.setdefault(np.packbits(mask).tobytes(), len(masks)) if self.integer else len(masks)
                )
                if place == len(masks):
                    masks.append(mask)
                terms.append((number, place, coefficient))

        granules = -(-pixels // GRANULE)
        packed = aligned_zeros(len(masks), 64 * granules + 64, np.uint8)
        touched = np.zeros((len(masks), granules + 1), np.int32)
        for place, mask in enumerate(masks):
            bits = np.packbits(mask, bitorder="little")
            packed[place, : len(bits)] = bits
            hit = packed[place, : 64 * granules].reshape(granules, 64).any(axis=1)
            touched[place, 1:] = np.cumsum(hit)

        last = np.zeros((count, 8), flat.dtype)
        if pixels % 8:
            last[:, : pixels % 8] = flat[:, -(pixels % 8) :]
        values = aligned_zeros(0 if self.integer else count, GRANULE * (granules + 1), np.float64)
        if not self.integer:
            values[:, :pixels] = flat
        table = np.array(terms, np.int64).reshape(-1, 3)
        return Plan(
            masks=packed,
            touched=touched,
            term_map=table[:, 0].copy(),
            term_mask=table[:, 1].copy(),
            term_coefficient=table[:, 2].copy(),
            values=values,
            last_integer=last.astype(np.int64) if self.integer else np.zeros((0, 8), np.int64),
            last_float=np.zeros((0, 8)) if self.integer else last,
        )
