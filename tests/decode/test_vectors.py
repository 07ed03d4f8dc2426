"""The vector kernels give the same on a processor without registers of bits: the other form is compiled here, too."""

import numpy as np
import pytest
from numba import int64, njit

from live4d_ophyd.decode.cpu import vectors

COLUMNS, RNG = 5, np.random.default_rng(5)


@pytest.fixture(params=[True, False], ids=["bits", "lanes"])
def form(request, monkeypatch):
    monkeypatch.setattr(vectors, "BITS_CHOOSE", request.param)


def planes_of(pixels, bits):
    """Bit planes, least significant first in both directions: (bits, pixels / 8) uint8."""
    values = (pixels[None, :] >> np.arange(bits, dtype=pixels.dtype)[:, None]) & pixels.dtype.type(1)
    return np.packbits(values.astype(np.uint8), axis=1, bitorder="little")


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_planes_become_the_pixels_they_were_made_of(form, bits):
    unshuffle = vectors._unshuffler(bits)

    @njit(nogil=True)
    def run(target, planes, plane_bytes, used, columns):
        unshuffle(int64(target.ctypes.data), int64(planes.ctypes.data), plane_bytes, used, columns)

    pixels = RNG.integers(0, 1 << bits, 64 * COLUMNS, f"u{bits // 8}", endpoint=False)
    found = np.zeros_like(pixels)
    planes = np.concatenate([planes_of(pixels, bits).reshape(-1), np.zeros(64, np.uint8)])
    run(found, planes, 8 * COLUMNS, bits, COLUMNS)
    np.testing.assert_array_equal(found, pixels)


def test_weighted_sums_are_those_of_the_pixels(form):
    @njit(nogil=True)
    def run(total, planes, plane_bytes, used, mask, keep, weights, columns):
        vectors.add_weighted(
            int64(total.ctypes.data), int64(planes.ctypes.data), plane_bytes, used, int64(mask.ctypes.data),
            int64(keep.ctypes.data), int64(weights.ctypes.data), columns,
        )  # fmt: skip

    pixels = RNG.integers(0, 1000, 64 * COLUMNS, np.uint16)
    weights, wanted = RNG.random(64 * COLUMNS), RNG.random(64 * COLUMNS) < 0.6
    mask = np.packbits(wanted, bitorder="little")
    total, keep = np.zeros(8), np.full(len(mask) + 64, 255, np.uint8)
    planes = np.concatenate([planes_of(pixels, 16).reshape(-1), np.zeros(64, np.uint8)])
    run(
        total, planes, 8 * COLUMNS, 16, np.concatenate([mask, np.zeros(64, np.uint8)]), keep, weights, COLUMNS
    )
    assert total.sum() == pytest.approx((pixels * weights * wanted).sum(), rel=1e-14)
