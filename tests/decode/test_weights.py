"""Weights refuse what would give a wrong number, and split integer maps into masks that add up again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.decode import Weights
from live4d_ophyd.decode.saturation import NODATA


def rebuilt(weights: Weights) -> np.ndarray:
    """The maps again, from masks and coefficients."""
    plan = weights.plan
    rows, cols = weights.shape
    maps = np.zeros((len(weights), rows * cols), np.int64)
    for number, mask, coefficient in zip(plan.term_map, plan.term_mask, plan.term_coefficient):
        bits = np.unpackbits(plan.masks[mask], bitorder="little")
        assert not bits[rows * cols :].any()
        maps[number] += coefficient * bits[: rows * cols]
    return maps.reshape(weights.maps.shape)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2), (0, 2**40), (-(2**40), 2**40), (-5, 0), (-(2**62), 2**62), (-1, 1)]
)
def test_masks_and_coefficients_make_the_map(low, high):
    maps = np.random.default_rng(0).integers(low, high, (3, 17, 13))
    np.testing.assert_array_equal(rebuilt(Weights(maps)), maps)


def test_few_values_take_few_masks():
    maps = np.zeros((2, 32, 32), int)
    maps[0, :16] = 1000
    maps[1, :16] = 1
    assert len(Weights(maps).plan.masks) == 2  # the union and one shared by both


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (np.ones((4, 4)), r"\(4, 4\): expected \(maps, rows, cols\)"),
        (np.ones((0, 4, 4)), "none of them 0"),
        (np.full((1, 2, 2), np.nan), "4 weights are not finite"),
        (np.full((1, 2, 2), np.inf), "mask such pixels"),
        (np.ones((1, 2, 2), complex), "complex128"),
        (np.full((1, 2, 2), 2**63, np.uint64), "int64"),
    ],
)
def test_bad_maps_are_refused(maps, reason):
    with pytest.raises(ValueError, match=reason):
        Weights(maps)


def test_integer_sums_that_could_overflow_are_refused():
    weights = Weights(np.full((1, 4, 4), 2**28))
    assert weights.sums_dtype(np.dtype(np.uint16)) == np.int64
    with pytest.raises(ValueError, match="uint32 pixels can exceed int64: use float weights"):
        weights.sums_dtype(np.dtype(np.uint32))
    assert Weights(weights.maps * 1.0).sums_dtype(np.dtype(np.uint32)) == np.float64


def test_boolean_maps_are_integers():
    assert Weights(np.ones((1, 3, 3), bool)).integer


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 70),
    kind=st.sampled_from(["bool", "few", "many", "float"]),
    spans=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 40)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_with_weights_make_the_same_plan_as_whole_maps(rows, cols, kind, spans, seed):
    rng = np.random.default_rng(seed)
    bands, maps = [], np.zeros((len(spans), rows, cols), {"bool": bool, "float": float}.get(kind, int))
    for whole, (first, count) in zip(maps, spans):
        first = min(first, rows - 1)
        band = whole[first : first + count]
        if kind == "bool":
            band[...] = rng.random(band.shape) < 0.3
        elif kind == "float":
            band[...] = rng.normal(size=band.shape) * (rng.random(band.shape) < 0.5)
        else:
            band[...] = rng.integers(-2, 3 if kind == "few" else 2**40, band.shape)
        bands.append((first, band.copy()))
    part, whole = Weights.of_bands((rows, cols), bands), Weights(maps)
    for name, array in whole.plan._asdict().items():
        np.testing.assert_array_equal(getattr(part.plan, name), array, err_msg=name)
    np.testing.assert_array_equal(part.maps, maps)
    assert part.integer == whole.integer == (kind != "float")
    pixels = rng.integers(0, 2**8, (rows, cols)).astype(np.uint8)
    for of_part, of_whole in zip(part.project_pixels(pixels, NODATA), whole.project_pixels(pixels, NODATA)):
        np.testing.assert_array_equal(of_part, of_whole)
