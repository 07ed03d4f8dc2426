"""Weights refuse what would give a wrong number, and split integer maps into masks that add up again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live4d_ophyd.decode import FrameFormat, Weights
from live4d_ophyd.decode.saturation import NODATA, Saturation


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
        (np.array([[[1, np.nan, -np.inf]]]), "2 weights are not finite: mask such pixels"),
        (np.ones((1, 2, 2), "U1"), "expected integers or floats"),
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


def test_sums_up_to_the_largest_int64_are_exact_and_those_beyond_are_refused():
    most = np.iinfo(np.int64).max // 65535  # of weights, with each pixel at its largest
    for low, high, refused in [(most, 0, False), (most + 1, 0, True), (-most - 1, 0, True), (most, -1, True)]:
        weights = Weights(np.array([[[low, high]]]))
        if refused:
            with pytest.raises(ValueError, match="can exceed int64"):
                weights.sums_dtype(np.dtype(np.uint16))
        else:
            assert weights.sums_dtype(np.dtype(np.uint16)) == np.int64
    assert Weights(np.array([[[2**60, 2**60]]])).sums_dtype(np.dtype("f4")) == np.float64


def test_float64_holds_integer_sums_below_2_to_the_53():
    most = (2**53 - 1) // 255
    assert Weights(np.array([[[most, 0]]])).fit_float64(np.dtype("u1"))
    assert not Weights(np.array([[[most, 1]]])).fit_float64(np.dtype("u1"))
    assert not Weights(np.array([[[1, 0]], [[0, most + 1]]])).fit_float64(np.dtype("u1"))
    assert not Weights(np.array([[[1.0, 0.0]]])).fit_float64(np.dtype("u1"))


def test_weights_are_for_frames_of_their_shape():
    weights = Weights(np.ones((1, 3, 4), int))
    assert weights.sums_of(FrameFormat(3, 4, np.dtype("u2"))) == np.int64
    with pytest.raises(ValueError, match=r"weights for frames of \(3, 4\) px, but the frames have \(4, 3\)"):
        weights.sums_of(FrameFormat(4, 3, np.dtype("u2")))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
@pytest.mark.parametrize("kind", [int, float])
def test_one_frame_of_any_dtype_is_summed_by_the_definition(dtype, counted, kind):
    rng = np.random.default_rng(4)
    maps = (rng.integers(-3, 4, (3, 5, 7)) * 1.0).astype(kind)
    maps[2] = 0
    maps[2, 0, 0] = 2
    pixels = rng.integers(0, 100, (5, 7)).astype(dtype)
    pixels[1, 2] = pixels[3, 3] = 200
    sums, saturated = Weights(maps).project_pixels(pixels, Saturation(value=150, counted=counted))
    taken = np.where((pixels >= 150) & (not counted), 0, pixels)
    np.testing.assert_array_equal(sums, (maps * taken.astype(float)).sum(axis=(1, 2)))
    np.testing.assert_array_equal(saturated, ((maps != 0) & (pixels >= 150)).any(axis=(1, 2)))
    assert sums.dtype == (np.int64 if kind is int and dtype != "f4" else np.float64)
    assert not saturated[2]


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
