"""Weights: the maps that frames are projected on, compiled once for the kernels and shared by threads.

An integer map becomes bit masks with coefficients (one mask a distinct value, or its two's-complement bits),
so that sum = sum_j coefficient_j * (sum of the pixels under mask_j), exact in int64. Float maps stay float64.
Masks cover the whole frame, one bit a pixel, first pixel lowest: a block of any size starts at a multiple of
8 pixels and finds its bits at pixel / 8. What is compiled is the rows with weights: a small disk on a frame of
millions of pixels takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.frames.format import FrameFormat

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


def aligned_zeros(rows: int, columns: int, dtype: DTypeLike) -> np.ndarray:
    """Zeros whose first row starts at a multiple of 64 bytes; the caller chooses columns that keep it so."""
    size = rows * columns * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(rows, columns)


def _split(weights: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(coefficient, binary mask) terms whose sum is an integer map."""
    if weights.dtype == bool:
        return [(1, weights)] if weights.any() else []
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


def _checked(band: np.ndarray) -> np.ndarray:
    """Weights as bool, int64 or float64, flat."""
    if band.dtype.kind == "u" and band.dtype.itemsize == 8 and band.max() >= _INT64_LIMIT:
        raise ValueError(f"a weight of {band.max()} does not fit int64")
    if band.dtype.kind in "bui":
        return band.reshape(-1).astype(bool if band.dtype == bool else np.int64, copy=False)
    if band.dtype.kind != "f":
        raise ValueError(f"weight maps of dtype {band.dtype}: expected integers or floats")
    band = band.reshape(-1).astype(np.float64, copy=False)
    if not np.isfinite(band).all():
        bad = int(np.count_nonzero(~np.isfinite(band)))
        raise ValueError(f"{bad} weights are not finite: mask such pixels with weight 0")
    return band


def _total(weights: np.ndarray, integer: bool) -> int | float:
    """Sum of the magnitudes, exact for integers."""
    if not integer:
        return float(np.abs(weights, dtype=np.float64).sum())
    if weights.dtype == bool:
        return int(np.count_nonzero(weights))
    values, counts = np.unique(weights, return_counts=True)
    return sum(abs(int(value)) * int(count) for value, count in zip(values, counts))


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
        self._set(maps.shape[1:], [(0, map) for map in maps])

    @classmethod
    def of_bands(cls, shape: tuple[int, int], bands: Sequence[tuple[int, np.ndarray]]) -> Weights:
        """The same from the rows that have weights only: for each map the first row and (rows, cols) weights."""
        weights = cls.__new__(cls)
        weights._set(shape, bands)
        return weights

    def _set(self, shape: tuple[int, ...], bands: Sequence[tuple[int, np.ndarray]]) -> None:
        self.shape: tuple[int, int] = (shape[0], shape[1])
        flat = [_checked(band) for _, band in bands]
        self.integer = all(band.dtype != np.float64 for band in flat)
        #: of each map the first pixel, and the weights from there on; what is not in it weighs nothing
        self._bands = [(first * shape[1], band) for (first, _), band in zip(bands, flat)]
        self._largest = max(_total(band, self.integer) for band in flat)
        self.plan = self._compile()
        if not self.integer:  # the plan has them as float64: one copy will do
            self._bands = [
                (first, row[first : first + len(band)])
                for row, (first, band) in zip(self.plan.values, self._bands)
            ]

    @cached_property
    def maps(self) -> np.ndarray:
        """(m, rows, cols) int64 or float64."""
        maps = np.zeros((len(self), self.shape[0] * self.shape[1]), np.int64 if self.integer else np.float64)
        for row, (first, band) in zip(maps, self._bands):
            row[first : first + len(band)] = band
        return maps.reshape(len(self), *self.shape)

    @cached_property
    def pixels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each map the pixels with a weight, and their weights, (n,) int64 or float64."""
        pixels = []
        for first, band in self._bands:
            where = np.flatnonzero(band)
            pixels.append((first + where, band[where].astype(np.int64 if self.integer else np.float64)))
        return pixels

    def __len__(self) -> int:
        return len(self._bands)

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
        for number, (where, weights) in enumerate(self.pixels):
            values = flat[where]
            found = saturation.found_in(values)
            saturated[number] = found.any()
            if not saturation.counted:
                values, weights = values[~found], weights[~found]
            sums[number] = (values.astype(sums.dtype) * weights).sum()
        return sums, saturated

    def _compile(self) -> Plan:
        count, pixels = len(self._bands), self.shape[0] * self.shape[1]
        # Masks as their first byte and the bytes from there on that are not all zero.
        masks: list[tuple[int, np.ndarray]] = []
        terms: list[tuple[int, int, int]] = []
        known: dict[tuple[int, bytes], int] = {}
        for number, (first, band) in enumerate(self._bands):
            for coefficient, mask in _split(band) if self.integer else [(0, band != 0)]:
                byte, bits = _packed(first, mask)
                # Maps share masks: detectors with the same support, or bits that coincide.
                place = known.setdefault((byte, bits.tobytes()), len(masks)) if self.integer else len(masks)
                if place == len(masks):
                    masks.append((byte, bits))
                terms.append((number, 1 + place, coefficient))

        granules = -(-pixels // GRANULE)
        packed = aligned_zeros(1 + len(masks), 64 * granules + 64, np.uint8)
        for place, (byte, bits) in enumerate(masks, 1):
            packed[place, byte : byte + len(bits)] = bits
            packed[0, byte : byte + len(bits)] |= bits
        touched = np.zeros((1 + len(masks), granules + 1), np.int32)
        words = packed[:, : 64 * granules].view(np.uint64)
        np.cumsum(words.reshape(len(packed), granules, 8).any(axis=2), axis=1, out=touched[:, 1:])

        last = np.zeros((count, 8), np.int64 if self.integer else np.float64)
        values = aligned_zeros(0 if self.integer else count, GRANULE * (granules + 1), np.float64)
        tail = pixels - pixels % 8
        for number, (first, band) in enumerate(self._bands):
            if first + len(band) > tail:
                end = band[max(0, tail - first) :]
                at = max(0, first - tail)
                last[number, at : at + len(end)] = end
            if not self.integer:
                values[number, first : first + len(band)] = band
        table = np.array(terms, np.int64).reshape(-1, 3)
        return Plan(
            masks=packed,
            touched=touched,
            term_map=table[:, 0].copy(),
            term_mask=table[:, 1].copy(),
            term_coefficient=table[:, 2].copy(),
            values=values,
            last_integer=last if self.integer else np.zeros((0, 8), np.int64),
            last_float=np.zeros((0, 8)) if self.integer else last,
        )


def _packed(first: int, mask: np.ndarray) -> tuple[int, np.ndarray]:
    """The bits of a mask that begins at pixel ``first``: their first byte, and the bytes up to the last set bit."""
    if first % 8:
        mask = np.concatenate([np.zeros(first % 8, bool), mask])
    bits = np.packbits(mask, bitorder="little")
    filled = np.flatnonzero(bits)
    if not len(filled):
        return 0, bits[:0]
    return first // 8 + int(filled[0]), bits[filled[0] : filled[-1] + 1]
